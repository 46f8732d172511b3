"""What libfuse calls: struct fuse_operations on a `FileSystem`, for libfuse 2 and 3.

Called from libfuse's threads, so that what is slow holds up nobody else; where nothing changes
there is one. Paths are bytes and pointers are addresses, which `Library` knows to read. What is
missing here, libfuse answers by itself.
"""

import ctypes
import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from imagefs.filesystem import ROOT_ID, Attr, FileSystem, asker
from imagefs.fuse.libfuse_library import Library
from imagefs.fuse.paths import Paths
from imagefs.fuse.replies import denial, errno_of
from imagefs.host.processes import is_to_end

_CHANGES = (
    *("mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "chmod", "chown"),
    *("truncate", "ftruncate", "write", "create", "utimens", "setxattr", "removexattr"),
    "fallocate",
)

_log = logging.getLogger(__name__)


class Calls:
    """The calls of one mount; `ready` is called when the kernel and libfuse have agreed.

    What `ready` raises is in `failure`, and ends the mount. `has_begun` tells that there was one.
    """

    def __init__(self, fs: FileSystem, library: Library, ready: Callable[[], None]) -> None:
        self.failure: BaseException | None = None
        self.has_begun = False
        self._fs = fs
        self._library = library
        self._ready = ready
        self._all_stable = fs.is_stable(ROOT_ID)
        # Of ENOSYS Linux makes that it may open files by itself, and keep what it has read.
        self._opens_itself = self._all_stable and sys.platform == "linux"
        self._find = Paths(fs, self._all_stable).find
        self._stat = library.stat
        # Of directories that are open, as libfuse 3 may take them in parts.
        self._listings: dict[int, list[tuple[bytes, Attr]]] = {}

    def table(self) -> dict[str, Callable[..., Any]]:
        """Return all calls, by their names in struct fuse_operations."""
        own: list[Callable[..., int | None]] = [self._getattr, self._access, self._opendir]
        own += [self._releasedir, self._readdir, self._readlink, self._open, self._read]
        own += [self._lseek, self._getxattr, self._listxattr, self._statfs]
        calls = {call.__name__[1:]: self._guarded(call) for call in own}
        calls["release"] = calls["releasedir"]
        calls["fgetattr"] = calls["getattr"]
        return calls | dict.fromkeys(_CHANGES, _read_only) | {"init": self._init}

    def _guarded(self, call: Callable[..., int | None]) -> Callable[..., int]:
        """Return a call that raises nothing; this is where every error gets its errno."""

        def guarded(path: bytes, *args: Any) -> int:
            asker.has_left = self._has_left
            try:
                return call(path, *args) or 0
            except OSError as error:
                return -errno_of(error)
            except Exception:
                _log.exception("%s of %s failed", call.__name__[1:], ascii(path))
                return -errno.EIO

        return guarded

    def _init(self, conn: int, config: int | None = None) -> None:
        self.has_begun = True
        try:
            if config:
                self._library.agree(conn, config)
            self._ready()
        except BaseException as failure:
            self.failure = failure
            self._library.end(self._library.context()[0])

    def _has_left(self) -> bool:
        """Tell whether who waits for this thread's call is to end, or the mount is."""
        fuse, pid = self._library.context()
        if self._library.has_ended(fuse):
            return True
        return self._library.is_interrupted() and is_to_end(pid)

    def _node(self, path: bytes, info: int | None) -> int:
        """Return the node that is open, or what the path names: the kernel opens by itself."""
        return self._library.handle(info) or self._find(path).node

    def _getattr(self, path: bytes, buffer: int, info: int | None = None) -> None:
        handle = self._library.handle(info) if info else 0
        stat = self._stat(self._fs.getattr(handle) if handle else self._find(path))
        ctypes.memmove(buffer, stat, len(stat))

    def _access(self, path: bytes, mask: int) -> int:
        return -denial(self._find(path).mode, mask)

    def _opendir(self, path: bytes, info: int) -> None:
        node = self._find(path).node
        # An open file is all that refers to a node: paths are walked anew.
        self._refer(node, 1)
        self._library.opened(info, node, self._all_stable)

    def _releasedir(self, _path: bytes, info: int) -> None:
        node = self._library.handle(info)
        # Who else lists it makes the listing anew.
        self._listings.pop(node, None)
        self._refer(node, -1)

    def _refer(self, node: int, count: int) -> None:
        if not self._all_stable:
            self._fs.adjust_lookups((node,), count)

    def _readdir(
        self, _path: bytes, buffer: int, filler: int, offset: int, info: int, flags: int = 0
    ) -> None:
        node = self._library.handle(info)
        entries = self._listings.get(node) if offset else None
        if entries is None:
            own = self._fs.getattr(node)
            above = self._fs.lookup(node, b"..") or own
            entries = [(b".", own), (b"..", above), *self._fs.listdir(node)]
            self._listings[node] = entries
        self._library.fill(filler, buffer, entries, offset, flags)

    def _readlink(self, path: bytes, buffer: int, size: int) -> None:
        target = self._fs.readlink(self._find(path).node)[: size - 1] + b"\0"
        ctypes.memmove(buffer, target, len(target))

    def _open(self, path: bytes, info: int) -> int:
        if ctypes.c_int.from_address(info).value & (os.O_ACCMODE | os.O_TRUNC):
            return -errno.EROFS
        if self._opens_itself:
            return -errno.ENOSYS
        self._opendir(path, info)
        return 0

    def _read(self, path: bytes, buffer: int, size: int, offset: int, info: int) -> int:
        data = self._fs.read(self._node(path, info), offset, size)
        ctypes.memmove(buffer, data, len(data))
        return len(data)

    def _lseek(self, path: bytes, offset: int, whence: int, info: int) -> int:
        return self._fs.seek(self._node(path, info), offset, whence)

    def _getxattr(self, path: bytes, name: bytes, buffer: int, size: int, *_position: int) -> int:
        value = self._fs.getxattr(self._find(path).node, name)
        return -errno.ENODATA if value is None else _xattr(value, buffer, size)

    def _listxattr(self, path: bytes, buffer: int, size: int) -> int:
        names = self._fs.listxattr(self._find(path).node)
        return _xattr(b"".join(name + b"\0" for name in names), buffer, size)

    def _statfs(self, _path: bytes, buffer: int) -> None:
        bsize, blocks, files, namelen = self._fs.statfs()
        fields = {"f_bsize": bsize, "f_frsize": bsize, "f_blocks": blocks}
        self._library.statvfs(buffer, fields | {"f_files": files, "f_namemax": namelen})


def _read_only(*_args: Any) -> int:
    return -errno.EROFS


def _xattr(value: bytes, buffer: int, size: int) -> int:
    """Give an attribute's value, or its size alone where `size` is 0, as getxattr(2) has it."""
    if size and len(value) > size:
        return -errno.ERANGE
    if size:
        ctypes.memmove(buffer, value, len(value))
    return len(value)
