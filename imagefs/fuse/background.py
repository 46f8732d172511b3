"""Requests that may take long, so that the rest of the mount answers meanwhile.

Owns the threads that answer them, one each, and the question who may still reply: a request that
the kernel interrupts is answered EINTR at once, and its late result is dropped. `take` is for the
thread that reads the device; the replies are sent from any.
"""

import errno
import gc
import logging
import threading
from collections.abc import Callable

from imagefs.fuse.replies import Reply, failed
from imagefs.fuse.session import Session, interrupts, number_of

_log = logging.getLogger(__name__)


class SlowRequests:
    """The requests of one session that are being answered in threads."""

    def __init__(self, session: Session, send: Callable[[Reply], None]) -> None:
        self._session = session
        self._send = send
        self._lock = threading.Lock()
        self._waiting: set[int] = set()

    def take(self, request: bytes) -> bool:
        """Answer the request from elsewhere, if it is slow or interrupts one that is."""
        interrupted = interrupts(request)
        if interrupted is not None:
            if self._claim(interrupted):
                self._send(failed(interrupted, errno.EINTR))
            return True
        if not self._session.may_block(request):
            return False
        unique = number_of(request)
        with self._lock:
            self._waiting.add(unique)
        try:
            threading.Thread(target=self._answer, args=(unique, request), daemon=True).start()
        except RuntimeError:
            _log.exception("no thread for a slow request, which now holds up the others")
            return not self._claim(unique)
        return True

    def _answer(self, unique: int, request: bytes) -> None:
        reply = self._session.handle(request)
        if self._claim(unique):
            self._send(reply)
        # What a fetch leaves behind may hold cycles, and the collector is off while we serve.
        gc.collect()

    def _claim(self, unique: int) -> bool:
        """Tell whether the caller is the one to reply: whoever asks first is."""
        with self._lock:
            if unique not in self._waiting:
                return False
            self._waiting.remove(unique)
            return True
