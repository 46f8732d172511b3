"""Looking at all that a file system shows, as a thorough reader would."""

import errno
import os
import stat

from imagefs.filesystem import ROOT_ID, FileSystem


def walk(fs: FileSystem) -> None:
    """Look at all there is: names, attributes, targets, the ends of files, attributes by name.

    No name may be one that a kernel would not take, and the only content that may be missing is
    that of a hard link to nothing.
    """
    queue = [ROOT_ID]
    for directory in queue:
        entries = fs.listdir(directory)
        assert len({entry.name for entry in entries}) == len(entries)
        for name, attr in entries:
            assert name not in (b"", b".", b".."), name
            assert b"/" not in name
            assert b"\0" not in name
            assert len(name) <= 255
            kind = stat.S_IFMT(attr.mode)
            if kind == stat.S_IFDIR:
                queue.append(attr.node)
            elif kind == stat.S_IFLNK:
                assert len(fs.readlink(attr.node)) == attr.size <= 4096
            elif kind == stat.S_IFREG:
                look_into(fs, attr.node, attr.size)
            for xattr in fs.listxattr(attr.node)[:20]:
                assert fs.getxattr(attr.node, xattr) is not None
        some = entries[:: len(entries) // 50 + 1]
        assert [fs.lookup(directory, name) for name, _ in some] == [attr for _, attr in some]


def look_into(fs: FileSystem, node: int, size: int) -> None:
    """Read a file's beginning and its end."""
    for offset in {0, max(0, size - 4096), size}:
        try:
            assert len(fs.read(node, offset, 4096)) == min(4096, size - offset)
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017
    try:
        assert not size or 0 <= fs.seek(node, 0, os.SEEK_HOLE) <= size
    except OSError as error:
        assert error.errno == errno.EIO  # noqa: PT017
