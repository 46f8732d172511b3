"""Archives opened as commands do it, and the trees that they give, whole and comparable."""

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from imagefs.filesystem import FileSystem
from imagefs.image.model import Image
from imagefs.image.options import SourceOptions
from imagefs.progress import Silent
from imagefs.source.opening import SourceRequest, open_image
from imagefs.store.store import Store
from imagefs.vfs.image_fs import image_fs
from tests.support import tars

Tree: TypeAlias = dict[str, tuple[Any, ...]]
VIEWS = ("rootfs", "layers", "snapshots")


def opened(source: Path | str, store: Store, **options: Any) -> Image:
    """Return the image that `imagefs mount SOURCE` would mount."""
    return open_image(SourceRequest(str(source), SourceOptions(**options)), store, Silent())


def tree_of(fs: FileSystem, top: str = "") -> Tree:
    """Return all there is to say of all that lies below `top`: what stat(2), readlink(2), read(2)
    and getxattr(2) would say, but for inode numbers, of which only equality counts.
    """
    names: dict[int, str] = {}
    tree: Tree = {}
    for path, attr in sorted(tars.paths(fs, top).items()):
        said = b""
        if stat.S_ISLNK(attr.mode):
            said = fs.readlink(attr.node)
        elif stat.S_ISREG(attr.mode):
            said = fs.read(attr.node, 0, attr.size)
        xattrs = [(name, fs.getxattr(attr.node, name)) for name in sorted(fs.listxattr(attr.node))]
        tree[path] = (*attr[2:], names.setdefault(attr.node, path), said, xattrs)
    return tree


def trees(image: Image, store: Store) -> dict[str, Tree]:
    """Return the whole mount of an image, by view."""
    fs = image_fs(image, store.index_dir, None)
    return {view: tree_of(fs, view) for view in VIEWS}


def trees_of(layers: Iterable[bytes], folder: Path) -> dict[str, Tree]:
    """Return the whole mount of an image of these layers, which no archive has touched."""
    folder.mkdir(exist_ok=True)
    fs = tars.fs_of(layers, folder)
    return {view: tree_of(fs, view) for view in VIEWS}


def layer_text(image: Image, store: Store) -> str:
    """Return the image's layers.txt."""
    return tars.read(image_fs(image, store.index_dir, None), "layers.txt").decode()
