"""Signals that end a mount, turned into an unmount and the end of the serving loop.

The loop must go on answering while the unmount runs, since unmounting may ask it something. So the
unmount has a thread of its own, which a signal wakes through a pipe. Once the mount is gone, the
device says ENODEV and the loop ends by itself; it does not when the mount was busy, or lives on in
another mount namespace, and is then told by a second pipe, which it polls beside the device.
Nothing is ever raised out of a signal's handler.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE = 0.02
"""Seconds for which a loop whose mount has gone may leave by itself: most often it does."""


class Stop:
    """What tells a loop to end: `asked` is set, and `fd` can be read from then on."""

    def __init__(self) -> None:
        self.asked = False
        self.fd, self._wake = os.pipe2(os.O_CLOEXEC)

    def ask(self) -> None:
        """Have the loop end; for any thread."""
        self.asked = True
        os.write(self._wake, b"x")

    def close(self) -> None:
        """Give the pipe back, once nobody polls it any more."""
        os.close(self.fd)
        os.close(self._wake)


class Undertaker:
    """Runs a loop in the main thread, and `unmount` in another when a signal asks for the end.

    In any thread but the main one signals cannot be had, and the loop just runs.
    """

    def __init__(self, unmount: Callable[[], None]) -> None:
        self._unmount = unmount
        self._left = threading.Event()

    def run(self, loop: Callable[[Stop], None]) -> None:
        """Return when the loop has ended, or after a signal when the mount is gone."""
        with contextlib.closing(Stop()) as stop:
            if threading.current_thread() is not threading.main_thread():
                loop(stop)
                return
            with self._watching(stop):
                try:
                    loop(stop)
                finally:
                    self._left.set()

    @contextlib.contextmanager
    def _watching(self, stop: Stop) -> Iterator[None]:
        woken, wake = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(wake, False)
        watcher = threading.Thread(target=self._watch, args=(woken, stop), daemon=True)
        handlers = {number: signal.signal(number, _note) for number in _SIGNALS}
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

    def _watch(self, woken: int, stop: Stop) -> None:
        numbers = set(map(int, _SIGNALS))
        while (received := os.read(woken, 64)) and not numbers.intersection(received):
            pass
        if not received or self._left.is_set():
            return
        self._unmount()
        if not self._left.wait(_PATIENCE):
            stop.ask()


def _note(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: that there is a handler has the signal's number written to the pipe."""
