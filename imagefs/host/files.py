"""Files that appear whole or not at all, and locks that die with their holder.

Owns the few steps that make a write safe (temporary name, fsync, rename, fsync of the directory)
and flock(2); knows nothing of what is in the files. Any thread may call it: each lock is a file
description of its own, so threads exclude each other as processes do.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from imagefs.errors import CorruptArchive, HostError
from imagefs.image.model import Blob
from imagefs.text import size_text

MAKE_ROOM = "`imagefs cache prune` makes room, IMAGEFS_CACHE moves the cache"
"""What helps where the cache's disk is full."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
NO_MORE_FILES = {errno.EMFILE, errno.ENFILE}
"""What says that no file can be opened, whatever file it is."""


class NoHomeError(HostError):
    """There is nowhere to keep what is the user's own."""


def user_path(kind: str) -> Path:
    """Return our directory of the user's own of a kind, `cache` or `state`; NoHomeError if none."""
    import platformdirs  # noqa: PLC0415 - not needed where a variable of ours says where

    own = {"cache": platformdirs.user_cache_path, "state": platformdirs.user_state_path}[kind]
    try:
        path = own("imagefs")
    except RuntimeError:
        path = Path("~")
    if not path.is_absolute():
        raise NoHomeError("you have no home directory; set HOME, or IMAGEFS_CACHE to a directory")
    return path


@contextmanager
def host_errors(path: Path, doing: str = "") -> Iterator[None]:
    """Turn an OSError of the block into a HostError that names `path` and what would help.

    `doing` is what could not be done, as `cannot write the index `.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or path
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            reason += f"{_left(Path(os.fsdecode(place)), error.errno)}; {MAKE_ROOM}"
        if error.errno in NO_MORE_FILES:
            reason += "; each layer of a mount takes two, and `ulimit -n` says how many there are"
        raise HostError(f"{doing}{os.fsdecode(place)}: {reason}") from error


def _left(path: Path, error: int | None) -> str:
    """Return what the file system of a path that may be gone has left, as part of a sentence."""
    with suppress(OSError):
        path = path.absolute()
        there = next(one for one in (path, *path.parents) if one.exists())
        disk = os.statvfs(there)
        while not os.path.ismount(there):
            there = there.parent
        if error == errno.EDQUOT:
            return f"; your quota on {there} is used up"
        files = ", and no more files can be made" if disk.f_files and not disk.f_favail else ""
        return f"; {size_text(disk.f_bavail * disk.f_frsize)} are free on {there}{files}"
    return ""


def identity_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return what tells a file as it is now from any other: device, inode, time of change.

    The time is there because an inode's number is given out again once the file is gone.
    """
    return status.st_dev, status.st_ino, status.st_ctime_ns


def open_blob(blob: Blob) -> int:
    """Open the file that a blob lies in; CorruptArchive if it is no longer the one that was found.

    Its name may lead anywhere by now, and opening alone can block, as a FIFO does, or act, as a
    device may. So on Linux nothing but that very file is opened for more than a look.
    """
    if blob.identity is None:
        return os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC)
    if sys.platform == "linux":
        look = os.open(blob.path, os.O_PATH | os.O_CLOEXEC)
    else:
        look = os.open(blob.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_identity(blob, os.fstat(look))
        own = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
        return os.open(f"{own}/{look}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(look)


def check_identity(blob: Blob, status: os.stat_result) -> None:
    """Raise CorruptArchive unless `status` is that of the file that a blob was found in."""
    if blob.identity is not None and identity_of(status) != blob.identity:
        raise CorruptArchive(f"{blob.path} was changed while it was opened")


def fsync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes, temporary: Path) -> None:
    """Replace `path` by a file of `content`, made first as `temporary` on the same disk."""
    write_synced(temporary, content)
    temporary.replace(path)
    fsync_directory(path.parent)


def take_lock(fd: int) -> None:
    """Lock an open file or directory until it, and what forks have inherited of it, is closed.

    Whoever looks by `is_locked` just now is waited for: that takes no longer than the look.
    """
    fcntl.flock(fd, fcntl.LOCK_EX)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take a lock on an open file or directory if nobody is in the way."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Tell whether somebody has locked a file or directory. Raises FileNotFoundError.

    The only way to know is to lock it too, for a moment: so whoever makes one uses `take_lock`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not try_lock(fd, shared=True):
            return True
        _unlock(fd)
        return False
    finally:
        os.close(fd)


def remove_unlocked(path: Path) -> bool:
    """Remove a file that nobody has locked; tell whether that was done."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not try_lock(fd):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)


@contextmanager
def published(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` at the end of the block, or goes if that fails.

    It is locked meanwhile, so that `remove_unlocked` takes only what the dead have left. It is
    not forced to the disk.
    """
    fd, temporary = _make_locked(path.parent)
    with open(fd, "wb") as out:
        try:
            yield out
            out.flush()
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            _unlock(fd)


def _make_locked(directory: Path) -> tuple[int, Path]:
    while True:
        path = directory / f".{os.urandom(8).hex()}.tmp"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        take_lock(fd)
        if _still_named(fd, path):
            return fd, path
        os.close(fd)


def _unlock(fd: int) -> None:
    """Give a lock back now; closing would leave it with a fork that has the descriptor too."""
    fcntl.flock(fd, fcntl.LOCK_UN)


@contextmanager
def locked(
    path: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock on file `path`, which is made; `waiting` is called if another holds it.

    A lock file may be removed by who holds it exclusively: whoever waited for it then notices
    that the name is gone and starts again.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not try_lock(fd, shared=shared):
                if waiting is not None:
                    waiting()
                    waiting = None
                fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if not _still_named(fd, path):
                continue
            yield
            return
        finally:
            _unlock(fd)
            os.close(fd)


def _still_named(fd: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False
