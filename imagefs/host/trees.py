"""Trees on this machine that somebody else may have filled, gone through by descriptors.

Owns that no link is followed, and that however deep a tree is, it takes no more files or stack. Any
thread may call it.
"""

import errno
import os

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a directory is opened by a name of another one."""


def replaced(old: int, new: int) -> int:
    """Close a descriptor; return the one that takes its place."""
    os.close(old)
    return new


def identity(fd: int) -> tuple[int, int]:
    """Return what tells an open directory from all others that are there."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def up(fd: int, above: tuple[int, int], what: str) -> int:
    """Return the directory above another one, opened, which must be the one of an identity.

    Raises OSError ESTALE, in which `what` is what is gone through, if somebody has moved it.
    """
    found = os.open("..", DIRECTORY, dir_fd=fd)
    if identity(found) != above:
        os.close(found)
        raise OSError(errno.ESTALE, f"somebody moves {what}")
    return found


def remove(parent: int, name: str) -> None:
    """Remove a name of a directory with all below it, also what its owner has closed to himself.

    Raises OSError where something cannot be removed.
    """
    try:
        here = os.open(name, DIRECTORY, dir_fd=parent)
    except OSError:
        os.unlink(name, dir_fd=parent)
        return
    way = [name]
    try:
        while way:
            below = _unlink_all(here)
            if below is not None:
                os.chmod(below, 0o700, dir_fd=here)
                here = replaced(here, os.open(below, DIRECTORY, dir_fd=here))
                way.append(below)
            else:
                here = replaced(here, os.open("..", DIRECTORY, dir_fd=here))
                os.rmdir(way.pop(), dir_fd=here)
    finally:
        os.close(here)


def _unlink_all(here: int) -> str | None:
    """Remove what a directory holds, until there is a directory, which is returned."""
    with os.scandir(here) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=here)
    return None
