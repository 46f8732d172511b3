"""An image's view as a tree that programs look into, by path and by node.

Owns how paths are resolved: inside the image only, an absolute link starting at the view's root
and `..` of the root being the root. Knows no command and prints nothing. What goes wrong with a
path is the OSError that the same call on a mount would raise, with the path in it. May be used
from several threads.
"""

import errno
import io
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from imagefs.filesystem import Attr, Entry
from imagefs.image.model import Image
from imagefs.source.opening import SourceRequest
from imagefs.vfs.image_fs import LAYER_XATTR, ImageFs

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
MAX_LINKS = 40
"""Symbolic links that one path may lead through, as on Linux (path_resolution(7))."""
_AT_ONCE = 128 << 10


class Origin(NamedTuple):
    """Where a node comes from: a layer's directory name, and the step that made the layer."""

    layer: str
    step: str


class Walked(NamedTuple):
    """A directory that a walk came to: its path, without a slash before it, node and entries."""

    path: bytes
    node: int
    entries: Sequence[Entry]


class Tree:
    """One view of an image, open until closed. `opening.py` makes them."""

    def __init__(
        self, fs: ImageFs, image: Image, top: int, request: SourceRequest, view: str
    ) -> None:
        self.image = image
        self.view = _named(image, view)
        self.layers = image.layer_names()
        """Directory names of the layers, bottom to top."""
        self.root = fs.view_root(self.view, top)
        """The node of the view's root."""
        self._open: ImageFs | None = fs
        self._top, self._request = top, request
        self._steps = {
            name: layer.created_by for name, layer in zip(self.layers, image.layers, strict=True)
        }

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._request.text == "-":
            raise TypeError("an image from standard input cannot be opened a second time")
        from imagefs.tree.opening import open_tree  # noqa: PLC0415 - it makes trees

        return open_tree, (self._request, self.view)

    def close(self) -> None:
        """Let go of the image; files that are open stay so."""
        self._open = None

    @property
    def fs(self) -> ImageFs:
        """The file system behind the tree, for who goes by nodes; the root's is `root`."""
        if self._open is None:
            raise ValueError("the tree is closed")
        return self._open

    def at(self, view: str) -> "Tree":
        """Return another view of the same image; UsageError if it has none of that name."""
        return Tree(self.fs, self.image, self._top, self._request, view)

    def snapshots(self) -> Sequence[str]:
        """Return the names of the layers up to the view's, bottom to top: of each, `snapshots/`
        has the root as it stood after it. There are none for the layers themselves.
        """
        kind, _, name = self.view.partition("/")
        if kind == "snapshots" and name in self.layers:
            return self.layers[: self.layers.index(name) + 1]
        return self.layers if kind == "rootfs" else ()

    # By path

    def stat(self, path: Path, *, follow: bool = True) -> Attr:
        """Return the attributes of what a path leads to, or of the link that it ends in."""
        return _resolve(self, path, follow=follow)

    def listdir(self, path: Path = "/") -> Sequence[Entry]:
        """Return a directory's entries."""
        attr = self.stat(path)
        if not stat.S_ISDIR(attr.mode):
            raise _error(errno.ENOTDIR, path)
        return self.fs.listdir(attr.node)

    def walk(self, path: Path = "/") -> Iterator[Walked]:
        """Yield a directory and all below it, each before what it holds; never through links."""
        attr = self.stat(path)
        if not stat.S_ISDIR(attr.mode):
            raise _error(errno.ENOTDIR, path)
        fs = self.fs
        waiting = [(os.fsencode(path).strip(b"/"), attr.node)]
        while waiting:
            name, node = waiting.pop()
            entries = fs.listdir(node)
            yield Walked(name, node, entries)
            below = name + b"/" if name else b""
            waiting += [
                (below + entry.name, entry.attr.node)
                for entry in reversed(entries)
                if stat.S_ISDIR(entry.attr.mode)
            ]

    def open(self, path: Path) -> io.BufferedReader:
        """Open a regular file for reading, as a seekable binary file."""
        attr = self.stat(path)
        if not stat.S_ISREG(attr.mode):
            raise _error(errno.EISDIR if stat.S_ISDIR(attr.mode) else errno.EINVAL, path)
        return self.open_node(attr, path)

    def readlink(self, path: Path) -> bytes:
        """Return a symbolic link's target."""
        attr = self.stat(path, follow=False)
        if not stat.S_ISLNK(attr.mode):
            raise _error(errno.EINVAL, path)
        return self.fs.readlink(attr.node)

    def xattrs(self, path: Path, *, follow: bool = True) -> dict[bytes, bytes]:
        """Return the extended attributes."""
        return self.node_xattrs(self.stat(path, follow=follow).node)

    def origin(self, path: Path, *, follow: bool = False) -> Origin | None:
        """Return which layer something comes from; None for what the view itself makes up."""
        return self.node_origin(self.stat(path, follow=follow).node)

    # By node

    def open_node(self, attr: Attr, path: Path = b"") -> io.BufferedReader:
        """Open the regular file that has these attributes; `path` is for messages."""
        return io.BufferedReader(_File(self, attr, path), _AT_ONCE)

    def read(self, attr: Attr, offset: int, size: int, path: Path = b"") -> bytes:
        """Return up to `size` bytes of a regular file, fewer only at its end."""
        try:
            return self.fs.read(attr.node, offset, size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error

    def runs(self, attr: Attr, path: Path = b"") -> Iterator[tuple[int, int]]:
        """Yield where the data of a regular file begins and ends; all else of it is holes."""
        try:
            yield from self.fs.runs(attr.node)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error

    def parent(self, node: int) -> Attr:
        """Return the directory above a directory, which of the root is the root."""
        found = self.fs.lookup(node, b"..") if node != self.root else None
        return found or self.fs.getattr(self.root)

    def node_xattrs(self, node: int) -> dict[bytes, bytes]:
        """Return a node's extended attributes."""
        fs = self.fs
        found = ((name, fs.getxattr(node, name)) for name in sorted(fs.listxattr(node)))
        return {name: value for name, value in found if value is not None}

    def node_origin(self, node: int) -> Origin | None:
        """Return which layer a node comes from; None for what the view itself makes up."""
        found = self.fs.getxattr(node, LAYER_XATTR)
        if found is None:
            return None
        return self.layer(found.decode())

    def layer(self, name: str) -> Origin:
        """Return a layer, by its directory's name, with its step."""
        return Origin(name, self._steps[name])


class _File(io.RawIOBase):
    """A regular file's bytes."""

    def __init__(self, tree: Tree, attr: Attr, path: Path) -> None:
        super().__init__()
        self._fs, self._attr, self._at = tree.fs, attr, 0
        self.name = os.fsdecode(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        try:
            found = self._fs.read(self._attr.node, self._at, len(room))
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from error
        room[: len(found)] = found
        self._at += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            to = self._fs.seek(self._attr.node, offset, whence)
        elif whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            to = (0, self._at, self._attr.size)[whence] + offset
        else:
            raise ValueError(f"whence is {whence}")
        if to < 0:
            raise _error(errno.EINVAL, self.name)
        self._at = to
        return to


def _resolve(tree: Tree, path: Path, *, follow: bool) -> Attr:
    """Walk a path from the root, and never out of it."""
    fs = tree.fs
    name = os.fsencode(path)
    left = [part for part in reversed(name.split(b"/")) if part]
    # A slash behind a name asks for what the name leads to, which is a directory.
    want_directory = name.endswith(b"/")
    at = root = fs.getattr(tree.root)
    links = 0
    while left:
        part = left.pop()
        if not stat.S_ISDIR(at.mode):
            raise _error(errno.ENOTDIR, path)
        found = tree.parent(at.node) if part == b".." else fs.lookup(at.node, part)
        if found is None:
            raise _error(errno.ENOENT, path)
        if stat.S_ISLNK(found.mode) and (left or follow or want_directory):
            links += 1
            if links > MAX_LINKS:
                raise _error(errno.ELOOP, path)
            target = fs.readlink(found.node)
            left += [part for part in reversed(target.split(b"/")) if part]
            at = root if target.startswith(b"/") else at
        else:
            at = found
    if want_directory and not stat.S_ISDIR(at.mode):
        raise _error(errno.ENOTDIR, path)
    return at


def _named(image: Image, view: str) -> str:
    """Return a view's full name, where a layer is told by its number alone: `layers/00`."""
    view = view.strip("/")
    kind, _, number = view.partition("/")
    if not number.isascii() or not number.isdecimal():
        return view
    names: Mapping[int, str] = dict(enumerate(image.layer_names()))
    return f"{kind}/{names.get(int(number), number)}"


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), os.fsdecode(path))
