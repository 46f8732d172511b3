"""What rows of indexes say of directories and files, as attributes and entries of a mount.

Knows views and rows only; keeps nothing. A leaf's attributes come from one row of one index. Used
from any thread.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from imagefs.filesystem import NAME_MAX, ROOT_ID, Attr, Entry
from imagefs.index import rows
from imagefs.index.rows import Row
from imagefs.vfs import merge, nodeid
from imagefs.vfs.images import Images
from imagefs.vfs.lazy_listing import Growing
from imagefs.vfs.merge import Visible
from imagefs.vfs.open_layer import BLOCK
from imagefs.vfs.view import View

_DEVICES = (2, 6)
_SIZE_UNKNOWN = 1
"""Bytes of a hard link to nothing. Nobody is asked for the content of an empty file, which would
be read as such; of this one the only byte cannot be had."""


class Attributes(Images):
    """What is shown of each place in a view, with its attributes."""

    def _row(self, layer: int, number: int) -> Row:
        try:
            return self._indexes[layer].row(number)
        except LookupError:
            raise failure(errno.ENOENT) from None

    def _view(self, view: int, layer: int, number: int) -> View:
        """Return the view that a directory is seen in; ENOTDIR for a leaf's node id."""
        if self._row(layer, number).mode >> 12 != 4:
            raise failure(errno.ENOTDIR)
        try:
            seen = self._views[view]
        except KeyError:
            raise failure(errno.ENOENT) from None
        if layer not in seen.inos:
            raise failure(errno.ENOENT)
        return seen

    def _part(self, view: View, layer: int, number: int, first: int, last: int) -> list[Entry]:
        """Return some of the entries of a directory that shows one layer only."""
        found = merge.entries_of(self._indexes[layer], layer, number, first, last)
        return self._entries(view, found)

    def _wide(self, view: View, layer: int, number: int) -> Growing:
        """Return a listing of entries that is kept as numbers."""
        hidden = rows.HIDDEN if view.merged else 0

        def nodes() -> Iterator[list[int]]:
            for some in view.listings(layer, number):
                yield [
                    one << nodeid.LAYER_SHIFT | at
                    for name, one, at, row in some.entries
                    if not row[2] & hidden and len(name) <= NAME_MAX
                ]

        return Growing(nodes, partial(self._at, view))

    def _at(self, view: View, nodes: Sequence[int]) -> list[Entry]:
        """Return the entries of a directory that lie at some places, in order."""
        found: dict[int, Visible] = {}
        by_layer: dict[int, list[int]] = {}
        for node in nodes:
            by_layer.setdefault(node >> nodeid.LAYER_SHIFT, []).append(node & nodeid.ROW_MASK)
        for layer, numbers in by_layer.items():
            index, first, last = self._indexes[layer], min(numbers), max(numbers) + 1
            parent = index.row(first).parent
            if last - first <= 4 * len(numbers):
                before = index.row(parent).data
                part = merge.entries_of(index, layer, parent, first - before, last - before)
                found.update((layer << nodeid.LAYER_SHIFT | one[2], one) for one in part)
            else:
                for at in numbers:
                    row = index.row(at)
                    found[layer << nodeid.LAYER_SHIFT | at] = index.name(row), layer, at, row
        return self._entries(view, [found[node] for node in nodes])

    def _entries(
        self,
        view: View,
        entries: Sequence[Visible],
        described: Mapping[bytes, tuple[int, ...]] = MappingProxyType({}),
    ) -> list[Entry]:
        """Give the entries of a directory their attributes; what most of them need, in place."""
        hidden = 0 if not view.merged else rows.HIDDEN
        odd = hidden | rows.FOREIGN | rows.SPARSE | rows.IMPLIED
        linked = view.has_links
        of_view, dir_inos, inos = view.number << nodeid.VIEW_SHIFT, view.inos, self._inos
        new = tuple.__new__
        found = []
        last = base = dir_base = high = 0
        for name, layer, at, row in entries:
            if layer != last:
                last, high = layer, layer << nodeid.LAYER_SHIFT
                base, dir_base = inos[layer].start, dir_inos[layer]
            _, _, flags, mode, uid, gid, nlink, _, _, nsec, mtime, size, data, _ = row
            kind = mode >> 12
            place = high | at
            if kind == 4 and not flags & odd:
                node = of_view | place
                fields = (
                    node,
                    dir_base + at,
                    mode,
                    1,
                    uid,
                    gid,
                    0,
                    BLOCK,
                    BLOCK // 512,
                    mtime,
                    nsec,
                )
                attr = new(Attr, fields)
            elif nlink == 1 and not flags & odd and not linked:
                # As OpenLayer.blocks has it, without a call.
                blocks = (size + 4095 >> 12) << 3 if kind == 8 else 0
                rdev = data if kind in _DEVICES else 0
                fields = place, base + at, mode, 1, uid, gid, rdev, size, blocks, mtime, nsec
                attr = new(Attr, fields)
            elif flags & hidden:
                continue
            elif name in described:
                said = Row._make(described[name])
                attr = self._directory(of_view | place, view, layer, at, said)
            else:
                attr = self._attr(view, layer, at, new(Row, row))
            # The marker of a long name is longer than Linux takes: it works, but is not shown.
            if len(name) <= NAME_MAX:
                found.append(new(Entry, (name, attr)))
        return found

    def _attr(self, view: View, layer: int, number: int, row: Row) -> Attr:
        """Return the attributes of a directory's entry in a view; `row` is its topmost."""
        if row.mode >> 12 == 4:
            node = nodeid.pack(view.number, layer, number)
            if row.flags & rows.IMPLIED:
                _, row = view.described(layer, number)
            return self._directory(node, view, layer, number, row)
        count = 0
        if row.nlink != 1 or row.flags & rows.FOREIGN or view.has_links:
            count, (layer, number), row = view.inode((layer, number), row)
        return self._leaf(nodeid.pack(count, layer, number), layer, row, count)

    def _directory(self, node: int, view: View, layer: int, number: int, row: Row) -> Attr:
        # One link: subdirectories are not counted, as on btrfs and overlayfs.
        # fmt: off
        return Attr(
            node, view.inode_number(layer, number), row.mode, 1, row.uid, row.gid, 0, BLOCK,
            BLOCK // 512, row.mtime, row.mtimensec,
        )
        # fmt: on

    def _leaf(self, node: int, layer: int, row: Row, count: int) -> Attr:
        kind = row.mode >> 12
        size = row.size
        if row.flags & rows.FOREIGN:
            size = _SIZE_UNKNOWN
        if row.flags & rows.SPARSE:
            blocks = self._layers[layer].blocks(row)
        else:
            blocks = (size + 4095 >> 12) << 3 if kind == 8 else 0
        rdev = row.data if kind in _DEVICES else 0
        # fmt: off
        fields = (
            node, self._inos[layer].start + (node & nodeid.ROW_MASK), row.mode, count or row.nlink,
            row.uid, row.gid, rdev, size, blocks, row.mtime, row.mtimensec,
        )
        # fmt: on
        return tuple.__new__(Attr, fields)

    def _described(self, node: int) -> tuple[int, Row, bool]:
        """Return the layer and row that describe a node; whether a merged view shows it.

        The layer is 0 for a node that the mount makes up.
        """
        view, layer, number = nodeid.unpack(self._root if node == ROOT_ID else node)
        if not layer:
            self.synthetic.get(number)
            return 0, _NO_ROW, False
        row = self._row(layer, number)
        if row.mode >> 12 != 4:
            return layer, row, False
        seen = self._view(view, layer, number)
        if row.flags & rows.IMPLIED:
            layer, row = seen.described(layer, number)
        return layer, row, seen.merged


_NO_ROW = Row(*[0] * len(Row._fields))


def failure(number: int) -> OSError:
    """Return the error that the kernel is told of by its number."""
    return OSError(number, os.strerror(number))
