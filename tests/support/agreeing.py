"""A mount beside the file system that it is meant to show: whatever can be looked at is the same.

What FUSE serves is held to its promises by many tests; a mount that agrees with it keeps them too.
"""

import os
import stat
from pathlib import Path

from imagefs.erofs.inodes import attribute
from imagefs.filesystem import ROOT_ID, Attr
from imagefs.vfs.image_fs import ImageFs

_PIECE = 4096
_NO_OWNER, _OVERFLOW = (1 << 32) - 1, 65534
"""What Linux takes for no owner at all, and what it shows instead."""
_LONGEST = 3800
"""Bytes of a path that system calls take, some to spare."""
_MOST_LISTED = 65_536
"""Bytes of names of attributes that Linux lists."""
_MOST_READ = 200
"""Files of a directory that are read; all of them are looked at."""


def agree(fs: ImageFs, mountpoint: Path) -> int:
    """Compare names, attributes, targets, contents and inodes; return how many names there are.

    Directories have sizes and inode numbers of their own: the kernel knows none in two places.
    """
    top = os.fsencode(mountpoint)
    count = 0
    numbers: dict[int, int] = {}
    directories: set[int] = set()
    waiting = [(top, fs.root if fs.root != ROOT_ID else ROOT_ID)]
    _same(fs, top, fs.getattr(fs.root))
    while waiting:
        directory, node = waiting.pop()
        entries = fs.listdir(node)
        assert sorted(os.listdir(directory)) == [entry.name for entry in entries], directory
        for number, (name, attr) in enumerate(entries):
            path = directory + b"/" + name
            if len(path) > _LONGEST:
                continue
            count += 1
            found = _same(fs, path, attr, read=number < _MOST_READ)
            if stat.S_ISDIR(attr.mode):
                waiting.append((path, attr.node))
                assert found.st_ino not in directories, path
                directories.add(found.st_ino)
            else:
                # One file is one inode in all views that show as many names of it.
                assert numbers.setdefault(found.st_ino, attr.node) == attr.node, path
    assert len(set(numbers.values())) == len(numbers)
    return count


def _same(fs: ImageFs, path: bytes, attr: Attr, *, read: bool = True) -> os.stat_result:
    found = os.lstat(path)
    seen = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev)
    owners = [_OVERFLOW if owner == _NO_OWNER else owner for owner in (attr.uid, attr.gid)]
    assert seen == (attr.mode, attr.nlink, *owners, attr.rdev), path
    assert found.st_mtime_ns == attr.mtime * 10**9 + attr.mtimensec, path
    if not stat.S_ISDIR(attr.mode):
        assert found.st_size == attr.size, path
    if stat.S_ISLNK(attr.mode) and attr.size:
        assert os.readlink(path) == fs.readlink(attr.node), path
    if stat.S_ISREG(attr.mode) and read:
        _same_content(fs, path, attr)
    _same_attributes(fs, path, attr)
    return found


def _same_content(fs: ImageFs, path: bytes, attr: Attr) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for offset in {0, max(0, attr.size - _PIECE), attr.size // 2}:
            assert _read(fs, attr.node, offset) == _pread(descriptor, offset), (path, offset)
    finally:
        os.close(descriptor)


def _read(fs: ImageFs, node: int, offset: int) -> bytes | int | None:
    try:
        return fs.read(node, offset, _PIECE)
    except OSError as error:
        return error.errno


def _pread(descriptor: int, offset: int) -> bytes | int | None:
    try:
        return os.pread(descriptor, _PIECE, offset)
    except OSError as error:
        return error.errno


def _same_attributes(fs: ImageFs, path: bytes, attr: Attr) -> None:
    own = fs.xattrs(attr.node)
    if sum(map(len, own)) + len(own) > _MOST_LISTED:
        return
    names = {os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)}
    assert names == {name for name, value in own.items() if attribute(name, value)}, path
    if stat.S_ISREG(attr.mode) or stat.S_ISDIR(attr.mode):
        for name in names:
            if not name.startswith(b"system."):
                assert os.getxattr(path, name, follow_symlinks=False) == own[name], (path, name)
