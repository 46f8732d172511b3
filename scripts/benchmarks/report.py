"""The suite `report`: what the others kept, as Markdown tables and a chart.

Reads results only. The chart is drawn by `chart.py` in the tools' environment, where matplotlib
is.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import works
from benchmarks.contestants import Programs
from benchmarks.host import BenchError, call, say
from benchmarks.peers import EVERYBODY
from benchmarks.plan import Plan
from benchmarks.targets import FLOOR, OURS, verdicts

_SUITES = ("agree", "ready", "read", "fetch", "unpack", "look", "waste")
_README_MARKS = ("<!-- benchmark -->", "<!-- end of benchmark -->")
_CHART = ".github/benchmark.png"
_TITLES = {
    **{row.key: row.title for row in (*works.FILES, *works.BIG)},
    **{f"{row.key} again": f"{row.title}, again" for row in works.FILES if row.again},
    works.DIFF.key: works.DIFF.title,
}


def run(plan: Plan) -> None:
    """Write the report and the chart; to publish means into the checkout as well."""
    results = {suite: plan.space.kept(suite) for suite in _SUITES}
    there = {suite: kept for suite, kept in results.items() if kept}
    text = "\n\n".join(_parts(there)) + "\n"
    out = plan.space.directory("results")
    (out / "report.md").write_text(text)
    say(text)
    chart = out / "benchmark.png"
    drawn = _draw(there, chart, plan.programs)
    if plan.publish:
        _publish(text, chart if drawn else None)


def _parts(results: dict[str, Any]) -> list[str]:
    parts = []
    if "read" in results:
        parts += [_heading(results["read"]), _table_of_work(results["read"])]
    if "ready" in results:
        parts.append(_table_of_readiness(results["ready"]))
    judged = verdicts(results)
    if judged:
        lines = [["target", "at most", "measured", ""]]
        for one in judged:
            unit = "" if one.target.unit == "times" else f" {one.target.unit}"
            lines.append(
                [
                    one.target.title,
                    f"{_figure(one.target.limit)}{unit}",
                    f"{_figure(one.measured)}{unit}",
                    "met" if one.met else "**missed**",
                ]
            )
        parts.append(_table(lines))
    return parts


def _heading(read: dict[str, Any]) -> str:
    temperature = "all caches dropped" if read["cold"] else "the archive in the page cache"
    return (
        f"Seconds, medians of {read['repeat']}, on {read['machine']}; a fresh mount for each row"
        f" but those that say *again*; {temperature}. In parentheses, times the extracted tree."
    )


def _table_of_work(read: dict[str, Any]) -> str:
    seconds = read["seconds"]
    names = [one.name for one in EVERYBODY if any(one.name in row for row in seconds.values())]
    order = [key for key in _order() if key in seconds]
    lines = [["", *names]]
    for key in order:
        row = {name: median(times) for name, times in seconds[key].items()}
        base = row.get(FLOOR)
        lines.append([_TITLES[key], *(_cell(row.get(name), base) for name in names)])
    for title, table, scale in (
        ("CPU seconds of the daemon, all rows", read["cpu"], 1),
        ("anonymous memory of the daemon, MiB, the most", read["memory"], 2**20),
    ):
        whole = sum if scale == 1 else max
        cells = []
        for name in names:
            values = [median(row[name]) / scale for row in table.values() if name in row]
            total = whole(values, default=0) if whole is max else sum(values)
            cells.append(_figure(total) if total else "")
        lines.append([title, *cells])
    return _table(lines)


def _order() -> list[str]:
    keys = []
    for row in (*works.FILES, *works.BIG):
        keys += [row.key, f"{row.key} again"] if row.again else [row.key]
    keys.insert(keys.index("du"), "diff")
    return keys


def _table_of_readiness(ready: dict[str, Any]) -> str:
    lines = [["", "ready from nothing, s", "ready again, s", "disk, MB"]]
    for name, samples in ready["ready"].items():
        again = samples.get("before")
        lines.append(
            [
                name,
                _figure(median(samples["nothing"]["seconds"])),
                _figure(median(again["seconds"])) if again else "",
                f"{median(again['disk']) / 1e6:,.0f}" if again else "",
            ]
        )
    return _table(lines)


def _cell(value: float | None, base: float | None) -> str:
    if value is None:
        return ""
    return f"{_figure(value)} ({_figure(value / base)})" if base else _figure(value)


def _figure(value: float) -> str:
    """Return a number with as many digits as mean something."""
    for limit, digits in ((0.1, 3), (10, 2), (100, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def _draw(results: dict[str, Any], chart: Path, programs: Programs) -> bool:
    python = programs.environment / "bin" / "python"
    if "read" not in results:
        return False
    ratios = {}
    for key in _order():
        row = results["read"]["seconds"].get(key, {})
        if FLOOR in row:
            base = median(row[FLOOR])
            ratios[_TITLES[key].replace("`", "")] = {
                name: median(times) / base for name, times in row.items() if name != FLOOR
            }
    data = chart.with_suffix(".json")
    about = {"ours": OURS, "order": [one.name for one in EVERYBODY], "rows": ratios}
    data.write_text(json.dumps(about))
    try:
        call([python, Path(__file__).with_name("chart.py"), data, chart])
    except (BenchError, OSError) as error:
        say(f"report: no chart: {error}")
        return False
    say(f"report: {chart}")
    return True


def _publish(text: str, chart: Path | None) -> None:
    checkout = Path(__file__).parents[2]
    readme = Path(__file__).with_name("README.md")
    content = readme.read_text()
    start, end = (content.find(mark) for mark in _README_MARKS)
    if min(start, end) < 0:
        raise BenchError(f"{readme} lacks the lines {' and '.join(_README_MARKS)}")
    image = ""
    if chart:
        target = checkout / _CHART
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(chart.read_bytes())
        says = "What each takes, in times of the extracted tree; lower is better"
        image = f"![{says}](../../{_CHART})\n\n"
    head = content[: start + len(_README_MARKS[0])]
    temporary = readme.with_suffix(".part")
    temporary.write_text(f"{head}\n{image}{text}{content[end:]}")
    os.replace(temporary, readme)
