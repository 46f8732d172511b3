"""The FUSE protocol without a kernel: the bytes of one request in, the bytes of its reply out.

A `Session` owns the conversation with the kernel over one mount: what INIT agreed on, and the
listings of directories that are being read. It does no input or output of its own and knows
nothing of devices, mounts and signals; everything it tells the kernel it asks of its
`FileSystem`. `handle` may be called from several threads at once.

Two choices make it fast, and both are sound only because images never change. What lies in a
stable directory is cached by the kernel without end, names that are not there included. And OPEN
and OPENDIR are answered ENOSYS, upon which the kernel opens files by itself and keeps the pages
and the listings it has read. Directories that do change get short timeouts, and
FUSE_AUTO_INVAL_DATA has the kernel drop a kept listing as soon as the directory's mtime differs.

A stable directory holds only stable nodes. Thus where the root is stable all is, and `is_stable`
is not asked again.
"""

import errno
import logging
import os
import struct
from collections.abc import Callable

from imagefs.filesystem import NAME_MAX, ROOT_ID, FileSystem
from imagefs.fuse import abi, replies
from imagefs.fuse.listings import Listings, nodes_in
from imagefs.fuse.replies import (
    BLKSIZE,
    BODY,
    BRIEFLY,
    FOREVER,
    Handler,
    Reply,
    done,
    errno_of,
    failed,
)

_MAX_PAGES = replies.LARGEST_READ // os.sysconf("SC_PAGE_SIZE")
_MAX_BACKGROUND = 64
_LARGE = 1 << 17
_OLDEST_MINOR = 31
_WANTED = (
    abi.FUSE_ASYNC_READ
    | abi.FUSE_EXPORT_SUPPORT
    | abi.FUSE_AUTO_INVAL_DATA
    | abi.FUSE_DO_READDIRPLUS
    | abi.FUSE_NO_OPEN_SUPPORT
    | abi.FUSE_PARALLEL_DIROPS
    | abi.FUSE_MAX_PAGES
    | abi.FUSE_CACHE_SYMLINKS
    | abi.FUSE_NO_OPENDIR_SUPPORT
)
_UNANSWERED = {abi.FUSE_FORGET, abi.FUSE_BATCH_FORGET, abi.FUSE_INTERRUPT}

_log = logging.getLogger(__name__)
_in_header = abi.IN_HEADER.unpack_from
_read_in = abi.READ_IN.unpack_from
_out_header = abi.OUT_HEADER.pack
_entry_reply = abi.ENTRY_REPLY.pack
_attr_reply = abi.ATTR_REPLY.pack


class Session:
    """One mount's conversation with the kernel.

    `minor` is the protocol's minor version once INIT has agreed on one, and None before. `on_read`
    is called before a READ of a file's beginning is replied to. `answer_large` may answer a READ
    by itself, given its number, node, offset and size, and tells whether it did. `on_interrupt` is
    given the number of a request whose asker has got a signal. With `all_stable` nothing in the
    file system changes.
    """

    def __init__(self, fs: FileSystem) -> None:
        self.minor: int | None = None
        self._fs = fs
        self._fs_lookup = fs.lookup
        self._fs_getattr = fs.getattr
        self._fs_read = fs.read
        self.on_read: Callable[[int], None] = lambda node: None
        self.answer_large: Callable[[int, int, int, int], bool] = lambda *_: False
        self.on_interrupt: Callable[[int], None] = lambda number: None
        self._opens_itself = self._opens_dirs_itself = False
        self.all_stable = fs.is_stable(ROOT_ID)
        self._listings = Listings(fs, self._valid, all_stable=self.all_stable)
        self.can_prepare = self._listings.can_prepare
        self._handlers: dict[int, Handler] = replies.OUT_OF_HAND | {
            abi.FUSE_INIT: self._init,
            abi.FUSE_LOOKUP: self._lookup,
            abi.FUSE_GETATTR: self._getattr,
            abi.FUSE_READLINK: self._readlink,
            abi.FUSE_OPEN: self._open,
            abi.FUSE_READ: self._read,
            abi.FUSE_LSEEK: self._lseek,
            abi.FUSE_OPENDIR: self._opendir,
            abi.FUSE_READDIR: self._readdir,
            abi.FUSE_READDIRPLUS: self._readdirplus,
            abi.FUSE_GETXATTR: self._getxattr,
            abi.FUSE_LISTXATTR: self._listxattr,
            abi.FUSE_STATFS: self._statfs,
            abi.FUSE_ACCESS: self._access,
            abi.FUSE_INTERRUPT: self._interrupt,
        }
        if not self.all_stable:
            self._handlers[abi.FUSE_FORGET] = self._forget
            self._handlers[abi.FUSE_BATCH_FORGET] = self._batch_forget

    def handle(self, request: bytes) -> Reply:
        """Return the buffers that make up the reply; none where the kernel awaits no reply.

        This is where every error gets its errno. Nothing that a request holds, and nothing that
        the `FileSystem` raises, leaves here as an exception.
        """
        try:
            length, opcode, unique, node = _in_header(request)
        except struct.error:
            _log.error("a request of %d bytes is too short to be answered", len(request))
            return ()
        try:
            if length != len(request):
                raise OSError(errno.EINVAL, "length differs from the header's")
            return self._handlers.get(opcode, replies.unknown)(unique, node, request)
        except OSError as error:
            number = errno_of(error)
        except Exception:
            _log.exception("request of opcode %d on node %#x failed", opcode, node)
            number = errno.EIO
        return () if opcode in _UNANSWERED else failed(unique, number)

    def prepare(self) -> bool:
        """Do a little of what will probably be asked for soon; tell whether there was any."""
        try:
            return self._listings.prepare()
        except Exception:
            _log.debug("a directory could not be prepared", exc_info=True)
            return False

    def undelivered(self, request: bytes, reply: Reply) -> None:
        """Give back what a reply referred to, since the kernel has not taken it."""
        if self.all_stable or not reply or abi.OUT_HEADER.unpack_from(reply[0])[1]:
            return
        opcode = _in_header(request)[1]
        if opcode == abi.FUSE_LOOKUP:
            self._fs.adjust_lookups(filter(None, abi.ENTRY_NODE.unpack_from(reply[0])), -1)
        elif opcode == abi.FUSE_READDIRPLUS:
            self._fs.adjust_lookups(nodes_in(reply[1]), -1)

    def _init(self, unique: int, _node: int, request: bytes) -> Reply:
        major, minor, max_readahead, offered = abi.INIT_IN.unpack_from(request, BODY)
        if (major, minor) < (abi.FUSE_KERNEL_VERSION, _OLDEST_MINOR):
            return failed(unique, errno.EPROTO)
        agreed = abi.FUSE_KERNEL_MINOR_VERSION
        if major == abi.FUSE_KERNEL_VERSION:  # a later major asks again, in the older way
            agreed = self.minor = min(minor, agreed)
        self._opens_itself = bool(offered & abi.FUSE_NO_OPEN_SUPPORT)
        self._opens_dirs_itself = bool(offered & abi.FUSE_NO_OPENDIR_SUPPORT)
        body = abi.INIT_OUT.pack(
            abi.FUSE_KERNEL_VERSION,
            agreed,
            max_readahead,
            offered & _WANTED,
            _MAX_BACKGROUND,
            _MAX_BACKGROUND * 3 // 4,
            BLKSIZE,  # max_write: nothing is written, so that requests fit a small buffer
            1,  # time_gran, in nanoseconds
            _MAX_PAGES,
        )
        return done(unique, body)

    # The arguments of the long packs stand in the order of the kernel's structs, a line or two
    # a struct. A call without a star in it is a fifth faster: thus "fmt: skip".

    def _lookup(self, unique: int, parent: int, request: bytes) -> Reply:
        attr = self._fs_lookup(parent, _name(request, BODY))
        valid = FOREVER if self.all_stable else self._valid(parent)
        if attr is None:
            return (abi.NEGATIVE_REPLY.pack(144, 0, unique, 0, valid),)
        node, ino, mode, nlink, uid, gid, rdev, size, blocks, mtime, nsec = attr
        attr_valid = valid
        if not self.all_stable:
            attr_valid = valid if valid == FOREVER else self._valid(node)
            self._fs.adjust_lookups((node,), 1)
        return (_entry_reply(
            144, 0, unique, node, valid, attr_valid,
            ino, size, blocks, mtime, mtime, mtime, nsec, nsec, nsec,
            mode, nlink, uid, gid, rdev, BLKSIZE,
        ),)  # fmt: skip

    def _getattr(self, unique: int, node: int, _request: bytes) -> Reply:
        attr = self._fs_getattr(node)
        _, ino, mode, nlink, uid, gid, rdev, size, blocks, mtime, nsec = attr
        return (_attr_reply(
            120, 0, unique, self._valid(node),
            ino, size, blocks, mtime, mtime, mtime, nsec, nsec, nsec,
            mode, nlink, uid, gid, rdev, BLKSIZE,
        ),)  # fmt: skip

    def _valid(self, node: int) -> int:
        return FOREVER if self.all_stable or self._fs.is_stable(node) else BRIEFLY

    def _read(self, unique: int, node: int, request: bytes) -> Reply:
        offset, size = _read_in(request, BODY)
        if size >= _LARGE:
            return self._read_large(unique, node, offset, size)
        data = self._fs_read(node, offset, size)
        if not offset:
            self.on_read(node)
        return (_out_header(16 + len(data), 0, unique), data)

    def _read_large(self, unique: int, node: int, offset: int, size: int) -> Reply:
        if not offset:
            self.on_read(node)
        if self.answer_large(unique, node, offset, size):
            return ()
        return done(unique, self._fs_read(node, offset, size))

    def _readdirplus(self, unique: int, node: int, request: bytes) -> Reply:
        offset, room = _read_in(request, BODY)
        body, nodes, too_small = self._listings.cut(node, offset, room, plus=True)
        if nodes:
            self._fs.adjust_lookups(filter(None, nodes), 1)
        return _directory(unique, body, too_small=too_small)

    def _readdir(self, unique: int, node: int, request: bytes) -> Reply:
        offset, room = _read_in(request, BODY)
        body, _, too_small = self._listings.cut(node, offset, room, plus=False)
        return _directory(unique, body, too_small=too_small)

    def _forget(self, _unique: int, node: int, request: bytes) -> Reply:
        (count,) = abi.FORGET_IN.unpack_from(request, BODY)
        self._fs.adjust_lookups((node,), -count)
        return ()

    def _batch_forget(self, _unique: int, _node: int, request: bytes) -> Reply:
        (count,) = abi.BATCH_FORGET_IN.unpack_from(request, BODY)
        start = BODY + abi.BATCH_FORGET_IN.size
        end = min(len(request), start + count * abi.FORGET_ONE.size)
        for node, lookups in abi.FORGET_ONE.iter_unpack(request[start:end]):
            self._fs.adjust_lookups((node,), -lookups)
        return ()

    def _readlink(self, unique: int, node: int, _request: bytes) -> Reply:
        return done(unique, self._fs.readlink(node))

    def _getxattr(self, unique: int, node: int, request: bytes) -> Reply:
        (size,) = abi.GETXATTR_IN.unpack_from(request, BODY)
        value = self._fs.getxattr(node, _name(request, BODY + abi.GETXATTR_IN.size))
        if value is None:
            return failed(unique, errno.ENODATA)
        return replies.xattr(unique, value, size)

    def _listxattr(self, unique: int, node: int, request: bytes) -> Reply:
        (size,) = abi.GETXATTR_IN.unpack_from(request, BODY)
        names = b"".join(name + b"\0" for name in self._fs.listxattr(node))
        return replies.xattr(unique, names, size)

    def _lseek(self, unique: int, node: int, request: bytes) -> Reply:
        offset, whence = abi.LSEEK_IN.unpack_from(request, BODY)
        return done(unique, abi.LSEEK_OUT.pack(self._fs.seek(node, offset, whence)))

    def _statfs(self, unique: int, _node: int, _request: bytes) -> Reply:
        bsize, blocks, files, namelen = self._fs.statfs()
        return done(unique, abi.STATFS_OUT.pack(blocks, 0, 0, files, 0, bsize, namelen, bsize))

    def _access(self, unique: int, node: int, request: bytes) -> Reply:
        (mask,) = abi.ACCESS_IN.unpack_from(request, BODY)
        return failed(unique, replies.denial(self._fs_getattr(node).mode, mask))

    def _interrupt(self, _unique: int, _node: int, request: bytes) -> Reply:
        self.on_interrupt(*abi.INTERRUPT_IN.unpack_from(request, BODY))
        return ()

    def _open(self, unique: int, _node: int, request: bytes) -> Reply:
        (flags,) = abi.OPEN_IN.unpack_from(request, BODY)
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            return failed(unique, errno.EROFS)
        return replies.opened(unique, self._opens_itself)

    def _opendir(self, unique: int, _node: int, _request: bytes) -> Reply:
        return replies.opened(unique, self._opens_dirs_itself)


def _directory(unique: int, body: bytes, *, too_small: bool) -> Reply:
    if too_small:
        return failed(unique, errno.EINVAL)  # since an empty reply means the end
    return done(unique, body)


def _name(request: bytes, start: int) -> bytes:
    if request[-1] or len(request) < start + 2:
        raise OSError(errno.EINVAL, "a name is missing, or its NUL")
    if len(request) > start + 1 + NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "longer than any name")
    return request[start:-1]
