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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from imagefs.errors import UsageError
from imagefs.filesystem import NAME_MAX, ROOT_ID, Attr, Entry, ReadaheadCandidates, Statfs
from imagefs.image import config as image_config
from imagefs.image.model import Image, Layer, directory_names
from imagefs.index import cache as index_cache
from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.vfs import layers_txt, listed, merge, nodeid
from imagefs.vfs.lazy_listing import WIDE, Growing, Wide
from imagefs.vfs.links import Links
from imagefs.vfs.listed import Listed
from imagefs.vfs.memory import Memory
from imagefs.vfs.merge import Place, Visible
from imagefs.vfs.open_layer import BLOCK, Maps, OpenLayer, blocks_of
from imagefs.vfs.pile import Pile, Piles
from imagefs.vfs.synthetic import Synthetic, SyntheticTree
from imagefs.vfs.view import MergedView, View

LAYER_XATTR = b"user.imagefs.layer"
"""On each file and directory: the name of the layer directory that it comes from."""
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_DEVICES = (2, 6)
_NOT_PLAIN = rows.HIDDEN | rows.FOREIGN | rows.SPARSE
_SMALL, _TOGETHER = 64 << 10, 1 << 20
"""Bytes of a file that is read with others, and of all of them."""
_SIZE_UNKNOWN = 1
"""Bytes of a hard link to nothing. Nobody is asked for the content of an empty file, which would
be read as such; of this one the only byte cannot be had."""


class _Tree(NamedTuple):
    """The layers and views, by number, of an image that has been added; its inode numbers."""

    layers: tuple[int, ...]
    views: list[int]
    inos: list[range]


class ImageFs:
    """Images as directory trees; implements `filesystem.FileSystem`."""

    def __init__(self) -> None:
        self._layers: dict[int, OpenLayer] = {}
        self._indexes: dict[int, Index] = {}
        self._layer_names: dict[int, bytes] = {}
        self._inos: dict[int, range] = {}
        self._views: dict[int, View] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._open: WeakValueDictionary[Any, OpenLayer] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._trees: dict[int, _Tree] = {}
        self._free_layers = nodeid.Numbers(nodeid.MAX_LAYERS)
        self.free_views = nodeid.Numbers(nodeid.MAX_VIEWS)
        self._free_inos = nodeid.InodeNumbers()
        self._memory = Memory()
        self._piles, self._maps = Piles(self._memory), Maps(self._memory)
        self._root = ROOT_ID
        self.synthetic = SyntheticTree()

    @property
    def root(self) -> int:
        """The node that the root directory stands for: itself, or the root of the one view."""
        return self._root

    @property
    def layers(self) -> Mapping[int, OpenLayer]:
        """The open layers by the numbers that node ids have, in the order of the images."""
        return self._layers

    @property
    def layer_names(self) -> Mapping[int, bytes]:
        """What LAYER_XATTR says of each layer, by its number."""
        return self._layer_names

    def alike(self, node: int) -> Sequence[Place]:
        """Return what directories have in common that show the same, with all below them.

        First by what others may know this one: in a merged view a chain and a row of its topmost
        layer, in a layer alone -1 times the layer and a row. Where nothing lower shows through, the
        latter comes second in a merged view, which shows what the layer does. Nothing is returned
        of directories above which none is alike: the mount makes them up, a merged view shows them
        otherwise than the layer, or hard links have counts that differ from view to view wherever
        they please.
        """
        view, layer, number = nodeid.unpack(node)
        seen = self._views.get(view)
        return seen.alike(layer, number) if seen and layer else ()

    # Building

    def add_image(self, image: Image, index_dir: Path, parent: int = ROOT_ID) -> None:
        """Put an image's tree into the synthetic directory `parent`; its layers get indexed."""
        index_cache.ensure(image.layers, index_dir, image.packed)
        with self._lock:
            if self.free_views.left() < 2 * len(image.layers) + 1:
                raise OSError(errno.ENFILE, "too many views under one mount")
            tree = _Tree(tuple(self._open_layers(image, index_dir)), [], [])
            self._trees[parent] = tree
            links = Links(Pile(tree.layers, self._indexes, self._piles))
            try:
                lines = layers_txt.text(image, links)
            except OSError:
                self._close(self.layers_of(parent))
                del self._trees[parent]
                raise
            made, directory = self.synthetic, self.synthetic.get(parent)
            # What is made below takes its time from here.
            directory.mtime = image_config.created(image.config) or directory.mtime
            layers, snapshots = made.directory(parent), made.directory(parent)
            rootfs = self._add_views(image, parent, links, layers, snapshots)
            # All at once: whoever looks meanwhile sees nothing of the image, or all of it.
            directory.children = {
                b"rootfs": rootfs or made.directory(parent).node,
                b"layers": layers.node,
                b"snapshots": snapshots.node,
                b"layers.txt": made.file(parent, lines).node,
                b"config.json": made.file(parent, image.config).node,
                b"manifest.json": made.file(parent, image.manifest).node,
            }

    def _add_views(
        self, image: Image, parent: int, links: Links, layers: Synthetic, snapshots: Synthetic
    ) -> int | None:
        """Make an image's views; return the node of the whole one's root, if there are layers."""
        tree = self._trees[parent]
        inos: dict[int, int] = {}
        layers.children, snapshots.children = {}, {}
        for number, name in zip(tree.layers, image.layer_names(), strict=True):
            seen, own = self._indexes[number], {number: self._inos[number].start}
            alone = View(self.free_views.take(), number, seen, layers.node, own)
            layers.children[name.encode()] = self._show(alone, tree)
            inos[number] = self._take(seen.count, tree)
            upto = MergedView(self.free_views.take(), number, snapshots.node, inos, links)
            snapshots.children[name.encode()] = self._show(upto, tree)
        if not tree.layers:
            return None
        whole = MergedView(self.free_views.take(), tree.layers[-1], parent, inos, links)
        return self._show(whole, tree)

    def _show(self, view: View, tree: _Tree) -> int:
        """Add a view to the mount and to its image; return its root's node."""
        view.root_ino = self._take(1, tree)
        self._views[view.number] = view
        tree.views.append(view.number)
        return view.root_node

    def _take(self, count: int, tree: _Tree) -> int:
        """Return the first of so many inode numbers that are an image's."""
        tree.inos.append(self._free_inos.take(count))
        return tree.inos[-1].start

    def layers_of(self, parent: int) -> set[int]:
        """Return the numbers of the layers that only the image in `parent` has."""
        others = (tree.layers for node, tree in list(self._trees.items()) if node != parent)
        return set(self._trees[parent].layers).difference(*others)

    def remove_image(self, parent: int) -> list[int]:
        """Take an image's tree out of the synthetic directory `parent`, and the directory away.

        Nothing may refer to the layers that only it has. Returns the numbers of its views, for
        `free_views` to take back when nothing refers to these either.
        """
        with self._lock:
            own = self.layers_of(parent)
            tree = self._trees.pop(parent)
            for view in tree.views:
                del self._views[view]
            self._close(own)
            for numbers in tree.inos:
                self._free_inos.give_back(numbers)
            self.synthetic.drop_below(parent)
            return tree.views

    def _close(self, layers: set[int]) -> None:
        """Let go of layers that no image has any more."""
        for key in [key for key, number in self._numbers.items() if number in layers]:
            del self._numbers[key]
        for number in layers:
            del self._layers[number], self._indexes[number], self._layer_names[number]
            self._free_inos.give_back(self._inos.pop(number))
            self._free_layers.give_back(number)

    def _open_layers(self, image: Image, index_dir: Path) -> list[int]:
        opened: dict[tuple[str, str], OpenLayer] = {}
        keys = [
            # The same layer at the same place has one number, and so one set of inodes, in
            # every image; only then can its files say which layer directory they come from.
            (name, layer.diff_id)
            for layer, name in zip(image.layers, image.layer_names(), strict=True)
        ]
        for key, layer in zip(keys, image.layers, strict=True):
            if key not in self._numbers:
                opened[key] = self._opened(layer, index_dir)
        if self._free_layers.left() < len(opened):
            raise OSError(errno.ENFILE, "too many layers under one mount")
        # All or none: a layer that no image has would never be closed.
        for key, one in opened.items():
            number = self._numbers[key] = self._free_layers.take()
            self._layers[number], self._indexes[number] = one, one.index
            self._layer_names[number] = key[0].encode()
            self._inos[number] = self._free_inos.take(one.index.count)
        return [self._numbers[key] for key in keys]

    def _opened(self, layer: Layer, index_dir: Path) -> OpenLayer:
        """Return a layer, opened; one that lies in several places is open once."""
        key = layer.diff_id, layer.blob, layer.stored, layer.keep_going
        found = self._open.get(key)
        if found is None:
            found = OpenLayer(layer, index_cache.open_index(layer, index_dir), self._maps)
            self._open[key] = found
        return found

    def show_only(self, view: str) -> None:
        """Make one view the root: `rootfs`, `layers`, `snapshots`, or one layer by its name.

        Raises UsageError where the image has no such view.
        """
        self._root = self.view_root(view)

    def view_root(self, view: str, parent: int = ROOT_ID) -> int:
        """Return the node of a view's root, of the image in `parent`; UsageError if it has none."""
        name = os.fsencode(view.strip("/"))
        found = self._find(parent, [part for part in name.split(b"/") if part])
        if found is None:
            found = self._find(parent, [b"layers", name])
        if found is None or not stat.S_ISDIR(self.getattr(found).mode):
            raise UsageError(
                f"no view {view!r}: choose rootfs, layers, snapshots or one of"
                f" {', '.join(os.fsdecode(one.name) for one in self._layer_entries(parent))}"
            )
        return found

    def same_inode(self, one: int, other: int) -> bool:
        """Tell whether two nodes are the same file of the same layer, wherever they are seen."""
        (_, layer, number), (_, other_layer, other_number) = map(nodeid.unpack, (one, other))
        if not layer or not other_layer:
            return one == other
        return number == other_number and self._layers[layer] is self._layers[other_layer]

    def same_tree(self, one: int, other: int) -> bool:
        """Tell whether two directories are known to show the same, with all that lies below."""
        (_, layer, _), (_, other_layer, _) = map(nodeid.unpack, (one, other))
        if not layer or not other_layer:
            return one == other
        return self._spot(one) == self._spot(other)

    def _spot(self, node: int) -> object:
        view, layer, number = nodeid.unpack(node)
        return self._view(view, layer, number).spot(layer, number)

    def _layer_entries(self, parent: int) -> Sequence[Entry]:
        layers = self._find(parent, [b"layers"])
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
        return self._attr(seen, found[0], found[1].number, found[1].row) if found else None

    def getattr(self, node: int) -> Attr:
        """See FileSystem."""
        real = self._root if node == ROOT_ID else node
        view, layer, number = nodeid.unpack(real)
        if not layer:
            return self.synthetic.get(number).attr()
        row = self._row(layer, number)
        if row.mode >> 12 != 4:
            return self._leaf(real, layer, row, view)
        seen = self._view(view, layer, number)
        if row.flags & rows.IMPLIED:
            _, row = seen.described(layer, number)
        return self._directory(node, seen, layer, number, row)

    def listdir(self, node: int) -> Sequence[Entry]:
        """See FileSystem."""
        view, layer, number = nodeid.unpack(self._root if node == ROOT_ID else node)
        if not layer:
            made = self.synthetic.get(number).children
            if made is None:
                raise _error(errno.ENOTDIR)
            return [Entry(name, self.getattr(child)) for name, child in sorted(made.items())]
        seen = self._view(view, layer, number)
        places = seen.places(layer, number)
        if places:
            if merge.size(places) > WIDE:
                return self._wide(seen, layer, number)
            found = seen.listing(places)
            return self._entries(seen, found.entries, found.described)
        directory = self._row(layer, number)
        if directory.size > WIDE:
            if number and not directory.flags & rows.WHITEOUTS_WITHIN:
                # Without markers, nothing is hidden but in a root.
                return Wide(directory.size, partial(self._part, seen, layer, number))
            return self._wide(seen, layer, number)
        return self._part(seen, layer, number, 0, directory.size)

    def listed(self, node: int) -> Iterator[Listed]:
        """Yield what `listdir` lists of a layer's directory, some at a time, without attributes."""
        view, layer, number = nodeid.unpack(self._root if node == ROOT_ID else node)
        seen = self._view(view, layer, number)
        places = seen.places(layer, number)
        if places and merge.size(places) <= WIDE:
            yield listed.of_listing(seen, seen.listing(places).entries)
        elif places:
            for some in seen.listings(layer, number):
                yield listed.of_listing(seen, some.entries)
        else:
            index, size = self._indexes[layer], self._row(layer, number).size
            for at in range(0, size, WIDE):
                end = min(at + WIDE, size)
                yield listed.of_layer(seen, (layer, number), index, at, end)

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

    def readlink(self, node: int) -> bytes:
        """See FileSystem."""
        _, layer, number = nodeid.unpack(node)
        if not layer:
            target = self.synthetic.get(number).target
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
            return (self.synthetic.get(number).content or b"")[offset : offset + size]
        try:
            opened = self._layers[layer]
            row = opened.index.row(number)
        except LookupError:
            raise _error(errno.ENOENT) from None
        if row.mode >> 12 != 8:
            raise _error(errno.EISDIR if row.mode >> 12 == 4 else errno.EINVAL)
        return opened.read(row, offset, size)

    def with_extent(
        self, node: int, offset: int, size: int, take: Callable[[int, int, int], None]
    ) -> bool:
        """See FileSystem."""
        _, layer, number = nodeid.unpack(node)
        try:
            opened = self._layers[layer]
            row = opened.index.row(number)
        except LookupError:
            return False
        return stat.S_ISREG(row.mode) and opened.with_extent(row, offset, size, take)

    def readahead_candidates(self, node: int, most: int) -> ReadaheadCandidates:
        """See FileSystem; names that no view shows are among them, which costs nothing."""
        _, layer, number = nodeid.unpack(node)
        if not layer:
            return ReadaheadCandidates()
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
        return ReadaheadCandidates(files, nodeid.pack(0, layer, end), end == last)

    def is_lost(self, node: int) -> bool:
        """Tell whether a node is a hard link to nothing, whose one byte cannot be had."""
        _, layer, number = nodeid.unpack(node)
        return bool(layer and self._row(layer, number).flags & rows.FOREIGN)

    def seek(self, node: int, offset: int, whence: int) -> int:
        """See FileSystem."""
        _, layer, number = nodeid.unpack(node)
        if layer:
            row = self._row(layer, number)
            return self._layers[layer].seek(row, offset, whence)
        size = len(self.synthetic.get(number).content or b"")
        if not 0 <= offset < size:
            raise _error(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size

    def runs(self, node: int) -> Iterator[tuple[int, int]]:
        """Yield where a regular file's data begins and ends, ascending; all else of it is holes."""
        _, layer, number = nodeid.unpack(node)
        if layer:
            return self._layers[layer].runs(self._row(layer, number))
        size = len(self.synthetic.get(number).content or b"")
        return iter([(0, size)] if size else [])

    def getxattr(self, node: int, name: bytes) -> bytes | None:
        """See FileSystem."""
        layer, row, masked = self._described(node)
        if not layer:
            return None
        if name == LAYER_XATTR:
            return self._layer_names[layer]
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

    def xattrs(self, node: int) -> dict[bytes, bytes]:
        """Return all that `listxattr` and `getxattr` tell, and LAYER_XATTR, at once."""
        layer, row, masked = self._described(node)
        if not layer:
            return {}
        found = {LAYER_XATTR: self._layer_names[layer]}
        for name, value in self._indexes[layer].xattrs(row).items():
            if name != LAYER_XATTR and not (masked and name.startswith(_OVERLAY_XATTRS)):
                found[name] = value
        return found

    def statfs(self) -> Statfs:
        """See FileSystem; the sum of all layers."""
        each = {id(one): one for one in list(self._indexes.values())}.values()
        files = sum(one.count for one in each)
        content = sum(one.content_bytes for one in each)
        return Statfs(BLOCK, blocks_of(content), files, NAME_MAX)

    def is_stable(self, node: int) -> bool:
        """See FileSystem; an image never changes."""
        return True

    def adjust_lookups(self, nodes: Iterable[int], count: int) -> None:
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
            seen = self._views[view]
        except KeyError:
            raise _error(errno.ENOENT) from None
        if layer not in seen.inos:
            raise _error(errno.ENOENT)
        return seen

    def _parent(self, view: int, layer: int, number: int) -> int:
        if nodeid.pack(view, layer, number) == self._root:
            return ROOT_ID
        above = self._view(view, layer, number).parent_of(layer, number)
        return ROOT_ID if above == self._root else above

    def _lookup_made(self, number: int, name: bytes) -> Attr | None:
        made = self.synthetic.get(number)
        if made.children is None:
            raise _error(errno.ENOTDIR)
        if name == b".":
            return made.attr()
        if name == b"..":
            return self.getattr(made.parent)
        child = made.children.get(name)
        return None if child is None else self.getattr(child)

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


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def image_fs(image: Image, index_dir: Path, view: str | None = None) -> ImageFs:
    """Return one image as a file system: the whole tree, or just one view of it."""
    fs = ImageFs()
    fs.add_image(image, index_dir)
    if view:
        fs.show_only(view)
    return fs


def images_fs(images: Sequence[Image], index_dir: Path) -> ImageFs:
    """Return several images as a file system, each in a directory of its own at the root."""
    fs = ImageFs()
    for name, image in zip(directory_names(images), images, strict=True):
        directory = fs.synthetic.directory(ROOT_ID)
        fs.synthetic.link(ROOT_ID, name, directory.node)
        fs.add_image(image, index_dir, directory.node)
    root = fs.synthetic.get(ROOT_ID)
    root.mtime = max(fs.synthetic.get(node).mtime for node in (root.children or {}).values())
    return fs
