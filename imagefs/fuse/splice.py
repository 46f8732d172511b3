"""Large READs answered without taking the bytes in hand: from a file's pages to the reader's.

The pages go through a pipe by reference, splice(2), so that the kernel copies them once instead
of twice. To read a GiB from start to end took 0.31 instead of 0.43 s.
"""

import errno
import fcntl
import functools
import logging
import os
import threading
from dataclasses import dataclass

from imagefs.filesystem import FileSystem
from imagefs.fuse import abi

_PIPE = 1 << 20
"""Bytes that everybody's pipes may hold, in whole pages; see pipe(7)."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_EXTRA_PAGES = 2
"""The header takes a page, and content that begins within one takes one more."""

_log = logging.getLogger(__name__)


class Splicer:
    """Answers READs of one mount; for any thread."""

    def __init__(self, device: int, fs: FileSystem) -> None:
        self._device = device
        self._fs = fs
        self._lock = threading.Lock()
        self._pipe: _Pipe | None = None

    def answer(self, unique: int, node: int, offset: int, size: int) -> bool:
        """Answer a READ, or return False: then somebody else has to, who finds what is wrong."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._pipe = self._pipe or _Pipe.make()
            return size <= self._pipe.room and self._fs.with_extent(
                node, offset, size, functools.partial(self._pipe.carry, self._device, unique)
            )
        except OSError as error:
            _log.debug("a READ of node %#x cannot be spliced: %s", node, error)
            self._let_go()  # something may be left in the pipe
            return False
        finally:
            self._lock.release()

    def close(self) -> None:
        """Let go of the pipe."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe.read_end)
            os.close(pipe.write_end)


@dataclass(frozen=True, slots=True)
class _Pipe:
    """A pipe that takes a reply of up to `room` bytes of content. OSError leaves it unusable."""

    read_end: int
    write_end: int
    room: int

    @classmethod
    def make(cls) -> "_Pipe":
        # Without O_NONBLOCK one would wait for room that nobody else makes.
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pages = fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE) // _PAGE
        except OSError:
            # The user's pipes hold what they may hold already: this one takes no large reply.
            pages = fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ) // _PAGE
        return cls(read_end, write_end, (pages - _EXTRA_PAGES) * _PAGE)

    def carry(self, device: int, unique: int, fd: int, start: int, length: int) -> None:
        """Send `length` bytes of a file, from `start` on, as the reply to a request."""
        total = abi.OUT_HEADER.size + length
        os.write(self.write_end, abi.OUT_HEADER.pack(total, 0, unique))
        end = start + length
        while start < end:
            moved = os.splice(fd, self.write_end, end - start, offset_src=start)
            if not moved:
                raise OSError(errno.EIO, "the file is shorter than it was")
            start += moved
        os.splice(self.read_end, device, total)
