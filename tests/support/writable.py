"""Mounts that can be written to, by the command line, and what is in a tree."""

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from imagefs.fuse.mount import unmount_for_good
from imagefs.host import mountinfo
from tests.support.mounted import imagefs
from tests.support.needs import unavailable
from tests.support.serving import need_root_and_fuse


def need_overlay(folder: Path) -> None:
    """Go on only where root can mount an overlay whose changes lie in a folder."""
    need_root_and_fuse()
    words = ["stat", "--file-system", "--format=%T", str(folder)]
    kind = subprocess.run(words, capture_output=True, check=True).stdout.strip()
    if kind == b"overlayfs":
        unavailable("overlay", f"{folder} lies on an overlay, which takes no other one's changes")


@contextlib.contextmanager
def writable(source: Path, mountpoint: Path, directory: Path | None = None) -> Iterator[Path]:
    """Have an image mounted to be written to, for as long as the context lasts."""
    mountpoint.mkdir(exist_ok=True)
    option = "--writable" if directory is None else f"--writable={directory}"
    done = imagefs("mount", "--quiet", option, source, mountpoint)
    assert done.returncode == 0, done.stderr
    try:
        yield mountpoint
        if mountinfo.at(mountpoint) is not None:
            done = imagefs("unmount", mountpoint)
            assert done.returncode == 0, done.stderr
    finally:
        clear_below(mountpoint.parent)


def clear_below(folder: Path) -> None:
    """Take away all mounts in a folder."""
    for mount in reversed(mountinfo.mounts()):
        if Path(mount.mountpoint).is_relative_to(folder):
            unmount_for_good(mount)


def tree_of(top: Path) -> dict[str, tuple[object, ...]]:
    """Return all that is below a directory: mode, owners, and content, target or device."""
    return {str(path.relative_to(top)): _node(path) for path in sorted(top.rglob("*"))}


def _node(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    what: object = None
    if stat.S_ISLNK(status.st_mode):
        what = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        names = [name for name in os.listxattr(path) if not name.startswith("user.imagefs.")]
        what = path.read_bytes(), [(name, os.getxattr(path, name)) for name in names]
    return status.st_mode, status.st_uid, status.st_gid, status.st_rdev, what
