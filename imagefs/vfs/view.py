"""Views: the trees that a mount shows of its layers, each a stack of them merged, or one as it is.

Owns what a directory's entries are in a view, and which inode each name leads to. Keeps nothing:
what is remembered is the piles', and can be found again. May be used by many threads.
"""

from collections.abc import Iterator, Mapping, Sequence

from imagefs.index import rows
from imagefs.index.reader import Child, Index
from imagefs.index.rows import Row
from imagefs.vfs import merge, nodeid
from imagefs.vfs.chain import Chain, Spot
from imagefs.vfs.links import Links
from imagefs.vfs.merge import Listing, Place
from imagefs.vfs.names import Names

_MERGED_OTHERWISE = rows.WHITEOUTS_WITHIN | rows.IMPLIED | rows.XATTRS
"""Directories that a merged view may show otherwise, though nothing shows through them."""
_SOME = 4096
"""Entries of a wide directory that are looked at together."""


class View:
    """One tree over the layers that end with `layer`, or of that layer alone.

    `parent` is the node id of the directory that holds the view's root, `root_ino` the root's inode
    number, and `inos` has for each layer what the row of a directory is added to for its own. What
    a directory shows is settled by the topmost layer that has it and by the layers below. So it
    takes its number from the snapshot that ends with that layer, and `diff -r` passes over what two
    snapshots share. The kernel goes by node ids, which stay apart. The views' roots have numbers of
    their own: they may stand beside each other on a command line.
    """

    merged = False
    """Whether it resolves whiteouts."""
    has_links = False
    """Whether any hard link of the view leads into a lower layer."""

    def __init__(
        self, number: int, layer: int, index: Index, parent: int, inos: Mapping[int, int]
    ) -> None:
        self.number = number
        self.parent = parent
        self.inos = inos
        self.layer = layer
        self._index = index
        self.root_ino = 0

    @property
    def root_node(self) -> int:
        """The node id of the view's root directory."""
        return nodeid.pack(self.number, self.layer, 0)

    def inode_number(self, layer: int, number: int) -> int:
        """Return what stat(2) is to call a directory: the same wherever it looks the same."""
        return self.inos[layer] + number if number else self.root_ino

    def spot(self, layer: int, number: int) -> object:
        """Return what is equal for directories that show the same, here and in other views."""
        return self._index, number

    def parent_of(self, layer: int, number: int) -> int:
        """Return the node id of a directory's parent."""
        if number == 0:
            return self.parent
        return nodeid.pack(self.number, layer, self._index.row(number).parent)

    def described(self, layer: int, number: int) -> tuple[int, Row]:
        """Return the layer and the row that give a directory its attributes."""
        return layer, self._index.row(number)

    def lookup(self, layer: int, number: int, name: bytes) -> tuple[int, Child] | None:
        """Return what a directory has under a name, and the layer that it is of."""
        child = self._index.find(self._index.row(number), name)
        return (layer, child) if child else None

    def alike(self, layer: int, number: int) -> Sequence[Place]:
        """Return what directories have in common that show the same, by `ImageFs.alike`."""
        # Without markers, nothing is hidden in a merged view but in a root.
        told = number and not self._index.row(number).flags & _MERGED_OTHERWISE
        return [(-layer, number)] if told else ()

    def places(self, layer: int, number: int) -> Sequence[Spot]:
        """Return the directories that show through each other, none where no more than one does."""
        return ()

    def listing(self, places: Sequence[Spot]) -> Listing[Chain]:
        """Return the entries of directories that show through each other."""
        return merge.listing(places)

    def listings(self, layer: int, number: int) -> Iterator[Listing[Chain]]:
        """Yield a wide directory's entries, some at a time."""
        count = self._index.row(number).size
        for at in range(0, count, _SOME):
            end = min(at + _SOME, count)
            yield Listing(merge.entries_of(self._index, layer, number, at, end), {}, {})

    def inode(self, place: Place, row: Row) -> tuple[int, Place, Row]:
        """Return how many names of a leaf's inode are visible, and where it is, with its row.

        The leaf's name is at `place`, with that row. The count is 0 where it is what the inode's
        layer says.
        """
        layer, number = place
        if row.inode == number:
            return 0, place, row
        return 0, (layer, row.inode), self._index.row(row.inode)


class MergedView(View):
    """A snapshot of a pile of layers: what was there once `layer` was laid on those below it."""

    merged = True

    def __init__(
        self, number: int, layer: int, parent: int, inos: Mapping[int, int], links: Links
    ) -> None:
        pile = links.pile
        super().__init__(number, layer, pile.indexes[layer], parent, inos)
        self._pile, self._piles, self._links = pile, pile.piles, links
        self._names = Names(links)

    @property
    def has_links(self) -> bool:  # type: ignore[override]
        """Whether any hard link of the image leads into a lower layer."""
        return self._links.any

    def spot(self, layer: int, number: int) -> Spot:
        """Return what is equal for directories that show the same, here and in other views."""
        return self._pile.chain(layer), number

    def parent_of(self, layer: int, number: int) -> int:
        """Return the node id of a directory's parent."""
        if number == 0:
            return self.parent
        parent = self._pile.indexes[layer].row(number).parent
        shown = self._shown(layer, parent)
        chain, at = shown or self.spot(layer, parent)
        return nodeid.pack(self.number, chain.layer, at)

    def _shown(self, layer: int, number: int) -> Spot | None:
        """Return the directory that the view shows where a layer has a directory."""
        index = self._pile.indexes[layer]
        return self._piles.shown(self._pile.chain(self.layer), layer, index, number)

    def described(self, layer: int, number: int) -> tuple[int, Row]:
        """Return the layer and the row that give a directory its attributes."""
        return self._piles.described(self.spot(layer, number))

    def lookup(self, layer: int, number: int, name: bytes) -> tuple[int, Child] | None:
        """Return what a directory has under a name, and the layer that it is of."""
        found = self._piles.lookup(self.spot(layer, number), name)
        return (found[0].layer, found[1]) if found else None

    def alike(self, layer: int, number: int) -> Sequence[Place]:
        """Return what directories have in common that show the same, by `ImageFs.alike`."""
        if self.has_links:
            return ()
        chain = self._pile.chain(layer)
        if self._piles.below(chain, number):
            return [(chain.number, number)]
        return [(chain.number, number), (-layer, number)]

    def places(self, layer: int, number: int) -> Sequence[Spot]:
        """Return the directories that show through each other, none where no more than one does."""
        chain = self._pile.chain(layer)
        below = self._piles.below(chain, number)
        return [(chain, number), *self._piles.stack(below)] if below else ()

    def listing(self, places: Sequence[Spot]) -> Listing[Chain]:
        """Return the entries of directories that show through each other."""
        found = merge.listing(places)
        remember = self._piles.remember
        for stack in found.stacks.values():
            if stack[0][0].below is not None:
                remember(stack)
        return found

    def listings(self, layer: int, number: int) -> Iterator[Listing[Chain]]:
        """Yield a wide directory's entries, some at a time."""
        return merge.listings(list(self._piles.stack(self.spot(layer, number))))

    def inode(self, place: Place, row: Row) -> tuple[int, Place, Row]:
        """Return how many names of a leaf's inode are visible, and where it is, with its row.

        The leaf's name is at `place`, with that row. The count is 0 where it is what the inode's
        layer says.
        """
        target: Place | None = None
        if row.flags & rows.FOREIGN:
            target = self._links.target(place)
        if target is None:
            target = (place[0], row.inode)
        if target != place:
            row = self._pile.indexes[target[0]].row(target[1])
        if row.nlink == 1 and not self._links.lead_to(target):
            return 0, target, row
        count = self._names.count(self.layer, target, row.nlink)
        return 0 if count == row.nlink else min(count, nodeid.MAX_VIEWS), target, row
