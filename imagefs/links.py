"""Hard links of an image's layers to files of lower layers, which a tar can hold but not resolve.

Owns where each leads: to the inode that the snapshot below the link's layer has under its target's
path. One by one when somebody asks, and all at once, the bottom layer's first, where the names of
a file are to be counted; how much is done for the count has a bound. May be used by many threads.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import TypeAlias

from imagefs import nodeid, rows
from imagefs.memory import SMALL
from imagefs.merge import S_IFDIR, Place
from imagefs.packed import clean
from imagefs.pile import Chain, Pile, Spot

MAX_STEPS = 1 << 17
"""Most steps through directories that are taken to count the links of an image."""

_Trail: TypeAlias = list[tuple[bytes, Spot | None]]


class Links:
    """The hard links of one image into its lower layers."""

    def __init__(self, pile: Pile) -> None:
        self.pile = pile
        self._walk = _Walk(pile)

    @property
    def any(self) -> bool:
        """Whether any of them leads somewhere."""
        return bool(self._counted.inodes)

    def target(self, place: Place) -> Place | None:
        """Return the inode that a link leads to; None where there is no such file."""
        counted = self._counted
        at = bisect_left(counted.sources, nodeid.pack(0, *place))
        if at < len(counted.sources) and counted.sources[at] == nodeid.pack(0, *place):
            found = counted.targets[at]
        else:
            chain, remembered = self.pile.under(place[0]), self.pile.piles.links
            key = (chain.number if chain else 0, nodeid.pack(0, *place))
            known = remembered.known.get(key)
            if known is None:
                known = self._resolve(self._walk, place, {})
                remembered.keep(key, known, SMALL + 64)
            found = known
        return _place(found) if found else None

    def lead_to(self, inode: Place) -> bool:
        """Tell whether any counted link leads to an inode."""
        key, inodes = nodeid.pack(0, *inode), self._counted.inodes
        at = bisect_left(inodes, key)
        return at < len(inodes) and inodes[at] == key

    def to(self, inode: Place) -> list[Place]:
        """Return the counted links that lead to an inode."""
        key, counted = nodeid.pack(0, *inode), self._counted
        first, end = bisect_left(counted.inodes, key), bisect_right(counted.inodes, key)
        return [_place(link) for link in counted.links[first:end]]

    @cached_property
    def _counted(self) -> "_Counted":
        # Not before somebody looks at a merged view: an image may be asked for its layers alone.
        walk = _Walk(self.pile, MAX_STEPS)
        found: dict[int, int] = {}
        for layer in self.pile.layers:
            for link in self.pile.indexes[layer].foreign():
                if walk.steps < 0:
                    return _Counted(found)
                place = layer, link.number
                found[nodeid.pack(0, *place)] = self._resolve(walk, place, found)
        return _Counted(found)

    def _resolve(self, walk: "_Walk", place: Place, found: dict[int, int]) -> int:
        """Return the inode that a link leads to, as a node id's low bits; 0 if there is none."""
        while True:
            layer, number = place
            index = self.pile.indexes[layer]
            *parents, name = clean(index.target(index.row(number))) or [b""]
            directory = walk.to(self.pile.under(layer), parents)
            child = directory and self.pile.piles.lookup(directory, name)
            if not child or child[1].row.mode >> 12 == S_IFDIR:
                return 0
            place = child[0].layer, child[1].number
            if not child[1].row.flags & rows.FOREIGN:
                return nodeid.pack(0, place[0], child[1].row.inode)
            # A link to a link, which is of a lower layer.
            known = found.get(nodeid.pack(0, *place))
            if known is not None:
                return known


class _Walk:
    """The way to directories by their paths; what two paths in turn have in common is gone once.

    `steps` are what is left of what may be gone.
    """

    def __init__(self, pile: Pile, steps: int = 1 << 62) -> None:
        self.steps = steps
        self._pile = pile
        self._trail: tuple[Chain | None, _Trail] = (None, [])

    def to(self, chain: Chain | None, path: list[bytes]) -> Spot | None:
        """Return the directory that a path from the root leads to."""
        before, trail = self._trail
        common = _common(trail, path) if before is chain else 0
        trail = trail[:common]
        found: Spot | None = (chain, 0) if chain else None
        if trail:
            found = trail[-1][1]
        for name in path[common:]:
            found = self._pile.piles.walk(found, [name]) if found else None
            trail.append((name, found))
        self.steps -= 1 + len(path) - common
        self._trail = chain, trail
        return found


def _common(trail: _Trail, path: list[bytes]) -> int:
    count = 0
    for (name, _), wanted in zip(trail, path, strict=False):
        if name != wanted:
            break
        count += 1
    return count


class _Counted:
    """Links that have been resolved: by their place, and by the inode that they lead to."""

    def __init__(self, found: dict[int, int]) -> None:
        self.sources = array("Q", sorted(found))
        self.targets = array("Q", (found[source] for source in self.sources))
        pairs = sorted(self._pairs())
        self.inodes = array("Q", (inode for inode, _ in pairs))
        self.links = array("Q", (link for _, link in pairs))

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return ((to, at) for at, to in zip(self.sources, self.targets, strict=True) if to)


def _place(key: int) -> Place:
    return key >> nodeid.LAYER_SHIFT, key & nodeid.ROW_MASK
