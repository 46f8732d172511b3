"""The suite `look`: the commands that need no mount, beside ordinary tools on extracted trees.

All rows are processes from start to end, in turn, with all files in the page cache, so that what
they take is processors' time, user and system; that is what is measured. A second image shares
all layers but the last with the real one, once as an archive that is read in place and once with
its layers in the cache, where their digests have been checked.
"""

import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import archives, unpack
from benchmarks.host import call, find_program, machine, say, shell, warm
from benchmarks.layers import LayerTar
from benchmarks.plan import Plan
from benchmarks.workspace import discard

DIFFERENT = (0, 1)
"""Exit statuses of diff that are no trouble."""


def run(plan: Plan) -> None:
    """Time each command and its counterpart in turn."""
    if find_program("zstd") is None:
        say("look: left out: zstd is missing: apt install zstd")
        return
    root, other_root, other = _second(plan)
    stored = [_packed(plan, one) for one in (plan.archive, other)]
    out = plan.space.directory("look") / "out"
    rows: Mapping[str, Callable[[], object]] = {
        "ls -R": lambda: _imagefs(plan, "ls", "-R", plan.archive),
        "find": lambda: call(["find", root]),
        "ls -lR --json": lambda: _imagefs(plan, "ls", "-alR", "--json", plan.archive),
        "cat": lambda: _imagefs(plan, "cat", plan.archive, "srv/original"),
        "export": lambda: _imagefs(plan, "export", plan.archive, f"--output={out}"),
        "tar c": lambda: shell(f"tar -c -C {root} . | cat >{out}", plan.space.root),
        "diff, in the cache": lambda: _imagefs(plan, "diff", *stored),
        "diff, archives in place": lambda: _imagefs(plan, "diff", plan.archive, other),
        "diff -rq": lambda: call(
            ["diff", "-rq", "--no-dereference", root, other_root], fine=DIFFERENT
        ),
    }
    times: dict[str, list[float]] = {row: [] for row in rows}
    for work in rows.values():
        work()  # brings everything into the cache, ours and the kernel's
    for _ in range(plan.repeat):
        for row, work in rows.items():
            discard(out)
            warm([root, other_root, plan.archive, other])
            times[row].append(_cpu_seconds(work))
    discard(out)
    count = _imagefs(plan, "ls", "-aR", "--json", plan.archive).count("\n")
    kept: dict[str, Any] = {"machine": machine(), "files": count, "seconds": times}
    plan.space.keep("look", kept)
    say(f"look: {count} files")
    for row, each in times.items():
        say(f"look: {row:24} {median(each):7.3f} s")


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Return what the programs that `work` runs take of all processors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _imagefs(plan: Plan, *words: str | Path) -> str:
    cache = plan.space.directory("look") / "cache"
    command = [plan.programs.imagefs, words[0], "--quiet", *words[1:]]
    return call(command, fine=DIFFERENT, env={"IMAGEFS_CACHE": str(cache)})


def _second(plan: Plan) -> tuple[Path, Path, Path]:
    """Return the extracted trees of the real image and of a second, and the second's archive."""
    parts = plan.space.root / "look" / "layers"
    root = plan.extracted().mount()

    def save(path: Path) -> None:
        discard(parts)
        *shared, _ = unpack.layers(plan.archive, parts)
        top = parts / "top.tar"
        tar = LayerTar(top)
        tar.file("srv/app", b"another step\n")
        tar.delete("usr/include")
        tar.close()
        steps = [(layer, f"step {at}") for at, layer in enumerate([*shared, top])]
        archives.save(path, "bench/other:latest", steps)
        discard(parts)

    other = plan.space.once("images/other.tar", save)

    def extract(path: Path) -> None:
        unpack.merged(unpack.layers(other, parts), path)
        discard(parts)

    return root, plan.space.once("look/other", extract), other


def _packed(plan: Plan, archive: Path) -> Path:
    """Return a compressed archive, whose layers imagefs has to have in its cache."""

    def pack(path: Path) -> None:
        shell(f"zstd -q -1 -T0 -c {archive} >{path}", plan.space.root)

    return plan.space.once(f"images/{archive.name}.zst", pack)
