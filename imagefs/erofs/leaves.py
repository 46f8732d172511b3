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
from imagefs.index.rows import Row
from imagefs.vfs import nodeid
from imagefs.vfs.image_fs import LAYER_XATTR, ImageFs
from imagefs.vfs.listed import Listed

_PIECE = 1 << 20
_CHUNK_UNIT = 8
_TOGETHER = 4096
"""Rows that are looked at together."""
_S_IFREG, _S_IFLNK, _S_IFDIR = stat.S_IFREG >> 12, stat.S_IFLNK >> 12, stat.S_IFDIR >> 12
_DEVICES = stat.S_IFCHR >> 12, stat.S_IFBLK >> 12
_NOT_SURE = rows.HIDDEN | rows.FOREIGN
"""What a merged view shows not at all, or otherwise."""
# Half of what a call of _make takes.
_new = tuple.__new__


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

    def write_all(self) -> None:
        """Write the inodes of all layers, but for those that some view may show otherwise."""
        for layer, opened in self._fs.layers.items():
            numbers = self.numbers[layer]
            for first in range(0, opened.index.count, _TOGETHER):
                some = opened.index.rows(first, min(first + _TOGETHER, opened.index.count))
                for at, row in enumerate(some, first):
                    if row[6] == 1 and row[3] >> 12 != _S_IFDIR and not row[2] & _NOT_SURE:
                        numbers[at] = self._of_row(layer, at, row)

    def numbers_of(self, entries: Listed) -> list[int]:
        """Return the numbers of what a directory lists, written if need be; 0 for directories."""
        _, nodes, table = entries
        if isinstance(nodes, range):
            first = nodes.start & nodeid.ROW_MASK
            numbers = self.numbers[nodes.start >> nodeid.LAYER_SHIFT]
            named = numbers[first : first + len(nodes)].tolist()
        else:
            named = [
                self.numbers[node >> nodeid.LAYER_SHIFT][node & nodeid.ROW_MASK]
                if row[6] == 1 and node <= nodeid.PLACE_MASK
                else 0
                for node, row in zip(nodes, table, strict=True)
            ]
        if 0 in named:
            for at, row in enumerate(table):
                if not named[at] and row[3] >> 12 != _S_IFDIR:
                    named[at] = self._named(nodes[at], row)
        return named

    def _named(self, node: int, row: tuple[int, ...]) -> int:
        """Return the number of an inode that this row describes, written if need be."""
        if node > nodeid.PLACE_MASK or row[6] != 1 or row[2] & rows.FOREIGN:
            return self.number(node)
        layer, at = node >> nodeid.LAYER_SHIFT, node & nodeid.ROW_MASK
        number = self.numbers[layer][at] = self._of_row(layer, at, row)
        return number

    def number(self, node: int) -> int:
        """Return the number of a node's inode, which is written if need be."""
        attr = self._fs.getattr(node)
        count, layer, at = nodeid.unpack(node)
        if count or attr.nlink != 1:
            self.counted += 1
        if not layer:
            return self._write_made(attr)
        found = self._counted.get(node, 0) if count else self.numbers[layer][at]
        if not found:
            found = self._of_attr(attr, layer, at, self._fs.layers[layer].index.row(at))
            if count:
                self._counted[node] = found
            else:
                self.numbers[layer][at] = found
        return found

    def xattrs(self, layer_name: bytes | None, own: Mapping[bytes, bytes]) -> bytes:
        """Return attributes as they lie on disk, with that of the layer."""
        return attributes([self._shared[layer_name]] if layer_name is not None else [], own)

    def _of_row(self, layer: int, at: int, row: tuple[int, ...]) -> int:
        """Write the inode of a layer's row that has one name and its content; return its number."""
        _, _, _, mode, uid, gid, _, _, _, nsec, mtime, size, data, _ = row
        rdev = data if mode >> 12 in _DEVICES else 0
        node = layer << nodeid.LAYER_SHIFT | at
        attr = _new(Attr, (node, 0, mode, 1, uid, gid, rdev, size, 0, mtime, nsec))
        return self._of_attr(attr, layer, at, _new(Row, row))

    def _of_attr(self, attr: Attr, layer: int, number: int, row: Row) -> int:
        """Write an inode of a layer's row that has these attributes; return its number."""
        opened = self._fs.layers[layer]
        xattrs = self._of_layer[layer]
        if row.flags & rows.XATTRS:
            own = self._fs.xattrs(attr.node)
            xattrs = self.xattrs(own.pop(LAYER_XATTR), own)
        kind = row.mode >> 12
        if kind != _S_IFREG:
            target = opened.index.target(row) if kind == _S_IFLNK else b""
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

    def _write_made(self, attr: Attr) -> int:
        """Write what the mount makes up; return its number."""
        content = b""
        if stat.S_ISREG(attr.mode):
            content = self._fs.read(attr.node, 0, attr.size)
        return self._write(attr, b"", content)

    def _write(self, attr: Attr, xattrs: bytes, content: bytes) -> int:
        """Write what has no content elsewhere, such as a link; return its number."""
        if not content:
            return self._append(attr, xattrs, Body()) >> fmt.SLOT_BITS
        if len(content) <= self._out.block - fmt.EXTENDED.size - len(xattrs):
            body = Body(fmt.FLAT_INLINE, 0, content)
        else:
            at = self._out.align(self._out.block)
            self._out.append(content)
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
        if body.tail:
            head += bytes(-len(head) % _CHUNK_UNIT) + body.tail
        return out.append(head, 1 << fmt.SLOT_BITS)

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
