"""Directories: what they name comes before them, the directories that they name behind.

An inode's number is its place in the file, so a directory can name only what has one. Files are
written when they are first named, before the directory; directories after it, in the order of a
walk, and each then enters its number where it is named, which was left 0. `.` and `..` are known at
once: room for the directory is made before its entries are packed, and its parent came before.

What many views show alike is listed once. The next view's is a copy of the bytes, in which only
directories have other numbers, its own, its parent's and those below, since a directory may have
one parent only; these are still to come, so they are left to be entered as before. It is alike if
the views agree on it and all below (`ImageFs.alike`), and if it names no file whose number of
links, and thus whose inode, is another from view to view. Memory is taken for what has numbers, a
few bytes for each directory, never for a whole listing.
"""

import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from imagefs.erofs import dirents
from imagefs.erofs import format as fmt
from imagefs.erofs.dirents import Named
from imagefs.erofs.inodes import Body, Epoch, inode
from imagefs.erofs.leaves import Leaves
from imagefs.erofs.output import Output
from imagefs.filesystem import Attr, Entry
from imagefs.vfs import nodeid
from imagefs.vfs.image_fs import LAYER_XATTR, ImageFs
from imagefs.vfs.lazy_listing import WIDE

_END = b"\0"
"""Ends the last name of a block that is not full; behind an inode the kernel adds it by itself."""
_S_IFDIR = stat.S_IFDIR >> 12
_FIRST = 1 << nodeid.LAYER_SHIFT
"""The first node of a layer."""
_PLACE = (1 << nodeid.VIEW_SHIFT) - 1
"""The bits of a directory's node that are the same in all views."""


class Directories:
    """The directories of an image that is being written."""

    def __init__(self, fs: ImageFs, leaves: Leaves, out: Output, epoch: Epoch) -> None:
        self.count = 0
        self._fs, self._leaves, self._out, self._epoch = fs, leaves, out, epoch
        self._listed = None if fs.root >> nodeid.LAYER_SHIFT else _Listed(fs)
        # Those to come: their nodes, where their numbers go, and their parents' numbers.
        self._nodes, self._named_at, self._parents = array("Q"), array("Q"), array("Q")

    def begin(self) -> None:
        """Make room for the root's inode."""
        root = self._fs.root
        self._out.append(inode(self._fs.getattr(root), Body(), self._xattrs(root), self._epoch))

    def write(self, root: int) -> None:
        """Write all directories; the root, whose inode has its place, has that number."""
        self._new(self._fs.root, root, root)
        while self._nodes:
            node, named_at, parent = self._nodes.pop(), self._named_at.pop(), self._parents.pop()
            number = self._again(node, parent) or self._new(node, parent)
            self._out.change(named_at, number.to_bytes(8, "little"))

    def _xattrs(self, node: int) -> bytes:
        own = self._fs.xattrs(node)
        return self._leaves.xattrs(own.pop(LAYER_XATTR, None), own)

    def _names(self, entries: Iterable[Entry], below: list[int]) -> Iterator[Named]:
        """Yield what entries name; the nodes of directories, still without number, go `below`."""
        numbers, number, types = self._leaves.numbers, self._leaves.number, fmt.FILE_TYPES
        for name, attr in entries:
            node, kind = attr[0], attr[2] >> 12
            if kind == _S_IFDIR:
                below.append(node)
                yield name, 0, fmt.DIRECTORY
            elif attr[3] == 1 and _FIRST <= node <= _PLACE:
                # As `number` does, for most of them and in place.
                known = numbers[node >> nodeid.LAYER_SHIFT][node & nodeid.ROW_MASK]
                yield name, known or number(attr), types[kind]
            else:
                yield name, number(attr), types[kind]

    def _new(self, node: int, parent: int, own: int = 0) -> int:
        """List a directory and write it; return its number, which is `own` if it has a place."""
        self.count += 1
        attr, entries = self._fs.getattr(node), self._fs.listdir(node)
        counted = self._leaves.counted
        below: list[int] = []
        if len(entries) > WIDE:
            # Listed twice: the files first, so that the directory comes in one piece.
            for _ in self._names(entries, below):
                pass
            below = []
            written = self._write_plain(self._names(entries, below), below, attr, parent, own)
        else:
            named = list(self._names(entries, below))
            length = dirents.length(named)
            body, xattrs = Body(fmt.FLAT_INLINE), self._xattrs(node)
            head = inode(attr._replace(size=length), body, xattrs, self._epoch)
            if own or len(head) + length > self._out.block:
                written = self._write_plain(named, below, attr, parent, own)
            else:
                written = self._write_inline(named, below, head, length, parent)
        if self._listed:
            self._listed.add(written.number, node)
            if self._leaves.counted == counted:
                self._listed.keep(node, written)
        return written.number

    def _write_inline(
        self, named: list[Named], below: list[int], head: bytes, length: int, parent: int
    ) -> "_Directory":
        """Write a directory whose entries follow its inode."""
        at = self._out.room(1 << fmt.SLOT_BITS, len(head) + length)
        own, start = at >> fmt.SLOT_BITS, at + len(head)
        entries = dirents.with_dots(named, own, parent)
        self._out.append(head + dirents.packed(entries))
        if below:
            self._push(below, [start + place for place in dirents.below(entries)], own)
        return _Directory(own, len(head), start, length, dirents.has_dots_alone(entries))

    def _write_plain(
        self, named: Iterable[Named], below: list[int], attr: Attr, parent: int, own: int
    ) -> "_Directory":
        """Write a directory whose entries take blocks of their own; it may have its place."""
        out = self._out
        xattrs = self._xattrs(attr.node)
        if not own:
            own = out.align(1 << fmt.SLOT_BITS) >> fmt.SLOT_BITS
            out.append(inode(attr, Body(), xattrs, self._epoch))
        start = out.align(out.block)
        places = array("Q")
        for block, entries in dirents.blocks(dirents.streamed(named, own, parent), out.block):
            at = out.append(block)
            places.extend([at + place for place in dirents.below(entries)])
        length = out.end - start
        out.append(_END)
        body = Body(fmt.FLAT_PLAIN, start >> out.bits)
        head = inode(attr._replace(size=length), body, xattrs, self._epoch)
        out.change(own << fmt.SLOT_BITS, head)
        self._push(below, places, own)
        return _Directory(own, len(head), start, length, False)

    def _push(self, nodes: Sequence[int], places: Sequence[int], parent: int) -> None:
        """Have directories written, the first one next."""
        self._nodes.extend(nodes[::-1])
        self._named_at.extend(places[::-1])
        self._parents.extend([parent] * len(nodes))

    def _again(self, node: int, parent: int) -> int:
        """Write a directory that has been listed before; return its number, 0 if it has not."""
        listed = self._listed
        known = listed and listed.find(node)
        if not known or not listed:
            return 0
        out = self._out
        self.count += 1
        former, head, start, length, dots_alone = known
        former <<= fmt.SLOT_BITS
        if start == former + head:
            written = bytearray(out.read(former, head + length))
            at = out.room(1 << fmt.SLOT_BITS, head + length)
            first = head
        else:
            written = bytearray(out.read(former, head))
            at = out.align(1 << fmt.SLOT_BITS)
            first = head + -(at + head) % out.block
            written[fmt.I_U_AT : fmt.I_U_AT + 4] = (at + first >> out.bits).to_bytes(4, "little")
            written += bytes(first - head) + out.read(start, length) + _END
        own = at >> fmt.SLOT_BITS
        if dots_alone:
            dirents.lead(written, first, own)
            dirents.lead(written, first + fmt.DIRENT.size, parent)
        else:
            self._lead_others(written, first, length, (at, node, parent))
        out.append(written)
        listed.add(own, node)
        return own

    def _lead_others(
        self, written: bytearray, first: int, length: int, place: tuple[int, int, int]
    ) -> None:
        """Have a copied directory's entries lead to their own directories, which are to come.

        `first` and `length` are where its blocks lie in what was `written`, and `place` is where
        that is to lie, the directory's node, and its parent's number.
        """
        assert self._listed
        at, node, parent = place
        own, view = at >> fmt.SLOT_BITS, node & ~_PLACE
        nodes, places = [], []
        for start in range(first, first + length, self._out.block):
            block = written[start : min(start + self._out.block, first + length)]
            for entry_at, name, number in dirents.directories(block):
                if name in dirents.DOTS:
                    dirents.lead(written, start + entry_at, own if name == b"." else parent)
                else:
                    nodes.append(view | self._listed.place(number))
                    places.append(at + start + entry_at)
        self._push(nodes, places, own)


class _Directory(NamedTuple):
    """A directory as it was written: its number, its inode's length, and where its blocks lie.

    `dots_alone` tells that its first two entries are `.` and `..`, and none else a directory.
    """

    number: int
    head: int
    start: int
    length: int
    dots_alone: bool


class _Listed:
    """The directories that were written, by number; those that were listed, by what they show."""

    def __init__(self, fs: ImageFs) -> None:
        self._fs = fs
        # The numbers, which ascend, and for each the node's bits that are the same in all views.
        self._numbers, self._places = array("Q"), array("Q")
        self._columns = tuple(array("Q") for _ in _Directory._fields)
        # By what is alike, a chain and a row of its topmost layer: 1 more than where it is above.
        self._alike: dict[int, array[int]] = {}

    def add(self, number: int, node: int) -> None:
        """Note the number of a node's directory, which is higher than all before."""
        self._numbers.append(number)
        self._places.append(node & _PLACE)

    def place(self, number: int) -> int:
        """Return what nodes have in common, in all views, of the directory that has a number."""
        return self._places[bisect_left(self._numbers, number)]

    def keep(self, node: int, directory: _Directory) -> None:
        """Note how a directory was written that may be shown alike in other views."""
        alike = self._fs.alike(node)
        if alike is None:
            return
        chain, row = alike
        if chain not in self._alike:
            _, layer, _ = nodeid.unpack(node)
            self._alike[chain] = array("I", bytes(4 * self._fs.layers[layer].index.count))
        for column, value in zip(self._columns, directory, strict=True):
            column.append(value)
        self._alike[chain][row] = len(self._columns[0])

    def find(self, node: int) -> _Directory | None:
        """Return the directory that shows the same as a node's, with all below it."""
        alike = self._fs.alike(node)
        if alike is None or alike[0] not in self._alike:
            return None
        at = self._alike[alike[0]][alike[1]]
        return _Directory._make([column[at - 1] for column in self._columns]) if at else None
