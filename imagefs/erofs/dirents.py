"""Directories as the kernel searches them: blocks of entries, sorted over all of them.

Each block holds as many entries as fit, their names behind them; `.` and `..` are entries like
others, where their names sort. Pure functions.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from imagefs.erofs.format import DIRECTORY, DIRENT

Named: TypeAlias = tuple[bytes, int, int]
"""A name in a directory, the node number it leads to, and its `file_type`."""

DOTS = (b".", b"..")
_HEAD = DIRENT.size
_DOTS_BYTES = 2 * _HEAD + len(b"".join(DOTS))


def length(entries: Sequence[Named]) -> int:
    """Return the bytes of a directory of these entries that has one block."""
    return _DOTS_BYTES + _HEAD * len(entries) + sum([len(entry[0]) for entry in entries])


def with_dots(entries: Sequence[Named], own: int, parent: int) -> list[Named]:
    """Return sorted entries with `.` and `..` among them."""
    found = list(entries)
    for name, nid in zip(DOTS, (own, parent), strict=True):
        # Few names sort before these.
        at = 0
        while at < len(found) and found[at][0] < name:
            at += 1
        found.insert(at, (name, nid, DIRECTORY))
    return found


def packed(entries: Sequence[Named]) -> bytes:
    """Return entries as one block."""
    at = _HEAD * len(entries)
    pack = DIRENT.pack
    heads = []
    names = []
    for name, nid, kind in entries:
        heads.append(pack(nid, at, kind))
        names.append(name)
        at += len(name)
    return b"".join(heads + names)


def blocks(entries: Iterable[Named], size: int) -> Iterator[tuple[bytes, Sequence[Named]]]:
    """Yield the blocks of a directory, the last one as short as it may be, with their entries."""
    some: list[Named] = []
    taken = 0
    for entry in entries:
        needed = _HEAD + len(entry[0])
        if taken + needed > size:
            yield packed(some).ljust(size, b"\0"), some
            some, taken = [], 0
        some.append(entry)
        taken += needed
    if some:
        yield packed(some), some


def streamed(entries: Iterable[Named], own: int, parent: int) -> Iterator[Named]:
    """Yield sorted entries with `.` and `..` among them, however many they are."""
    dots: list[Named] = [(b"..", parent, DIRECTORY), (b".", own, DIRECTORY)]
    for entry in entries:
        while dots and dots[-1][0] < entry[0]:
            yield dots.pop()
        yield entry
    yield from reversed(dots)


def below(entries: Sequence[Named]) -> list[int]:
    """Return where in a block of entries those of directories lie, but for `.` and `..`."""
    return [
        number * _HEAD
        for number, (name, _, kind) in enumerate(entries)
        if kind == DIRECTORY and name not in DOTS
    ]


def has_dots_alone(entries: Sequence[Named]) -> bool:
    """Tell whether the first two entries are `.` and `..`, and no other is a directory."""
    return (entries[0][0], entries[1][0]) == DOTS and not below(entries)


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
