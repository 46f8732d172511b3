"""What takes names of an image's layers out of its root: which layer, and by what means.

Owns the history of each name. Layers are told by their position, the bottom one's being 0. A name
is gone from the first layer on that has another thing at its place, a whiteout for it, an opaque
marker in a directory above it, or something else where such a directory was. Where one layer does
several of these, the nearest to the name counts, in that order. Pure over indexes.
"""

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.tar import header as tar_header
from imagefs.tree.causes import RANK, Cause, Event
from imagefs.vfs.links import Links
from imagefs.vfs.merge import S_IFDIR, Place

_CHUNK = 4096
_COMPARED = 1000
"""Most names of an inode whose paths are compared."""
_IS_HIDDEN = bytes(bool(flags & rows.HIDDEN) for flags in range(256))
_PREFIX = len(tar_header.WHITEOUT_PREFIX)


class _Walls:
    """Events that hide all that lower layers have in a directory: their numbers, by layer."""

    def __init__(self, events: Mapping[int, int]) -> None:
        self.events = events
        self.layers = sorted(events)

    def above(self, layer: int) -> int | None:
        """Return the first layer above one that has such an event, None if none has."""
        return _above(self.layers, layer)

    def number(self, layer: int) -> int:
        """Return the first event above a layer, 0 if there is none."""
        above = self.above(layer)
        return 0 if above is None else self.events[above]

    def first(self, places: Iterable[Place]) -> dict[int, int]:
        """Return those events that are the first above a layer of these places.

        No others count in a directory that these layers have: what is kept of it does not grow with
        the events above it.
        """
        found = (self.above(layer) for layer, _ in places)
        return {above: self.events[above] for above in found if above is not None}


def _above(layers: Sequence[int], layer: int) -> int | None:
    """Return the first of ascending layers that is above one."""
    at = bisect_right(layers, layer)
    return layers[at] if at < len(layers) else None


_Inner: TypeAlias = tuple[list[Place], _Walls, bytes]
"""A directory that is gone through: the layers' own ones, what hides all in them, and the path."""


class _Entry(NamedTuple):
    """What a layer has under a name of a directory."""

    layer: int
    row: int
    is_directory: bool
    is_implied: bool


class Hiding:
    """The names of an image's layers, each with what hides it.

    `events[0]` stands for nothing; `by_row[layer][row]` is a number among them. Of an event that is
    about a directory, `stands` has the row in its layer of what is there, -1 for nothing, and
    `around` that of the directory above. `over[layer][row]` is a row in the layer of the event: of
    a name that was overwritten, what did it; of one that was deleted, the whiteout's directory.
    `changes[layer][row]` tells whether a name stands where the layers below showed something else,
    and `again[layer][row]` whether a higher layer describes a directory, too.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        pile = links.pile
        self.indexes: Sequence[Index] = [pile.indexes[number] for number in pile.layers]
        self.events: list[Event] = [Event(-1, Cause.MARKER)]
        self.stands, self.around = array("i", [-1]), array("I", [0])
        self.by_row = [array("I", bytes(4 * index.count)) for index in self.indexes]
        self.over = [array("I", bytes(4 * index.count)) for index in self.indexes]
        self.changes = [bytearray(index.count) for index in self.indexes]
        self.again = [bytearray(index.count) for index in self.indexes]
        self._numbers: dict[Event, int] = {}
        self._names = _names_by_inode(links)
        self._away = {place for places in self._names.values() for place in places}
        if self.indexes:
            self._walk()
        for layer in range(len(self.indexes)):
            self._mark_markers(layer)

    def event(self, place: Place) -> Event | None:
        """Return what hides a name, None where it shows."""
        number = self.by_row[place[0]][place[1]]
        return self.events[number] if number else None

    def is_away(self, place: Place) -> bool:
        """Tell whether a name is a hard link to a file of a lower layer."""
        return place in self._away

    def linked(self, layer: int) -> set[int]:
        """Return the inodes of a layer that higher layers have hard links to."""
        return {number for at, number in self._names if at == layer}

    def names(self, place: Place, nlink: int) -> Iterator[Place]:
        """Yield all names of an inode, those that higher layers give it among them."""
        layer, number = place
        if nlink == 1:
            yield place
        else:
            for at in self.indexes[layer].same_inode(number):
                if (layer, at) not in self._away:
                    yield layer, at
        yield from self._names.get(place, ())

    def lasting(self, place: Place, nlink: int) -> tuple[Event, Place]:
        """Return what hides the last of an inode's names, and that; event 0 where one shows.

        Of names that one layer hides, what is nearest to one counts, then the first by its path;
        of very many, one of the first.
        """
        found: list[tuple[Event, Place]] = []
        for one in self.names(place, nlink):
            number = self.by_row[one[0]][one[1]]
            if not number:
                return self.events[0], one
            found.append((self.events[number], one))
        if len(found) == 1:
            return found[0]
        last = min((-event.layer, RANK[event.cause]) for event, _ in found)
        alike = (one for one in found if (-one[0].layer, RANK[one[0].cause]) == last)
        return min(islice(alike, _COMPARED), key=lambda one: self.path(one[1]))

    def has_hidden(self, layer: int) -> bool:
        """Tell whether anything of a layer does not show."""
        return any(self.by_row[layer])

    def path(self, place: Place) -> bytes:
        """Return a name's path, without a slash before it."""
        layer, number = place
        index = self.indexes[layer]
        names: list[bytes] = []
        while number:
            row = index.row(number)
            names.append(index.name(row))
            number = row.parent
        return b"/".join(reversed(names))

    def rows(self, layer: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield a layer's rows but the root's, each with its number, as plain tuples."""
        index = self.indexes[layer]
        for first in range(1, index.count, _CHUNK):
            yield from enumerate(index.rows(first, min(first + _CHUNK, index.count)), first)

    # From the root down, wherever more than one layer has a directory

    def _walk(self) -> None:
        roots = [(layer, 0) for layer in range(len(self.indexes))]
        # One at a time: there may be very many in one directory, each with what hides it.
        waiting: list[Iterator[_Inner]] = [iter([(roots, _Walls({}), b"")])]
        while waiting:
            inner = next(waiting[-1], None)
            if inner is None:
                waiting.pop()
                continue
            places, walls, path = inner
            if len(places) == 1:
                self._sink(places[0], walls)
            else:
                waiting.append(self._directory(places, walls, path))

    def _sink(self, place: Place, walls: _Walls) -> None:
        """Hide all that lies below a directory which no other layer has, if anything does."""
        layer, top = place
        number = walls.number(layer)
        if not number:
            return
        index, by_row = self.indexes[layer], self.by_row[layer]
        waiting = [top]
        while waiting:
            directory = index.row(waiting.pop())
            if not directory.size:
                continue
            first, end = directory.data, directory.data + directory.size
            by_row[first:end] = array("I", [number]) * directory.size
            table = enumerate(index.rows(first, end), first)
            waiting += [at for at, row in table if row[3] >> 12 == S_IFDIR]

    def _directory(self, places: list[Place], walls: _Walls, path: bytes) -> Iterator[_Inner]:
        """Enter what hides the names of a directory; yield the directories in it."""
        around = walls.first(places)
        tables: list[Iterator[tuple[bytes, int, _Entry | None]]] = []
        for layer, number in places:
            directory = self.indexes[layer].row(number)
            if directory.flags & rows.OPAQUE:
                around[layer] = self._number(Event(layer, Cause.OPAQUE, path), number)
            tables.append(self._entries(layer, directory))
            if directory.flags & rows.WHITEOUTS_WITHIN:
                tables.append(self._whiteouts(layer, directory))
        over, here = _Walls(around), dict(places)
        # By name, and of each name the bottom layer first.
        for name, table in groupby(heapq.merge(*tables, key=itemgetter(0, 1)), key=itemgetter(0)):
            found: list[_Entry] = []
            gone: list[int] = []
            for _, layer, entry in table:
                if entry is None:
                    gone.append(layer)
                else:
                    found.append(entry)
            if not found:
                continue
            self._enter_leaves(found, gone, over, here)
            inside = [(entry.layer, entry.row) for entry in found if entry.is_directory]
            if inside:
                below = path + b"/" + name if path else name
                inner = over
                if gone or len(inside) < len(found):
                    inner = _Walls(over.first(inside) | self._taken(found, gone, here, below))
                if len(inside) > 1:
                    self._describe(found)
                for layer, number in inside:
                    self.by_row[layer][number] = inner.number(layer)
                yield inside, inner, below

    def _entries(self, layer: int, directory: Row) -> Iterator[tuple[bytes, int, _Entry | None]]:
        """Yield what a layer has in a directory, sorted by name."""
        for name, at, row in self.indexes[layer].stream(directory):
            if not row[2] & rows.HIDDEN:
                is_implied = bool(row[2] & rows.IMPLIED)
                yield name, layer, _Entry(layer, at, row[3] >> 12 == S_IFDIR, is_implied)

    def _whiteouts(self, layer: int, directory: Row) -> Iterator[tuple[bytes, int, _Entry | None]]:
        """Yield what a layer deletes in a directory, sorted by name."""
        prefix, index = tar_header.WHITEOUT_PREFIX, self.indexes[layer]
        for name, _, row in index.stream(
            directory, index.place(directory, prefix, 0, directory.size)
        ):
            if not name.startswith(prefix):
                return
            if row[2] & rows.WHITEOUT:
                yield name[_PREFIX:], layer, None

    def _taken(
        self, found: Sequence[_Entry], gone: Sequence[int], here: Mapping[int, int], path: bytes
    ) -> dict[int, int]:
        """Return the events that take a directory away: whiteouts, and what else stands there."""
        stands = {entry.layer: entry.row for entry in found}
        others = (entry.layer for entry in found if not entry.is_directory)
        return {
            layer: self._number(Event(layer, Cause.BELOW, path), stands.get(layer, -1), here[layer])
            for layer in (*gone, *others)
        }

    def _describe(self, found: Sequence[_Entry]) -> None:
        """Enter which entries of a directory a higher layer's one describes anew."""
        above = False
        for layer, number, is_directory, is_implied in reversed(found):
            self.again[layer][number] = above
            above = above or (is_directory and not is_implied)

    def _enter_leaves(
        self, found: Sequence[_Entry], gone: Sequence[int], over: _Walls, here: Mapping[int, int]
    ) -> None:
        """Enter what hides a name of anything but a directory, and which entries are changes."""
        for at, (layer, number, is_directory, _) in enumerate(found):
            later = found[at + 1] if at + 1 < len(found) else None
            means = [
                (above, rank)
                for rank, above in enumerate(
                    (later and later.layer, _above(gone, layer), over.above(layer))
                )
                if above is not None
            ]
            if not means:
                continue
            above, rank = min(means)
            if later is not None and not rank:
                self.changes[later.layer][later.row] = 1
            if is_directory:
                continue
            if rank == 2:
                self.by_row[layer][number] = over.events[above]
                continue
            cause = Cause.DELETED if rank else Cause.OVERWRITTEN
            self.by_row[layer][number] = self._number(Event(above, cause))
            self.over[layer][number] = here[above] if rank or later is None else later.row

    def _number(self, event: Event, stands: int = -1, around: int = 0) -> int:
        number = self._numbers.get(event)
        if number is None:
            number = self._numbers[event] = len(self.events)
            self.events.append(event)
            self.stands.append(stands)
            self.around.append(around)
        return number

    def _mark_markers(self, layer: int) -> None:
        """Say of markers, and of all that lies in their directories, that their own layer does."""
        index, by_row = self.indexes[layer], self.by_row[layer]
        number = 0
        for first in range(1, index.count, _CHUNK):
            end = min(first + _CHUNK, index.count)
            if not number and not any(index.flags(first, end).translate(_IS_HIDDEN)):
                continue
            number = number or self._number(Event(layer, Cause.MARKER))
            for at, row in enumerate(index.rows(first, end), first):
                # A directory comes before what it holds.
                if row[2] & rows.HIDDEN or by_row[row[8]] == number:
                    by_row[at] = number


def _names_by_inode(links: Links) -> dict[Place, list[Place]]:
    """Return the hard links to files of lower layers, by the inodes that they lead to."""
    found: dict[Place, list[Place]] = {}
    at = {number: position for position, number in enumerate(links.pile.layers)}
    for number in links.pile.layers:
        for link in links.pile.indexes[number].foreign():
            target = links.target((number, link.number))
            if target is not None:
                inode = at[target[0]], target[1]
                found.setdefault(inode, []).append((at[number], link.number))
    return found
