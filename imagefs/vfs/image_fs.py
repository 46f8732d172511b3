"""The whole mount as a `FileSystem`: images, their views and the few files beside them.

Used by the FUSE drivers, from any of their threads. Owns what a mount is asked for, by node ids
(`nodeid.py`); keeps no table of nodes. `images.py` knows which images there are, `attributes.py`
what their rows say. A file's bytes come from one pread.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from imagefs.errors import UsageError
from imagefs.filesystem import NAME_MAX, ROOT_ID, Attr, Entry, ReadaheadCandidates, Statfs
from imagefs.image.model import Image, directory_names
from imagefs.index import rows
from imagefs.vfs import listed, merge, nodeid
from imagefs.vfs.attributes import Attributes, failure
from imagefs.vfs.lazy_listing import WIDE, Wide
from imagefs.vfs.listed import Listed
from imagefs.vfs.merge import Place
from imagefs.vfs.open_layer import BLOCK, blocks_of

LAYER_XATTR = b"user.imagefs.layer"
"""On each file and directory: the name of the layer directory that it comes from."""
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_NOT_PLAIN = rows.HIDDEN | rows.FOREIGN | rows.SPARSE
_SMALL, _TOGETHER = 64 << 10, 1 << 20
"""Bytes of a file that is read with others, and of all of them."""


class ImageFs(Attributes):
    """Images as directory trees; implements `filesystem.FileSystem`."""

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
                raise failure(errno.ENOTDIR)
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
                raise failure(errno.ENOTDIR)
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

    def readlink(self, node: int) -> bytes:
        """See FileSystem."""
        _, layer, number = nodeid.unpack(node)
        if not layer:
            target = self.synthetic.get(number).target
            if target is None:
                raise failure(errno.EINVAL)
            return target
        row = self._row(layer, number)
        if not stat.S_ISLNK(row.mode):
            raise failure(errno.EINVAL)
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
            raise failure(errno.ENOENT) from None
        if row.mode >> 12 != 8:
            raise failure(errno.EISDIR if row.mode >> 12 == 4 else errno.EINVAL)
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
            raise failure(errno.ENXIO)
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

    def _parent(self, view: int, layer: int, number: int) -> int:
        if nodeid.pack(view, layer, number) == self._root:
            return ROOT_ID
        above = self._view(view, layer, number).parent_of(layer, number)
        return ROOT_ID if above == self._root else above

    def _lookup_made(self, number: int, name: bytes) -> Attr | None:
        made = self.synthetic.get(number)
        if made.children is None:
            raise failure(errno.ENOTDIR)
        if name == b".":
            return made.attr()
        if name == b"..":
            return self.getattr(made.parent)
        child = made.children.get(name)
        return None if child is None else self.getattr(child)


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
