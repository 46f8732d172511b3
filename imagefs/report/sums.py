"""What an image's root holds and what each of its layers did, as numbers by the rows of the layers.

A directory costs some bytes of arrays and no object: its entries are read from the indexes when it
is shown, which happens to few. Knows nothing of how a name came to be hidden.
"""

import heapq
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from stat import S_IFREG

from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.report.folders import Leaf, Summed, thin
from imagefs.tree.causes import Cause
from imagefs.tree.contents import stored
from imagefs.tree.hiding import Hiding
from imagefs.vfs.merge import S_IFDIR, Place

ADDED, CHANGED, DELETED = range(3)
"""Kinds of what a layer did to a name."""
_REGULAR = S_IFREG >> 12


class LayerSums:
    """Numbers by a layer's rows: of a directory, once settled, with those of all below.

    `sizes` and `names` are what the root shows, the bytes of a file at the one of its names that
    `told` has; `did_sizes` and `did_names` are what the layer did, by kind, and `marks` one more
    than what it did to a directory itself. `deleted` is what it took away, by the directory.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        number = index.count
        self.sizes, self.names = array("Q", bytes(8 * number)), array("I", bytes(4 * number))
        self.told, self.marks = bytearray(number), bytearray(number)
        self.did_sizes = [array("Q", bytes(8 * number)) for _ in range(3)]
        self.did_names = [array("I", bytes(4 * number)) for _ in range(3)]
        self.deleted: dict[int, list[Leaf]] = {}
        self._directories, self._parents = array("I"), array("I")
        self._origins: dict[int, int] = {}
        self._moved: dict[int, Counter[int]] = {}

    def enter(self, number: int, parent: int, kind: int | None) -> None:
        """Enter a directory, after the one that it lies in, and what the layer did to it."""
        self._directories.append(number)
        self._parents.append(parent)
        if kind is not None:
            self.marks[number] = kind + 1
            self.did_names[kind][number] += 1

    def did(self, directory: int, kind: int, size: int, names: int = 1) -> None:
        """Count names that the layer did something to."""
        self.did_sizes[kind][directory] += size
        self.did_names[kind][directory] += names

    def delete(self, directory: int, name: bytes, size: int, names: int = 1) -> None:
        """Enter what the layer took away from a directory of its own, or a file's namesake."""
        row = self.index.row(directory)
        for number in {directory, directory if row.mode >> 12 == S_IFDIR else row.parent}:
            self.did(number, DELETED, size, names)
        leaves = self.deleted.setdefault(directory, [])
        leaves.append(Leaf(name, DELETED, size, names))
        thin(leaves)

    def tell(self, number: int, parent: int, size: int, layer: int, origin: int) -> None:
        """Enter a file of the root by a name, which may be another layer's link to it."""
        self.sizes[number], self.told[number] = size, 1
        self.sizes[parent] += size
        if origin != layer:
            self._origins[number] = origin
            self._moved.setdefault(parent, Counter())[origin] += size

    def origin(self, number: int, layer: int) -> int:
        """Return the layer that brought a file of the root which has a name here."""
        return self._origins.get(number, layer)

    def moved(self, directory: int) -> Mapping[int, int]:
        """Return the bytes in a directory that other layers brought, by those."""
        return self._moved.get(directory, {})

    def settle(self) -> None:
        """Add to the sums of each directory those of all below it."""
        tables = [self.sizes, self.names, *self.did_sizes, *self.did_names]
        pairs = zip(reversed(self._directories), reversed(self._parents), strict=True)
        for number, above in pairs:
            for table in tables:
                if table[number]:
                    table[above] += table[number]
            if number in self._moved:
                self._moved.setdefault(above, Counter()).update(self._moved[number])


class Shown(Summed):
    """A directory of the root; its kinds are layers. `places` are the layers' own directories."""

    __slots__ = ("_hiding", "_layers", "_places", "name")
    kind = None

    def __init__(
        self, hiding: Hiding, layers: Sequence[LayerSums], places: Sequence[Place], name: bytes
    ) -> None:
        self._hiding, self._layers, self._places, self.name = hiding, layers, places, name

    @property
    def sizes(self) -> Mapping[int, int]:
        """The bytes of all below, by the layer that brought them."""
        found: Counter[int] = Counter()
        for layer, number in self._places:
            sums = self._layers[layer]
            found[layer] += sums.sizes[number]
            for origin, size in sums.moved(number).items():
                found[layer] -= size
                found[origin] += size
        return found

    @property
    def names(self) -> Mapping[int, int]:
        """The names of all below, by the layer that has them."""
        return {
            layer: self._layers[layer].names[number]
            for layer, number in self._places
            if self._layers[layer].names[number]
        }

    @property
    def total(self) -> int:
        """The bytes of all below."""
        return sum([self._layers[layer].sizes[number] for layer, number in self._places])

    @property
    def count(self) -> int:
        """The names of all below."""
        return sum([self._layers[layer].names[number] for layer, number in self._places])

    def entries(self) -> Iterator[Summed | Leaf]:
        """Yield the directories in it, and the files that have bytes."""
        tables = [self._table(layer, number) for layer, number in self._places]
        # Sorted by name as they are, none of them has to be in memory as a whole.
        for name, found in groupby(heapq.merge(*tables), key=itemgetter(0)):
            places = [(layer, number) for _, layer, number in found]
            layer, number = places[0]
            sums = self._layers[layer]
            if sums.told[number]:
                yield Leaf(name, sums.origin(number, layer), sums.sizes[number])
            else:
                yield Shown(self._hiding, self._layers, places, name)

    def _table(self, layer: int, directory: int) -> Iterator[tuple[bytes, int, int]]:
        by_row, sums = self._hiding.by_row[layer], self._layers[layer]
        told, index = sums.told, sums.index
        for name, number, row in index.stream(index.row(directory)):
            if not by_row[number] and (told[number] or row[3] >> 12 == S_IFDIR):
                yield name, layer, number


class Done(Summed):
    """A directory of those in which a layer did something; its kinds are what was done."""

    __slots__ = ("_hiding", "_layer", "_number", "_sums", "name")

    def __init__(
        self, hiding: Hiding, sums: LayerSums, layer: int, number: int, name: bytes
    ) -> None:
        self._hiding, self._sums, self._layer = hiding, sums, layer
        self._number, self.name = number, name

    @property
    def kind(self) -> int | None:
        """What happened to the directory itself."""
        mark = self._sums.marks[self._number]
        return mark - 1 if mark else None

    @property
    def sizes(self) -> Mapping[int, int]:
        """The bytes of all below, by what was done."""
        return self._by_kind(self._sums.did_sizes)

    @property
    def names(self) -> Mapping[int, int]:
        """The names of all below, by what was done."""
        return self._by_kind(self._sums.did_names)

    @property
    def total(self) -> int:
        """The bytes of all below."""
        number = self._number
        return sum([table[number] for table in self._sums.did_sizes])

    @property
    def count(self) -> int:
        """The names of all below."""
        number = self._number
        return sum([table[number] for table in self._sums.did_names])

    def _by_kind(self, tables: Sequence["array[int]"]) -> Mapping[int, int]:
        counts = ((kind, table[self._number]) for kind, table in enumerate(tables))
        return {kind: count for kind, count in counts if count}

    def entries(self) -> Iterator[Summed | Leaf]:
        """Yield the directories in it and what was done to names, the heaviest if to many."""
        yield from self._sums.deleted.get(self._number, ())
        index, events = self._sums.index, self._hiding.events
        by_row, changes = self._hiding.by_row[self._layer], self._hiding.changes[self._layer]
        directory = index.row(self._number)
        if directory.mode >> 12 != S_IFDIR:
            return
        for name, number, row in index.stream(directory):
            if by_row[number] and events[by_row[number]].cause is Cause.MARKER:
                continue
            is_directory = row[3] >> 12 == S_IFDIR
            if is_directory or number in self._sums.deleted:
                # What was in a directory that a file took the place of lies beside the file.
                yield Done(self._hiding, self._sums, self._layer, number, name)
            if not is_directory:
                kind = CHANGED if changes[number] else ADDED
                yield Leaf(name, kind, brought(index, number, row))


def brought(index: Index, number: int, row: tuple[int, ...]) -> int:
    """Return the bytes that a name brings: those of a regular file, at the first of its names."""
    if row[7] != number or row[3] >> 12 != _REGULAR:
        return 0
    return stored(index, Row._make(row)) if row[2] & rows.SPARSE else row[11]
