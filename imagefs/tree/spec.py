"""An image as a file system of fsspec: `imagefs://rootfs/etc/passwd::file://app.tar`.

Needs the package fsspec, which `imagefs[fsspec]` brings; nobody here imports this module. Paths
begin with a view, as on a mount: `rootfs`, `layers/NN-...` or `snapshots/NN-...`. Links are
followed inside the image, but a listing tells of a link to a directory as a link, so that whoever
walks a tree comes to each directory once. May be used from several threads.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NoReturn
from weakref import finalize

import fsspec
from fsspec.spec import AbstractFileSystem

from imagefs.errors import UsageError
from imagefs.filesystem import Attr
from imagefs.tree.opening import open_image
from imagefs.tree.tree import Tree

_LOCAL = (None, "file", "local")
Info = dict[str, Any]


class ImageFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """A read-only file system of an image.

    The image is `source`, as SOURCE of the command, or what a chained URL leads to: `fo`, a path of
    `target_protocol`, which is brought here whole unless it is this machine's. The other options
    are those of `imagefs.open_image`: `image`, `platform`, `host`, `keep_going`, `verify`.
    """

    protocol = "imagefs"
    root_marker = ""
    # An archive may be another by the next time that somebody names it.
    cachable = False

    def __init__(
        self,
        source: str | os.PathLike[str] | None = None,
        fo: str | os.PathLike[str] | None = None,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        own = ("host", "platform", "image", "keep_going", "verify", "max_layer_bytes")
        asked = {name: options.pop(name) for name in own if name in options}
        super().__init__(**options)
        found = source if source is not None else fo
        if found is None:
            raise UsageError("which image? say source=..., or chain a URL behind this one")
        if source is None and target_protocol not in _LOCAL:
            fetched = mkdtemp(prefix="imagefs-")
            # Nobody closes a file system of fsspec: what it has fetched goes with it.
            finalize(self, shutil.rmtree, fetched, ignore_errors=True)
            found = str(Path(fetched) / "image")
            fsspec.filesystem(target_protocol, **(target_options or {})).get_file(fo, found)
        self.tree: Tree = open_image(found, "", **asked)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.lstrip("/") if isinstance(stripped, str) else stripped

    def info(self, path: str, **_: Any) -> Info:
        """Return what is known of a path; of a link, what it leads to, and that it is one."""
        path = self._strip_protocol(path)
        found = self._info(path, self.tree.stat(path, follow=False))
        if found["islink"]:
            # Who names a link to a directory means the directory.
            attr = self.tree.stat(path)
            found["type"] = _type(attr)
        return found

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return what a directory holds, or the file alone: names, or what is known of each."""
        path = self._strip_protocol(path)
        found = list(self._listed(path))
        return found if detail else [one["name"] for one in found]

    def _listed(self, path: str) -> Iterator[Info]:
        if not stat.S_ISDIR(self.tree.stat(path).mode):
            yield self.info(path)
            return
        above = f"{path}/" if path else ""
        for name, attr in self.tree.listdir(path):
            yield self._info(above + os.fsdecode(name), attr)

    def _info(self, path: str, attr: Attr) -> Info:
        """Return what is known of something; of a link to a file, the file's size."""
        tree, is_link = self.tree, stat.S_ISLNK(attr.mode)
        origin = tree.node_origin(attr.node)
        kind, size = _type(attr), attr.size if stat.S_ISREG(attr.mode) else 0
        more: Info = {}
        if is_link:
            more["destination"] = os.fsdecode(tree.fs.readlink(attr.node))
            try:
                seen = tree.stat(path)
            except OSError:
                kind = "link"
            else:
                kind, size = _type(seen), seen.size if stat.S_ISREG(seen.mode) else 0
                kind = "link" if kind == "directory" else kind
        return {
            "name": path,
            "size": size,
            "type": kind,
            "mode": attr.mode,
            "uid": attr.uid,
            "gid": attr.gid,
            "mtime": attr.mtime + attr.mtimensec / 1e9,
            "ino": attr.ino,
            "nlink": attr.nlink,
            "islink": is_link,
            "layer": origin.layer if origin else None,
            **more,
        }

    def modified(self, path: str) -> datetime:
        """Return when a file was modified, in UTC."""
        attr = self.tree.stat(self._strip_protocol(path))
        return datetime.fromtimestamp(attr.mtime + attr.mtimensec / 1e9, UTC)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            _refuse(path)
        return self.tree.open(path)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Return a file's bytes, or some of them, as a slice has them; one read of the archive."""
        path = self._strip_protocol(path)
        attr = self.tree.stat(path)
        if not stat.S_ISREG(attr.mode):
            number = errno.EISDIR if stat.S_ISDIR(attr.mode) else errno.EINVAL
            raise OSError(number, os.strerror(number), path)
        first, last, _step = slice(start, end).indices(attr.size)
        return self.tree.read(attr, first, max(0, last - first), os.fsencode(path))

    # What a file system that can be written to would do

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(path)

    def rmdir(self, path: str) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(path)

    def _rm(self, path: str) -> NoReturn:
        _refuse(path)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(path)

    def cp_file(self, path1: str, path2: str, **_: Any) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(path2)

    def mv(self, path1: str, path2: str, *_: Any, **__: Any) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(path1)

    def put_file(self, lpath: str, rpath: str, *_: Any, **__: Any) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(rpath)

    def pipe_file(self, path: str, value: bytes, *_: Any, **__: Any) -> NoReturn:
        """Raise OSError EROFS."""
        _refuse(path)


def _type(attr: Attr) -> str:
    """Return what fsspec calls a kind of file."""
    if stat.S_ISDIR(attr.mode):
        return "directory"
    return "file" if stat.S_ISREG(attr.mode) else "other"


def _refuse(path: Any) -> NoReturn:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
