"""What imagefs is meant to reach, as ratios within one run: a table, and how to judge by it.

Pure functions on the results that the suites keep. A target whose figures were not measured is
not judged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.archives import HARD
from benchmarks.contestants import Extracted, ImagefsNative
from benchmarks.peers import Erofs, FuseOverlay, Podman, Ratarmount

Results = Mapping[str, Any]
"""By suite, what it kept."""
Measure = Callable[[Results], float]

OURS, FLOOR = ImagefsNative.name, Extracted.name


@dataclass(frozen=True, slots=True)
class Target:
    """A limit: what `measure` returns is to be at most `limit`, in `unit`."""

    title: str
    limit: float
    measure: Measure
    unit: str = "times"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured."""

    target: Target
    measured: float

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        return self.measured <= self.target.limit


def _median(values: Any) -> float:
    return float(median(values))


def _read(row: str, other: str = FLOOR) -> Measure:
    def measure(results: Results) -> float:
        times = results["read"]["seconds"][row]
        return _median(times[OURS]) / _median(times[other])

    return measure


def _look(row: str, other: str) -> Measure:
    def measure(results: Results) -> float:
        times = results["look"]["seconds"]
        return _median(times[row]) / _median(times[other])

    return measure


def _look_seconds(row: str, files: int = 0) -> Measure:
    """Return the seconds that a row takes: as it is, or for so many files."""

    def measure(results: Results) -> float:
        look = results["look"]
        return _median(look["seconds"][row]) * (files / look["files"] if files else 1)

    return measure


def _ready(key: str, other: str) -> Measure:
    def measure(results: Results) -> float:
        ready = results["ready"]["ready"]
        ours = _median(ready[OURS][key]["seconds"])
        return ours / _median(ready[other]["nothing"]["seconds"])

    return measure


def _ready_seconds(key: str) -> Measure:
    return lambda results: _median(results["ready"]["ready"][OURS][key]["seconds"])


def _worst_row(other: str) -> Measure:
    """Return the measure of the row in which we come off worst beside another."""

    def measure(results: Results) -> float:
        rows = results["read"]["seconds"].values()
        return max(_median(row[OURS]) / _median(row[other]) for row in rows if other in row)

    return measure


def _times(suite: str, kind: str) -> Measure:
    def measure(results: Results) -> float:
        (_, theirs), (_, ours) = results[suite]["times"][kind].items()
        return _median(ours) / _median(theirs)

    return measure


def _waste(command: str) -> Measure:
    return lambda results: _median(results["waste"]["seconds"][command])


def _many(key: str) -> Measure:
    return lambda results: _median(results["ready"]["scale"]["1000000"][key])


def _many_to_few(results: Results) -> float:
    scale = results["ready"]["scale"]
    return _median(scale["1000000"]["again"]) / _median(scale["1000"]["again"])


def _indexing(results: Results) -> float:
    times = results["ready"]["indexing"]["imagefs"]
    return _median(times["seconds"]) / float(times["members"][0]) * 1e6


def _index_memory(kind: str) -> Measure:
    return lambda results: float(results["ready"]["index memory"][kind]["peak"]) / 2**20


def _memory_after_find(results: Results) -> float:
    return _median(results["read"]["memory"]["find again"][OURS]) / 2**20


TARGETS = (
    Target("indexing, µs a member (150,000 a second)", 1e6 / 150_000, _indexing, "µs"),
    Target("ready from nothing: 1 s", 1.0, _ready_seconds("nothing"), "s"),
    Target(
        "ready from nothing, beside `podman load` and mount", 1 / 20, _ready("nothing", Podman.name)
    ),
    Target("ready from nothing, beside ratarmount", 1 / 5, _ready("nothing", Ratarmount.name)),
    Target("ready from nothing, beside `tar tf`", 2.5, _ready("nothing", "tar tf")),
    Target("ready again", 0.3, _ready_seconds("before"), "s"),
    Target("ready again, a million files", 0.3, _many("again"), "s"),
    Target("ready again, a million files beside a thousand", 1.2, _many_to_few),
    Target("`find` with stat, fresh", 2.0, _read("find")),
    Target("`find` with stat, again", 1.2, _read("find again")),
    Target("`grep -r`, fresh", 1.7, _read("grep")),
    Target("`grep -r`, again", 1.1, _read("grep again")),
    Target("`tar c`, fresh", 2.5, _read("tar")),
    Target("`diff -r` of two snapshots", 1 / 3, _read("diff")),
    Target("sequential read of 1 GiB", 1.5, _read("sequential")),
    Target("random reads of 4 KiB, beside EROFS", 3.0, _read("random", Erofs.name)),
    Target("the worst row beside fuse-overlayfs", 1.0, _worst_row(FuseOverlay.name)),
    Target("the worst row beside ratarmount", 1 / 5, _worst_row(Ratarmount.name)),
    Target("anonymous memory after `find`, real image", 60, _memory_after_find, "MiB"),
    Target(
        "anonymous memory after `find`, a million files",
        100,
        lambda results: _many("memory")(results) / 2**20,
        "MiB",
    ),
    *(
        Target(f"memory while indexing two million {kind}", 400, _index_memory(kind), "MiB")
        for kind in ("files", *HARD)
    ),
    Target("`imagefs waste`", 1.5, _waste("waste"), "s"),
    Target("`imagefs report`", 4.0, _waste("report"), "s"),
    Target("a report's page", 300, lambda results: results["waste"]["bytes"]["report"] / 1e3, "kB"),
    Target("`imagefs ls -R`, for 60,000 files, CPU", 1.5, _look_seconds("ls -R", 60_000), "s"),
    Target("`imagefs cat` of one file, CPU", 0.25, _look_seconds("cat"), "s"),
    Target(
        "`imagefs diff` beside `diff -rq`, layers in the cache, CPU",
        1 / 3,
        _look("diff, in the cache", "diff -rq"),
    ),
    Target("`imagefs fetch` beside `docker save -o`", 1.05, _times("fetch", "")),
    Target("first mount of a gzip archive beside `pigz -dc`", 1.3, _times("unpack", "gzip")),
    Target("first mount of a zstd archive beside `zstd -dc`", 1.3, _times("unpack", "zstd")),
)


def verdicts(results: Results) -> list[Verdict]:
    """Judge the targets whose figures were measured."""
    found = []
    for target in TARGETS:
        try:
            found.append(Verdict(target, target.measure(results)))
        except (KeyError, ValueError):
            continue
    return found
