"""What `imagefs scan` asks of each file: whether patterns match in it, or what it is.

Matching is by line, over bytes, as grep(1) does it. Values pickle, and so does what holds them.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

from imagefs.errors import UsageError
from imagefs.scanning.model import File

_AT_ONCE = 1 << 20
_LONGEST = 4 << 20
"""Bytes of a line that are looked at together; of a longer one, some at a time."""
Search = Callable[[bytes, int], "re.Match[bytes] | None"]
_TEXT = 1 << 15
"""Bytes at a file's beginning that have no NUL in a file of text."""


class Match(NamedTuple):
    """A line that matches: its offset in bytes and its number, from 1; `line` is without its end.

    In a binary file it is the first match alone, and `line` is None.
    """

    offset: int
    number: int
    line: bytes | None


class Entry(NamedTuple):
    """A file of a catalogue: size in bytes, mode and owner, and the SHA-256 of its content."""

    size: int
    mode: int
    uid: int
    gid: int
    sha256: str


@dataclass(frozen=True)
class Which:
    """Which files are looked at: those whose path fits one of the globs, if any, up to a size.

    A glob without a slash is of names, others of whole paths, as of fnmatch: `*` takes slashes.
    """

    globs: tuple[str, ...] = ()
    max_size: int | None = None

    def fits(self, file: File) -> bool:
        """Tell whether a file is to be looked at."""
        if self.max_size is not None and file.size > self.max_size:
            return False
        return not self.globs or any(map(self._fits, (file.path, *file.names)))

    def _fits(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return any(fnmatchcase(path if "/" in glob else name, glob) for glob in self.globs)


@dataclass(frozen=True)
class Grep:
    """Finds the lines that one of the patterns matches; with `text`, in binary files too."""

    patterns: tuple[bytes, ...]
    ignore_case: bool = False
    text: bool = False
    which: Which = Which()
    _made: list["Search"] = field(default_factory=list, compare=False, repr=False)

    def __call__(self, file: File) -> Iterator[Match]:
        """Yield the lines of a file that match."""
        if not file.size or not self.which.fits(file):
            return
        search = self.search()
        binary = None
        for offset, number, chunk in _lines(file):
            if binary is None:
                # A file that begins with a hole begins with NULs.
                binary = not self.text and (offset > 0 or b"\0" in chunk[:_TEXT])
            at = 0
            counted, lines = 0, number
            while found := search(chunk, at):
                begin = chunk.rfind(b"\n", 0, found.start()) + 1
                end = chunk.find(b"\n", found.end())
                end = len(chunk) if end < 0 else end
                lines += chunk.count(b"\n", counted, begin)
                counted = begin
                if binary:
                    yield Match(offset + begin, lines, None)
                    return
                yield Match(offset + begin, lines, chunk[begin:end])
                at = end + 1
                if at > len(chunk):
                    break

    def search(self) -> "Search":
        """Return what finds the first match from a place on. Raises UsageError for a bad pattern.

        It is made once a process.
        """
        if not self._made:
            flags = re.MULTILINE | (re.IGNORECASE if self.ignore_case else 0)
            each = [_compiled(pattern, flags) for pattern in self.patterns]
            if any(one.groups for one in each[1:]):
                # Joined, groups would be numbered anew, which patterns may refer to.
                self._made.append(partial(_first, each))
            else:
                joined = b"|".join(b"(?:%s)" % one.pattern for one in each)
                self._made.append(re.compile(joined, flags).search)
        return self._made[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": []}


@dataclass(frozen=True)
class Catalogue:
    """Describes each file."""

    which: Which = Which()

    def __call__(self, file: File) -> Sequence[Entry]:
        """Return what a file is."""
        if not self.which.fits(file):
            return ()
        digest = hashlib.sha256()
        for at in range(0, file.size, _AT_ONCE):
            digest.update(file.read(_AT_ONCE, at))
        return (Entry(file.size, file.mode, file.uid, file.gid, digest.hexdigest()),)


def _compiled(pattern: bytes, flags: int) -> "re.Pattern[bytes]":
    # Flags at a pattern's beginning are its own, also when others stand before it.
    scoped = re.sub(rb"\A\(\?([aimsx]+)\)(.*)\Z", rb"(?\1:\2)", pattern, flags=re.DOTALL)
    try:
        return re.compile(scoped, flags)
    except re.error as error:
        said = pattern.decode(errors="replace")
        raise UsageError(f"{said!r} is no regular expression: {error}") from error


def _first(patterns: Sequence["re.Pattern[bytes]"], data: bytes, at: int) -> Any:
    found = [match for one in patterns if (match := one.search(data, at))]
    return min(found, key=lambda match: match.start(), default=None)


def _lines(file: File) -> Iterator[tuple[int, int, bytes]]:
    """Yield a file's data in pieces that end with a line, with their offset and line number.

    Holes are left out: they hold nothing that a pattern is looked for in.
    """
    number = 1
    for begin, end in file.extents():
        at, rest = begin, b""
        while at < end:
            data = rest + file.read(min(_AT_ONCE, end - at), at)
            start = at - len(rest)
            at = start + len(data)
            if at < end:
                cut = data.rfind(b"\n") + 1
                if not cut and len(data) < _LONGEST:
                    rest = data
                    continue
                cut = cut or len(data)
                data, rest = data[:cut], data[cut:]
            yield start, number, data
            number += data.count(b"\n")
