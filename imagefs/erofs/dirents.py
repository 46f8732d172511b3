"""Directories as the kernel searches them: blocks of entries, sorted over all of them.

Each block holds as many entries as fit, their names behind them; `.` and `..` are entries like
others, where their names sort. Pure functions.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from imagefs.erofs.format import DIRECTORY, DIRENT

_HEAD = DIRENT.size
DOTS = (b".", b"..")


class Named(NamedTuple):
    """A name in a directory, the node number it leads to, and its `file_type`."""

    name: bytes
    nid: int
    type: int


def length(names: Iterable[bytes]) -> int:
    """Return the bytes of a directory of these names that has one block."""
    return sum(_HEAD + len(name) for name in chain(DOTS, names))


def with_dots(entries: Iterable[Named], own: int, parent: int) -> Iterator[Named]:
    """Yield sorted entries with `.` and `..` among them."""
    dots = [Named(b"..", parent, DIRECTORY), Named(b".", own, DIRECTORY)]
    for entry in entries:
        while dots and dots[-1].name < entry.name:
            yield dots.pop()
        yield entry
    yield from reversed(dots)


def blocks(entries: Iterable[Named], size: int) -> Iterator[tuple[bytes, list[Named]]]:
    """Yield the blocks of a directory, the last one as short as it may be, with their entries."""
    some: list[Named] = []
    taken = 0
    for entry in entries:
        needed = _HEAD + len(entry.name)
        if taken + needed > size:
            yield _packed(some).ljust(size, b"\0"), some
            some, taken = [], 0
        some.append(entry)
        taken += needed
    if some:
        yield _packed(some), some


def _packed(entries: list[Named]) -> bytes:
    at = _HEAD * len(entries)
    pack = DIRENT.pack
    heads = []
    for name, nid, kind in entries:
        heads.append(pack(nid, at, kind))
        at += len(name)
    heads.extend([entry[0] for entry in entries])
    return b"".join(heads)


def lead(content: bytearray, at: int, nid: int) -> None:
    """Have the entry at a place lead to another number."""
    content[at : at + 8] = nid.to_bytes(8, "little")


def directories(block: bytes | bytearray) -> Iterator[tuple[int, bytes, int]]:
    """Yield the directories among a block's entries: where the entry lies, its name, its nid."""
    _, end, _ = DIRENT.unpack_from(block)
    found = list(DIRENT.iter_unpack(block[:end]))
    for number, (nid, start, kind) in enumerate(found):
        if kind == DIRECTORY:
            last = number + 1 == len(found)
            stop = len(block) if last else found[number + 1][1]
            yield number * _HEAD, bytes(block[start:stop].rstrip(b"\0")), nid
