"""Hard links of an image's layers to files of lower layers, which a tar can hold but not resolve.

Owns where each leads: to the inode that the snapshot below the link's layer has under its target's
path. One by one when somebody asks, and all at once, the bottom layer's first, where the names of
a file are to be counted; how much is done for the count has a bound. May be used by many threads.

What is found there may be such a link itself, of a lower layer, and is followed in turn: each step
goes down by a layer or more, so the way ends, and all that it passes are resolved with it. A link
whose own layer names several paths, for the links that it led on to there (`index/fold.py`), is
looked up by each until one is found. Where no lower layer has any, it leads to the inode that its
own layer has for it, if it is late; else to nothing, and reads as lost. None of it depends on what
lies above the link's layer, so what is remembered, by the chain below, is good for every view.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

from imagefs.filesystem import check_asker
from imagefs.index import rows
from imagefs.index.reader import Child, Index
from imagefs.index.records import SPECIAL_NAMES, clean
from imagefs.vfs import nodeid
from imagefs.vfs.chain import Chain, Spot
from imagefs.vfs.memory import SMALL, Memory
from imagefs.vfs.merge import S_IFDIR, Place
from imagefs.vfs.pile import Pile, Piles

MAX_STEPS = 1 << 18
"""Most steps through directories, of each layer that shows in one, that are taken to count the
links of an image."""

_MAX_FOLLOWED = 256
"""Most path components that symbolic links add to the path of a link's target."""
_S_IFLNK = 0o12

_Trail: TypeAlias = list[tuple[bytes, Spot | None]]


class Lost(NamedTuple):
    """Hard links of a layer that lead to nothing: the row of the first, and how many they are."""

    first: int
    number: int


def links_of(indexes: Sequence[Index]) -> "Links":
    """Return the links of an image that is not mounted; `indexes` are its layers', bottom first."""
    by_number = dict(enumerate(indexes, 1))
    return Links(Pile(tuple(by_number), by_number, Piles(Memory())))


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
        found = self._known(place)
        if found is None:
            passed: dict[Place, int] = {}
            found = self._resolve(self._walk, place, self._known, passed)
            for one, to in passed.items():
                self.pile.piles.links.keep(self._key(one), to, SMALL + 64)
        return _place(found) if found else None

    def _key(self, place: Place) -> tuple[int, int]:
        chain = self.pile.under(place[0])
        return chain.number if chain else 0, nodeid.pack(0, *place)

    def _known(self, place: Place) -> int | None:
        """Return the inode that a link leads to, if that has been found out; 0 is none."""
        counted, key = self._counted, place[0] << nodeid.LAYER_SHIFT | place[1]
        at = bisect_left(counted.sources, key)
        if at < len(counted.sources) and counted.sources[at] == key:
            return counted.targets[at]
        return self.pile.piles.links.known.get(self._key(place))

    def lead_to(self, inode: Place) -> bool:
        """Tell whether any counted link leads to an inode."""
        key, inodes = inode[0] << nodeid.LAYER_SHIFT | inode[1], self._counted.inodes
        at = bisect_left(inodes, key)
        return at < len(inodes) and inodes[at] == key

    def to(self, inode: Place) -> list[Place]:
        """Return the counted links that lead to an inode."""
        key, counted = nodeid.pack(0, *inode), self._counted
        first, end = bisect_left(counted.inodes, key), bisect_right(counted.inodes, key)
        return [_place(link) for link in counted.links[first:end]]

    def lost(self) -> dict[int, Lost]:
        """Return the counted links that lead to nothing, by layer, where there are any."""
        found: dict[int, Lost] = {}
        for source, target in zip(self._counted.sources, self._counted.targets, strict=True):
            if not target and not self._behind(_place(source)):
                layer, number = _place(source)
                before = found.get(layer, Lost(number, 0))
                found[layer] = Lost(before.first, before.number + 1)
        return found

    @cached_property
    def _counted(self) -> "_Counted":
        walk = _Walk(self.pile, MAX_STEPS)
        found: dict[Place, int] = {}
        for layer in self.pile.layers:
            for link in self.pile.indexes[layer].foreign():
                check_asker()
                if walk.steps < 0:
                    return _Counted(found)
                self._resolve(walk, (layer, link.number), found.get, found)
        return _Counted(found)

    def _resolve(
        self,
        walk: "_Walk",
        place: Place,
        known: Callable[[Place], int | None],
        passed: dict[Place, int],
    ) -> int:
        """Return the inode that a link leads to, as a node id's low bits; 0 if there is none.

        It may lead to a link of a lower layer. All that are passed on the way are entered.
        """
        way: list[Place] = []
        while (found := known(place)) is None:
            way.append(place)
            child = self._reach(walk, place)
            if child is None or not child[1].row.flags & rows.FOREIGN:
                found = nodeid.pack(0, child[0].layer, child[1].row.inode) if child else 0
                break
            place = child[0].layer, child[1].number
        else:
            if way:
                found = found or self._behind(place)
        result = found
        for one in reversed(way):
            passed[one] = result = found
            found = found or self._behind(one)
        return result

    def _behind(self, place: Place) -> int:
        """Return the inode that its own layer has for a link that leads nowhere below, or 0."""
        layer, number = place
        inode = self.pile.indexes[layer].row(number).inode
        return nodeid.pack(0, layer, inode) if inode != number else 0

    def _reach(self, walk: "_Walk", place: Place) -> tuple[Chain, Child] | None:
        """Return what is no directory where a link's path leads in the layers below the link's."""
        layer, number = place
        index = self.pile.indexes[layer]
        for target in index.target(index.row(number)).split(b"\0"):
            path, _, name = target.rpartition(b"/")
            directory = walk.to(self.pile.under(layer), path)
            child = walk.named(directory, name) if directory else None
            if child and child[1].row.mode >> 12 != S_IFDIR:
                return child
        return None


class _Walk:
    """The way to directories by their paths; what two paths in turn have in common is gone once.

    `steps` are what is left of what may be gone.
    """

    def __init__(self, pile: Pile, steps: int = 1 << 62) -> None:
        self.steps = steps
        self._pile = pile
        self._last: tuple[Chain | None, bytes, _Trail, Spot | None] = (None, b"", [], None)
        self._found: tuple[Spot | None, bytes, tuple[Chain, Child] | None] = (None, b"", None)

    def to(self, chain: Chain | None, path: bytes) -> Spot | None:
        """Return the directory that a path from the root leads to."""
        before, known, trail, found = self._last
        if before is not chain or known != path:
            parts = clean(path)
            trail = self._go(chain, parts, trail if before is chain else [])
            found = (chain, 0) if chain else None
            if trail and chain:
                found = trail[-1][1] or self._follow(chain, parts)
            self._last = chain, path, trail, found
        self.steps -= 1
        return found

    def named(self, directory: Spot, name: bytes) -> tuple[Chain, Child] | None:
        """Return what a directory has under a name, as any reader sees it."""
        spot, known, found = self._found
        if spot != directory or known != name:
            found, looked = self._pile.piles.look(directory, name)
            self.steps -= looked
            self._found = directory, name, found
        return found

    def _go(self, chain: Chain | None, path: list[bytes], before: _Trail) -> _Trail:
        common = _common(before, path)
        trail = before[:common]
        found: Spot | None = (chain, 0) if chain else None
        if trail:
            found = trail[-1][1]
        for name in path[common:]:
            child = self.named(found, name) if found else None
            is_directory = child is not None and child[1].row.mode >> 12 == S_IFDIR
            found = (child[0], child[1].number) if child and is_directory else None
            trail.append((name, found))
        return trail

    def _follow(self, chain: Chain, path: list[bytes]) -> Spot | None:
        """Return the directory that a path leads to through symbolic links, inside the root."""
        trail: list[Spot] = [(chain, 0)]
        waiting, left = path[::-1], _MAX_FOLLOWED
        while waiting:
            name = waiting.pop()
            if name == b"..":
                del trail[max(1, len(trail) - 1) :]
            if name in SPECIAL_NAMES:
                continue
            child = self.named(trail[-1], name)
            if child is None:
                return None
            kind = child[1].row.mode >> 12
            if kind == S_IFDIR:
                trail.append((child[0], child[1].number))
                continue
            parts = child[0].index.target(child[1].row).split(b"/") if kind == _S_IFLNK else []
            left -= 1 + len(parts)
            if not parts or left < 0:
                return None
            if not parts[0]:
                del trail[1:]
            waiting += reversed(parts)
        return trail[-1]


def _common(trail: _Trail, path: list[bytes]) -> int:
    count = 0
    for (name, _), wanted in zip(trail, path, strict=False):
        if name != wanted:
            break
        count += 1
    return count


class _Counted:
    """Links that have been resolved: by their place, and by the inode that they lead to."""

    def __init__(self, found: dict[Place, int]) -> None:
        order = sorted(found)
        self.sources = array("Q", (nodeid.pack(0, *place) for place in order))
        self.targets = array("Q", map(found.__getitem__, order))
        pairs = sorted(self._pairs())
        self.inodes = array("Q", (inode for inode, _ in pairs))
        self.links = array("Q", (link for _, link in pairs))

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return ((to, at) for at, to in zip(self.sources, self.targets, strict=True) if to)


def _place(key: int) -> Place:
    return key >> nodeid.LAYER_SHIFT, key & nodeid.ROW_MASK
