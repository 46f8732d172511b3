"""What libfuse calls: struct fuse_lowlevel_ops on a `FileSystem`, for libfuse 2 and 3.

Called from libfuse's threads, so that what is slow holds up nobody else; where nothing changes
there is one. Each call replies once, by itself. What is missing here, libfuse answers.

What lets the kernel keep all it has seen is the same as in `session`: there it is told why that is
sound. libfuse 2 knows nothing of kept listings: where directories change, it has the kernel list
them anew.
"""

import errno
import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from ctypes import byref, c_int
from typing import Any

from imagefs.filesystem import NAME_MAX, ROOT_ID, Attr, FileSystem, asker
from imagefs.fuse.invalidate import QuietNotices
from imagefs.fuse.libfuse_library import Library
from imagefs.fuse.libfuse_session import LibfuseSession
from imagefs.fuse.listings import Listings
from imagefs.fuse.replies import BRIEFLY, FOREVER, denial, errno_of
from imagefs.host.processes import is_to_end

_CHANGES = (
    *("setattr", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "write"),
    *("setxattr", "removexattr", "create", "fallocate", "copy_file_range"),
)
_NOTHING = Attr(*(0,) * len(Attr._fields))

_log = logging.getLogger(__name__)


class Calls:
    """The calls of one mount; `ready` is called when the kernel and libfuse have agreed.

    What `ready` raises is in `failure`, and ends the mount. `has_begun` tells that there was one.
    `quiet` knows how much is open, where the kernel does not open by itself.
    """

    def __init__(
        self, fs: FileSystem, library: Library, session: LibfuseSession, ready: Callable[[], None]
    ) -> None:
        self.failure: BaseException | None = None
        self.has_begun = False
        self.quiet = QuietNotices()
        self._fs = fs
        self._library = library
        self._libfuse = library.functions
        self._session = session
        self._ready = ready
        self._all_stable = fs.is_stable(ROOT_ID)
        # Of ENOSYS Linux makes that it may open files by itself, and keep what it has read.
        self._opens_itself = self._all_stable and sys.platform == "linux"
        self._listings = Listings(fs, self._valid, all_stable=self._all_stable)

    def table(self) -> dict[str, Callable[..., None]]:
        """Return all calls, by their names in struct fuse_lowlevel_ops."""
        own: list[Callable[..., None]] = [self._lookup, self._getattr, self._readlink, self._open]
        own += [self._read, self._opendir, self._readdir, self._readdirplus, self._statfs]
        own += [self._getxattr, self._listxattr, self._access, self._lseek]
        calls = {call.__name__[1:]: self._guarded(call) for call in own}
        if not self._all_stable:
            calls["forget"] = self._forget
        if not self._opens_itself:
            calls["release"] = calls["releasedir"] = self._release
        calls["ioctl"] = functools.partial(self._refuse, errno.ENOTTY)
        read_only = functools.partial(self._refuse, errno.EROFS)
        return calls | dict.fromkeys(_CHANGES, read_only) | {"init": self._init}

    def _guarded(self, call: Callable[..., None]) -> Callable[..., None]:
        """Return a call that raises nothing; this is where every error gets its errno."""

        def guarded(request: int, node: int, *args: Any) -> None:
            asker.has_left = functools.partial(self._has_left, request)
            try:
                call(request, node, *args)
                return
            except OSError as error:
                number = errno_of(error)
            except Exception:
                _log.exception("%s of node %#x failed", call.__name__[1:], node)
                number = errno.EIO
            self._libfuse.fuse_reply_err(request, number)

        return guarded

    def _refuse(self, number: int, request: int) -> None:
        self._libfuse.fuse_reply_err(request, number)

    def _init(self, _userdata: int | None, conn: int) -> None:
        self.has_begun = True
        try:
            self._library.agree(conn)
            self._ready()
        except BaseException as failure:
            self.failure = failure
            self._session.exit()

    def _has_left(self, request: int) -> bool:
        """Tell whether who waits for a request's answer is to end, or the mount is."""
        if self._session.has_ended():
            return True
        interrupted = self._libfuse.fuse_req_interrupted(request)
        return bool(interrupted) and is_to_end(self._library.asker(request))

    def _valid(self, node: int) -> int:
        return FOREVER if self._all_stable or self._fs.is_stable(node) else BRIEFLY

    def _refer(self, nodes: Sequence[int], count: int) -> None:
        if nodes and not self._all_stable:
            self._fs.adjust_lookups(filter(None, nodes), count)

    def _lookup(self, request: int, parent: int, name: bytes) -> None:
        if len(name) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "longer than any name")
        attr = self._fs.lookup(parent, name) or _NOTHING
        self._refer((attr.node,), 1)
        entry = self._library.entry(attr, self._valid(parent))
        self._libfuse.fuse_reply_entry(request, entry)

    def _forget(self, request: int, node: int, count: int) -> None:
        try:
            self._refer((node,), -count)
        except Exception:
            _log.exception("forget of node %#x failed", node)
        self._libfuse.fuse_reply_none(request)

    def _getattr(self, request: int, node: int) -> None:
        stat = self._library.stat(self._fs.getattr(node))
        self._libfuse.fuse_reply_attr(request, stat, self._valid(node))

    def _readlink(self, request: int, node: int) -> None:
        self._libfuse.fuse_reply_readlink(request, self._fs.readlink(node))

    def _open(self, request: int, _node: int, info: int) -> None:
        if c_int.from_address(info).value & (os.O_ACCMODE | os.O_TRUNC):
            raise OSError(errno.EROFS, "nothing is written here")
        self._reply_open(request, info, keep=True)

    def _opendir(self, request: int, node: int, info: int) -> None:
        self._reply_open(request, info, keep=self._valid(node) == FOREVER)

    def _reply_open(self, request: int, info: int, *, keep: bool) -> None:
        if self._opens_itself:
            self._libfuse.fuse_reply_err(request, errno.ENOSYS)
            return
        if keep:
            self._library.keep(info)
        self.quiet.opened()
        if self._libfuse.fuse_reply_open(request, info):
            self.quiet.closed()

    def _release(self, request: int) -> None:
        self._libfuse.fuse_reply_err(request, 0)
        self.quiet.closed()

    def _read(self, request: int, node: int, size: int, offset: int) -> None:
        self._reply(request, self._fs.read(node, offset, size))

    def _reply(self, request: int, data: bytes) -> None:
        self._libfuse.fuse_reply_buf(request, data, len(data))

    def _readdir(self, request: int, node: int, size: int, offset: int) -> None:
        self._list(request, node, size, offset, plus=False)

    def _readdirplus(self, request: int, node: int, size: int, offset: int) -> None:
        self._list(request, node, size, offset, plus=True)

    def _list(self, request: int, node: int, size: int, offset: int, *, plus: bool) -> None:
        body, nodes, too_small = self._listings.cut(node, offset, size, plus=plus)
        if too_small:
            raise OSError(errno.EINVAL, "an empty reply would mean the end")
        self._refer(nodes, 1)
        self._reply(request, body)

    def _statfs(self, request: int, _node: int) -> None:
        bsize, blocks, files, namelen = self._fs.statfs()
        fields = {"f_bsize": bsize, "f_frsize": bsize, "f_blocks": blocks}
        fields |= {"f_files": files, "f_namemax": namelen}
        self._libfuse.fuse_reply_statfs(request, byref(self._library.statvfs(fields)))

    def _getxattr(self, request: int, node: int, name: bytes, size: int) -> None:
        value = self._fs.getxattr(node, name)
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        self._xattr(request, value, size)

    def _listxattr(self, request: int, node: int, size: int) -> None:
        names = self._fs.listxattr(node)
        self._xattr(request, b"".join(name + b"\0" for name in names), size)

    def _xattr(self, request: int, value: bytes, size: int) -> None:
        """Give an attribute's value, or its size where `size` is 0, as getxattr(2) has it."""
        if not size:
            self._libfuse.fuse_reply_xattr(request, len(value))
        elif len(value) > size:
            raise OSError(errno.ERANGE, "longer than the room for it")
        else:
            self._reply(request, value)

    def _access(self, request: int, node: int, mask: int) -> None:
        self._libfuse.fuse_reply_err(request, denial(self._fs.getattr(node).mode, mask))

    def _lseek(self, request: int, node: int, offset: int, whence: int) -> None:
        self._libfuse.fuse_reply_lseek(request, self._fs.seek(node, offset, whence))
