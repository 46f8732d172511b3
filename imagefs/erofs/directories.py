"""Directories: what they name comes before them, the directories that they name behind.

An inode's number is its place in the file, so a directory can name only what has one. Files are
written before the directory, when they are first named or all at once; directories after it, in the
order of a walk, and each then enters its number where it is named, which was left 0. `.` and `..`
are known at once: room for the directory is made before its entries are packed, and its parent came
before.

What many views show alike is written once, and copied with all below it (`subtrees.py`). Memory is
taken for what has numbers, a few bytes for each directory, and for a listing of some 65,000 names;
longer ones are gone through twice.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence

from imagefs.erofs import dirents
from imagefs.erofs import format as fmt
from imagefs.erofs.dirents import Named
from imagefs.erofs.inodes import Body, Epoch, inode
from imagefs.erofs.leaves import Leaves
from imagefs.erofs.output import Output
from imagefs.erofs.subtrees import Subtrees
from imagefs.vfs import nodeid
from imagefs.vfs.image_fs import LAYER_XATTR, ImageFs

_END = b"\0"
"""Ends the last name of a block that is not full; behind an inode the kernel adds it by itself."""
_MOST = 1 << 16
"""Most entries of a directory that is listed once and held."""


class Directories:
    """The directories of an image that is being written."""

    def __init__(self, fs: ImageFs, leaves: Leaves, out: Output, epoch: Epoch) -> None:
        self.count = 0
        self._fs, self._leaves, self._out, self._epoch = fs, leaves, out, epoch
        # Of one view alone, nothing shows twice.
        self._subtrees = None if fs.root >> nodeid.LAYER_SHIFT else Subtrees(fs, out)
        # Those to come: their nodes, where their numbers go, and their parents' numbers.
        self._nodes, self._named_at, self._parents = array("Q"), array("Q"), array("Q")

    def begin(self) -> None:
        """Make room for the root's inode."""
        root = self._fs.root
        self._out.append(inode(self._fs.getattr(root), Body(), self._xattrs(root), self._epoch))

    def write(self, root: int) -> None:
        """Write all directories; the root, whose inode has its place, has that number."""
        if self._subtrees:
            self._leaves.write_all()
        self._new(self._fs.root, root, root)
        while self._nodes:
            if self._subtrees:
                self._subtrees.close(len(self._nodes), self._leaves.counted)
            node, named_at, parent = self._nodes.pop(), self._named_at.pop(), self._parents.pop()
            number = self._again(node, parent) or self._new(node, parent)
            self._out.change(named_at, number.to_bytes(8, "little"))

    def _again(self, node: int, parent: int) -> int:
        """Write a directory that has been written before; return its number, 0 if it has not."""
        copied = self._subtrees and self._subtrees.copy(node, parent)
        if not copied:
            return 0
        number, count = copied
        self.count += count
        return number

    def _new(self, node: int, parent: int, own: int = 0) -> int:
        """List a directory and write it; return its number, which is `own` if it has a place."""
        self.count += 1
        waiting, counted = len(self._nodes), self._leaves.counted
        below = array("Q")
        parts = self._held(node, below)
        if parts is None:
            # Listed twice: the files first, so that the directory comes in one piece.
            below = array("Q")
            written = self._write_plain(node, self._listed(node, below), parent, own)
        else:
            length = dirents.length(parts)
            head = self._inode(node, length, Body(fmt.FLAT_INLINE))
            if own or len(head) + length > self._out.block:
                written = self._write_plain(node, parts, parent, own)
            else:
                written = self._write_inline(parts, head, length, parent)
        if self._subtrees:
            start, parent_at = written.start, written.parent
            self._subtrees.open(node, start, parent_at, waiting, counted)
            self._subtrees.note(written.nids, written.addresses)
        # The first one is next.
        self._nodes.extend(below[::-1])
        self._named_at.extend(written.named_at[::-1])
        number = written.start >> fmt.SLOT_BITS
        self._parents.extend([number] * len(below))
        return number

    def _inode(self, node: int, length: int, body: Body) -> bytes:
        attr = self._fs.getattr(node)._replace(size=length)
        return inode(attr, body, self._xattrs(node), self._epoch)

    def _xattrs(self, node: int) -> bytes:
        own = self._fs.xattrs(node)
        return self._leaves.xattrs(own.pop(LAYER_XATTR, None), own)

    def _held(self, node: int, below: "array[int]") -> list[Named] | None:
        """Return a directory's entries as `_listed` yields them; None where they are too many."""
        held: list[Named] = []
        count = 0
        for part in self._listed(node, below):
            count += len(part.names)
            if count <= _MOST:
                held.append(part)
            else:
                held.clear()
        return held if count <= _MOST else None

    def _listed(self, node: int, below: "array[int]") -> Iterator[Named]:
        """Yield what a directory names, some at a time; all but directories gets written.

        The nodes of directories, which have no number yet, go `below`.
        """
        types = fmt.FILE_TYPES
        if node >> nodeid.LAYER_SHIFT:
            view = node & ~nodeid.PLACE_MASK
            for entries in self._fs.listed(node):
                kinds = bytearray([types[row[3] >> 12] for row in entries.rows])
                if fmt.DIRECTORY in kinds:
                    pairs = zip(entries.nodes, kinds, strict=True)
                    below.extend([view | one for one, kind in pairs if kind == fmt.DIRECTORY])
                yield Named(entries.names, self._leaves.numbers_of(entries), kinds)
            return
        made = Named([], [], bytearray())
        for name, attr in self._fs.listdir(node):
            kind = types[attr.mode >> 12]
            if kind == fmt.DIRECTORY:
                below.append(attr.node)
            made.names.append(name)
            made.nids.append(0 if kind == fmt.DIRECTORY else self._leaves.number(attr.node))
            made.types.append(kind)
        yield made

    def _write_inline(
        self, parts: Sequence[Named], head: bytes, length: int, parent: int
    ) -> "_Written":
        """Write a directory whose entries follow its inode."""
        at = self._out.room(1 << fmt.SLOT_BITS, len(head) + length)
        written = _Written(at)
        parts = list(dirents.with_dots(parts, at >> fmt.SLOT_BITS, parent))
        for block, named in dirents.blocks(parts, self._out.block):
            self._out.append(head + block)
            written.add(at + len(head), named)
        return written

    def _write_plain(self, node: int, parts: Iterable[Named], parent: int, own: int) -> "_Written":
        """Write a directory whose entries take blocks of their own; it may have its place."""
        out = self._out
        at = own << fmt.SLOT_BITS
        if not own:
            at = out.align(1 << fmt.SLOT_BITS)
            out.append(self._inode(node, 0, Body()))
        start = out.align(out.block)
        written = _Written(at, [at + fmt.I_U_AT])
        parts = dirents.with_dots(parts, at >> fmt.SLOT_BITS, parent)
        for block, named in dirents.blocks(parts, out.block):
            written.add(out.append(block), named)
        length = out.end - start
        out.append(_END)
        out.change(at, self._inode(node, length, Body(fmt.FLAT_PLAIN, start >> out.bits)))
        return written


class _Written:
    """A directory as it was written, for `Subtrees`, and where its subdirectories are named."""

    def __init__(self, start: int, addresses: Sequence[int] = ()) -> None:
        self.start, self.addresses = start, addresses
        self.nids, self.named_at = array("Q"), array("Q")
        self.parent = 0

    def add(self, at: int, named: Named) -> None:
        """Note where a block lies, with its entries."""
        if fmt.DIRECTORY not in named.types:
            return
        for number, kind in enumerate(named.types):
            if kind == fmt.DIRECTORY:
                place = at + fmt.DIRENT.size * number
                self.nids.append(place)
                if named.names[number] == dirents.DOTDOT:
                    self.parent = place
                elif named.names[number] != dirents.DOT:
                    self.named_at.append(place)
