"""What takes names of an image's layers out of its root: which layer, and by what means.

Owns the history of each name. Layers are told by their position, the bottom one's being 0. A name
is gone from the first layer on that has another thing at its place, a whiteout for it, an opaque
marker in a directory above it, or something else where such a directory was. Where one layer does
several of these, the nearest to the name counts, in that order. Pure over indexes.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.tar import header as tar_header
from imagefs.vfs import merge
from imagefs.vfs.links import Links
from imagefs.vfs.merge import S_IFDIR, Place

_CHUNK = 4096
_IS_HIDDEN = bytes(bool(flags & rows.HIDDEN) for flags in range(256))
_PREFIX = len(tar_header.WHITEOUT_PREFIX)


class Cause(StrEnum):
    """Why a name does not show; the nearest to the name first."""

    MARKER = "marker"
    """It is a whiteout itself, or lies in a directory of an old storage driver's."""
    OVERWRITTEN = "overwritten"
    """A later layer has something else of the same name."""
    COPIED = "copied"
    """The same, and that is a file of the same content: its metadata alone may have changed."""
    DELETED = "deleted"
    """A later layer has a whiteout for it."""
    OPAQUE = "opaque"
    """A later layer has an opaque marker in a directory above it."""
    BELOW = "below"
    """A later layer deletes or replaces a directory above it."""


WORDS = {
    Cause.MARKER: "a marker itself",
    Cause.OVERWRITTEN: "overwritten",
    Cause.COPIED: "copied again unchanged",
    Cause.DELETED: "deleted",
    Cause.OPAQUE: "opaque directory",
    Cause.BELOW: "directory gone",
}
"""The causes for people."""
RANK = {cause: number for number, cause in enumerate(Cause)}


class Event(NamedTuple):
    """What hides names: the position of the layer, the means, and the directory that it is about.

    The path is None where each name is hidden by itself.
    """

    layer: int
    cause: Cause
    path: bytes | None = None


_Barriers: TypeAlias = list[tuple[int, int]]
"""Events that hide all that lower layers have in a directory: their layer and their number."""


class Hiding:
    """The names of an image's layers, each with what hides it.

    `events[0]` stands for nothing; `by_row[layer][row]` is a number among them. `over[layer][row]`
    is, of a name that was overwritten, the row in the layer of the event, and `changes[layer][row]`
    tells whether a name stands where the layers below showed something else.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        pile = links.pile
        self.indexes: Sequence[Index] = [pile.indexes[number] for number in pile.layers]
        self.events: list[Event] = [Event(-1, Cause.MARKER)]
        self.by_row = [array("I", bytes(4 * index.count)) for index in self.indexes]
        self.over = [array("I", bytes(4 * index.count)) for index in self.indexes]
        self.changes = [bytearray(index.count) for index in self.indexes]
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

        Of names that one layer hides, what is nearest to one counts, then the first by its path.
        """
        found: list[tuple[Event, Place]] = []
        for one in self.names(place, nlink):
            number = self.by_row[one[0]][one[1]]
            if not number:
                return self.events[0], one
            found.append((self.events[number], one))
        if len(found) == 1:
            return found[0]
        return min(found, key=lambda one: (-one[0].layer, RANK[one[0].cause], self.path(one[1])))

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
        waiting: list[tuple[list[Place], _Barriers, bytes]] = [(roots, [], b"")]
        while waiting:
            places, barriers, path = waiting.pop()
            if len(places) == 1:
                self._sink(places[0], barriers)
            else:
                waiting += self._directory(places, barriers, path)

    def _sink(self, place: Place, barriers: _Barriers) -> None:
        """Hide all that lies below a directory which no other layer has, if anything does."""
        layer, top = place
        number = next((number for above, number in barriers if above > layer), 0)
        if not number:
            return
        index, by_row = self.indexes[layer], self.by_row[layer]
        waiting = [top]
        while waiting:
            directory = index.row(waiting.pop())
            first, end = directory.data, directory.data + directory.size
            by_row[first:end] = array("I", [number]) * directory.size
            table = enumerate(index.rows(first, end), first)
            waiting += [at for at, row in table if row[3] >> 12 == S_IFDIR]

    def _directory(
        self, places: list[Place], barriers: _Barriers, path: bytes
    ) -> Iterator[tuple[list[Place], _Barriers, bytes]]:
        """Enter what hides the names of a directory; yield the directories in it."""
        entries: dict[bytes, list[tuple[int, int, bool]]] = {}
        deleted: dict[bytes, list[int]] = {}
        around = dict(barriers)
        for layer, number in places:
            index = self.indexes[layer]
            if index.row(number).flags & rows.OPAQUE:
                around[layer] = self._number(Event(layer, Cause.OPAQUE, path))
            for name, _, at, row in merge.entries_of(index, layer, number):
                if row[2] & rows.WHITEOUT:
                    deleted.setdefault(name[_PREFIX:], []).append(layer)
                if not row[2] & rows.HIDDEN:
                    is_directory = row[3] >> 12 == S_IFDIR
                    entries.setdefault(name, []).append((layer, at, is_directory))
        over = sorted(around.items())
        for name, found in entries.items():
            gone = deleted.get(name, [])
            below = path + b"/" + name if path else name
            for at, (layer, number, is_directory) in enumerate(found):
                if not is_directory:
                    self._enter_leaf((layer, number), found[at + 1 :], gone, over)
            inside = [(layer, number) for layer, number, is_directory in found if is_directory]
            if inside:
                files = [layer for layer, _, is_directory in found if not is_directory]
                walls = self._walls(inside[0][0], [*gone, *files], over, below)
                for place in inside:
                    self._enter(place, walls)
                self._note_changes(found, walls)
                yield inside, walls, below
            elif len(found) > 1:
                self._note_changes(found, [(layer, 0) for layer in sorted([*gone, *around])])

    def _walls(self, first: int, layers: Iterable[int], over: _Barriers, path: bytes) -> _Barriers:
        """Return what hides what lies in a directory: what hides itself, and what is over it."""
        walls = dict(over)
        for layer in layers:
            if layer > first:
                walls[layer] = self._number(Event(layer, Cause.BELOW, path))
        return sorted(walls.items())

    def _enter(self, place: Place, walls: _Barriers) -> None:
        number = next((number for layer, number in walls if layer > place[0]), 0)
        self.by_row[place[0]][place[1]] = number

    def _enter_leaf(
        self,
        place: Place,
        later: Sequence[tuple[int, int, bool]],
        gone: list[int],
        over: _Barriers,
    ) -> None:
        """Enter what hides a name of anything but a directory."""
        layer = place[0]
        best: tuple[int, int, int] | None = None
        if later:
            best = later[0][0], 0, 0
        for at in gone:
            if at > layer and (best is None or at < best[0]):
                best = at, 1, 0
        for at, number in over:
            if at > layer and (best is None or at < best[0]):
                best = at, 2, number
        if best is None:
            return
        at, means, number = best
        if means < 2:
            number = self._number(Event(at, Cause.DELETED if means else Cause.OVERWRITTEN))
        self.by_row[layer][place[1]] = number
        if not means:
            self.over[layer][place[1]] = later[0][1]

    def _note_changes(
        self, found: Sequence[tuple[int, int, bool]], walls: Sequence[tuple[int, int]]
    ) -> None:
        """Note which names stand where lower layers still showed something."""
        for (before, *_), (layer, number, _) in pairwise(found):
            if not any(before < at < layer for at, _ in walls):
                self.changes[layer][number] = 1

    def _number(self, event: Event) -> int:
        number = self._numbers.get(event)
        if number is None:
            number = self._numbers[event] = len(self.events)
            self.events.append(event)
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
