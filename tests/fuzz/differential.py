"""Our scan of a tar beside other readers': a scanner that sees other names is a way to hide a file.

    ./scripts/fuzz differential [SECONDS [SEED]]

The invariant: where Go's archive/tar reads a tar, with which Docker, Podman and umoci read layers,
our scan gives the same members. Where Go refuses it, no engine would run it, and our scan refuses
it too, or sees what GNU tar, bsdtar or Python's tarfile sees, unless these disagree, too.
What is excepted is in ACCEPTED.
"""

import random
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeAlias
from zlib import crc32

from imagefs.errors import CorruptArchive
from imagefs.index.records import clean
from imagefs.tar.scan import Member
from tests.fuzz.headermutation import tars
from tests.fuzz.targets import folder, members_of
from tests.support.headers import GNU

ACCEPTED = {
    "a hole and no map": "GNU tar says so of a file that is one hole; Go shows it empty",
    "global records": "Go and the engines ignore them; we take times and owners from them, no more",
    "a wrong global record": "it applies to all that follows: we refuse it, as GNU tar does",
    "a number with a plus sign": "nobody writes it; we refuse it, as GNU tar does",
    "a negative size of what has no content": "Go does not look at it; we do, as GNU tar",
    "long names of GNU beside pax's": "Go takes GNU's, which is so where it refuses the tar, too",
    "a sparse file's name and no map": "Go ignores it, and so do we; tar programs take it",
    "a prefix in a GNU header": "Go before 1.8 wrote it, and takes it where no times can be there",
    "beyond Linux": "names or targets that are too long for any system call: we refuse the layer",
    "extended headers together": "Go bounds each by 1 MiB, we bound what one member has of them",
}
"""Differences between us and others, and why they stay.

Not compared are kinds of members that engines refuse and that describe no file (GNU's `V`, `M`,
`N`, `D`), nor what bsdtar and Python make of them.
"""

_BATCH = 200
_CONTENT = 4096


class Seen(NamedTuple):
    """A member, as far as readers can be compared."""

    name: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: tuple[int, int]
    target: bytes
    device: tuple[int, int]
    content: int


Listing: TypeAlias = "list[Seen] | None"
"""What a reader sees of a tar; None where it refuses it."""
Names: TypeAlias = "list[bytes] | None"
"""The names alone, of readers that say little else, or whose kinds engines do not know."""


def ours(tar: bytes) -> Listing:
    """Return what our scan sees."""
    try:
        return [_seen(tar, member) for member in members_of(tar)]
    except CorruptArchive:
        return None


def _seen(tar: bytes, member: Member) -> Seen:
    content = bytearray(min(member.size, _CONTENT))
    at = member.offset
    for start, length in member.sparse if member.sparse is not None else ((0, member.size),):
        part = tar[at : at + min(length, max(0, len(content) - start))]
        content[start : start + len(part)] = part
        at += length
    device = (member.rdev >> 8 & 0xFFF, member.rdev & 0xFF | member.rdev >> 12 & 0xFFF00)
    regular = member.typeflag == b"0"
    return Seen(
        b"/".join(clean(member.name)),
        member.typeflag.decode(),
        member.mode,
        member.uid,
        member.gid,
        member.size,
        (member.mtime, member.mtimensec),
        member.linkname if member.typeflag in b"12" else b"",
        device if member.typeflag in b"34" else (0, 0),
        crc32(content) if regular else 0,
    )


# Other readers


class Go:
    """Go's archive/tar, by a program that is compiled where golang is installed."""

    def __init__(self, compiler: str) -> None:
        self._program = folder() / "lister"
        source = Path(__file__).with_name("lister.go")
        cache = {"GOCACHE": str(folder() / "go"), "HOME": str(folder()), "GO111MODULE": "off"}
        environment = {"PATH": "/usr/bin:/bin", "GOFLAGS": "-buildvcs=false", **cache}
        command = [compiler, "build", "-o", str(self._program), str(source)]
        subprocess.run(command, check=True, env=environment, cwd=folder())

    def __call__(self, batch: Sequence[bytes]) -> list[Listing]:
        """Return what it sees of each tar; one process reads them all."""
        framed = b"".join(struct.pack(">Q", len(tar)) + tar for tar in batch)
        done = subprocess.run([self._program], input=framed, capture_output=True, check=True)
        found: list[Listing] = []
        members: list[Seen] = []
        for line in done.stdout.split(b"\n")[:-1]:
            word, *fields = line.split(b" ")
            if word == b"m":
                members.append(_from_go(fields))
            else:
                found.append(members if word == b"ok" else None)
                members = []
        assert len(found) == len(batch), done.stderr
        return found


def _from_go(fields: Sequence[bytes]) -> Seen:
    name, kind, mode, uid, gid, size, seconds, nanoseconds, target, major, minor, content = fields
    return Seen(
        b"/".join(clean(bytes.fromhex(name.decode()))),
        kind.decode(),
        int(mode) & 0o7777,
        int(uid) & 0xFFFFFFFF,
        int(gid) & 0xFFFFFFFF,
        int(size) if kind == b"0" else 0,
        (int(seconds), int(nanoseconds)),
        bytes.fromhex(target.decode()) if kind in b"12" else b"",
        (int(major) & 0xFFF, int(minor) & 0xFFFFF) if kind in b"34" else (0, 0),
        int(content) if kind == b"0" else 0,
    )


def go() -> Go | None:
    """Return Go's reader, or None where golang is not installed."""
    compiler = shutil.which("go")
    return Go(compiler) if compiler else None


def python(tar: bytes) -> Names:
    """Return what Python's tarfile sees."""
    try:
        with tarfile.open(fileobj=BytesIO(tar), mode="r:", encoding="latin-1") as opened:
            names = [info.name.encode("latin-1", "surrogateescape") for info in opened]
            return [b"/".join(clean(name)) for name in names]
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        return None


_GNU_LINE = re.compile(rb"(.)\S{9} +\d+/\d+ +(?:\d+|\d+,\d+) \S+ \S+ (.*)", re.DOTALL)
_BSD_LINE = re.compile(
    rb"(.)\S{9}\S? +\d+ +\d+ +\d+ +(?:\d+|\d+,\d+) +\w+ +\d+ +\S+ (.*)", re.DOTALL
)
_TOOLS = {
    "tar": (_GNU_LINE, ("tar", "--numeric-owner", "--quoting-style=literal", "-tvf")),
    "bsdtar": (_BSD_LINE, ("bsdtar", "--numeric-owner", "-tvf")),
}
_ARROWS = {b"h": b" link to ", b"l": b" -> ", b"-": b" link to "}


def tool(name: str, tar: bytes) -> Names:
    """Return what GNU tar or bsdtar lists."""
    pattern, command = _TOOLS[name]
    path = folder() / "one.tar"
    path.write_bytes(tar)
    done = subprocess.run(
        [*command, str(path)], capture_output=True, check=False, env={"LC_ALL": "C", "TZ": "UTC"}
    )
    if done.returncode:
        return None
    found = []
    for line in done.stdout.split(b"\n")[:-1]:
        match = pattern.match(line)
        if match is None:
            return None
        arrow = _ARROWS.get(match[1])
        name_shown = match[2].partition(arrow)[0] if arrow else match[2]
        name_shown = name_shown.partition(b" unknown file type ")[0]
        found.append(b"/".join(clean(name_shown)))
    return found


# The comparison


def difference(mine: Listing, theirs: list[Seen]) -> str:
    """Return how we differ from Go: nothing, the name of what is accepted, or what is wrong."""
    if mine is None:
        return "refused"
    if len(mine) != len(theirs):
        return f"{len(mine)} members, not {len(theirs)}"
    for one, other in zip(mine, theirs, strict=True):
        for field in Seen._fields:
            left, right = getattr(one, field), getattr(other, field)
            if left != right:
                return f"{field} {left!r}, not {right!r}"
    return ""


def accepted(tar: bytes, mine: Listing, theirs: list[Seen]) -> str:
    """Return the row of ACCEPTED that a difference is of, or nothing."""
    if mine is None:
        return _accepted_refusal(tar)
    if len(mine) != len(theirs):
        return ""
    found = [
        _accepted_field(tar, one, field)
        for one, other in zip(mine, theirs, strict=True)
        for field in Seen._fields
        if getattr(one, field) != getattr(other, field)
    ]
    return found[0] if all(found) else ""


def _accepted_field(tar: bytes, one: Seen, field: str) -> str:
    if field in ("mtime", "uid", "gid"):
        return "global records" if _has_globals(tar) else ""
    if field in ("size", "content") and b"GNU.sparse.size" in tar:
        hole = one.content == crc32(bytes(min(one.size, _CONTENT)))
        return "a hole and no map" if hole else ""
    return ""


def _has_globals(tar: bytes) -> bool:
    return b"g" in _kinds(tar)


def _kinds(tar: bytes) -> set[bytes]:
    """Return the types of all blocks, be they headers or not."""
    return {tar[at + 156 : at + 157] for at in range(0, len(tar), 512)}


def _accepted_refusal(tar: bytes) -> str:
    try:
        list(members_of(tar))
    except CorruptArchive as error:
        said = str(error)
        signed = "malformed" in said and re.search(rb"\+\d+ ", tar)
        size = re.search(rb"GNU\.sparse\.size=[^0-9]", tar)
        rows = {
            "beyond Linux": "Linux uses at most" in said,
            "extended headers together": "extended tar headers of" in said,
            "a number with a plus sign": "b'+" in said or signed,
            "a negative size of what has no content": "b'-" in said or "a size of -" in said,
            "a hole and no map": size and "is not a number" in said,
            "a wrong global record": _has_globals(tar) and "is not a" in said,
        }
        return next((row for row, is_it in rows.items() if is_it), "")
    return ""


def _apart_from_all(tar: bytes) -> str:
    """Return the row of ACCEPTED for which we see, with Go, other names than tar programs."""
    kinds = _kinds(tar)
    if kinds & {b"L", b"K"} and kinds & {b"x", b"X", b"g"}:
        return "long names of GNU beside pax's"
    if b"GNU.sparse.name=" in tar:
        return "a sparse file's name and no map"
    if b"g" in kinds:
        return "global records"
    gnu = {tar[at + 345 : at + 346] for at in range(0, len(tar), 512) if tar[at + 257 :][:8] == GNU}
    return "a prefix in a GNU header" if gnu - {b"\0"} else ""


def names(listing: list[Seen]) -> list[bytes]:
    """Return a listing's names."""
    return [one.name for one in listing]


class Run:
    """A run of the fuzzer: what it compared, and what it found."""

    def __init__(self, seed: int | str, *, go_reader: Go | None, tools: Sequence[str]) -> None:
        self.counts: Counter[str] = Counter()
        self.findings: list[tuple[str, bytes]] = []
        self._tars = tars(random.Random(seed))
        self._go = go_reader
        self._tools = tools

    def batch(self, size: int = _BATCH) -> None:
        """Compare as many tars as are to be read at once."""
        made = [next(self._tars) for _ in range(size)]
        from_go: Sequence[Listing] = self._go(made) if self._go else [None] * len(made)
        for tar, theirs in zip(made, from_go, strict=True):
            self.counts["executions"] += 1
            mine = ours(tar)
            if theirs is None:
                self._without_go(tar, mine)
                continue
            self.counts["read by Go"] += 1
            differs = difference(mine, theirs)
            row = accepted(tar, mine, theirs) if differs else ""
            if row:
                self.counts[f"accepted: {row}"] += 1
            elif differs:
                self.findings.append((differs, tar))

    def _without_go(self, tar: bytes, mine: Listing) -> None:
        if mine is None:
            self.counts["refused by us and by Go"] += 1
            return
        self.counts["read by us alone of the two"] += 1
        if names(mine) == python(tar) or not self._tools:
            return
        if not any(names(mine) == tool(name, tar) for name in self._tools):
            if row := _apart_from_all(tar):
                self.counts[f"accepted: {row}"] += 1
                return
            self.counts["seen as no other reader does"] += 1
            seen = [tool(name, tar) for name in self._tools]
            # Where they disagree among each other, too, there is nothing to go by.
            if seen[0] is not None and all(one == seen[0] for one in seen):
                self.findings.append(("other names than every reader", tar))


def available() -> list[str]:
    """Return the tools that this machine has."""
    return [name for name in _TOOLS if shutil.which(name)]


def batches(run: Run, seconds: float) -> Iterator[None]:
    """Run batch after batch for some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run.batch()
        yield


def main(seconds: float, seed: str) -> int:
    """Fuzz for some time; keep each kind of finding where one stands."""
    reader = go()
    run = Run(seed, go_reader=reader, tools=available())
    for _ in batches(run, seconds):
        pass
    print(f"differential: {'with' if reader else 'without'} Go, seed {seed}")
    for what, count in sorted(run.counts.items()):
        print(f"differential: {count} {what}")
    kinds: dict[str, tuple[str, bytes]] = {}
    for said, tar in run.findings:
        kinds.setdefault(re.sub(r"\d+|b'[^']*'|b\"[^\"]*\"", "#", said), (said, tar))
    for number, (said, tar) in enumerate(kinds.values()):
        path = Path(f"differential-{number}.tar")
        path.write_bytes(tar)
        print(f"differential: {said}: kept as {path}")
    print(f"differential: {len(run.findings)} findings")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else str(time.time())))
