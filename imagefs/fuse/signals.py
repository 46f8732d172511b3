"""Signals that end a mount, turned into an unmount and the end of the serving loop.

The loop blocks in read(2) on the device and must go on answering while the unmount runs, since
unmounting may ask it something. So the unmount has a thread of its own, which a signal wakes
through a pipe. Once the mount is gone the loop's read fails with ENODEV and it ends by itself; it
does not when the mount was busy, or lives on in another mount namespace, and is then brought out
of its read by an exception from the signal's handler.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE = 0.02  # seconds between reminders: a signal just before the read goes unnoticed


class _Leave(BaseException):  # no Exception: requests raise those
    """Brings the loop out of its read."""


class Undertaker:
    """Runs a loop in the main thread, and `unmount` in another when a signal asks for the end.

    In any thread but the main one signals cannot be had, and the loop just runs.
    """

    def __init__(self, unmount: Callable[[], None]) -> None:
        self._unmount = unmount
        self._unmounted = False
        self._leaving = False  # no Event, whose lock a handler could find taken

    def run(self, loop: Callable[[], None]) -> None:
        """Return when the loop has ended, or after a signal when the mount is gone."""
        if threading.current_thread() is not threading.main_thread():
            loop()
            return
        with self._watching():
            try:
                try:
                    loop()
                finally:
                    self._leaving = True
            except _Leave:
                pass

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        woken, wake = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(wake, False)
        watcher = threading.Thread(target=self._watch, args=(woken,), daemon=True)
        handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        watcher.start()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(wake)
            watcher.join()
            os.close(woken)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._unmounted and not self._leaving:
            self._leaving = True
            raise _Leave

    def _watch(self, woken: int) -> None:
        numbers = set(map(int, _SIGNALS))
        while (received := os.read(woken, 64)) and not numbers.intersection(received):
            pass
        if not received or self._leaving:
            return
        self._unmount()
        self._unmounted = True
        time.sleep(_PATIENCE)  # most often the loop leaves by itself
        while not self._leaving:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            time.sleep(_PATIENCE)
