"""A tree, or a part of it, as files of this machine.

Owns what an image may do to a disk, which is: to fill one directory. That is made under a name
that nobody knows and renamed when it is whole, or it was there and empty, and is emptied again if
something goes wrong. Nothing of the image is written through a link: below that directory names
are opened one at a time. However deep a tree is, it takes no more files or stack.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path as HostPath
from typing import NamedTuple

from imagefs.errors import HostError
from imagefs.filesystem import Attr, Entry
from imagefs.host.files import published
from imagefs.host.trees import DIRECTORY, identity, remove, replaced, up
from imagefs.progress import Progress
from imagefs.tree.export import name_of, pieces, runs_of
from imagefs.tree.tree import Path, Tree

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_OURS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.ENOSPC, errno.E2BIG}
"""What setting an attribute may fail with, where system, user or disk will not have it."""


def copy(tree: Tree, path: Path, to: str, progress: Progress) -> None:
    """Copy what a path leads to, a link itself, into the directory `to`, or as `to` if it is none.

    The contents of the root, or of a path that ends in `.`, become `to` itself. Root also has
    owners and devices copied; others are told how many devices were left out, and set-user-id
    bits are left out with the owner. Raises OSError where there is no such path, PathError where
    something of the image cannot be read, and HostError where it cannot be written.
    """
    attr = tree.stat(path, follow=False)
    final = _final(name_of(tree, path, attr), HostPath(to))
    is_directory = stat.S_ISDIR(attr.mode)
    with _writing(final):
        if to.endswith("/") and final == HostPath(to) and not is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _check_free(final, is_directory=is_directory)
        copier = _Copier(tree, final, progress)
        if stat.S_ISREG(attr.mode):
            with published(final) as out:
                copier.fill(out.fileno(), attr, os.fsencode(path).strip(b"/"))
        else:
            copier.make(path, attr)
    copier.say_what_is_lacking()


def _final(name: bytes, to: HostPath) -> HostPath:
    """Return what a copy is to be called; without a name it is what `to` says."""
    if not to.is_dir():
        return to
    return to / os.fsdecode(name) if name else to.resolve()


def _check_free(final: HostPath, *, is_directory: bool) -> None:
    """Raise OSError where something is in the way that the copy must not replace."""
    try:
        status = final.lstat()
    except FileNotFoundError:
        return
    if is_directory and not stat.S_ISDIR(status.st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file of that name")
    if is_directory and next(final.iterdir(), None):
        raise FileExistsError(errno.EEXIST, "there is a directory of that name, and not empty")
    if not is_directory and stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "there is a directory of that name")


@contextmanager
def _writing(place: HostPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{place}: {error.strerror or error}") from error


class _Level(NamedTuple):
    """A directory on the way from the copy's top to where the copying is."""

    path: bytes
    attr: Attr
    identity: tuple[int, int]


class _Copier:
    def __init__(self, tree: Tree, final: HostPath, progress: Progress) -> None:
        self._tree, self._final, self._progress = tree, final, progress
        self._is_root = os.geteuid() == 0
        self._devices_lacking = self._attributes_lacking = 0
        self._links: dict[int, bytes] = {}

    def say_what_is_lacking(self) -> None:
        """Warn of what the machine or the user could not have."""
        if self._devices_lacking:
            self._progress.warn(f"{self._devices_lacking} devices left out: only root makes them")
        if self._attributes_lacking:
            self._progress.warn(
                f"{self._attributes_lacking} extended attributes left out: {self._final.parent}"
                " cannot hold them, or only root may set them"
            )

    def make(self, path: Path, attr: Attr) -> None:
        """Make anything but a regular file under a name of its own, then give it its name."""
        if self._final.is_dir():
            self._fill_empty(path)
            return
        temporary = f".imagefs-{os.urandom(8).hex()}"
        parent = os.open(self._final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if stat.S_ISDIR(attr.mode):
                os.mkdir(temporary, 0o700, dir_fd=parent)
                top = os.open(temporary, DIRECTORY, dir_fd=parent)
                try:
                    self._tree_into(top, path)
                finally:
                    os.close(top)
            else:
                self._leaf(parent, Entry(os.fsencode(temporary), attr), b"")
                if self._devices_lacking:
                    return
            os.rename(temporary, self._final.name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                remove(parent, temporary)
            raise
        finally:
            os.close(parent)

    def _fill_empty(self, path: Path) -> None:
        """Fill a directory that is there, which may be a mount point, or where the user stands."""
        top = os.open(self._final, DIRECTORY)
        try:
            self._tree_into(top, path)
        except BaseException:
            with suppress(OSError):
                for name in os.listdir(top):
                    remove(top, name)
            raise
        finally:
            os.close(top)

    def _tree_into(self, top: int, path: Path) -> None:
        """Fill an open directory, which is empty."""
        tree = self._tree
        here = os.dup(top)
        levels: list[_Level] = []
        try:
            for walked in tree.walk(path):
                attr = tree.fs.getattr(walked.node)
                if levels:
                    while not _is_in(walked.path, levels[-1].path):
                        here = self._leave(here, levels)
                    below = walked.path.rpartition(b"/")[2]
                    os.mkdir(below, 0o700, dir_fd=here)
                    here = replaced(here, os.open(below, DIRECTORY, dir_fd=here))
                else:
                    self._top, self._base = top, walked.path
                levels.append(_Level(walked.path, attr, identity(here)))
                for entry in walked.entries:
                    if not stat.S_ISDIR(entry.attr.mode):
                        self._leaf(here, entry, walked.path)
            while levels:
                here = self._leave(here, levels)
        finally:
            os.close(here)

    def _leave(self, here: int, levels: list[_Level]) -> int:
        """Give the directory its attributes, as all is in it, and return the one above, opened."""
        level = levels.pop()
        above = up(here, levels[-1].identity, "what is being copied") if levels else os.dup(here)
        self._describe(here, level.attr)
        os.close(here)
        return above

    def _leaf(self, here: int, entry: Entry, folder: bytes) -> None:
        name, attr = entry
        path = folder + b"/" + name if folder else name
        if attr.nlink > 1:
            first = self._links.get(attr.node)
            if first is not None:
                self._link(first, here, name)
                return
        kind = stat.S_IFMT(attr.mode)
        if kind == stat.S_IFREG:
            fd = os.open(name, _NEW, 0o600, dir_fd=here)
            try:
                self.fill(fd, attr, path)
            finally:
                os.close(fd)
        elif kind == stat.S_IFLNK:
            os.symlink(self._tree.fs.readlink(attr.node), name, dir_fd=here)
        elif kind == stat.S_IFIFO or self._is_root:
            os.mknod(name, kind | 0o600, attr.rdev, dir_fd=here)
        else:
            self._devices_lacking += 1
            return
        if kind != stat.S_IFREG:
            self._describe_name(here, name, attr)
        if attr.nlink > 1:
            self._links[attr.node] = path

    def _link(self, first: bytes, here: int, name: bytes) -> None:
        """Make a further name of a file; on the way to its first one there are no links."""
        *folders, base = first[len(self._base) :].strip(b"/").split(b"/")
        at = os.dup(self._top)
        try:
            for folder in folders:
                at = replaced(at, os.open(folder, os.O_PATH | DIRECTORY, dir_fd=at))
            os.link(base, name, src_dir_fd=at, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(at)

    def fill(self, fd: int, attr: Attr, path: bytes) -> None:
        """Write a regular file's content, with its holes, and give it its attributes."""
        for at, content in pieces(self._tree, attr, runs_of(self._tree, attr, path), path):
            view = memoryview(content)
            while view:
                done = os.pwrite(fd, view, at)
                view, at = view[done:], at + done  # noqa: PLW2901
            self._progress.advance(len(content))
        os.ftruncate(fd, attr.size)
        self._describe(fd, attr)

    def _describe(self, fd: int, attr: Attr) -> None:
        """Give an open file or directory its owner, attributes, mode and times, in that order."""
        if self._is_root:
            os.fchown(fd, attr.uid, attr.gid)
        for name, value in self._tree.node_xattrs(attr.node).items():
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
                self._attributes_lacking += 1
        os.fchmod(fd, self._mode(attr))
        os.utime(fd, ns=_times(attr))

    def _describe_name(self, here: int, name: bytes, attr: Attr) -> None:
        """The same for a link, a device or a fifo, which are not to be opened."""
        if self._is_root:
            os.chown(name, attr.uid, attr.gid, dir_fd=here, follow_symlinks=False)
        if not stat.S_ISLNK(attr.mode):
            os.chmod(name, self._mode(attr), dir_fd=here)
        os.utime(name, ns=_times(attr), dir_fd=here, follow_symlinks=False)

    def _mode(self, attr: Attr) -> int:
        # Of a file that is not the image's owner's, to run as its owner means somebody else.
        bits = 0o7777 if self._is_root else 0o1777
        return attr.mode & bits


def _times(attr: Attr) -> tuple[int, int]:
    time = attr.mtime * 10**9 + attr.mtimensec
    return time, time


def _is_in(path: bytes, folder: bytes) -> bool:
    return path.rpartition(b"/")[0] == folder
