"""Views: the trees that a mount shows of its layers, each a stack of them merged, or one as it is.

Owns the way from a directory's place to its stack, the hard links that reach into lower layers,
and how many names of a file a view shows. All it remembers is bounded, and can be found again.
May be used by many threads.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.records import clean
from imagefs.index.rows import Row
from imagefs.vfs import merge, nodeid
from imagefs.vfs.merge import Place, Stack, Visible

MAX_COUNTED = 65_000
"""Most names of one file that are counted for each view, as many as ext4 lets a file have."""
_REMEMBERED = 16_384
"""Directories whose stacks are kept; some 5 MB."""
_COUNTS = 65_536
"""Files whose names were counted that are kept; some 8 MB."""


class _Foreign(NamedTuple):
    """Hard links into lower layers: the inode of each, and the links to each such inode."""

    targets: dict[Place, Place]
    reached: dict[Place, list[Place]]


class View:
    """One tree over `layers` (numbers, topmost first); `indexes` gives the index of each.

    `parent` is the node id of the directory that holds the view's root. A merged view resolves
    whiteouts, and has `origins`: for each layer the view that ends with it, as the high bits of a
    node id. Without them a view shows its one layer as it is.
    """

    def __init__(
        self,
        number: int,
        layers: Sequence[int],
        indexes: dict[int, Index],
        parent: int,
        origins: Mapping[int, int] | None,
    ) -> None:
        self.number = number
        self.layers = tuple(layers)
        self.merged = origins is not None
        self.parent = parent
        self.origins = origins or {layers[0]: number << nodeid.VIEW_SHIFT}
        self._indexes = indexes
        self._root: Stack = merge.root(indexes, layers) if self.merged else ((layers[0], 0),)
        self._stacks: dict[Place, Stack] = {}
        self._counts: dict[int, int] = {}

    @property
    def root_node(self) -> int:
        """The node id of the view's root directory."""
        return nodeid.pack(self.number, *self._root[0])

    def inode_number(self, node: int) -> int:
        """Return what stat(2) is to call a directory's node: the same wherever it looks the same.

        What a directory shows is settled by the topmost layer that has it and by the layers below.
        So it takes the number from the snapshot that ends with that layer, and `diff -r` passes
        over what two snapshots share. The kernel goes by node ids, which stay apart. The views'
        roots have numbers of their own: they may stand beside each other on a command line.
        """
        layer = node >> nodeid.LAYER_SHIFT & nodeid.LAYER_MASK
        if not layer or not node & nodeid.ROW_MASK:
            return node
        # A node id that nobody was given may name a layer that the view lacks.
        origin = self.origins.get(layer, self.number << nodeid.VIEW_SHIFT)
        return origin | node & (1 << nodeid.VIEW_SHIFT) - 1

    @property
    def has_reached(self) -> bool:
        """Whether any hard link of the view leads into a lower layer."""
        return bool(self._foreign.reached)

    @cached_property
    def _foreign(self) -> "_Foreign":
        """The hard links to lower layers' files, resolved bottom layer first.

        Not before somebody looks: an image has a view a layer, most of which nobody enters.
        """
        found = _Foreign({}, {})
        indexes = self._indexes
        for below, layer in enumerate(reversed(self.layers if self.merged else ())):
            lower = self.layers[len(self.layers) - below :]
            for link in indexes[layer].foreign():
                path = clean(indexes[layer].target(link.row))
                stack = merge.walk(indexes, merge.root(indexes, lower), path)
                if not stack:
                    continue
                target = found.targets.get(stack[0], stack[0])
                row = indexes[target[0]].row(target[1])
                if row.mode >> 12 != 4 and not row.flags & rows.FOREIGN:
                    target = (target[0], row.inode)
                    found.targets[layer, link.number] = target
                    found.reached.setdefault(target, []).append((layer, link.number))
        return found

    def stack(self, layer: int, number: int) -> Stack:
        """Return the stack of the directory that has the path of a layer's directory."""
        if not self.merged:
            return ((layer, number),)
        index = self._indexes[layer]
        missing: list[tuple[int, Row]] = []
        known = self._stacks
        found: Stack | None = None
        while found is None:
            if number == 0:
                found = self._root
                break
            found = known.get((layer, number))
            if found is None:
                row = index.row(number)
                missing.append((number, row))
                number = row.parent
        for at, row in reversed(missing):
            if len(found) == 1 and found[0][0] == layer and not row.flags & rows.HIDDEN:
                # Nothing else shows through the parent, so nothing does below it.
                found = ((layer, at),)
            else:
                found = merge.lookup(self._indexes, found, index.name(row))
                if found and self._indexes[found[0][0]].row(found[0][1]).mode >> 12 != 4:
                    found = ()
            self._remember(layer, at, found)
        return found

    def _remember(self, layer: int, number: int, stack: Stack) -> None:
        known = self._stacks
        if len(known) >= _REMEMBERED:
            for key in list(known)[: _REMEMBERED // 4]:
                known.pop(key, None)
        known[layer, number] = stack

    def parent_of(self, layer: int, number: int) -> int:
        """Return the node id of a directory's parent."""
        if number == 0:
            return self.parent
        parent = self._indexes[layer].row(number).parent
        above = self.stack(layer, parent) or ((layer, parent),)
        return nodeid.pack(self.number, *above[0])

    def described(self, layer: int, number: int, stack: Stack = ()) -> tuple[int, Row]:
        """Return the layer and the row that give a directory its attributes.

        `stack` is the directory's, if it is known.
        """
        stack = stack or self.stack(layer, number) or ((layer, number),)
        found = merge.described(self._indexes, stack)
        if self.merged and found[1].flags & rows.IMPLIED:
            last, at = stack[-1]
            if self._indexes[last].row(at).flags & rows.OPAQUE:
                return merge.described(self._indexes, self._through(layer, number))
        return found

    def _through(self, layer: int, number: int) -> Stack:
        """Return a directory's stack as it would be without opaque markers in it."""
        if number == 0:
            return tuple((one, 0) for one in self.layers)
        index = self._indexes[layer]
        row = index.row(number)
        above = self.stack(layer, row.parent)
        stack = merge.lookup(self._indexes, above, index.name(row), through=True)
        return stack or ((layer, number),)

    def lookup(self, layer: int, number: int, name: bytes) -> Stack:
        """Return what a directory has under a name: a stack, a leaf's inode, or nothing."""
        if not self.merged:
            index = self._indexes[layer]
            child = index.find(index.row(number), name)
            return ((layer, child.number),) if child else ()
        stack = merge.lookup(self._indexes, self.stack(layer, number), name)
        if stack and self._indexes[stack[0][0]].row(stack[0][1]).mode >> 12 == 4:
            self._remember(*stack[0], stack)
        return stack

    def single(self, layer: int, number: int) -> bool:
        """Tell whether a directory shows one layer only, the one that its node id names."""
        return not self.merged or len(self.stack(layer, number)) == 1

    def listing(self, layer: int, number: int) -> tuple[list[Visible], dict[bytes, list[Place]]]:
        """Return a directory's entries, and the stacks of the directories among them.

        One that shows a single layer has no stacks to tell, but entries that are hidden.
        """
        stack = self.stack(layer, number) if self.merged else ()
        if len(stack) <= 1:
            return merge.entries_of(self._indexes[layer], layer, number), {}
        entries, stacks = merge.listing(self._indexes, stack)
        for places in stacks.values():
            self._remember(*places[0], tuple(places))
        return entries, stacks

    def inode(self, place: Place) -> tuple[int, Place]:
        """Return the inode that a leaf's name leads to, and how many names of it are visible.

        The count is 0 where it is what the inode's layer says.
        """
        layer, number = place
        row = self._indexes[layer].row(number)
        foreign = self._foreign
        if row.flags & rows.FOREIGN and place in foreign.targets:
            layer, number = target = foreign.targets[place]
            row = self._indexes[layer].row(number)
        else:
            number = row.inode
            target = (layer, number)
        if not self.merged or (row.nlink == 1 and target not in foreign.reached):
            return 0, target
        key = nodeid.pack(0, layer, number)
        count = self._counts.get(key)
        if count is None:
            count = self._count(target, row.nlink)
            if len(self._counts) >= _COUNTS:
                self._counts.clear()
            self._counts[key] = count
        return 0 if count == row.nlink else min(count, nodeid.MAX_VIEWS), target

    def _count(self, inode: Place, nlink: int) -> int:
        """Return how many names of an inode show, or, if it has too many, how many there are."""
        layer, number = inode
        reached = self._foreign.reached.get(inode, [])
        if nlink + len(reached) > MAX_COUNTED:
            return nlink + len(reached)
        names = [(layer, row) for row in self._indexes[layer].same_inode(number)]
        return sum(map(self._is_visible, names + reached))

    def _is_visible(self, place: Place) -> bool:
        layer, number = place
        index = self._indexes[layer]
        row = index.row(number)
        directory = (layer, row.parent)
        stack = self.stack(*directory)
        if stack and stack[0] == directory:
            return not row.flags & rows.HIDDEN
        name = index.name(row)
        return directory in stack and merge.lookup(self._indexes, stack, name) == (place,)
