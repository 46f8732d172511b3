"""What the kernel is told unasked: names that are no more.

Told from a thread of its own. The kernel takes a directory's lock to drop a name, and a request
that we have not answered may hold it.
"""

import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from imagefs.fuse import abi

_log = logging.getLogger(__name__)


class Notices:
    """The messages for one mount; `gone` may be called from any thread and returns at once."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._gone: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        threading.Thread(target=self._tell, name="notices", daemon=True).start()

    def gone(self, parent: int, name: bytes) -> None:
        """Have the kernel drop a name, and what it keeps below it that nobody uses."""
        self._gone.put((parent, name))

    def _tell(self) -> None:
        while True:
            parent, name = self._gone.get()
            length = abi.NOTIFY_INVAL_ENTRY.size + len(name) + 1
            head = abi.NOTIFY_INVAL_ENTRY.pack(
                length, abi.FUSE_NOTIFY_INVAL_ENTRY, 0, parent, len(name)
            )
            try:
                os.writev(self._device, (head, name, b"\0"))
            except OSError as error:
                # ENOENT: it does not know the name, which is what we want.
                _log.debug("the kernel would not drop %r: %s", name, error)


class QuietNotices:
    """Notices that wait until nothing is open; any thread may call.

    A name that is dropped while a file below it is open leaves directories on the way to that file
    where no later notice finds them, and the kernel keeps them for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._waiting: dict[tuple[int, bytes], None] = {}
        self._tell: Callable[[int, bytes], None] = lambda parent, name: None

    def tell_by(self, tell: Callable[[int, bytes], None]) -> None:
        """Set who tells the kernel, and returns at once."""
        self._tell = tell

    def gone(self, parent: int, name: bytes) -> None:
        """Have the kernel drop a name, and what it keeps below it that nobody uses."""
        with self._lock:
            self._waiting[parent, name] = None
            self._pass_on()

    def opened(self) -> None:
        """Note that a file or a directory is open."""
        with self._lock:
            self._open += 1

    def closed(self) -> None:
        """Note that one is open no longer."""
        with self._lock:
            self._open -= 1
            self._pass_on()

    def _pass_on(self) -> None:
        if not self._open:
            for parent, name in self._waiting:
                self._tell(parent, name)
            self._waiting.clear()
