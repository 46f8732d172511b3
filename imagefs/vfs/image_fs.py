"""The whole mount as a `FileSystem`: images, their views and the few files beside them.

Used by the FUSE drivers, from any of their threads. Owns node ids (`nodeid.py`), the open layers
and what they are asked for; keeps no table of nodes. Layers are opened when an image is added and
closed when the last image that has them is removed. A leaf's attributes come from one row of one
index, a file's bytes from one pread.
"""

import errno
import os
import stat
import threading
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from imagefs.errors import UsageError
from imagefs.filesystem import ROOT_ID, Attr, Entry, Following, Statfs
from imagefs.image import config as image_config
from imagefs.image.model import Image
from imagefs.index import cache as index_cache
from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.vfs import layers_txt, merge, nodeid
from imagefs.vfs.lazy_listing import WIDE, Wide
from imagefs.vfs.merge import Place, Stack, Visible
from imagefs.vfs.open_layer import OpenLayer
from imagefs.vfs.synthetic import SyntheticTree
from imagefs.vfs.view import View

LAYER_XATTR = b"user.imagefs.layer"
"""On each file and directory: the name of the layer directory that it comes from."""
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_BLOCK = 4096
_DEVICES = (2, 6)
_NOT_PLAIN = rows.HIDDEN | rows.FOREIGN | rows.SPARSE
_SMALL, _TOGETHER = 64 << 10, 1 << 20
"""Bytes of a file that is read with others, and of all of them."""
NAME_MAX = 255


class _Tree(NamedTuple):
    """The layers and views, by number, of an image that has been added."""

    layers: tuple[int, ...]
    views: range


class ImageFs:
    """Images as directory trees; implements `filesystem.FileSystem`."""

    def __init__(self) -> None:
        self._layers: dict[int, OpenLayer] = {}
        self._indexes: dict[int, Index] = {}
        self._views: dict[int, View] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._trees: dict[int, _Tree] = {}
        self._next_layer = self._next_view = 1
        self._root = ROOT_ID
        self.made = SyntheticTree()

    # Building

    def add_image(self, image: Image, index_dir: Path, parent: int = ROOT_ID) -> None:
        """Put an image's tree into the synthetic directory `parent`; its layers get indexed."""
        index_cache.ensure(image.layers, index_dir)
        with self._lock:
            numbers = self._open_layers(image, index_dir)
            first_view, made = self._next_view, self.made
            directory = made.get(parent)
            # What is made below takes its time from here.
            directory.mtime = image_config.created(image.config) or directory.mtime
            layers, snapshots = made.directory(parent), made.directory(parent)
            origins: dict[int, int] = {}
            for at, name in enumerate(image.layer_names()):
                alone = self._add_view(numbers[at : at + 1], layers.node)
                made.link(layers.node, name.encode(), alone)
                origins[numbers[at]] = self._next_view << nodeid.VIEW_SHIFT
                upto = self._add_view(numbers[: at + 1], snapshots.node, origins)
                made.link(snapshots.node, name.encode(), upto)
            rootfs = (
                self._add_view(numbers, parent, origins) if numbers else made.directory(parent).node
            )
            lines = layers_txt.text(image, [self._indexes[number] for number in numbers])
            # All at once: whoever looks meanwhile sees nothing of the image, or all of it.
            made.get(parent).children = {
                b"rootfs": rootfs,
                b"layers": layers.node,
                b"snapshots": snapshots.node,
                b"layers.txt": made.file(parent, lines).node,
                b"config.json": made.file(parent, image.config).node,
                b"manifest.json": made.file(parent, image.manifest).node,
            }
            self._trees[parent] = _Tree(tuple(numbers), range(first_view, self._next_view))

    def layers_of(self, parent: int) -> set[int]:
        """Return the numbers of the layers that only the image in `parent` has."""
        others = (tree.layers for node, tree in self._trees.items() if node != parent)
        return set(self._trees[parent].layers).difference(*others)

    def remove_image(self, parent: int) -> None:
        """Take an image's tree out of the synthetic directory `parent`, and the directory away."""
        with self._lock:
            own = self.layers_of(parent)
            tree = self._trees.pop(parent)
            for view in tree.views:
                del self._views[view]
            for key in [key for key, number in self._numbers.items() if number in own]:
                del self._numbers[key]
            for number in own:
                del self._layers[number], self._indexes[number]
            self.made.drop_below(parent)

    def _open_layers(self, image: Image, index_dir: Path) -> list[int]:
        numbers = []
        opened: dict[tuple[str, str], OpenLayer] = {}
        for layer, name in zip(image.layers, image.layer_names(), strict=True):
            # The same layer at the same place has one number, and so one set of inodes, in
            # every image; only then can its files say which layer directory they come from.
            key = (name, layer.diff_id)
            number = self._numbers.get(key)
            if number is None:
                number = self._next_layer + len(opened)
                if number > nodeid.MAX_LAYERS:
                    raise OSError(errno.ENFILE, "too many layers under one mount")
                opened[key] = OpenLayer(layer, name, index_cache.open_index(layer, index_dir))
            numbers.append(number)
        # All or none: a layer that no image has would never be closed.
        for key, one in opened.items():
            self._numbers[key] = self._next_layer
            self._layers[self._next_layer] = one
            self._indexes[self._next_layer] = one.index
            self._next_layer += 1
        return numbers

    def _add_view(
        self, numbers: Sequence[int], parent: int, origins: Mapping[int, int] | None = None
    ) -> int:
        """Make a view; without `origins` it shows its one layer as it is."""
        number = self._next_view
        if number > nodeid.MAX_VIEWS:
            raise OSError(errno.ENFILE, "too many views under one mount; mount anew")
        view = View(
            number,
            numbers[::-1],
            self._indexes,
            parent,
            origins,
        )
        self._next_view += 1
        self._views[number] = view
        return view.root_node

    def show_only(self, view: str) -> None:
        """Make one view the root: `rootfs`, `layers`, `snapshots`, or one layer by its name.

        Raises UsageError where the image has no such view.
        """
        name = os.fsencode(view.strip("/"))
        found = self._find(ROOT_ID, name.split(b"/"))
        if found is None:
            found = self._find(ROOT_ID, [b"layers", name])
        if found is None or not stat.S_ISDIR(self.getattr(found).mode):
            raise UsageError(
                f"no view {view!r}: choose rootfs, layers, snapshots or one of"
                f" {', '.join(os.fsdecode(entry.name) for entry in self._layer_entries())}"
            )
        self._root = found

    def _layer_entries(self) -> Sequence[Entry]:
        layers = self._find(ROOT_ID, [b"layers"])
        return self.listdir(layers) if layers else ()

    def _find(self, node: int, path: Sequence[bytes]) -> int | None:
        for name in path:
            attr = self.lookup(node, name)
            if attr is None:
                return None
            node = attr.node
        return node

    # FileSystem

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """See FileSystem."""
        view, layer, number = nodeid.unpack(self._root if parent == ROOT_ID else parent)
        if not layer:
            return self._lookup_made(number, name)
        if name in (b".", b".."):
            if not stat.S_ISDIR(self._row(layer, number).mode):
                raise _error(errno.ENOTDIR)
            return self.getattr(self._parent(view, layer, number) if name == b".." else parent)
        seen = self._view(view, layer, number)
        found = seen.lookup(layer, number, name)
        if not found:
            return None
        top, below = found[0]
        return self._attr(seen, self._indexes[top].row(below), found)

    def getattr(self, node: int) -> Attr:
        """See FileSystem."""
        real = self._root if node == ROOT_ID else node
        view, layer, number = nodeid.unpack(real)
        if not layer:
            return self.made.get(number).attr()
        row = self._row(layer, number)
        if row.mode >> 12 != 4:
            return self._leaf(real, layer, row, view)
        seen = self._view(view, layer, number)
        if row.flags & rows.IMPLIED:
            _, row = seen.described(layer, number)
        return self._directory(node, row, seen)

    def listdir(self, node: int) -> Sequence[Entry]:
        """See FileSystem."""
        view, layer, number = nodeid.unpack(self._root if node == ROOT_ID else node)
        if not layer:
            made = self.made.get(number).children
            if made is None:
                raise _error(errno.ENOTDIR)
            return [Entry(name, self.getattr(child)) for name, child in sorted(made.items())]
        seen = self._view(view, layer, number)
        directory = self._row(layer, number)
        marked = not number or directory.flags & rows.WHITEOUTS_WITHIN
        if directory.size > WIDE and not marked and seen.single(layer, number):
            # Without markers, nothing is hidden but in a root.
            return Wide(directory.size, partial(self._part, seen, layer, number))
        entries, stacks = seen.listing(layer, number)
        if len(entries) > WIDE:
            return self._wide(seen, entries)
        return self._entries(seen, entries, stacks)

    def _part(self, view: View, layer: int, number: int, first: int, last: int) -> list[Entry]:
        """Return some of the entries of a directory that shows one layer only."""
        return self._entries(
            view, merge.entries_of(self._indexes[layer], layer, number, first, last), {}
        )

    def _wide(self, view: View, entries: Iterable[Visible]) -> Wide:
        """Return a listing of entries that is kept as numbers."""
        hidden = rows.HIDDEN if view.merged else 0
        nodes = array("Q")
        for name, layer, at, row in entries:
            if not row[2] & hidden and len(name) <= NAME_MAX:
                nodes.append(nodeid.pack(0, layer, at))
        entry = partial(self._entry, view)
        return Wide(len(nodes), lambda first, last: [*map(entry, nodes[first:last])])

    def _entry(self, view: View, node: int) -> Entry:
        _, layer, number = nodeid.unpack(node)
        row = self._indexes[layer].row(number)
        name = self._indexes[layer].name(row)
        found = view.stack(layer, number) if row.mode >> 12 == 4 else ((layer, number),)
        return Entry(name, self._attr(view, row, found))

    def _entries(
        self, view: View, entries: Sequence[Visible], stacks: Mapping[bytes, Sequence[Place]]
    ) -> list[Entry]:
        """Give the entries of a directory their attributes; what most of them need, in place."""
        hidden = 0 if not view.merged else rows.HIDDEN
        odd = hidden | rows.FOREIGN | rows.SPARSE | rows.IMPLIED
        reached = view.has_reached
        of_view, origins = view.number << nodeid.VIEW_SHIFT, view.origins
        new = tuple.__new__
        found = []
        for name, layer, at, row in entries:
            _, _, flags, mode, uid, gid, nlink, _, _, nsec, mtime, size, data, _ = row
            kind = mode >> 12
            place = layer << nodeid.LAYER_SHIFT | at
            if kind == 4 and not flags & odd:
                node, ino = of_view | place, origins.get(layer, of_view) | place
                fields = node, ino, mode, 1, uid, gid, 0, _BLOCK, _BLOCK // 512, mtime, nsec
                attr = new(Attr, fields)
            elif nlink == 1 and not flags & odd and not reached:
                blocks = (size + 4095 >> 12) << 3 if kind == 8 else 0
                rdev = data if kind in _DEVICES else 0
                fields = place, place, mode, 1, uid, gid, rdev, size, blocks, mtime, nsec
                attr = new(Attr, fields)
            elif flags & hidden:
                continue
            else:
                stack = tuple(stacks.get(name) or ((layer, at),))
                attr = self._attr(view, Row._make(row), stack)
            # The marker of a long name is longer than Linux takes: it works, but is not shown.
            if len(name) <= NAME_MAX:
                found.append(new(Entry, (name, attr)))
        return found

    def readlink(self, node: int) -> bytes:
        """See FileSystem."""
        _, layer, number = nodeid.unpack(node)
        if not layer:
            target = self.made.get(number).target
            if target is None:
                raise _error(errno.EINVAL)
            return target
        row = self._row(layer, number)
        if not stat.S_ISLNK(row.mode):
            raise _error(errno.EINVAL)
        return self._indexes[layer].target(row)

    def read(self, node: int, offset: int, size: int) -> bytes:
        """See FileSystem."""
        layer = node >> nodeid.LAYER_SHIFT & nodeid.LAYER_MASK
        number = node & nodeid.ROW_MASK
        if not layer:
            return (self.made.get(number).content or b"")[offset : offset + size]
        try:
            opened = self._layers[layer]
            row = opened.index.row(number)
        except LookupError:
            raise _error(errno.ENOENT) from None
        if row.mode >> 12 != 8:
            raise _error(errno.EISDIR if row.mode >> 12 == 4 else errno.EINVAL)
        return opened.read(row, offset, size)

    def lend(
        self, node: int, offset: int, size: int, take: Callable[[int, int, int], None]
    ) -> bool:
        """See FileSystem."""
        _, layer, number = nodeid.unpack(node)
        try:
            opened = self._layers[layer]
            row = opened.index.row(number)
        except LookupError:
            return False
        return stat.S_ISREG(row.mode) and opened.lend(row, offset, size, take)

    def following(self, node: int, most: int) -> Following:
        """See FileSystem; names that no view shows are among them, which costs nothing."""
        _, layer, number = nodeid.unpack(node)
        if not layer:
            return Following()
        index = self._indexes[layer]
        directory = index.row(self._row(layer, number).parent)
        last = directory.data + directory.size
        end = min(number + 1 + most, last)
        nodes: list[int] = []
        places: list[tuple[int, int]] = []
        total = 0
        for at, row in enumerate(index.rows(number + 1, end), number + 1):
            _, _, flags, mode, _, _, nlink, _, _, _, _, size, data, _ = row
            if mode >> 12 != 8 or nlink != 1 or flags & _NOT_PLAIN or not 0 < size <= _SMALL:
                continue
            total += size
            if total > _TOGETHER or abs(data - (places or [(data, 0)])[0][0]) > _TOGETHER:
                end = at
                break
            nodes.append(nodeid.pack(0, layer, at))
            places.append((data, size))
        contents = self._layers[layer].read_all(places) if places else []
        files = list(zip(nodes, contents, strict=True))
        return Following(files, nodeid.pack(0, layer, end), end == last)

    def seek(self, node: int, offset: int, whence: int) -> int:
        """See FileSystem."""
        _, layer, number = nodeid.unpack(node)
        if layer:
            row = self._row(layer, number)
            return self._layers[layer].seek(row, offset, whence)
        size = len(self.made.get(number).content or b"")
        if not 0 <= offset < size:
            raise _error(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size

    def getxattr(self, node: int, name: bytes) -> bytes | None:
        """See FileSystem."""
        layer, row, masked = self._described(node)
        if not layer:
            return None
        if name == LAYER_XATTR:
            return self._layers[layer].name.encode()
        if not row.flags & rows.XATTRS or (masked and name.startswith(_OVERLAY_XATTRS)):
            return None
        return self._indexes[layer].xattrs(row).get(name)

    def listxattr(self, node: int) -> Sequence[bytes]:
        """See FileSystem; LAYER_XATTR is not listed, so that copies do not carry it along."""
        layer, row, masked = self._described(node)
        if not layer or not row.flags & rows.XATTRS:
            return ()
        names = self._indexes[layer].xattrs(row)
        return [name for name in names if not (masked and name.startswith(_OVERLAY_XATTRS))]

    def statfs(self) -> Statfs:
        """See FileSystem; the sum of all layers."""
        files = sum(one.count for one in self._indexes.values())
        content = sum(one.content_bytes for one in self._indexes.values())
        return Statfs(_BLOCK, -(-content // _BLOCK), files, NAME_MAX)

    def is_stable(self, node: int) -> bool:
        """See FileSystem; an image never changes."""
        return True

    def is_slow(self, node: int) -> bool:
        """See FileSystem; all layers are indexed."""
        return False

    def refer(self, nodes: Iterable[int], count: int) -> None:
        """See FileSystem; the root is stable, and the kernel's references are all one to us."""

    def watch(self, tell_gone: Callable[[int, bytes], None]) -> None:
        """See FileSystem; no name ever goes."""

    # Rows to attributes

    def _row(self, layer: int, number: int) -> Row:
        try:
            return self._indexes[layer].row(number)
        except LookupError:
            raise _error(errno.ENOENT) from None

    def _view(self, view: int, layer: int, number: int) -> View:
        """Return the view that a directory is seen in; ENOTDIR for a leaf's node id."""
        if self._row(layer, number).mode >> 12 != 4:
            raise _error(errno.ENOTDIR)
        try:
            return self._views[view]
        except KeyError:
            raise _error(errno.ENOENT) from None

    def _parent(self, view: int, layer: int, number: int) -> int:
        if nodeid.pack(view, layer, number) == self._root:
            return ROOT_ID
        above = self._view(view, layer, number).parent_of(layer, number)
        return ROOT_ID if above == self._root else above

    def _lookup_made(self, number: int, name: bytes) -> Attr | None:
        made = self.made.get(number)
        if made.children is None:
            raise _error(errno.ENOTDIR)
        if name == b".":
            return made.attr()
        if name == b"..":
            return self.getattr(made.parent)
        child = made.children.get(name)
        return None if child is None else self.getattr(child)

    def _attr(self, view: View, row: Row, found: Stack) -> Attr:
        """Return the attributes of a directory's entry in a view; `row` is its topmost."""
        layer, number = found[0]
        if row.mode >> 12 == 4:
            if row.flags & rows.IMPLIED:
                _, row = view.described(layer, number, found)
            return self._directory(nodeid.pack(view.number, layer, number), row, view)
        count = 0
        if row.nlink != 1 or row.flags & rows.FOREIGN or view.has_reached:
            count, (layer, number) = view.inode(found[0])
            row = self._indexes[layer].row(number)
        return self._leaf(nodeid.pack(count, layer, number), layer, row, count)

    def _directory(self, node: int, row: Row, view: View) -> Attr:
        # One link: subdirectories are not counted, as on btrfs and overlayfs.
        # fmt: off
        return Attr(
            node, view.inode_number(node), row.mode, 1, row.uid, row.gid, 0, _BLOCK, _BLOCK // 512,
            row.mtime, row.mtimensec,
        )
        # fmt: on

    def _leaf(self, node: int, layer: int, row: Row, count: int) -> Attr:
        kind = row.mode >> 12
        size = row.size
        if row.flags & rows.SPARSE:
            blocks = self._layers[layer].blocks(row)
        else:
            blocks = (size + 4095 >> 12) << 3 if kind == 8 else 0
        rdev = row.data if kind in _DEVICES else 0
        # fmt: off
        return Attr(
            node, node, row.mode, count or row.nlink, row.uid, row.gid, rdev, size, blocks,
            row.mtime, row.mtimensec,
        )
        # fmt: on

    def _described(self, node: int) -> tuple[int, Row, bool]:
        """Return the layer and row that describe a node; whether a merged view shows it.

        The layer is 0 for a node that the mount makes up.
        """
        view, layer, number = nodeid.unpack(self._root if node == ROOT_ID else node)
        if not layer:
            self.made.get(number)
            return 0, _NO_ROW, False
        row = self._row(layer, number)
        if row.mode >> 12 != 4:
            return layer, row, False
        seen = self._view(view, layer, number)
        if row.flags & rows.IMPLIED:
            layer, row = seen.described(layer, number)
        return layer, row, seen.merged


_NO_ROW = Row(*[0] * len(Row._fields))


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def image_fs(image: Image, index_dir: Path, view: str | None = None) -> ImageFs:
    """Return one image as a file system: the whole tree, or just one view of it."""
    fs = ImageFs()
    fs.add_image(image, index_dir)
    if view:
        fs.show_only(view)
    return fs
