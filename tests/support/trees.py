"""Trees of images that no archive has touched, and what a disk says of a directory."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imagefs.filesystem import ROOT_ID
from imagefs.image.model import Image
from imagefs.index import cache as index_cache
from imagefs.source.opening import SourceRequest
from imagefs.tree.tree import Tree
from imagefs.vfs.image_fs import ImageFs, image_fs
from tests.support.tars import image_of


def tree_of_image(image: Image, fs: ImageFs, view: str = "rootfs") -> Tree:
    """Return a view of an image that a file system shows."""
    return Tree(fs, image, ROOT_ID, SourceRequest("-"), view)


def tree_of_layers(layers: Iterable[bytes], folder: Path, view: str = "rootfs") -> Tree:
    """Return a view of an image of these layers; `folder` takes tars and indexes."""
    folder.mkdir(exist_ok=True)
    image = image_of(layers, folder)
    for one in image.layers:
        index_cache.build(one, folder)
    return tree_of_image(image, image_fs(image, folder), view)


def names_on_disk(root: Path) -> list[bytes]:
    """Return the paths of all below a directory of this machine, sorted."""
    top = os.fsencode(root)
    return sorted(
        os.path.relpath(os.path.join(folder, name), top)
        for folder, folders, files in os.walk(top)
        for name in folders + files
    )


def names_in(tree: Tree) -> list[bytes]:
    """Return the paths of all below a tree's root, sorted."""
    return sorted(
        (walked.path + b"/" + name).lstrip(b"/")
        for walked in tree.walk()
        for name, _ in walked.entries
    )


Told = dict[bytes, tuple[Any, ...]]
"""By path: kind and mode, owner, size, times, what it holds or leads to, attributes, and its other
names by the first of them."""


def told_by_disk(root: Path | bytes) -> Told:
    """Return what a directory of this machine says of all below it."""
    found: Told = {}
    first: dict[int, bytes] = {}
    top = os.fsencode(root)
    for directory, folders, files in os.walk(top):
        for name in sorted(folders + files):
            place = os.path.join(directory, name)
            status = os.lstat(place)
            kind, content = stat.S_IFMT(status.st_mode), b""
            if kind == stat.S_IFLNK:
                content = os.readlink(place)
            elif kind == stat.S_IFREG:
                content = Path(os.fsdecode(place)).read_bytes()
            names = os.listxattr(place, follow_symlinks=False)
            path = os.path.relpath(place, top)
            found[path] = (
                kind,
                None if kind == stat.S_IFLNK else stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
                content,
                {os.fsencode(one): os.getxattr(place, one, follow_symlinks=False) for one in names},
                path if kind == stat.S_IFDIR else first.setdefault(status.st_ino, path),
            )
    return found


def told_by_tree(tree: Tree) -> Told:
    """Return what a tree says of all below its root, in the words of `told_by_disk`."""
    found: Told = {}
    first: dict[int, bytes] = {}
    for walked in tree.walk():
        for name, attr in walked.entries:
            path = walked.path + b"/" + name if walked.path else name
            kind, content = stat.S_IFMT(attr.mode), b""
            if kind == stat.S_IFLNK:
                content = tree.fs.readlink(attr.node)
            elif kind == stat.S_IFREG:
                content = tree.read(attr, 0, attr.size, path)
            found[path] = (
                kind,
                None if kind == stat.S_IFLNK else stat.S_IMODE(attr.mode),
                attr.uid,
                attr.gid,
                attr.mtime * 10**9 + attr.mtimensec,
                attr.rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
                content,
                tree.node_xattrs(attr.node),
                path if kind == stat.S_IFDIR else first.setdefault(attr.node, path),
            )
    return found
