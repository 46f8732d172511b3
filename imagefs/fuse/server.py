"""The native driver: mounts a `FileSystem` and answers the kernel on /dev/fuse until unmounted.

Owns the device, which a `Crew` takes requests from. `serve` is for the main thread, where signals
unmount; elsewhere it works too, without them.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator

from imagefs.errors import HostError
from imagefs.filesystem import FileSystem
from imagefs.fuse.crew import Crew
from imagefs.fuse.device import Requests
from imagefs.fuse.invalidate import Notices
from imagefs.fuse.mount import MountOptions, mount, read_far_ahead, unmount_own
from imagefs.fuse.prefetch import Pusher
from imagefs.fuse.replies import LARGEST_READ
from imagefs.fuse.session import Session
from imagefs.fuse.signals import Stop, Undertaker
from imagefs.fuse.splice import Splicer
from imagefs.host import mountinfo
from imagefs.host.mount_point import MountPoint

__all__ = ["MountOptions", "serve"]

_SWITCH = 0.0005
"""Seconds for which a thread may keep the interpreter from another one; a tenth of the usual, as
each request asks for it twice."""


def serve(
    fs: FileSystem, point: MountPoint, options: MountOptions, ready: Callable[[], None]
) -> None:
    """Mount `fs`, serve it until it is unmounted, and return.

    `ready` is called once the kernel and we have agreed; what it does must not look into the
    mount, which answers as soon as it has returned. SIGTERM, SIGINT and SIGHUP unmount.
    """
    server = _Server(fs, point, options, ready)
    Undertaker(server.unmount).run(server.serve)


class _Server:
    """One mount, from mount(2) to the last request."""

    def __init__(
        self, fs: FileSystem, point: MountPoint, options: MountOptions, ready: Callable[[], None]
    ) -> None:
        self._fs = fs
        self._session = Session(fs)
        self._point = point
        self._options = options
        self._ready = ready
        self._identity: str | None = None

    def serve(self, stop: Stop) -> None:
        """Mount and answer until there is no mount any more, or it is to end."""
        device, mounted = mount(self._point, self._options)
        crew = Crew(device, stop, self._session)
        try:
            self._identity = mountinfo.identities().get(mounted.id)
            if not _agree(Requests(device, stop, lambda: False), device, self._session):
                if stop.asked:
                    return
                raise HostError("the mount was taken away before it was ready")
            read_far_ahead(mounted.device, LARGEST_READ)
            if not self._session.all_stable:
                self._fs.watch(Notices(device).gone)
            self._ready()
            self._session.on_read = Pusher(device, self._fs, crew.waiting).was_read
            with _tuned(), contextlib.closing(Splicer(device, self._fs)) as splicer:
                self._session.answer_large = splicer.answer
                crew.run()
        finally:
            # Still mounted if `ready` failed, or if somebody cut the connection.
            self.unmount()
            # Whoever is busy would write to what has its number next.
            if not crew.busy:
                os.close(device)

    def unmount(self) -> None:
        """Take away our own mount, wherever it is now."""
        if self._identity is not None:
            unmount_own(self._identity)


def _agree(requests: Requests, device: int, session: Session) -> bool:
    """Answer INIT, which a kernel with a later major version sends twice; False where all ends."""
    for _ in range(2):
        request = requests.next()
        if request is None:
            return False
        with contextlib.suppress(OSError):  # what is wrong, the next read says as well
            os.writev(device, session.handle(request))
        if session.minor is not None:
            return True
    raise HostError("the kernel's FUSE is too old: it takes Linux 5.4 or later")


@contextlib.contextmanager
def _tuned() -> Iterator[None]:
    """Suit the interpreter to serving: threads wait less for each other.

    And the collector of cycles is off: it would walk all nodes in vain, as they hold no cycles.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
        sys.setswitchinterval(before)
