"""How requests are taken from the device: whoever answers does not go to sleep at once.

To wake a sleeping process on another processor costs more than to answer it: 50 µs on a virtual
machine. A tool that walks a tree asks again within that time, so the device is looked at for
a while first. Used by one thread at a time.
"""

import errno
import os
import select
import time
from collections.abc import Callable

from imagefs.fuse import abi
from imagefs.fuse.signals import Stop

GO_ON = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})
"""ENOENT: the request was taken back before it was read, or is no more when it is replied to."""

# No request is longer: nothing is written, and the kernel cuts lists of nodes to forget to fit.
_BUFFER = abi.FUSE_MIN_READ_BUFFER
_AWAKE = 200_000
"""Nanoseconds without a request before we sleep. On a machine where waking another processor costs
50 µs, `find` on a fresh mount took 0.6 times as long with it, `grep -r` 0.5 times."""
_ELSEWHERE = 200_000
"""If to yield takes longer than this, in nanoseconds, others want this processor."""
_PAUSE = 10_000_000
"""Nanoseconds for which we then sleep at once: a sleeper that is woken has precedence over them."""


class Vigil:
    """How long who answers stays awake while nobody asks."""

    def __init__(self) -> None:
        self._crowded_until = 0
        # Where there is one processor only, who looks keeps the asker from asking.
        self._awake = _AWAKE if len(os.sched_getaffinity(0)) > 1 else 0

    def go_on(self, since: int) -> int:
        """Let others have the processor, and return since when nobody asks, or 0: go to sleep.

        `since` is what it returned before, 0 if there was a request meanwhile.
        """
        now = time.monotonic_ns()
        since = since or now
        if now - since >= self._awake or now < self._crowded_until:
            return 0
        os.sched_yield()
        back = time.monotonic_ns()
        if back - now > _ELSEWHERE:
            self._crowded_until = back + _PAUSE
        return since


class Requests:
    """The requests of one mount, in the order they come.

    `prepare` does a little of what may be asked for next, and tells whether there was any.
    """

    def __init__(self, device: int, stop: Stop, prepare: Callable[[], bool]) -> None:
        os.set_blocking(device, False)
        self._device = device
        self._stop = stop
        self._prepare = prepare
        self._sleep = select.poll()
        self._sleep.register(device, select.POLLIN)
        self._sleep.register(stop.fd, select.POLLIN)
        self._look = select.poll()
        self._look.register(device, select.POLLIN)
        self._vigil = Vigil()

    def waiting(self) -> bool:
        """Tell whether there is a request; also while another thread is in `next`."""
        return bool(self._look.poll(0))

    def next(self) -> bytes | None:
        """Return the next request, or None when there is no mount any more or it is to end."""
        read, device = os.read, self._device
        since = 0
        while not self._stop.asked:
            try:
                return read(device, _BUFFER)
            except BlockingIOError:
                since = self._wait(since)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return None
                if error.errno not in GO_ON:
                    raise
        return None

    def _wait(self, since: int) -> int:
        """Wait a moment, or until there is a request; return since when there is none, or 0."""
        if self._prepare():
            return 0
        since = self._vigil.go_on(since)
        if not since:
            self._sleep.poll()
        return since
