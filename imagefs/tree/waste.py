"""What an image's layers bring and its root does not show, to the byte.

Owns the sums: of each layer, the bytes that its files bring are those that `rootfs` still shows and
those that it hides, by cause. A file counts once, whatever names it has; one that a single of its
names still shows is shown, and else it was hidden by what took the last of them. Of a sparse file
its data counts, and of metadata nothing.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IFREG
from typing import NamedTuple

from imagefs.image.model import Image
from imagefs.index import cache as index_cache
from imagefs.index import rows
from imagefs.index.rows import Row
from imagefs.tree.causes import Cause, Event
from imagefs.tree.contents import Contents, stored
from imagefs.tree.hiding import Hiding
from imagefs.vfs.links import links_of
from imagefs.vfs.merge import Place

_REGULAR = S_IFREG >> 12


class Examined(NamedTuple):
    """An image, what hides the names of its layers, and the bytes of their files."""

    image: Image
    hiding: Hiding
    contents: Contents


class Inode(NamedTuple):
    """A regular file of a layer with the bytes it brings, and what hides its last name, if all."""

    place: Place
    size: int
    event: Event | None
    name: Place


class Pair(NamedTuple):
    """Layers, by position: one that made what the other hid, and by what means."""

    made: int
    hidden: int
    cause: Cause


class Spoil(NamedTuple):
    """What is hidden at one path: a file, or all that a directory held of one layer."""

    path: bytes
    pair: Pair
    size: int
    files: int


class Copies(NamedTuple):
    """Files of the root that hold the same, each of so many bytes, by their paths."""

    size: int
    paths: tuple[bytes, ...]

    @property
    def wasted(self) -> int:
        """The bytes of all but one of them."""
        return self.size * (len(self.paths) - 1)


@dataclass(slots=True)
class LayerWaste:
    """A layer in bytes: what its files bring, and how much of it is hidden by which cause."""

    brought: int = 0
    hidden: Counter[Cause] = field(default_factory=Counter)

    @property
    def lost(self) -> int:
        """The bytes that the root does not show."""
        return self.hidden.total()

    @property
    def shown(self) -> int:
        """The bytes that the root shows."""
        return self.brought - self.lost


@dataclass(slots=True)
class Waste:
    """An image in bytes, its layers bottom to top; `spoils` are the worst paths, largest first."""

    layers: list[LayerWaste]
    pairs: Counter[Pair]
    spoils: list[Spoil]

    @property
    def brought(self) -> int:
        """The bytes of all layers."""
        return sum(one.brought for one in self.layers)

    @property
    def lost(self) -> int:
        """The bytes that the root does not show."""
        return sum(one.lost for one in self.layers)

    @property
    def causes(self) -> Counter[Cause]:
        """The hidden bytes of all layers, by cause."""
        return sum((one.hidden for one in self.layers), Counter())


def examine(image: Image, index_dir: Path) -> Examined:
    """Go through an image's layers, which get indexed if need be."""
    index_cache.ensure(image.layers, index_dir, image.packed)
    indexes = [index_cache.open_index(layer, index_dir) for layer in image.layers]
    return Examined(image, Hiding(links_of(indexes)), Contents(image.layers, indexes))


def inodes(hiding: Hiding, contents: Contents | None = None) -> Iterator[Inode]:
    """Yield the regular files of all layers that bring bytes, bottom layer first.

    Without `contents`, what was copied counts as overwritten.
    """
    for layer in range(len(hiding.indexes)):
        yield from _inodes(hiding, layer, contents)


def _inodes(hiding: Hiding, layer: int, contents: Contents | None) -> Iterator[Inode]:
    index, by_row, linked = hiding.indexes[layer], hiding.by_row[layer], hiding.linked(layer)
    for number, row in hiding.rows(layer):
        if row[3] >> 12 != _REGULAR or row[7] != number or not row[11]:
            continue
        place, size = (layer, number), row[11]
        if row[2] & rows.SPARSE:
            size = stored(index, Row._make(row))
        if row[6] == 1 and number not in linked:
            event, name = hiding.events[by_row[number]], place
        else:
            event, name = hiding.lasting(place, row[6])
        if event is hiding.events[0]:
            yield Inode(place, size, None, name)
            continue
        if contents and event.cause is Cause.OVERWRITTEN:
            event = _judged(hiding, contents, place, name, event)
        yield Inode(place, size, event, name)


def hidden_bytes(hiding: Hiding) -> list[int]:
    """Return how many bytes of each layer the root does not show, looking at no others."""
    return [
        sum(one.size for one in _inodes(hiding, layer, None) if one.event is not None)
        if hiding.has_hidden(layer)
        else 0
        for layer in range(len(hiding.indexes))
    ]


def _judged(hiding: Hiding, contents: Contents, place: Place, name: Place, event: Event) -> Event:
    """Tell a file that was overwritten from one whose copy has the same content."""
    over = event.layer, hiding.over[name[0]][name[1]]
    row = contents.row(over)
    if row.mode >> 12 != _REGULAR or hiding.is_away(over):
        return event
    if contents.is_same(place, (event.layer, row.inode)):
        return event._replace(cause=Cause.COPIED)
    return event


def measure(hiding: Hiding, contents: Contents | None = None, worst: int = 0) -> Waste:
    """Return what an image's layers bring and hide, and so many of its worst paths."""
    layers = [LayerWaste() for _ in hiding.indexes]
    pairs: Counter[Pair] = Counter()
    folders: dict[tuple[Pair, bytes], tuple[int, int]] = {}
    files: list[tuple[int, Place, Pair]] = []
    for one in inodes(hiding, contents):
        layer = layers[one.place[0]]
        layer.brought += one.size
        if one.event is None:
            continue
        pair = Pair(one.place[0], one.event.layer, one.event.cause)
        layer.hidden[pair.cause] += one.size
        pairs[pair] += one.size
        if one.event.path is not None:
            size, count = folders.get((pair, one.event.path), (0, 0))
            folders[pair, one.event.path] = size + one.size, count + 1
        elif len(files) < worst:
            heapq.heappush(files, (one.size, one.name, pair))
        elif worst:
            heapq.heappushpop(files, (one.size, one.name, pair))
    spoils = [Spoil(path, pair, *sums) for (pair, path), sums in folders.items()]
    spoils += [Spoil(hiding.path(name), pair, size, 1) for size, name, pair in files]
    return Waste(layers, pairs, heapq.nsmallest(worst, spoils, key=_order))


def _order(one: Spoil) -> tuple[int, bytes, Pair]:
    return -one.size, one.path, one.pair


def duplicates(hiding: Hiding, contents: Contents) -> list[Copies]:
    """Return the files of the root that hold the same as others, what wastes most coming first.

    Names of one file are no duplicates; each file is told by one of its names that shows.
    """
    by_size: dict[int, list[Inode]] = {}
    for one in inodes(hiding):
        if one.event is None:
            by_size.setdefault(contents.row(one.place).size, []).append(one)
    found: list[Copies] = []
    for alike in by_size.values():
        if len(alike) > 1:
            found += _copies(hiding, contents, alike)
    return sorted(found, key=lambda one: (-one.wasted, one.paths))


def _copies(hiding: Hiding, contents: Contents, alike: Sequence[Inode]) -> Iterator[Copies]:
    groups: dict[bytes, list[Inode]] = {}
    for one in alike:
        digest = contents.digest(one.place)
        if digest is not None:
            groups.setdefault(digest, []).append(one)
    for group in groups.values():
        if len(group) > 1:
            paths = sorted(hiding.path(one.name) for one in group)
            yield Copies(min(one.size for one in group), tuple(paths))
