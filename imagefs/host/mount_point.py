"""A directory to mount on, held from the first look at it until the mount is there.

What was checked is what is mounted on: the directory is opened once, and its path is never walked
again, since whoever owns a directory on the way may put a symbolic link in its place. Nor may two
processes mount on one directory at once, which the kernel allows: who holds it has a lock on it.
Nothing here touches what a mount holds, which a dead or hanging daemon would not let us. Any
thread may call it.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path

from imagefs.errors import MountError
from imagefs.host import mountinfo
from imagefs.host.trees import replaced

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class MountPoint:
    """An empty directory that nothing is mounted on, and that nobody else mounts on meanwhile."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._lies_on = mountinfo.mount_of(fd)

    @property
    def path(self) -> Path:
        """Where the directory is now, wherever it may have been moved."""
        return Path(mountinfo.place_of(self.fd))

    @property
    def anchor(self) -> Path:
        """A path that leads this process, and its forks, to the directory and nowhere else."""
        return mountinfo.anchor(self.fd)

    def mounted(self) -> mountinfo.Mount | None:
        """Return the mount on the directory; not one that lies on top of that."""
        place = mountinfo.place_of(self.fd)
        for mount in mountinfo.mounts():
            if (mount.parent, mount.mountpoint) == (self._lies_on, place):
                return mount
        return None

    def release(self) -> None:
        """Let others mount here; the forks that have the descriptor too hold nothing after that."""
        _unlock(self.fd)
        os.close(self.fd)


def hold(path: Path) -> MountPoint:
    """Return the directory at `path`, held; MountError if it is no place to mount."""
    try:
        walked = _walk(path)
    except OSError as error:
        raise MountError(f"{path}: {_reason(error)}") from error
    try:
        if _is_mount(walked):
            raise MountError(_taken(path))
        fd = os.open(mountinfo.anchor(walked), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"{path}: {_reason(error)}") from error
    finally:
        os.close(walked)
    try:
        return _checked(path, fd)
    except BaseException:
        os.close(fd)
        raise


def _checked(path: Path, fd: int) -> MountPoint:
    if not _lock(fd):
        raise MountError(f"{path}: another process is about to mount here")
    point = MountPoint(fd)
    if point.mounted() is not None:
        raise MountError(_taken(path))
    with os.scandir(fd) as entries:
        if next(entries, None) is not None:
            raise MountError(f"{path}: is not empty; choose an empty directory")
    return point


def _taken(path: Path) -> str:
    return f"{path}: something is mounted here already; unmount it first"


def _reason(error: OSError) -> str:
    return {
        errno.ENOENT: "there is no such directory; make it first",
        errno.ENOTDIR: "is not a directory",
        errno.ENOTCONN: "lies in a dead mount; unmount that first",
    }.get(error.errno or 0, error.strerror or str(error))


def _is_mount(fd: int) -> bool:
    """Tell whether a descriptor is of the root of a mount."""
    number, place = mountinfo.mount_of(fd), mountinfo.place_of(fd)
    return any((one.id, one.mountpoint) == (number, place) for one in mountinfo.mounts())


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # file systems such as NFS lock no directories
    return True


def _unlock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:
        return  # it could not be locked either


def _walk(path: Path) -> int:
    """Open what a path leads to, step by step; the links of others lead to what is theirs only.

    Else whoever has a directory on the way could have root mount on any directory.
    """
    place = os.fsencode(path)
    fd = os.open(b"/" if place.startswith(b"/") else b".", _STEP)
    strangers: dict[int, bytes] = {}
    try:
        waiting, links = place.split(b"/")[::-1], 0
        while waiting:
            name = waiting.pop()
            if not name:
                continue
            target, maker = _link_at(fd, name)
            if target is None:
                fd = replaced(fd, os.open(name, _STEP | os.O_DIRECTORY, dir_fd=fd))
                continue
            links += 1
            if links > mountinfo.MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if maker not in (0, os.geteuid()):
                strangers[maker] = name
            waiting += target.split(b"/")[::-1]
            if target.startswith(b"/"):
                fd = replaced(fd, os.open(b"/", _STEP))
        _check_owner(path, os.fstat(fd).st_uid if strangers else 0, strangers)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _link_at(directory: int, name: bytes) -> tuple[bytes | None, int]:
    """Return where a link leads and who made it; None for what is no link."""
    fd = os.open(name, _STEP, dir_fd=directory)
    try:
        # The stat of a mount's root would ask its daemon.
        if mountinfo.mount_of(fd) != mountinfo.mount_of(directory):
            return None, 0
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            return None, 0
        return os.readlink(b"", dir_fd=fd), status.st_uid
    finally:
        os.close(fd)


def _check_owner(path: Path, owner: int, strangers: dict[int, bytes]) -> None:
    for uid, name in strangers.items():
        if uid != owner:
            raise MountError(
                f"{path}: {os.fsdecode(name)} is a symbolic link of uid {uid}, to a directory that"
                " is not theirs; name the directory itself"
            )
