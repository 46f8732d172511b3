"""Directories: what they name comes before them, the directories that they name behind.

Each of those enters its number where it is named. What many views show alike is listed once: then
the directory is copied, and only the numbers of directories in it are others, since a directory
may have one parent only. Memory is taken for what has numbers, a few bytes for each directory,
never for a whole listing.
"""

import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from imagefs.erofs import dirents
from imagefs.erofs import format as fmt
from imagefs.erofs.dirents import Named
from imagefs.erofs.inodes import Body, Epoch, inode
from imagefs.erofs.leaves import Leaves
from imagefs.erofs.output import Output
from imagefs.filesystem import Entry
from imagefs.vfs import nodeid
from imagefs.vfs.image_fs import LAYER_XATTR, ImageFs
from imagefs.vfs.lazy_listing import WIDE

_END = b"\0"
"""Ends the last name of a block that is not full; behind an inode the kernel adds it by itself."""
_S_IFDIR = stat.S_IFDIR >> 12
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

    def _names(self, entries: Iterable[Entry], below: "array[int]") -> Iterator[Named]:
        """Yield what entries name; the nodes of directories, still without number, go `below`."""
        number, types = self._leaves.number, fmt.FILE_TYPES
        for name, attr in entries:
            kind = attr[2] >> 12
            if kind == _S_IFDIR:
                below.append(attr[0])
                yield Named(name, 0, fmt.DIRECTORY)
            else:
                yield Named(name, number(attr), types[kind])

    def _new(self, node: int, parent: int, own: int = 0) -> int:
        """List a directory and write it; return its number, which is `own` if it has a place."""
        out = self._out
        self.count += 1
        attr, xattrs = self._fs.getattr(node), self._xattrs(node)
        entries = self._fs.listdir(node)
        counted = self._leaves.counted
        below = array("Q")
        named: Iterable[Named]
        if len(entries) <= WIDE:
            named = list(self._names(entries, below))
            length = dirents.length(one.name for one in named)
            head = inode(attr._replace(size=length), Body(fmt.FLAT_INLINE), xattrs, self._epoch)
            inline = not own and len(head) + length <= out.block
        else:
            # Listed twice: the files first, so that the directory comes in one piece.
            for _ in self._names(entries, below):
                pass
            below = array("Q")
            named = self._names(entries, below)
            inline = False
        if inline:
            at = out.room(1 << fmt.SLOT_BITS, len(head) + length)
            own = at >> fmt.SLOT_BITS
            start = out.append(head) + len(head)
            self._append(dirents.with_dots(named, own, parent), below, own)
        else:
            head = inode(attr, Body(), xattrs, self._epoch)
            if not own:
                own = out.align(1 << fmt.SLOT_BITS) >> fmt.SLOT_BITS
                out.append(head)
            start = out.align(out.block)
            self._append(dirents.with_dots(named, own, parent), below, own)
            length = out.end - start
            body = Body(fmt.FLAT_PLAIN, start >> out.bits)
            head = inode(attr._replace(size=length), body, xattrs, self._epoch)
            out.change(own << fmt.SLOT_BITS, head)
            out.append(_END)
        if self._listed:
            copied = self._leaves.counted == counted
            self._listed.add(own, node)
            if copied:
                self._listed.keep(node, _Directory(own, len(head), start, length))
        return own

    def _append(self, named: Iterable[Named], below: "array[int]", own: int) -> None:
        """Add a directory's blocks, and note the directories that are named in them."""
        out = self._out
        places = array("Q")
        for block, some in dirents.blocks(named, out.block):
            at = out.append(block)
            for number, (name, _, kind) in enumerate(some):
                if kind == fmt.DIRECTORY and name not in dirents.DOTS:
                    places.append(at + number * fmt.DIRENT.size)
        self._push(below, places, own)

    def _push(self, nodes: "array[int]", places: "array[int]", parent: int) -> None:
        """Have directories written, the first one next."""
        self._nodes.extend(nodes[::-1])
        self._named_at.extend(places[::-1])
        self._parents.extend([parent] * len(nodes))

    def _again(self, node: int, parent: int) -> int:
        """Write a directory that has been listed before; return its number, 0 if it has not."""
        known = self._listed and self._listed.find(node)
        if not known or not self._listed:
            return 0
        out = self._out
        self.count += 1
        head = bytearray(out.read(known.number << fmt.SLOT_BITS, known.head))
        content = bytearray(out.read(known.start, known.length))
        if known.start == (known.number << fmt.SLOT_BITS) + known.head:
            at = out.room(1 << fmt.SLOT_BITS, known.head + known.length)
            start = at + known.head
        else:
            at = out.align(1 << fmt.SLOT_BITS)
            start = at + known.head + -(at + known.head) % out.block
            head[fmt.I_U_AT : fmt.I_U_AT + 4] = (start >> out.bits).to_bytes(4, "little")
        own = at >> fmt.SLOT_BITS
        nodes, places = array("Q"), array("Q")
        view = node & ~_PLACE
        for block_at in range(0, known.length, out.block):
            for place, name, number in dirents.directories(
                content[block_at : block_at + out.block]
            ):
                if name in dirents.DOTS:
                    to = own if name == b"." else parent
                    dirents.lead(content, block_at + place, to)
                else:
                    nodes.append(view | self._listed.place(number))
                    places.append(start + block_at + place)
        out.append(head + bytes(start - at - known.head) + content)
        out.append(_END)
        self._listed.add(own, node)
        self._push(nodes, places, own)
        return own


class _Directory(NamedTuple):
    """A directory as it was written: its number, its inode's length, and where its blocks lie."""

    number: int
    head: int
    start: int
    length: int


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
        return _Directory(*[column[at - 1] for column in self._columns]) if at else None
