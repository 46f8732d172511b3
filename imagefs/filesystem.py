"""What a FUSE driver needs of a file system: the line between `fuse/` and everything else.

A driver holds one `FileSystem` and never learns what is behind it. Names are bytes. A node id is
a 64-bit number that stays the same for as long as the mount lives; the root's is always 1, and 0
is never one. Methods may be called from several threads at once. Whatever goes wrong is an
OSError with its errno; a name that does not exist is no error but None, since negative lookups
are a large part of the traffic.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

ROOT_ID = 1
NAME_MAX = 255
"""Bytes of a file's name, by Linux (<linux/limits.h>); the kernel takes a longer one for damage."""


class _Asker(threading.local):
    """Who waits for what a thread is doing: `has_left` is the driver's."""

    has_left: Callable[[], bool] = staticmethod(lambda: False)


asker = _Asker()


def check_asker() -> None:
    """Raise OSError EINTR if nobody waits any more for what this thread is doing.

    For a file system to call, now and then, where work may take long.
    """
    if asker.has_left():
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))


class Attr(NamedTuple):
    """Attributes of a node, with the meaning of stat(2); times in seconds and nanoseconds.

    `mode` holds the type bits as well, `blocks` counts 512 bytes, `rdev` is as makedev(3) packs
    it (the kernel's 32-bit encoding). The three times of a file are one: its mtime. `ino` is what
    people see, `node` what the driver goes by: directories that show the same may share an `ino`.
    """

    node: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    mtime: int
    mtimensec: int


class Entry(NamedTuple):
    """A name in a directory and the node that it names."""

    name: bytes
    attr: Attr


class Statfs(NamedTuple):
    """Totals of the file system, with the meaning of statvfs(3); `blocks` counts `bsize` bytes."""

    bsize: int
    blocks: int
    files: int
    namelen: int


class ReadaheadCandidates(NamedTuple):
    """Whole files that follow another one in its directory, as node and content.

    `end` is the node behind the last that was looked at; `whole` tells that none come after it.
    """

    files: Sequence[tuple[int, bytes | memoryview]] = ()
    end: int = 0
    whole: bool = False


class FileSystem(Protocol):
    """A read-only file system, addressed by node id."""

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """Return what `name` is in directory `parent`; `.` and `..` work, `..` of 1 is 1."""

    def getattr(self, node: int) -> Attr:
        """Return a node's attributes."""

    def listdir(self, node: int) -> Sequence[Entry]:
        """Return a directory's entries, without `.` and `..`, in an order that never changes."""

    def readlink(self, node: int) -> bytes:
        """Return a symbolic link's target."""

    def read(self, node: int, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; shorter only at the end of the file."""

    def with_extent(
        self, node: int, offset: int, size: int, take: Callable[[int, int, int], None]
    ) -> bool:
        """Call `take` with an open file, and offset and length of what `read` would return in it.

        Meanwhile the bytes there do not change. Return False, and call nothing, where no file has
        them in one piece, or where that cannot be vouched for. What `take` raises is passed on.
        """

    def readahead_candidates(self, node: int, most: int) -> ReadaheadCandidates:
        """Return small files, out of the next `most` in the file's directory; none is fine."""

    def seek(self, node: int, offset: int, whence: int) -> int:
        """Return the next offset of data (os.SEEK_DATA) or of a hole (os.SEEK_HOLE)."""

    def getxattr(self, node: int, name: bytes) -> bytes | None:
        """Return an extended attribute's value, or None where there is none."""

    def listxattr(self, node: int) -> Sequence[bytes]:
        """Return the names of a node's extended attributes."""

    def statfs(self) -> Statfs:
        """Return the file system's totals."""

    def is_stable(self, node: int) -> bool:
        """Tell whether the node and its names never change, so that they may be cached for ever."""

    def adjust_lookups(self, nodes: Iterable[int], count: int) -> None:
        """Note that the kernel took up, or with a negative count gave back, references to nodes.

        Told only where the root is not stable; see FORGET in fuse(4).
        """

    def watch(self, tell_gone: Callable[[int, bytes], None]) -> None:
        """Have `tell_gone` called, from any thread, with directory and name of what is no more."""
