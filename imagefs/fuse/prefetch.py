"""Files handed to the kernel before it asks: the small neighbours of one that is being read.

Where a tool reads its way through a directory, asking for each file costs several times what the
file's bytes do. So the reply to one READ waits until the next files lie in the page cache, by
FUSE_NOTIFY_STORE. How many there are grows while the guess is right, shrinks when it is wrong,
and is none for whoever reads a single file. It is right if the next file whose READ comes is the
one behind those that were handed over: then these were read without asking.

A hand-over must not wait for itself. The kernel locks a page from when somebody wants it read
until that READ is answered, and a store waits for the lock; so it would wait for ever where the
READ waits in the device for the very thread that stores. Whoever waits for the reply to the READ at
hand cannot have asked for another file meanwhile. Somebody else can: so nothing is stored while a
request waits. Should one come in the moment between that look and the store, the thread is
stuck in it as in any slow answer, and another of the crew leads on, answers, and so frees it
(`crew.py`). That one hands over nothing itself: it does not wait for who is at it.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable

from imagefs.filesystem import FileSystem
from imagefs.fuse import abi

_FIRST, _MOST = 4, 64
"""Files that are handed over, at first and at most."""
_NEAR = 8
"""Node ids between two files that follow each other: some names are no files, or large."""

_log = logging.getLogger(__name__)


class Pusher:
    """Hands over files of one mount.

    `waiting` tells whether a request waits. For any thread.
    """

    def __init__(self, device: int, fs: FileSystem, waiting: Callable[[], bool]) -> None:
        self._device = device
        self._fs = fs
        self._waiting = waiting
        self._lock = threading.Lock()
        self._last = self._end = self._most = 0
        self._whole = False

    def was_read(self, node: int) -> None:
        """Hand over what probably follows the file whose beginning has just been read."""
        if not self._lock.acquire(blocking=False):
            return  # somebody is about it, and perhaps waits for a page
        try:
            self._note(node)
        finally:
            self._lock.release()

    def _note(self, node: int) -> None:
        last, self._last = self._last, node
        if self._end and self._end <= node < self._end + _NEAR:
            self._most = min(2 * self._most, _MOST)
        elif last < node < last + _NEAR:
            self._most = max(self._most // 2, _FIRST)
        elif not self._whole:
            self._most //= 2
        self._end, self._whole = 0, False
        if self._most and not self._waiting():
            self._push(node)

    def _push(self, node: int) -> None:
        try:
            following = self._fs.readahead_candidates(node, self._most)
        except (OSError, LookupError) as error:
            # Whoever reads them is told.
            _log.debug("what follows node %#x cannot be read: %s", node, error)
            self._most = 0
            return
        self._end, self._whole = following.end, following.whole
        for number, (place, content) in enumerate(following.files):
            if self._waiting():
                self._end, self._whole = place, False
                return
            if not self._store(place, content) and number == 0:
                # The kernel does not know it, nor probably the others: nobody has listed them.
                self._end = self._most = 0
                return

    def _store(self, node: int, content: bytes | memoryview) -> bool:
        size = len(content)
        head = abi.NOTIFY_STORE.pack(
            abi.NOTIFY_STORE.size + size, abi.FUSE_NOTIFY_STORE, 0, node, 0, size
        )
        try:
            os.writev(self._device, (head, content))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                _log.debug("the kernel would not take a file: %s", error)
            return False
        return True
