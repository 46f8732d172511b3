"""The suite `agree`: what tools see in the mount is what they see in the unpacked image.

Also counts what a `diff -r` of two snapshots reads, by looking at the daemon's system calls: it
may read what the layer between them touched, and nothing else.
"""

import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import archives
from benchmarks.contestants import Contestant, ImagefsLibfuse, ImagefsNative
from benchmarks.host import BenchError, find_program, say, shell
from benchmarks.plan import Plan
from benchmarks.workspace import discard

# The root itself is left out: layers seldom describe it.
_TAR = (
    r"find . -mindepth 1 -maxdepth 1 -printf '%P\0' | sort -z | tar c --null --files-from=-"
    " --sort=name --format=posix --numeric-owner --pax-option=delete=atime,delete=ctime"
    " --xattrs --xattrs-include='*'"
)
_CHECKS = {
    # Directories have no size and no links that two file systems would have to agree on.
    "find": r"find . -mindepth 1 -type d -printf '%y %m %U %G %T@ %p\n'"
    r" -o -printf '%y %m %U %G %s %n %T@ %p -> %l\n' | sort",
    "sha256sum": "find . -type f -print0 | sort -z | xargs -0 sha256sum",
    "grep -r": "grep -rc GNU . | sort",
    "tar c": f"{_TAR} | sha256sum",
    "du": "find . -type f -print0 | sort -z | du -cl --files0-from=-",
}


def run(plan: Plan) -> None:
    """Compare; raise BenchError if anything differs."""
    discard(plan.space.root / "agree")
    home = plan.space.directory("agree")
    extracted = plan.extracted()
    expected = _looks(home / "extracted", extracted.mount(), _pair(extracted))
    results: dict[str, object] = {}
    wrong = []
    for kind in (ImagefsNative, ImagefsLibfuse):
        one = kind(plan.archive, home / kind.driver, plan.programs)
        one.make_anew()
        root = one.mount()
        try:
            found = _looks(home / f"said-{kind.driver}", root, _pair(one))
        finally:
            one.unmount()
        for name, lines, same in _compared(expected, found):
            say(f"agree: {one.name}: {name}: {lines} lines, {'same' if same else 'DIFFERENT'}")
            results[f"{one.name} {name}"] = {"lines": lines, "same": same}
            wrong += [] if same else [f"{one.name} {name}"]
    results["reads of diff"] = _count_reads(plan, home / ImagefsNative.driver)
    plan.space.keep("agree", results)
    if wrong:
        raise BenchError(f"{', '.join(wrong)} differ; what each said is in {home}")


def _pair(one: Contestant) -> tuple[Path, Path]:
    pair = one.snapshots()
    if pair is None:
        raise BenchError(f"{one.name} shows no snapshots")
    return pair


def _looks(into: Path, root: Path, snapshots: tuple[Path, Path]) -> dict[str, Path]:
    """Run all checks; return by name the files that hold what they printed."""
    into.mkdir()
    said = {name: into / name.replace(" ", "-") for name in [*_CHECKS, "diff -r"]}
    for name, script in _CHECKS.items():
        shell(f"{script} > {said[name]}", root, (0, 123))
    one, other = snapshots
    shell(
        f"diff -r --no-dereference {one} {other} | sed 's|{one}|one|g;s|{other}|other|g'"
        f" > {said['diff -r']}",
        one,
        (0, 1),
    )
    return said


def _compared(expected: dict[str, Path], found: dict[str, Path]) -> Iterator[tuple[str, int, bool]]:
    for name, path in expected.items():
        content = path.read_bytes()
        yield name, content.count(b"\n"), content == found[name].read_bytes()


# What `diff -r` of two snapshots reads


def _count_reads(plan: Plan, home: Path) -> dict[str, int] | None:
    if not find_program("strace"):
        say("agree: reads of `diff -r` not counted: strace is missing")
        return None
    one = ImagefsNative(plan.archive, home, plan.programs)
    one.mount()
    try:
        reads = _traced_reads(one, _pair(one))
    finally:
        one.unmount()
    below = archives.compared_layer(plan.archive)
    assert below is not None
    touched, shared = _extents(plan.archive, below + 1)
    of_shared = [read for read in reads if _lies_in(read, shared) and not _lies_in(read, touched)]
    counts = {
        "reads": len(reads),
        "bytes": sum(size for size, _ in reads),
        "files touched": len(touched),
        "reads of shared files": len(of_shared),
    }
    say(
        f"agree: `diff -r` of two snapshots: {counts['reads']} reads for {counts['files touched']}"
        f" files that the layer touched; {counts['reads of shared files']} reads of others"
    )
    if of_shared:
        raise BenchError("`diff -r` of two snapshots read files that both share")
    return counts


def _traced_reads(one: Contestant, pair: tuple[Path, Path]) -> list[tuple[int, int]]:
    """Return size and offset of every pread of the archive during a diff."""
    with tempfile.NamedTemporaryFile() as log:
        pids = [word for pid in one.processes() for word in ("-p", str(pid))]
        words = ["strace", "-f", "-q", "-y", "-e", "trace=pread64", "-s", "0", "-o", log.name]
        tracer = subprocess.Popen([*words, *pids], stderr=subprocess.DEVNULL)
        try:
            _await_tracer(one.processes())
            shell(f"diff -r --no-dereference {pair[0]} {pair[1]}", Path("/"), (0, 1))
        finally:
            tracer.terminate()
            tracer.wait()
        found = re.findall(
            rf"pread64\(\d+<{re.escape(str(one.archive))}>, .*?, (\d+), (\d+)\)",
            Path(log.name).read_text(),
        )
    return [(int(size), int(offset)) for size, offset in found]


def _await_tracer(pids: list[int]) -> None:
    for _ in range(1_000_000):
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        if all("TracerPid:\t0\n" not in status for status in statuses):
            return
    raise BenchError("strace does not attach to the daemon")


Extent = tuple[int, int]


def _extents(archive: Path, layer: int) -> tuple[list[Extent], list[Extent]]:
    """Return where files lie in the archive: those that a layer touches, and all others below."""
    names = archives.layer_names(archive)[: layer + 1]
    touched: list[Extent] = []
    shared: list[Extent] = []
    with tarfile.open(archive) as outer, open(archive, "rb") as raw:
        starts = [outer.getmember(name).offset_data for name in names]
        raw.seek(starts[-1])
        with tarfile.open(fileobj=raw, mode="r:") as top:
            in_layer = {member.name for member in top if member.isfile() or member.islnk()}
        for start in starts:
            raw.seek(start)
            with tarfile.open(fileobj=raw, mode="r:") as tar:
                # A file is touched if one of its names is.
                linked = {member.linkname for member in tar if member.name in in_layer}
                for member in tar:
                    extent = (member.offset_data, member.offset_data + member.size)
                    if member.isfile() and member.size:
                        is_touched = member.name in in_layer or member.name in linked
                        (touched if is_touched else shared).append(extent)
    return sorted(touched), sorted(shared)


def _lies_in(read: tuple[int, int], extents: list[Extent]) -> bool:
    size, offset = read
    low, high = 0, len(extents)
    while low < high:
        middle = (low + high) // 2
        if extents[middle][1] <= offset:
            low = middle + 1
        else:
            high = middle
    return low < len(extents) and extents[low][0] < offset + size
