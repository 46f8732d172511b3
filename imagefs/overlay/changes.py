"""What is written on top of an image: overlay's upper directory, read as changes.

Owns how the kernel's overlayfs and fuse-overlayfs say that something was removed, or replaced as a
whole. Whoever wrote there may still be writing, and may be hostile: so directories are gone
through by descriptor, and a symbolic link is never followed. Stateless, for any thread.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imagefs.host import trees
from imagefs.overlay import stack
from imagefs.overlay.kept import Kept
from imagefs.tar import header as tar_header

_OWN = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")
# fuse-overlayfs leaves both.
_OPAQUE = {tar_header.WHITEOUT_OPAQUE, b".wh..opq"}


class Written(NamedTuple):
    """Something in an upper directory, at a path without a slash before it.

    `removed` tells that it stands for what is no more, `opaque` that nothing below shows through
    a directory. `before` is what the image has there, None if it has nothing; `copied` tells that
    it began as a copy of what the image has. `hidden` are names that the image has in an opaque
    directory, and this one has not. `parent` is open, for as long as the walk is there.
    """

    path: bytes
    status: os.stat_result
    removed: bool
    opaque: bool
    before: os.stat_result | None
    copied: bool
    hidden: tuple[bytes, ...]
    parent: int

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path.rpartition(b"/")[2]


class Change(NamedTuple):
    """A path with a slash before it that was added, changed or deleted: `A`, `C` or `D`."""

    kind: str
    path: bytes


def walk(kept: Kept, image: Path | None) -> Iterator[Written]:
    """Yield all that was written, sorted, each directory before what it holds.

    `image` is where the image itself is mounted, if it is. Raises OSError.
    """
    with _opened(kept.upper) as top, _opened(image) as below:
        assert top is not None
        with contextlib.closing(_Way(top, below)) as way:
            yield from _Walk(kept.record.way == stack.FUSE).through(way)


@contextlib.contextmanager
def _opened(path: Path | bytes | None, parent: int | None = None) -> Iterator[int | None]:
    """Open a directory; None for what is none."""
    fd = None
    if path is not None:
        try:
            fd = os.open(path, trees.DIRECTORY, dir_fd=parent)
        except OSError as error:
            if parent is None or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class _Walk:
    """A walk; `markers` tells that files called `.wh.` mean that something was removed."""

    markers: bool

    def through(self, way: "_Way") -> Iterator[Written]:
        """Yield what is in the directory where a way begins, and in all below it."""
        levels = [self._listed(way.top)]
        while levels:
            name = next(levels[-1], None)
            if name is not None:
                depth = len(way.names)
                yield from self._at(name, way)
                if len(way.names) > depth:
                    levels.append(self._listed(way.top))
                continue
            levels.pop()
            if levels:
                way.leave()

    def _listed(self, top: int) -> Iterator[bytes]:
        return iter(sorted(_names(top) - (_OPAQUE if self.markers else set())))

    def _at(self, name: bytes, way: "_Way") -> Iterator[Written]:
        """Yield what has a name where a way has come to, and enter it if it is a directory."""
        top, below, prefix = way.top, way.below, way.prefix
        status = os.stat(name, dir_fd=top, follow_symlinks=False)
        removed = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
        if self.markers and name.startswith(tar_header.WHITEOUT_PREFIX):
            name, removed = name.removeprefix(tar_header.WHITEOUT_PREFIX), True
        before = _status(name, below)
        if not stat.S_ISDIR(status.st_mode):
            copied = not removed and _has(name, top, "origin")
            yield Written(prefix + name, status, removed, False, before, copied, (), top)
            return
        with _opened(name, top) as inner, _opened(name if below else None, below) as image:
            if inner is None:
                return
            opaque = _marked(inner, "opaque") or (self.markers and _has_marker(inner))
            unseen = _names(image) - _names(inner) if opaque and image is not None else ()
            hidden = tuple(sorted(unseen))
            yield Written(prefix + name, status, False, opaque, before, False, hidden, top)
            way.enter(name, inner, image)


class _Way:
    """Where a walk has come to: one directory that was written, and the image's of the same path.

    However deep they lie, no others are open.
    """

    def __init__(self, top: int, below: int | None) -> None:
        self.top = os.dup(top)
        self.prefix = b""
        """What paths of what is in the directory begin with."""
        self.names: list[tuple[bytes, tuple[int, int]]] = []
        self._below = None if below is None else os.dup(below)
        # Levels since the image had no directory any more.
        self._lacking = int(below is None)

    @property
    def below(self) -> int | None:
        """The image's directory; None where it has none."""
        return None if self._lacking else self._below

    def enter(self, name: bytes, top: int, below: int | None) -> None:
        """Go down into a directory that is open, and stays so."""
        self.names.append((name, trees.identity(self.top)))
        self.prefix += name + b"/"
        self.top = trees.replaced(self.top, os.dup(top))
        if self._lacking or below is None or self._below is None:
            self._lacking += 1
        else:
            self._below = trees.replaced(self._below, os.dup(below))

    def leave(self) -> None:
        """Go up again; OSError where the directory has been moved meanwhile."""
        name, above = self.names.pop()
        self.prefix = self.prefix[: -len(name) - 1]
        self.top = trees.replaced(self.top, trees.up(self.top, above, "what was written"))
        if self._lacking:
            self._lacking -= 1
        elif self._below is not None:
            image = os.open("..", trees.DIRECTORY, dir_fd=self._below)
            self._below = trees.replaced(self._below, image)

    def close(self) -> None:
        """Close the directories."""
        os.close(self.top)
        if self._below is not None:
            os.close(self._below)


def _status(name: bytes, parent: int | None) -> os.stat_result | None:
    if parent is None:
        return None
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    return None


def _has_marker(fd: int) -> bool:
    return not _OPAQUE.isdisjoint(_names(fd))


def _names(fd: int) -> set[bytes]:
    return set(map(os.fsencode, os.listdir(fd)))


def _has(name: bytes, parent: int, mark: str) -> bool:
    with open_file(name, parent) as fd:
        return fd is not None and _marked(fd, mark)


def _marked(fd: int, mark: str) -> bool:
    for namespace in _OWN:
        with contextlib.suppress(OSError):
            os.getxattr(fd, namespace + mark)
            return True
    return False


@contextlib.contextmanager
def open_file(name: bytes, parent: int) -> Iterator[int | None]:
    """Open a regular file to read; None for what is none, and is not touched then."""
    fd = None
    with contextlib.suppress(OSError):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        if stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            fd = os.open(name, flags, dir_fd=parent)
    try:
        yield fd if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        if fd is not None:
            os.close(fd)


def xattrs(fd: int) -> dict[str, bytes]:
    """Return the extended attributes of an open file or directory, without overlay's own."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(fd):
            if not name.startswith(_OWN):
                found[name] = os.getxattr(fd, name)
    return found


def changes(kept: Kept, image: Path | None) -> Iterator[Change]:
    """Yield what was changed; directories that only hold what was changed are left out.

    Where the image is not mounted, what took a file's place is new, and no directory is known to
    be, but for what it holds.
    """
    for one in walk(kept, image):
        path = b"/" + one.path
        if one.removed:
            yield Change("D", path)
        elif not stat.S_ISDIR(one.status.st_mode):
            yield Change("C" if one.before or one.copied else "A", path)
        elif one.before is not None and _looks(one.before) != _looks(one.status):
            yield Change("C", path)
        elif one.before is None and image is not None:
            yield Change("A", path)
        yield from (Change("D", path + b"/" + name) for name in one.hidden)


def _looks(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid
