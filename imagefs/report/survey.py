"""All of an image that a page shows, gathered in one pass over its layers.

Owns what is worth a look: the largest files, those that run with another's rights, directories that
anybody may write to, who may log in. A layer's changes are beside what the layers below it showed.
"""

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress, count
from stat import S_IFREG
from typing import NamedTuple

from imagefs.image.model import Image
from imagefs.index import rows
from imagefs.index.rows import Row
from imagefs.report.folders import Summed
from imagefs.report.sums import ADDED, CHANGED, Done, LayerSums, Shown, brought
from imagefs.tree import waste
from imagefs.tree.causes import Cause
from imagefs.tree.hiding import Hiding
from imagefs.tree.waste import Examined, Waste
from imagefs.vfs.chain import Spot
from imagefs.vfs.merge import S_IFDIR, Place

BIGGEST = 20
WORST = 30
MOST_LISTED = 100
_REGULAR = S_IFREG >> 12
_CAPABILITY = b"security.capability"
_PASSWD = 1 << 18
"""Bytes of a passwd that are read."""


class Found(NamedTuple):
    """A file or directory by its path, with a number that says what is of interest in it."""

    path: bytes
    layer: int
    number: int
    more: bytes = b""


@dataclass(slots=True)
class Survey:
    """An image for a page. The kinds of `root` are layers, those of `changes` what was done."""

    image: Image
    waste: Waste
    root: Summed
    changes: Sequence[Summed]
    files: int = 0
    biggest: list[Found] = field(default_factory=list)
    setuid: list[Found] = field(default_factory=list)
    capable: list[Found] = field(default_factory=list)
    writable: list[Found] = field(default_factory=list)
    passwd: bytes = b""


def survey(examined: Examined) -> Survey:
    """Gather what there is to show of an image."""
    image, hiding, contents = examined
    layers = [LayerSums(index) for index in hiding.indexes]
    found = Survey(
        image,
        waste.measure(hiding, contents, WORST),
        Shown(hiding, layers, [(layer, 0) for layer, _ in enumerate(layers)], b""),
        [Done(hiding, sums, layer, 0, b"") for layer, sums in enumerate(layers)],
    )
    gathered = _Pass(hiding, layers, found)
    for layer in reversed(range(len(layers))):
        gathered.directories(layer)
    for layer in range(len(layers)):
        gathered.names(layer)
    gathered.lose_directories()
    gathered.weigh()
    for sums in layers:
        sums.settle()
    found.passwd = _content(examined, b"etc", b"passwd")
    return found


class _Pass:
    """One way through all rows; `gone` has what events took away of directories, by number."""

    def __init__(self, hiding: Hiding, layers: Sequence[LayerSums], found: Survey) -> None:
        self._hiding, self._layers, self._found = hiding, layers, found
        events = len(hiding.events)
        self._is_gone = bytearray(events)
        self._gone_sizes = array("Q", bytes(8 * events))
        self._gone_names = array("I", bytes(4 * events))

    def directories(self, layer: int) -> None:
        """Enter a layer's directories; those of the layers above it have been entered."""
        hiding, sums = self._hiding, self._layers[layer]
        by_row, changes, again = hiding.by_row[layer], hiding.changes[layer], hiding.again[layer]
        for number, row in hiding.rows(layer):
            if row[3] >> 12 != S_IFDIR:
                continue
            event = by_row[number]
            if event and hiding.events[event].cause is Cause.MARKER:
                continue
            kind = None
            if not row[2] & rows.IMPLIED:
                if not changes[number]:
                    kind = ADDED
                elif self._is_changed(layer, number, row):
                    kind = CHANGED
            sums.enter(number, row[8], kind)
            if event:
                self._is_gone[event] = 1
            elif row[3] & 0o002 and not row[2] & rows.IMPLIED and not again[number]:
                _note(self._found.writable, hiding, (layer, number), row[3] & 0o7777)

    def _is_changed(self, layer: int, number: int, row: tuple[int, ...]) -> bool:
        """Tell whether a directory is described otherwise than what stood there before, if any."""
        pile = self._hiding.links.pile
        place = pile.layers[layer]
        below = pile.piles.below(pile.chain(place), number)
        if below is None:
            below = self._before(place, (layer, number))
        return below is None or pile.piles.described(below)[1][3:6] != row[3:6]

    def _before(self, place: int, directory: Place) -> Spot | None:
        """Return the directory that stood where a layer makes one that nothing shows through."""
        pile = self._hiding.links.pile
        chain = pile.under(place)
        path = self._hiding.path(directory).split(b"/")
        return pile.piles.walk((chain, 0), path) if chain else None

    def names(self, layer: int) -> None:
        """Enter all else that a layer has, and what it takes away."""
        hiding, sums = self._hiding, self._layers[layer]
        by_row, changes, index = hiding.by_row[layer], hiding.changes[layer], sums.index
        for number, row in hiding.rows(layer):
            if row[3] >> 12 == S_IFDIR:
                continue
            event = by_row[number]
            if event and hiding.events[event].cause is Cause.MARKER:
                continue
            size = brought(index, number, row)
            may_give = row[3] & 0o6000 or row[2] & rows.XATTRS
            if may_give and row[7] == number and row[3] >> 12 == _REGULAR:
                self._look((layer, number), Row._make(row))
            sums.did(row[8], CHANGED if changes[number] else ADDED, size)
            if event:
                self._lose((layer, number), row, event, size)
            else:
                self._found.files += 1
                sums.names[row[8]] += 1

    def _look(self, place: Place, row: Row) -> None:
        """Note a file of the root that gives rights away."""
        event, name = self._hiding.lasting(place, row.nlink)
        if event is not self._hiding.events[0]:
            return
        mode = row.mode & 0o7777
        if mode & 0o4000 or mode & 0o2010 == 0o2010:
            _note(self._found.setuid, self._hiding, name, mode)
        value = self._hiding.indexes[place[0]].xattrs(row).get(_CAPABILITY)
        if value:
            _note(self._found.capable, self._hiding, name, mode, value)

    def _lose(self, place: Place, row: tuple[int, ...], number: int, size: int) -> None:
        """Enter that a later layer takes a name away without having another at its place."""
        event = self._hiding.events[number]
        if event.cause is Cause.DELETED:
            name = self._hiding.indexes[place[0]].name(Row._make(row))
            directory = self._hiding.over[place[0]][place[1]]
            self._layers[event.layer].delete(directory, name, size)
        elif event.path is not None:
            self._is_gone[number] = 1
            self._gone_sizes[number] += size
            self._gone_names[number] += 1

    def lose_directories(self) -> None:
        """Enter the directories that are gone as one each, with all that was in them."""
        hiding = self._hiding
        for number in compress(count(), self._is_gone):
            event, names = hiding.events[number], self._gone_names[number]
            there = hiding.stands[number]
            if event.path is None or (there >= 0 and not names):
                continue
            # What was in one that is there again is told by a name that no file has.
            directory, name = there, b""
            if there < 0:
                directory, name = hiding.around[number], event.path.rpartition(b"/")[2]
            sums = self._layers[event.layer]
            sums.delete(directory, name, self._gone_sizes[number], max(1, names))

    def weigh(self) -> None:
        """Enter the files of the root by what they weigh."""
        hiding = self._hiding
        biggest: list[tuple[int, Place, int]] = []
        for one in waste.inodes(hiding):
            if one.event is not None:
                continue
            layer, number = one.name
            parent = hiding.indexes[layer].row(number).parent
            self._layers[layer].tell(number, parent, one.size, layer, one.place[0])
            entry = one.size, one.name, one.place[0]
            if len(biggest) < BIGGEST:
                heapq.heappush(biggest, entry)
            else:
                heapq.heappushpop(biggest, entry)
        self._found.biggest = [
            Found(hiding.path(name), layer, size)
            for size, name, layer in sorted(biggest, reverse=True)
        ]


def _note(found: list[Found], hiding: Hiding, place: Place, number: int, more: bytes = b"") -> None:
    """Note something that is worth a look, unless there is too much of it."""
    if len(found) < MOST_LISTED:
        found.append(Found(hiding.path(place), place[0], number, more))


def _content(examined: Examined, folder: bytes, name: bytes) -> bytes:
    """Return the beginning of a file of the root in one of its directories; empty if it has none.

    What is damaged counts as nothing.
    """
    pile = examined.hiding.links.pile
    if not pile.layers:
        return b""
    at = pile.piles.walk((pile.chain(pile.layers[-1]), 0), [folder])
    found = pile.piles.lookup(at, name) if at else None
    if found is None or found[1].row.mode >> 12 != _REGULAR:
        return b""
    place = found[0].layer, found[1].number
    place = examined.hiding.links.target(place) or (place[0], found[1].row.inode)
    try:
        return examined.contents.read((pile.places[place[0]], place[1]), _PASSWD)
    except OSError:
        return b""
