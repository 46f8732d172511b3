"""A tree, or a part of it, as one tar: the same bytes each time.

Owns the order of the members: a directory before what is in it, names sorted by their bytes, of
a file with several names the first with its content and the others as hard links to it. Writes
through a function of the caller's, whose errors are the caller's.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence

from imagefs.errors import PathError
from imagefs.filesystem import Attr
from imagefs.progress import Progress
from imagefs.tar import header as tar_header
from imagefs.tar.write import END, TYPES, Member, head, padding
from imagefs.tree.tree import Path, Tree

AT_ONCE, AT_ONCE_SPARSE = 1 << 20, 64 << 10
"""Bytes that are read at a time, of plain and of sparse files."""


def write_tar(tree: Tree, path: Path, write: Callable[[bytes], object], progress: Progress) -> None:
    """Write what a path leads to, and all below it, as a tar.

    Names begin with the path's last one; what lies in the root has no other before it, and the
    root itself is left out, as `docker export` does. Raises PathError where something cannot be
    read, OSError where there is no such path.
    """
    writer = _Writer(tree, write, progress)
    attr = tree.stat(path, follow=False)
    name = name_of(tree, path, attr)
    if stat.S_ISDIR(attr.mode):
        writer.directory(path, name)
    else:
        writer.add(name, attr)
    write(END)


def name_of(tree: Tree, path: Path, attr: Attr) -> bytes:
    """Return the name that a path ends in; nothing for the root, or where that is no name."""
    name = os.fsencode(path).rstrip(b"/").rpartition(b"/")[2]
    return b"" if attr.node == tree.root or name in (b".", b"..") else name


def pieces(
    tree: Tree, attr: Attr, runs: Sequence[tuple[int, int]], path: bytes
) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of a file's runs with their offsets; PathError where they cannot be read."""
    # Of a sparse file, what lies near each other is read together.
    size = AT_ONCE if len(runs) < 2 else AT_ONCE_SPARSE
    base, content = 0, b""
    for start, end in runs:
        at = start
        while at < end:
            if not base <= at < base + len(content):
                base, content = at, read(tree, attr, at, size, path)
            stop = min(end, base + len(content))
            yield at, content[at - base : stop - base]
            at = stop


def read(tree: Tree, attr: Attr, offset: int, size: int, path: bytes) -> bytes:
    """Return up to `size` bytes of a file, fewer at its end; PathError where that fails."""
    try:
        return tree.read(attr, offset, size, path)
    except OSError as error:
        raise unreadable(path, error) from error


def runs_of(tree: Tree, attr: Attr, path: bytes) -> list[tuple[int, int]]:
    """Return where a file's data begins and ends; PathError where that cannot be read."""
    try:
        return list(tree.runs(attr, path))
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: bytes, error: OSError) -> PathError:
    """Return the error for what is in the image, but cannot be read."""
    return PathError(f"/{os.fsdecode(path)}: {error.strerror}")


class _Writer:
    def __init__(self, tree: Tree, write: Callable[[bytes], object], progress: Progress) -> None:
        self._tree, self._write, self._progress = tree, write, progress
        self._names: dict[int, bytes] = {}

    def directory(self, path: Path, name: bytes) -> None:
        """Write a directory and all below it, whose names begin with `name`."""
        top = os.fsencode(path).strip(b"/")
        for walked in self._tree.walk(path):
            below = walked.path[len(top) :].strip(b"/")
            place = b"/".join(filter(None, (name, below)))
            if place:
                self.add(place + b"/", self._tree.fs.getattr(walked.node))
            before = place + b"/" if place else b""
            for entry in walked.entries:
                if not stat.S_ISDIR(entry.attr.mode):
                    self.add(before + entry.name, entry.attr)

    def add(self, name: bytes, attr: Attr) -> None:
        """Write what is no directory, or a directory alone."""
        tree, kind = self._tree, stat.S_IFMT(attr.mode)
        if attr.nlink > 1 and kind != stat.S_IFDIR:
            first = self._names.setdefault(attr.node, name)
            if first != name:
                self._write(head(self._member(name, attr, tar_header.LNKTYPE, first)))
                return
        target = tree.fs.readlink(attr.node) if kind == stat.S_IFLNK else b""
        if kind != stat.S_IFREG:
            self._write(head(self._member(name, attr, TYPES[kind], target)))
            return
        self._file(name, attr)

    def _file(self, name: bytes, attr: Attr) -> None:
        tree = self._tree
        runs = runs_of(tree, attr, name)
        is_whole = runs == [(0, attr.size)] or not attr.size
        lengths = None if is_whole else [(start, end - start) for start, end in runs]
        before = head(self._member(name, attr, tar_header.REGTYPE, b"", lengths))
        stored = 0
        for _, content in pieces(tree, attr, runs, name):
            # One write for a header and a small file.
            self._write(before + content if before else content)
            before = b""
            stored += len(content)
            self._progress.advance(len(content))
        self._write(before + bytes(padding(stored)))

    def _member(
        self,
        name: bytes,
        attr: Attr,
        kind: bytes,
        target: bytes = b"",
        runs: list[tuple[int, int]] | None = None,
    ) -> Member:
        is_device = kind in (tar_header.CHRTYPE, tar_header.BLKTYPE)
        is_link = kind == tar_header.LNKTYPE
        return Member(
            name,
            kind,
            stat.S_IMODE(attr.mode),
            attr.uid,
            attr.gid,
            attr.mtime,
            attr.mtimensec,
            attr.size if kind == tar_header.REGTYPE else 0,
            target,
            (os.major(attr.rdev), os.minor(attr.rdev)) if is_device else (0, 0),
            {} if is_link else self._tree.node_xattrs(attr.node),
            runs,
        )
