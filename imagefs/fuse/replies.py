"""Replies that need no file system: how they are framed, and what is answered out of hand.

A reply is the tuple of buffers to be written in one go; the empty tuple means that the kernel
awaits none. Pure functions and tables, for any thread.
"""

import errno
import os
import stat
from collections.abc import Callable

from imagefs.fuse import abi

Reply = tuple[bytes, ...]
Handler = Callable[[int, int, bytes], Reply]
"""Takes the request's number, its node and its bytes."""

BODY = 40
"""Where a request's own struct begins, behind struct fuse_in_header."""

FOREVER = 2**63 - 1
"""Seconds that the kernel may keep what never changes; it clamps the number itself."""
BRIEFLY = 1
"""Seconds that it may keep what does change."""
BLKSIZE = 4096
"""The st_blksize of every file."""

LARGEST_READ = 1 << 19
"""Bytes that one READ may ask for. A pipe holds as much, wherever in a page it begins."""

out_header = abi.OUT_HEADER.pack


def failed(unique: int, number: int) -> Reply:
    """Return the reply that fails a request with an errno."""
    return (out_header(16, -number, unique),)


def errno_of(error: OSError) -> int:
    """Return the errno that the kernel gets to see for an error of the file system.

    It leaves the asker waiting when the number is out of range, and takes ENOSYS to mean that the
    whole mount lacks the operation.
    """
    number = error.errno
    return number if number and 0 < number < 512 and number != errno.ENOSYS else errno.EIO


def denial(mode: int, mask: int) -> int:
    """Return what stands against an access(2) of this mask to a file of this mode, or 0.

    Only for mounts without default_permissions, whose owner may read all. ENOSYS, which spares
    the kernel the question, would have it call every file executable.
    """
    if mask & os.X_OK and not mode & 0o111 and not stat.S_ISDIR(mode):
        return errno.EACCES
    stored = stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
    return errno.EROFS if mask & os.W_OK and stored else 0


def done(unique: int, body: bytes) -> Reply:
    """Return the reply of a request that went well."""
    return (out_header(16 + len(body), 0, unique), body)


def xattr(unique: int, value: bytes, size: int) -> Reply:
    """Return an attribute's value, or its size where `size` is 0, as getxattr(2) has it."""
    if size == 0:
        return done(unique, abi.GETXATTR_OUT.pack(len(value)))
    if len(value) > size:
        return failed(unique, errno.ERANGE)
    return done(unique, value)


def opened(unique: int, by_itself: bool) -> Reply:
    """Return the reply to an open: ENOSYS where the kernel then does it `by_itself`."""
    if by_itself:
        return failed(unique, errno.ENOSYS)
    return done(unique, abi.OPEN_OUT.pack(0, abi.FOPEN_KEEP_CACHE | abi.FOPEN_CACHE_DIR))


def _silence(_unique: int, _node: int, _request: bytes) -> Reply:
    return ()


def _agree(unique: int, _node: int, _request: bytes) -> Reply:
    return done(unique, b"")


def _not_a_device(unique: int, _node: int, _request: bytes) -> Reply:
    return failed(unique, errno.ENOTTY)


def _read_only(unique: int, _node: int, _request: bytes) -> Reply:
    return failed(unique, errno.EROFS)


def unknown(unique: int, _node: int, _request: bytes) -> Reply:
    """Answer an opcode that is in no table: the kernel does without it from then on.

    Some are left out for that: STATX, which only adds birth times, FLUSH, FSYNC, POLL and locks.
    """
    return failed(unique, errno.ENOSYS)


OUT_OF_HAND: dict[int, Handler] = {
    abi.FUSE_FORGET: _silence,  # node ids need no upkeep
    abi.FUSE_BATCH_FORGET: _silence,
    abi.FUSE_NOTIFY_REPLY: _silence,
    abi.FUSE_RELEASE: _agree,
    abi.FUSE_RELEASEDIR: _agree,
    abi.FUSE_DESTROY: _agree,
    abi.FUSE_IOCTL: _not_a_device,
    abi.FUSE_SETATTR: _read_only,
    abi.FUSE_SYMLINK: _read_only,
    abi.FUSE_MKNOD: _read_only,
    abi.FUSE_MKDIR: _read_only,
    abi.FUSE_UNLINK: _read_only,
    abi.FUSE_RMDIR: _read_only,
    abi.FUSE_RENAME: _read_only,
    abi.FUSE_RENAME2: _read_only,
    abi.FUSE_LINK: _read_only,
    abi.FUSE_WRITE: _read_only,
    abi.FUSE_SETXATTR: _read_only,
    abi.FUSE_REMOVEXATTR: _read_only,
    abi.FUSE_CREATE: _read_only,
    abi.FUSE_FALLOCATE: _read_only,
    abi.FUSE_COPY_FILE_RANGE: _read_only,
    abi.FUSE_COPY_FILE_RANGE_64: _read_only,
    abi.FUSE_TMPFILE: _read_only,
}
