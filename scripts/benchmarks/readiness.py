"""The suite `ready`: from a saved image to a mount that answers, and what that costs.

Times making everybody's mount from nothing and again, the indexing by itself, and how both grow
with the number of files; measures the daemon's memory, and the indexer's.
"""

import json
import os
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import archives, works
from benchmarks.contestants import Contestant, ImagefsNative
from benchmarks.host import (
    anonymous_bytes,
    call,
    disk_bytes,
    forget_inodes,
    machine,
    peak_anonymous_bytes,
    say,
    seconds,
    shell,
    warm,
)
from benchmarks.peers import Ratarmount
from benchmarks.plan import Plan
from benchmarks.workspace import discard

_FEW, _MANY, _MOST = 1_000, 1_000_000, 2_000_000
_COSTLY = 3
"""How often those are made from nothing who need long for it."""

Samples = dict[str, list[float]]


def run(plan: Plan) -> None:
    """Measure; keep and tell the figures."""
    results: dict[str, object] = {
        "machine": machine(),
        "archive bytes": plan.archive.stat().st_size,
        "repeat": plan.repeat,
    }
    results["indexing"] = _indexing(plan)
    results["ready"] = _ready(plan)
    results["scale"] = _scale(plan)
    results["index memory"] = _index_memory(plan)
    plan.space.keep("ready", results)


def _indexing(plan: Plan) -> dict[str, Samples]:
    """Measure members a second, imagefs's and tarfile's, in turn."""
    python = plan.programs.imagefs.parent / "python"
    found: dict[str, Samples] = {}
    for _ in range(plan.repeat):
        for name in ("imagefs", "tarfile"):
            warm([plan.archive])
            said = call(
                [python, "-m", "benchmarks.indexing", name, plan.archive],
                env={"PYTHONPATH": str(Path(__file__).parents[1])},
            )
            members, took = json.loads(said)
            times = found.setdefault(name, {"members": [], "seconds": []})
            times["members"].append(members)
            times["seconds"].append(took)
    for name, times in found.items():
        rate = times["members"][0] / median(times["seconds"])
        say(f"ready: {name} indexes {times['members'][0]:,.0f} members at {rate:,.0f} a second")
    return found


def _ready(plan: Plan) -> dict[str, dict[str, Samples]]:
    everybody = [one for one in plan.everybody() if one.makes_the_image_usable]
    found: dict[str, dict[str, Samples]] = {}
    layers = plan.space.once(
        f"layers-{plan.image}", lambda path: _take_out_layers(plan.archive, path)
    )
    listing: list[float] = []
    found["tar tf"] = {"nothing": {"seconds": listing}}
    for number in range(plan.repeat):
        warm([layers])
        listing.append(seconds(lambda: shell("xargs -n1 tar tf <list >/dev/null", layers)))
        for one in everybody:
            if isinstance(one, ImagefsNative | Ratarmount) or number < _COSTLY:
                _measure_ready(one, found)
    for name, samples in found.items():
        times = {key: median(sample["seconds"]) for key, sample in samples.items()}
        say(f"ready: {name}: " + ", ".join(f"from {key} {t:.2f} s" for key, t in times.items()))
    return found


def _take_out_layers(archive: Path, into: Path) -> None:
    into.mkdir()
    call(["tar", "-x", "-f", archive, "-C", into])
    (into / "list").write_text("".join(f"{one}\n" for one in archives.layer_names(archive)))


def _measure_ready(one: Contestant, found: dict[str, dict[str, Samples]]) -> None:
    one.clear()
    os.sync()
    for key, make in (("nothing", one.make_anew), ("before", one.prepare)):
        warm([one.archive] if key == "nothing" else one.backing())
        forget_inodes()
        took = seconds(make) + seconds(one.mount)
        samples = found.setdefault(one.name, {}).setdefault(key, {"seconds": [], "disk": []})
        samples["seconds"].append(took)
        one.unmount()
        samples["disk"].append(disk_bytes(one.kept()))


def _scale(plan: Plan) -> dict[str, Samples]:
    """Measure mounting again, and memory after a find, for few files and for very many."""
    sizes = [
        (ImagefsNative(archives.small_files(plan.space, count), _home(plan, count), plan.programs),
         f"{count}", Samples(again=[], find=[], memory=[]))
        for count in (_FEW, _MANY)
    ]  # fmt: skip
    for one, _, _ in sizes:
        one.prepare()
        one.mount()
        one.unmount()
    for _ in range(2 * plan.repeat):
        for one, _, samples in sizes:
            samples["again"].append(seconds(one.mount))
            one.unmount()
    for one, count, samples in sizes:
        root = one.mount()
        samples["find"].append(seconds(partial(shell, f"{works.FIND} >/dev/null", root)))
        samples["memory"].append(anonymous_bytes(one.processes()))
        one.unmount()
        say(
            f"ready: {count} files: mounted again in {median(samples['again']):.3f} s;"
            f" after find ({samples['find'][0]:.2f} s)"
            f" {samples['memory'][0] / 2**20:.1f} MiB of anonymous memory"
        )
    return {count: samples for _, count, samples in sizes}


def _home(plan: Plan, count: int) -> Path:
    return plan.space.directory("homes") / f"small-{count}"


def _index_memory(plan: Plan) -> dict[str, dict[str, float]]:
    """Measure how much memory indexing takes at its peak, all processes together."""
    found = {"files": _peak(plan, archives.small_files(plan.space, _MOST), "files")}
    layer = plan.space.root / "index-memory.tar"
    for kind in archives.HARD:
        archives.hard_layer(layer, kind, _MOST)
        found[kind] = _peak(plan, layer, kind)
        discard(layer)
    return found


def _peak(plan: Plan, archive: Path, kind: str) -> dict[str, float]:
    cache = plan.space.root / "index-memory"
    discard(cache)
    took, peak = peak_anonymous_bytes(
        [plan.programs.imagefs, "layers", "--quiet", "--json", archive],
        {"IMAGEFS_CACHE": str(cache)},
    )
    discard(cache)
    say(f"ready: {_MOST:,} {kind} indexed in {took:.1f} s, {peak / 2**20:.0f} MiB at the peak")
    return {"members": _MOST, "seconds": took, "peak": peak}
