"""Directories as the kernel searches them: blocks of entries, sorted over all of them.

Each block holds as many entries as fit, their names behind them; `.` and `..` are entries like
others, where their names sort. Pure functions.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from imagefs.erofs.format import DIRECTORY, DIRENT

DOT, DOTDOT = b".", b".."
_HEAD = DIRENT.size
_DOTS_BYTES = 2 * _HEAD + len(DOT + DOTDOT)


class Named(NamedTuple):
    """Sorted entries of a directory, as columns of one length: each has a `file_type`."""

    names: list[bytes]
    nids: list[int]
    types: bytearray


def length(parts: Iterable[Named]) -> int:
    """Return the bytes of a directory of these entries that has one block."""
    return _DOTS_BYTES + sum(_HEAD * len(one.names) + sum(map(len, one.names)) for one in parts)


def with_dots(parts: Iterable[Named], own: int, parent: int) -> Iterator[Named]:
    """Yield sorted entries with `.` and `..` among them."""
    dots = [(DOT, own), (DOTDOT, parent)]
    for part in parts:
        while dots and part.names and dots[0][0] < part.names[-1]:
            name, nid = dots.pop(0)
            at = bisect_left(part.names, name)
            part.names.insert(at, name)
            part.nids.insert(at, nid)
            part.types.insert(at, DIRECTORY)
        yield part
    left = [name for name, _ in dots], [nid for _, nid in dots]
    yield Named(*left, bytearray([DIRECTORY] * len(dots)))


def packed(named: Named) -> bytes:
    """Return entries as one block."""
    names, nids, types = named
    starts = accumulate(map(len, names), initial=_HEAD * len(names))
    return b"".join([*map(DIRENT.pack, nids, starts, types), *names])


def blocks(parts: Iterable[Named], size: int) -> Iterator[tuple[bytes, Named]]:
    """Yield the blocks of a directory, the last one as short as it may be, with their entries."""
    names: list[bytes] = []
    nids: list[int] = []
    types = bytearray()
    for part in parts:
        names, nids, types = names + part.names, nids + part.nids, types + part.types
        ends = list(accumulate([_HEAD + len(name) for name in names], initial=0))
        first = 0
        while ends[-1] - ends[first] > size:
            last = bisect_right(ends, ends[first] + size) - 1
            block = Named(names[first:last], nids[first:last], types[first:last])
            yield packed(block).ljust(size, b"\0"), block
            first = last
        names, nids, types = names[first:], nids[first:], types[first:]
    if names:
        block = Named(names, nids, types)
        yield packed(block), block
