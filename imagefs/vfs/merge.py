"""A stack of layers as one tree, directory by directory, on demand.

Owns what whiteouts and opaque markers do (OCI image-spec, layer.md, "Whiteouts"): a marker hides
what lower layers hold, never its own layer's, wherever in the layer it stands. A directory is
given as its places: the directories of the same path that show through each other, topmost first.
Pure functions over indexes; nothing is kept.

A listing goes once through the layers, from the top. A name is found where it first comes; only a
directory goes on from there, and takes the same directories of lower layers into its stack. It is
closed, so that nothing below counts for it, by what is no directory, by an opaque marker in it, or
by a whiteout. A layer's whiteouts close names when all of its entries have been seen, which is why
they never hide its own. A wide directory is cut by names into ranges that are merged one by
one; a range takes of each layer its entries and, from elsewhere in the directory, the markers for
them.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from imagefs.index import rows
from imagefs.index.reader import Child, Index
from imagefs.index.rows import Row
from imagefs.tar import header as tar_header


class Level(Protocol):
    """A layer where it stands among others: its number, and its index."""

    @property
    def layer(self) -> int:
        """The layer's number."""

    @property
    def index(self) -> Index:
        """The layer's index."""


L = TypeVar("L", bound=Level)
Place: TypeAlias = tuple[int, int]
"""A layer's number and a row of it."""
Visible: TypeAlias = tuple[bytes, int, int, tuple[int, ...]]
"""An entry of a directory: its name, its place, and its row (a plain tuple, as many are made)."""

S_IFDIR = 4
"""A directory's mode, without its low 12 bits."""
_BEHIND = b".wh/"
"""What sorts behind all names that begin with the prefix of whiteouts."""
_TOGETHER = 16_384
"""Entries of all layers that are merged at once where a directory is wide."""


class Part(NamedTuple, Generic[L]):
    """A range of names in one layer's directory: the entries from `first` to `end`, by their place,
    and the markers for such names, from `marks` to `marks_end`.
    """

    level: L
    number: int
    first: int
    end: int
    marks: int
    marks_end: int

    def total(self) -> int:
        """Return how many rows it takes to know what the layer says of the range."""
        return self.end - self.first + self.marks_end - self.marks

    def most(self) -> int:
        """Return how many rows the larger of the two has."""
        return max(self.end - self.first, self.marks_end - self.marks)

    def middle(self) -> bytes:
        """Return the name in the middle of the larger of the two."""
        index = self.level.index
        first = index.row(self.number).data
        if self.end - self.first == self.most():
            return index.name(index.row(first + (self.first + self.end) // 2))
        marker = index.name(index.row(first + (self.marks + self.marks_end) // 2))
        return marker[len(tar_header.WHITEOUT_PREFIX) :]

    def until(self, name: bytes) -> "Part[L]":
        """Return what lies before a name."""
        index = self.level.index
        directory = index.row(self.number)
        marker = tar_header.WHITEOUT_PREFIX + name
        return self._replace(
            end=index.place(directory, name, self.first, self.end),
            marks_end=index.place(directory, marker, self.marks, self.marks_end),
        )


class Listing(NamedTuple, Generic[L]):
    """A directory's visible entries, sorted by name.

    `stacks` has the places of each directory among them, as level and row, and `described` the
    rows that describe those which their topmost layer only implies: its own if none does.
    """

    entries: list[Visible]
    stacks: dict[bytes, list[tuple[L, int]]]
    described: dict[bytes, tuple[int, ...]]


def lookup(places: Iterable[tuple[L, int]], name: bytes) -> tuple[L, Child] | None:
    """Return the topmost thing that a directory has under a name, and its level."""
    for level, number in places:
        child, ends = says(level, number, name)
        if child is not None:
            return level, child
        if ends:
            return None
    return None


def says(level: Level, number: int, name: bytes) -> tuple[Child | None, bool]:
    """Return what a layer's directory has under a name, and whether it hides what is below."""
    index = level.index
    directory = index.row(number)
    child = index.find(directory, name)
    if child is not None and not child.row.flags & rows.HIDDEN:
        return child, True
    return None, deletes(index, directory, name)


def deletes(index: Index, directory: Row, name: bytes) -> bool:
    """Tell whether a layer's directory has the marker that deletes a name from lower layers."""
    if not directory.flags & rows.WHITEOUTS_WITHIN:
        return False
    marker = index.find(directory, tar_header.WHITEOUT_PREFIX + name)
    return marker is not None and bool(marker.row.flags & rows.WHITEOUT)


def named(places: Iterable[tuple[L, int]], name: bytes) -> Iterator[tuple[L, Child]]:
    """Yield the directories of a name that stand above each other, opaque or not.

    An opaque marker hides what lower ones hold, but not what they are.
    """
    for level, number in places:
        child, _ = says(level, number, name)
        if child is not None:
            if child.row.mode >> 12 != S_IFDIR:
                return
            yield level, child
        if deletes(level.index, level.index.row(number), name):
            return


def size(places: Iterable[tuple[Level, int]]) -> int:
    """Return how many entries all the layers of a directory have, hidden ones among them."""
    return sum(level.index.row(number).size for level, number in places)


def listing(places: Iterable[tuple[L, int]]) -> Listing[L]:
    """Return a directory's visible entries."""
    return _merged((level, entries_of(level.index, level.layer, at), ()) for level, at in places)


def listings(places: Sequence[tuple[L, int]]) -> Iterator[Listing[L]]:
    """Yield a wide directory's visible entries, some at a time."""
    waiting = [[_whole(level, number) for level, number in places]]
    while waiting:
        parts = waiting.pop()
        halves = _halves(parts) if sum(map(Part.total, parts)) > _TOGETHER else None
        if halves is None:
            yield _merged(map(_part_of, parts))
        else:
            waiting += reversed(halves)


def _whole(level: L, number: int) -> Part[L]:
    index, directory = level.index, level.index.row(number)
    if not directory.flags & rows.WHITEOUTS_WITHIN:
        return Part(level, number, 0, directory.size, 0, 0)
    prefix = tar_header.WHITEOUT_PREFIX
    marks, end = (index.place(directory, name, 0, directory.size) for name in (prefix, _BEHIND))
    return Part(level, number, 0, directory.size, marks, end)


def _halves(parts: Sequence[Part[L]]) -> tuple[list[Part[L]], list[Part[L]]] | None:
    """Cut a range of names in two, in the middle of the layer that has most of them."""
    name = max(parts, key=Part.most).middle()
    low = [part.until(name) for part in parts]
    high = [
        part._replace(first=below.end, marks=below.marks_end)
        for part, below in zip(parts, low, strict=True)
    ]
    # One name in many layers is all of the range that cannot be cut.
    return (low, high) if any(map(Part.total, low)) and any(map(Part.total, high)) else None


def _part_of(part: Part[L]) -> tuple[L, list[Visible], list[bytes]]:
    level, number, first, end, marks, marks_end = part
    index = level.index
    deleted = [
        name[len(tar_header.WHITEOUT_PREFIX) :]
        for name, _, _, row in entries_of(index, level.layer, number, marks, marks_end)
        if row[2] & rows.WHITEOUT
    ]
    return level, entries_of(index, level.layer, number, first, end), deleted


def _merged(parts: Iterable[tuple[L, list[Visible], Iterable[bytes]]]) -> Listing[L]:
    """Merge parts of a directory: of each layer, topmost first, entries and deleted names."""
    found: dict[bytes, Visible] = {}
    stacks: dict[bytes, list[tuple[L, int]]] = {}
    described: dict[bytes, tuple[int, ...]] = {}
    undescribed: set[bytes] = set()
    closed: set[bytes] = set()
    for level, entries, marked in parts:
        deleted = list(marked)
        for visible in entries:
            name, _, at, row = visible
            flags = row[2]
            if flags & rows.WHITEOUT:
                deleted.append(name[len(tar_header.WHITEOUT_PREFIX) :])
            if flags & rows.HIDDEN:
                continue
            is_directory = row[3] >> 12 == S_IFDIR
            if name not in found and name not in closed:
                found[name] = visible
                if is_directory:
                    stacks[name] = [(level, at)]
                if flags & rows.IMPLIED:
                    described[name] = row
                    undescribed.add(name)
            elif is_directory and name in stacks:
                if name not in closed:
                    stacks[name].append((level, at))
                if name in undescribed and not flags & rows.IMPLIED:
                    described[name] = row
                    undescribed.discard(name)
            else:
                closed.add(name)
                undescribed.discard(name)
            if flags & rows.OPAQUE:
                closed.add(name)
        closed.update(deleted)
        undescribed.difference_update(deleted)
    return Listing([found[name] for name in sorted(found)], stacks, described)


def entries_of(
    index: Index, layer: int, number: int, first: int = 0, end: int | None = None
) -> list[Visible]:
    """Return the entries of one layer's directory, sorted by name: all, or some by their place."""
    directory = index.row(number)
    names, table = index.table(directory, first, end)
    numbers = itertools.count(directory.data + first)
    return list(zip(names, itertools.repeat(layer), numbers, table, strict=False))
