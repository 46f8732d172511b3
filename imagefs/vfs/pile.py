"""The layers of images, piled up: which directories show through each other, found once.

Owns the way down: from a directory of a layer to the one that shows through it, in the layers
below. What a directory shows is settled by the topmost layer that has it and by those below that
one, whatever lies above; so what is found out once is good for every view, and for every image
that begins with the same layers. All that is remembered is bounded, and can be found again. May
be used by many threads.
"""

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from weakref import WeakValueDictionary

from imagefs.filesystem import check_asker
from imagefs.index import rows
from imagefs.index.reader import Child, Index
from imagefs.index.rows import Row
from imagefs.vfs import merge, nodeid, runs
from imagefs.vfs.chain import Chain, Spot, key_of
from imagefs.vfs.memory import Memory, Shelf
from imagefs.vfs.merge import S_IFDIR

_SHIFT, _ROW = nodeid.ROW_BITS, nodeid.ROW_MASK


_UNKNOWN = (Chain(0, 0, None, None), 0)  # type: ignore[arg-type]


class Piles:
    """The chains of a mount, and which of their directories lie above each other."""

    def __init__(self, memory: Memory) -> None:
        self._numbers = itertools.count(1)
        self._chains: WeakValueDictionary[tuple[int, int], Chain] = WeakValueDictionary()
        self._below: Shelf[int, int] = Shelf(memory)
        self._shown: Shelf[int, int] = Shelf(memory)
        self._described: Shelf[int, int] = Shelf(memory)
        self._runs = runs.Runs(memory)
        self.links: Shelf[tuple[int, int], int] = Shelf(memory)
        """By chain and place of a link: the inode of a lower layer that it leads to."""
        self.counts: Shelf[tuple[int, int], tuple[int, ...]] = Shelf(memory)
        """By chain and inode: how many of its names show, as `names.py` has it."""

    def chain(self, layer: int, index: Index, below: Chain | None) -> Chain:
        """Return the chain of a layer upon others, one object for all who ask."""
        key = layer, below.number if below else 0
        found = self._chains.get(key)
        # A layer's number is given again when the layer has gone.
        if found is None or found.index is not index:
            found = self._chains[key] = Chain(next(self._numbers), layer, index, below)
        return found

    def below(self, chain: Chain, number: int) -> Spot | None:
        """Return the directory that shows through a directory, or None."""
        found = self._at_hand(chain, number)
        if found is not _UNKNOWN:
            return found
        # Not by recursion: the way may lead up a long path and down many layers.
        waiting = [self._find(chain, number)]
        answer: Spot | None = None
        while waiting:
            check_asker()
            try:
                wanted = waiting[-1].send(answer)
            except StopIteration as done:
                answer = done.value
                waiting.pop()
                continue
            answer = self._at_hand(*wanted)
            if answer is _UNKNOWN:
                waiting.append(self._find(*wanted))
                answer = None
        return answer

    def _at_hand(self, chain: Chain, number: int) -> Spot | None:
        """Return what shows through a directory if that is known, else _UNKNOWN."""
        if chain.below is None:
            return None
        if not number:
            return None if chain.index.row(0).flags & rows.OPAQUE else (chain.below, 0)
        known = self._below.known.get(chain.number << _SHIFT | number)
        if known is None:
            return _UNKNOWN
        return chain.at(known) if known else None

    def _find(self, chain: Chain, number: int) -> Generator[Spot, Spot | None, Spot | None]:
        """Find out what shows through a directory; yields directories of which it must know that.

        It is what its parent's lower ones have under its name, unless something hides it.
        """
        index = chain.index
        row = index.row(number)
        name = index.name(row)
        found: Spot | None = None
        lower = yield chain, row.parent
        if row.flags & rows.OPAQUE or merge.deletes(index, index.row(row.parent), name):
            lower = None
        shown = (yield from self._look(lower, name))[0] if lower else None
        if shown and shown[1].row.mode >> 12 == S_IFDIR:
            found = shown[0], shown[1].number
        self._below.keep(chain.number << _SHIFT | number, key_of(found))
        return found

    def stack(self, spot: Spot) -> Iterator[Spot]:
        """Yield a directory, and all that show through it, topmost first."""
        below: Spot | None = spot
        while below is not None:
            yield below
            below = self.below(*below)

    def _directory(self, spot: Spot, name: bytes) -> Spot | None:
        found = self.lookup(spot, name)
        if found is None or found[1].row.mode >> 12 != S_IFDIR:
            return None
        return found[0], found[1].number

    def remember(self, places: Sequence[Spot]) -> None:
        """Take note of all that show through each other, which somebody has found out."""
        keep = self._below.keep
        lower = 0
        for chain, number in reversed(places):
            key = chain.number << _SHIFT | number
            if chain.below is not None and key not in self._below.known:
                keep(key, lower)
            lower = key

    def lookup(self, spot: Spot, name: bytes) -> tuple[Chain, Child] | None:
        """Return what a directory has under a name."""
        at = spot
        # The way of most images, without the calls that a run needs.
        for _ in range(0 if self._runs.known else runs.DEEP):
            child, ends = merge.says(at[0], at[1], name)
            if child is not None:
                return at[0], child
            below = None if ends else self.below(*at)
            if below is None:
                return None
            at = below
        return self.look(spot, name)[0]

    def look(self, spot: Spot, name: bytes) -> tuple[tuple[Chain, Child] | None, int]:
        """Return what a directory has under a name, and how many looks it took to find out."""
        way = self._look(spot, name)
        below, answer = self.below, way.send
        try:
            wanted = next(way)
            while True:
                wanted = answer(below(*wanted))
        except StopIteration as done:
            found: tuple[tuple[Chain, Child] | None, int] = done.value
            return found

    def _look(
        self, spot: Spot, name: bytes
    ) -> Generator[Spot, Spot | None, tuple[tuple[Chain, Child] | None, int]]:
        """Do as `look` does; yields directories of which it must know what shows through them."""
        found = None
        looks = 0
        known = self._runs
        looked: list[Spot] = []
        at: Spot | None = spot
        while at is not None:
            looks += 1
            within = known.of(at) if known.known else None
            if within is None:
                looked.append(at)
                child, ends = merge.says(at[0], at[1], name)
                if child is not None:
                    found = at[0], child
                    break
                at = None if ends else (yield at)
                continue
            if known.worth(looked):
                known.read(looked, at)
            looked.clear()
            key = within.run.find(within.level, name)
            if key:
                chain, number = at[0].at(key)
                found = chain, Child(name, number, chain.index.row(number))
                break
            ends = key is not None or not within.run.below
            at = None if ends else at[0].at(within.run.below)
        if looks > runs.DEEP and known.worth(looked):
            known.read(looked, (yield looked[-1]))
        return found, looks

    def walk(self, spot: Spot, path: Sequence[bytes]) -> Spot | None:
        """Return the directory that a path leads to from another; links are not followed."""
        found: Spot | None = spot
        for name in path:
            if found is None:
                break
            found = self._directory(found, name)
        return found

    def shown(self, top: Chain, layer: int, index: Index, number: int) -> Spot | None:
        """Return the directory that shows, under `top`, where a layer has a directory."""
        known = self._shown.known
        base = (top.number << nodeid.LAYER_BITS | layer) << _SHIFT
        missing: list[tuple[int, Row]] = []
        key: int | None = None
        while number and (key := known.get(base | number)) is None:
            row = index.row(number)
            missing.append((number, row))
            number = row.parent
        if not number:
            key = top.number << _SHIFT
        found = top.at(key) if key else None
        for at, row in reversed(missing):
            if found is not None:
                if found == (found[0], row.parent) and found[0].layer == layer:
                    found = None if row.flags & rows.HIDDEN else (found[0], at)
                else:
                    found = self._directory(found, index.name(row))
            self._shown.keep(base | at, key_of(found))
        return found

    def described(self, spot: Spot) -> tuple[int, Row]:
        """Return the layer and the row that give a directory its attributes.

        A directory that its layer only implies takes the next lower one's.
        """
        chain, number = spot
        row = chain.index.row(number)
        if row.flags & rows.IMPLIED and chain.below is not None:
            key = self._described.known.get(chain.number << _SHIFT | number)
            if key is None:
                key = key_of(self._find_described(spot))
                self._described.keep(chain.number << _SHIFT | number, key)
            chain, number = chain.at(key)
            row = chain.index.row(number)
        return chain.layer, row

    def _find_described(self, spot: Spot) -> Spot:
        last = spot
        for last in self.stack(spot):
            if not last[0].index.row(last[1]).flags & rows.IMPLIED:
                return last
        if last[0].index.row(last[1]).flags & rows.OPAQUE:
            for chain, number in self._through(spot):
                if not chain.index.row(number).flags & rows.IMPLIED:
                    return chain, number
        return spot

    def _through(self, spot: Spot) -> Iterator[Spot]:
        """Yield the directories of a place, as if opaque markers in them hid nothing."""
        chain, number = spot
        row = chain.index.row(number)
        if number:
            parents = self.stack((chain, row.parent))
            found = merge.named(parents, chain.index.name(row))
            yield from ((one, child.number) for one, child in found)
            return
        below: Chain | None = chain
        while below is not None:
            yield below, 0
            below = below.below


class Pile:
    """The layers of one image, by number, bottom to top; its snapshots are its chains."""

    def __init__(self, layers: Sequence[int], indexes: Mapping[int, Index], piles: Piles) -> None:
        self.layers = tuple(layers)
        self.piles = piles
        self.indexes = indexes
        self.places = {layer: at for at, layer in enumerate(layers)}
        self._chains: dict[int, Chain] = {}

    def chain(self, layer: int) -> Chain:
        """Return the snapshot that ends with a layer; KeyError if it is none of the image's.

        A layer that comes several times counts where it is topmost: what it does not say there,
        it says nowhere.
        """
        found = self._chains.get(layer)
        if found is None:
            said: set[int] = set()
            wanted = []
            for number in self.layers[self.places[layer] :: -1]:
                index = self.indexes[number]
                if id(index) not in said:
                    said.add(id(index))
                    wanted.append((number, index))
            for number, index in reversed(wanted):
                found = self.piles.chain(number, index, found)
            assert found is not None
            self._chains[layer] = found
        return found

    def under(self, layer: int) -> Chain | None:
        """Return the snapshot that a layer is laid on."""
        at = self.places[layer]
        return self.chain(self.layers[at - 1]) if at else None
