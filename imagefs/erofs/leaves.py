"""Inodes of all that is no directory: each written when it is first named, and known by number.

Owns those numbers: one for each row of a layer that has been named, and one more for each count of
names that a view shows of a hard-linked file.
"""

import stat
from array import array
from collections.abc import Mapping

from imagefs.erofs import format as fmt
from imagefs.erofs.content import Content, Copy
from imagefs.erofs.inodes import Body, Epoch, attributes, inode
from imagefs.erofs.output import Output
from imagefs.filesystem import Attr
from imagefs.index import rows
from imagefs.vfs import nodeid
from imagefs.vfs.image_fs import LAYER_XATTR, ImageFs

_PIECE = 1 << 20
_CHUNK_UNIT = 8
_S_IFREG, _S_IFLNK = stat.S_IFREG >> 12, stat.S_IFLNK >> 12


class Leaves:
    """The files, links and devices of an image that is being written.

    `shared` has the ids of the attributes that say which layer it is.
    """

    def __init__(
        self, fs: ImageFs, content: Content, out: Output, epoch: Epoch, shared: Mapping[bytes, int]
    ) -> None:
        self.count = 0
        self.counted = 0
        """How often a file was named whose count of names depends on the view."""
        self.numbers = {
            layer: array("Q", bytes(8 * opened.index.count)) for layer, opened in fs.layers.items()
        }
        """By layer and row, the number of an inode whose count of names is its layer's, or 0."""
        self._counted: dict[int, int] = {}
        self._fs, self._content, self._out, self._epoch = fs, content, out, epoch
        self._shared = shared
        self._of_layer = {
            layer: attributes([shared[name]], {}) for layer, name in fs.layer_names.items()
        }
        # What is to be copied: the file's layer and row, and where its address goes.
        self._copies: list[tuple[int, int, int, Copy]] = []

    def number(self, attr: Attr) -> int:
        """Return the number of a node's inode, which is written if need be."""
        count, layer, number = nodeid.unpack(attr.node)
        if count or attr.nlink != 1:
            self.counted += 1
        if not layer:
            return self._write(attr, b"", None)
        found = self._counted.get(attr.node, 0) if count else self.numbers[layer][number]
        if not found:
            found = self._of_row(attr, layer, number)
            if count:
                self._counted[attr.node] = found
            else:
                self.numbers[layer][number] = found
        return found

    def xattrs(self, layer_name: bytes | None, own: Mapping[bytes, bytes]) -> bytes:
        """Return attributes as they lie on disk, with that of the layer."""
        return attributes([self._shared[layer_name]] if layer_name is not None else [], own)

    def _of_row(self, attr: Attr, layer: int, number: int) -> int:
        """Write the inode of a layer's row; return its number."""
        opened = self._fs.layers[layer]
        row = opened.index.row(number)
        xattrs = self._of_layer[layer]
        if row.flags & rows.XATTRS:
            own = self._fs.xattrs(attr.node)
            xattrs = self.xattrs(own.pop(LAYER_XATTR), own)
        if row.mode >> 12 != _S_IFREG:
            target = opened.index.target(row) if row.mode >> 12 == _S_IFLNK else None
            return self._write(attr, xattrs, target)
        room = self._out.block - fmt.EXTENDED.size - len(xattrs)
        body, copies = self._content.place(opened, row, room)
        at = self._append(attr, xattrs, body)
        for copy in copies:
            address_at = at + fmt.I_U_AT
            if copy.chunk is not None:
                chunk = self._out.end - len(body.tail) + copy.chunk * fmt.CHUNK_INDEX.size
                address_at = chunk + fmt.CHUNK_INDEX.size - 4
            self._copies.append((layer, number, address_at, copy))
        return at >> fmt.SLOT_BITS

    def _write(self, attr: Attr, xattrs: bytes, target: bytes | None) -> int:
        """Write what has no content elsewhere, such as a link; return its number."""
        if target is None and not attr.node >> nodeid.LAYER_SHIFT and stat.S_ISREG(attr.mode):
            target = self._fs.read(attr.node, 0, attr.size)
        if not target:
            return self._append(attr, xattrs, Body()) >> fmt.SLOT_BITS
        if len(target) <= self._out.block - fmt.EXTENDED.size - len(xattrs):
            body = Body(fmt.FLAT_INLINE, 0, target)
        else:
            at = self._out.align(self._out.block)
            self._out.append(target)
            self._out.align(self._out.block)
            body = Body(fmt.FLAT_PLAIN, at >> self._out.bits)
        return self._append(attr, xattrs, body) >> fmt.SLOT_BITS

    def _append(self, attr: Attr, xattrs: bytes, body: Body) -> int:
        """Add an inode with all that follows it; return where it lies."""
        out = self._out
        self.count += 1
        head = inode(attr, body, xattrs, self._epoch)
        if body.layout == fmt.FLAT_INLINE:
            at = out.room(1 << fmt.SLOT_BITS, len(head) + len(body.tail))
            out.append(head + body.tail)
            return at
        at = out.align(1 << fmt.SLOT_BITS)
        if body.tail:
            head += bytes(-len(head) % _CHUNK_UNIT) + body.tail
        out.append(head)
        return at

    def copy(self) -> None:
        """Add the content that is to be in the image, each in blocks of its own."""
        out = self._out
        for layer, number, address_at, (_, offset, length) in self._copies:
            opened = self._fs.layers[layer]
            row = opened.index.row(number)
            at = out.align(out.block)
            for start in range(offset, offset + length, _PIECE):
                out.append(opened.read(row, start, min(_PIECE, offset + length - start)))
            out.change(address_at, (at >> out.bits).to_bytes(4, "little"))
