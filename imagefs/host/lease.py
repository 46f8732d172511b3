"""Files that nobody can change for a while: read leases, see F_SETLEASE in fcntl(2).

Who wants to write to a leased file, or to cut it, waits in open(2) or truncate(2) until the lease
has been given back; the kernel tells a thread here, which does that at once. Linux only. Any
thread may call it.
"""

import fcntl
import functools
import signal
import struct
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# <asm-generic/fcntl.h>; Python names neither.
_F_SETOWN_EX = 15
_F_OWNER_TID = 0
_OWNER = struct.Struct("ii")


class Lease:
    """A lease on an open file that is its user's own, for as long as nobody wants to write to it.

    It is taken once. Other people's files, and some file systems', give none.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held = _keeper().take(self)

    @contextmanager
    def holding(self) -> Iterator[bool]:
        """Tell whether the file stays as it is until the end of the block, which must be short."""
        with _keeper().lock:
            yield self._held

    def give_back(self) -> None:
        """Let others write."""
        with _keeper().lock:
            self._end()

    def _begin(self, thread: int) -> bool:
        try:
            fcntl.fcntl(self._fd, _F_SETOWN_EX, _OWNER.pack(_F_OWNER_TID, thread))
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            return False
        return True

    def _end(self) -> None:
        self._held = False
        with suppress(OSError):  # it has been taken from us, or there never was one
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def _end_if_asked(self) -> None:
        # Of a lease that is to be given back, the kernel tells what it is to become.
        if self._held and fcntl.fcntl(self._fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            self._end()


class _Keeper:
    """The thread that is told of those who wait. `lock` is held by who relies on a lease."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._thread = 0
        self._listening = threading.Event()
        threading.Thread(target=self._listen, name="leases", daemon=True).start()
        self._listening.wait()

    def take(self, lease: Lease) -> bool:
        with self.lock:
            self._leases.add(lease)
            return lease._begin(self._thread)

    def _listen(self) -> None:
        # Sent to this thread alone, so that nobody else need know of the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        self._thread = threading.get_native_id()
        self._listening.set()
        while True:
            signal.sigwait({signal.SIGIO})
            with self.lock:
                for lease in list(self._leases):
                    lease._end_if_asked()


@functools.cache
def _keeper() -> _Keeper:
    return _Keeper()
