"""The suite `read`: how fast everybody reads a mounted image.

One run measures all contestants at one work before it goes on to the next, and all works before
it repeats them, so that what else the machine does falls on everybody alike.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import archives, works
from benchmarks.contestants import Contestant, Extracted
from benchmarks.host import (
    anonymous_bytes,
    cpu_seconds,
    disk_bytes,
    forget_all,
    forget_inodes,
    have_memory,
    machine,
    say,
    warm,
)
from benchmarks.plan import Plan


@dataclass
class Figures:
    """What was measured: by row and contestant, a value for each repetition."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    memory: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, name: str, took: float, cpu: float = 0, memory: float = 0) -> None:
        """Add what one repetition gave."""
        for table, value in ((self.seconds, took), (self.cpu, cpu), (self.memory, memory)):
            table.setdefault(row, {}).setdefault(name, []).append(value)

    def plain(self) -> dict[str, Any]:
        """Return the figures as JSON knows them."""
        return {"seconds": self.seconds, "cpu": self.cpu, "memory": self.memory}


def run(plan: Plan) -> None:
    """Measure everybody at everything; keep and tell the figures."""
    figures = Figures()
    files = plan.everybody()
    big = plan.everybody(archives.one_big_file(plan.space), "big")
    _choose_files(plan)
    pairs = [(one, one.snapshots()) for one in files]
    _prepare([*files, *big] if _wanted(plan, works.BIG) else files)
    for number in range(plan.repeat):
        say(f"read: repetition {number + 1} of {plan.repeat}")
        for contestants, rows in ((files, works.FILES), (big, works.BIG)):
            for row in _wanted(plan, rows):
                for one in contestants:
                    _measure(plan, one, row, figures, one.backing())
        if _wanted(plan, (works.DIFF,)):
            for one, pair in pairs:
                if pair:
                    backing = one.backing_of_snapshots()
                    _measure(plan, one, works.difference(pair), figures, backing)
        plan.space.keep("read", _results(plan, figures, files))
    tell(figures.seconds)


def _wanted(plan: Plan, rows: Sequence[works.Row]) -> list[works.Row]:
    return [row for row in rows if not plan.rows or row.key in plan.rows]


def _prepare(contestants: Sequence[Contestant]) -> None:
    for one in contestants:
        say(f"read: preparing {one.name} of {one.archive.name}")
        one.prepare()
        one.mount()
        one.unmount()
    os.sync()


def _choose_files(plan: Plan) -> None:
    root = plan.extracted().mount()
    chosen = plan.space.once(
        f"small-files-{plan.image}", lambda path: works.choose_small_files(root, path)
    )
    os.environ["BENCH_SMALL_FILES"] = str(chosen)


def _measure(
    plan: Plan, one: Contestant, row: works.Row, figures: Figures, backing: Sequence[Path]
) -> None:
    if plan.cold:
        forget_all()
    else:
        # Each time: some machines take back page cache that is not used.
        warm(backing)
        forget_inodes()
    have_memory()
    root = one.mount()
    try:
        daemons = one.processes()
        for key in (row.key, f"{row.key} again") if row.again else (row.key,):
            before = cpu_seconds(daemons)
            took = row.work(root)
            cpu = cpu_seconds(daemons) - before
            figures.add(key, one.name, took, cpu, anonymous_bytes(daemons))
    finally:
        one.unmount()


def _results(plan: Plan, figures: Figures, contestants: Sequence[Contestant]) -> dict[str, Any]:
    return figures.plain() | {
        "machine": machine(),
        "archive bytes": plan.archive.stat().st_size,
        "repeat": plan.repeat,
        "cold": plan.cold,
        "disk": {one.name: disk_bytes(one.kept()) for one in contestants},
    }


def tell(table: dict[str, dict[str, list[float]]]) -> None:
    """Tell the medians, and their ratios to the extracted tree's."""
    for row, values in table.items():
        say(f"\n{row}")
        base = median(values[Extracted.name]) if Extracted.name in values else None
        for name, times in values.items():
            ratio = f"{median(times) / base:8.2f} x" if base else ""
            spread = f"({min(times):.3f} to {max(times):.3f})"
            say(f"  {name:20} {median(times):9.3f} s {ratio}  {spread}")
