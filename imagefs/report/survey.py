"""All of an image that a page shows, gathered in one pass over its layers.

Owns what is worth a look: the largest files, those that run with another's rights, directories that
anybody may write to, who may log in. A layer's changes are beside what the layers below it showed.
"""

import heapq
from dataclasses import dataclass, field
from stat import S_IFREG
from typing import NamedTuple

from imagefs.image.model import Image
from imagefs.index import rows
from imagefs.index.rows import Row
from imagefs.report.folders import Folder
from imagefs.tree import waste
from imagefs.tree.causes import Cause, Event
from imagefs.tree.contents import stored
from imagefs.tree.hiding import Hiding
from imagefs.tree.waste import Examined, Waste
from imagefs.vfs.chain import Spot
from imagefs.vfs.merge import S_IFDIR, Place

ADDED, CHANGED, DELETED = range(3)
"""Kinds of what a layer did to a name."""
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
    root: Folder
    changes: list[Folder]
    files: int = 0
    biggest: list[Found] = field(default_factory=list)
    setuid: list[Found] = field(default_factory=list)
    capable: list[Found] = field(default_factory=list)
    writable: list[Found] = field(default_factory=list)
    passwd: bytes = b""


def survey(examined: Examined) -> Survey:
    """Gather what there is to show of an image."""
    image, hiding, contents = examined
    found = Survey(
        image,
        waste.measure(hiding, contents, WORST),
        Folder(),
        [Folder() for _ in hiding.indexes],
    )
    gathered = _Pass(hiding, found)
    for layer in reversed(range(len(hiding.indexes))):
        gathered.directories(layer)
    for layer in range(len(hiding.indexes)):
        gathered.names(layer)
    gathered.lose_directories()
    gathered.weigh()
    for folder in (found.root, *found.changes):
        folder.settle()
    found.passwd = _content(examined, b"etc", b"passwd")
    return found


class _Pass:
    """One way through all rows; `where` has the folders of each layer's directories by row."""

    def __init__(self, hiding: Hiding, found: Survey) -> None:
        self._hiding, self._found = hiding, found
        self._where: list[dict[int, Folder]] = [{0: found.root} for _ in hiding.indexes]
        self._changed: list[dict[int, Folder]] = [{0: folder} for folder in found.changes]
        self._described: set[int] = set()
        self._gone: dict[tuple[int, bytes], list[int]] = {}

    def directories(self, layer: int) -> None:
        """Enter a layer's directories; those of the layers above it have been entered."""
        hiding, index = self._hiding, self._hiding.indexes[layer]
        where, changed = self._where[layer], self._changed[layer]
        for number, row in hiding.rows(layer):
            if row[3] >> 12 != S_IFDIR:
                continue
            event = hiding.event((layer, number))
            if event is not None and event.cause is Cause.MARKER:
                continue
            name = index.name(Row._make(row))
            mine = changed[number] = changed[row[8]].enter(name)
            if not row[2] & rows.IMPLIED:
                if not hiding.changes[layer][number]:
                    mine.mark(ADDED)
                elif self._is_changed(layer, number, row):
                    mine.mark(CHANGED)
            if event is not None:
                self._lose((layer, number), event, 0, 0)
                continue
            folder = where[number] = where[row[8]].enter(name)
            if not row[2] & rows.IMPLIED and id(folder) not in self._described:
                self._described.add(id(folder))
                if row[3] & 0o002:
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
        hiding, index = self._hiding, self._hiding.indexes[layer]
        changes, changed = hiding.changes[layer], self._changed[layer]
        for number, row in hiding.rows(layer):
            if row[3] >> 12 == S_IFDIR:
                continue
            event = hiding.event((layer, number))
            if event is not None and event.cause is Cause.MARKER:
                continue
            size = 0
            if row[7] == number and row[3] >> 12 == _REGULAR:
                size = stored(index, Row._make(row)) if row[2] & rows.SPARSE else row[11]
                if row[3] & 0o6000 or row[2] & rows.XATTRS:
                    self._look((layer, number), Row._make(row))
            kind = CHANGED if changes[number] else ADDED
            folder = changed[row[8]]
            folder.count_name(kind)
            folder.add(index.name(Row._make(row)), kind, size)
            if event is None:
                self._found.files += 1
                self._where[layer][row[8]].count_name(layer)
            else:
                self._lose((layer, number), event, size, 1)

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

    def _lose(self, place: Place, event: Event, size: int, names: int) -> None:
        """Enter that a later layer takes something away without having another at its place."""
        if event.cause is Cause.DELETED:
            parent, _, name = self._hiding.path(place).rpartition(b"/")
            folder = self._found.changes[event.layer].at(parent)
            folder.count_name(DELETED)
            folder.add(name, DELETED, size)
        elif event.path is not None:
            sums = self._gone.setdefault((event.layer, event.path), [0, 0])
            sums[0] += size
            sums[1] += names

    def lose_directories(self) -> None:
        """Enter the directories that are gone as one each, with all that was in them."""
        for (layer, path), (size, names) in self._gone.items():
            there = self._has(layer, path)
            if there and not names:
                continue
            parent, _, name = path.rpartition(b"/")
            folder = self._found.changes[layer].at(parent)
            if there:
                # What was in it is told by a name that no file has.
                folder, name = folder.at(name), b""
            folder.count_name(DELETED, max(1, names))
            folder.add(name, DELETED, size, max(1, names))

    def _has(self, layer: int, path: bytes) -> bool:
        """Tell whether a layer has something of a path, be it a directory or not."""
        index = self._hiding.indexes[layer]
        at = index.row(0)
        for name in filter(None, path.split(b"/")):
            child = index.find(at, name) if at.mode >> 12 == S_IFDIR else None
            if child is None or child.row.flags & rows.HIDDEN:
                return False
            at = child.row
        return True

    def weigh(self) -> None:
        """Enter the files of the root by what they weigh."""
        hiding = self._hiding
        biggest: list[tuple[int, Place, int]] = []
        for one in waste.inodes(hiding):
            if one.event is not None:
                continue
            layer, number = one.name
            index = hiding.indexes[layer]
            row = index.row(number)
            self._where[layer][row.parent].add(index.name(row), one.place[0], one.size)
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
