"""Files handed to the kernel before it asks: the small neighbours of one that is being read.

Where a tool reads its way through a directory, asking for each file costs several times what the
file's bytes do. So the reply to one READ waits until the next files lie in the page cache, by
FUSE_NOTIFY_STORE. How many there are grows while the guess is right, shrinks when it is wrong,
and is none for whoever reads a single file.

The kernel locks a page from when somebody wants it read until it is answered, and a store waits
for that lock. Whoever waits for the reply to the READ at hand cannot have asked for another file
meanwhile; somebody else can, so nothing is stored while a request waits. For the moment between
that look and the store there is a thread, which answers requests if a store does not come back.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable

from imagefs.filesystem import FileSystem
from imagefs.fuse import abi

_FIRST, _MOST = 4, 64
"""Files that are handed over, at first and at most."""
_NEAR = 8
"""Node ids between two files that follow each other: some names are no files, or large."""
_STUCK = 0.01
"""Seconds after which a store is taken to wait for a reply."""
_CALM = 100
"""As many times that long without a store, and nobody looks any more."""

_log = logging.getLogger(__name__)


class Pusher:
    """Hands over files of one mount.

    `waiting` tells whether a request waits; `answer` takes one and answers it, and tells whether
    there was one. All but what the thread does belongs to the thread that reads the device.
    """

    def __init__(
        self,
        device: int,
        fs: FileSystem,
        waiting: Callable[[], bool],
        answer: Callable[[], bool],
    ) -> None:
        self._device = device
        self._fs = fs
        self._waiting = waiting
        self._answer = answer
        self._last = self._end = self._most = 0
        self._whole = False
        self._stores = 0
        self._storing = False
        self._helping = False
        self._active = threading.Event()
        self._thread: threading.Thread | None = None

    def was_read(self, node: int) -> None:
        """Hand over what probably follows the file whose beginning has just been read."""
        if self._helping:
            return  # whose own stores nobody would watch
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
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="push-watch", daemon=True)
            self._thread.start()
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
        self._stores += 1
        self._storing = True
        # In this order: the thread looks for a store once it has cleared the event.
        if not self._active.is_set():
            self._active.set()
        try:
            os.writev(self._device, (head, content))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                _log.debug("the kernel would not take a file: %s", error)
            return False
        finally:
            self._storing = False
        return True

    def _watch(self) -> None:
        """Answer requests while a store waits for one of them to be answered."""
        calm = 0
        while True:
            before = self._stores
            if calm > _CALM:
                self._active.clear()
                if self._stores == before:
                    self._active.wait()
                calm = 0
            time.sleep(_STUCK)
            while self._storing and self._stores == before:
                self._helping = True
                if not self._answer():
                    time.sleep(_STUCK / 10)
            self._helping = False
            calm = calm + 1 if self._stores == before else 0
