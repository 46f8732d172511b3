"""The native driver: mounts a `FileSystem` and answers the kernel on /dev/fuse until unmounted.

Owns the device and the loop over it. One thread reads and answers, as a second one would only
wait for the interpreter's lock; what may take long is left to `slow`. `serve` is for the main
thread, where signals unmount; elsewhere it works too, without them.
"""

import contextlib
import errno
import gc
import logging
import os
from collections.abc import Callable, Iterator

from imagefs.errors import HostError
from imagefs.filesystem import FileSystem
from imagefs.fuse.background import SlowRequests
from imagefs.fuse.device import GO_ON, Requests
from imagefs.fuse.invalidate import Notices
from imagefs.fuse.mount import MountOptions, mount, read_far_ahead, unmount_for_good
from imagefs.fuse.prefetch import Pusher
from imagefs.fuse.replies import LARGEST_READ, Reply
from imagefs.fuse.session import Session
from imagefs.fuse.signals import Stop, Undertaker
from imagefs.fuse.splice import Splicer
from imagefs.host import mountinfo
from imagefs.host.mount_point import MountPoint

__all__ = ["MountOptions", "serve"]

_log = logging.getLogger(__name__)


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
        try:
            self._identity = mountinfo.identities().get(mounted.id)
            requests = Requests(device, stop, self._session.prepare)
            if not _agree(requests, device, self._session):
                if stop.asked:
                    return
                raise HostError("the mount was taken away before it was ready")
            read_far_ahead(mounted.device, LARGEST_READ)
            if not self._session.all_stable:
                self._fs.watch(Notices(device).gone)
            self._ready()
            with _no_collector(), contextlib.closing(Splicer(device, self._fs)) as splicer:
                self._session.answer_large = splicer.answer
                _answer(requests, device, self._session, self._fs)
        finally:
            # Still mounted if `ready` failed, or if somebody cut the connection.
            self.unmount()
            os.close(device)

    def unmount(self) -> None:
        """Take away our own mount, wherever it is now, and none that has come in its place."""
        if self._identity is None:
            return
        identities = mountinfo.identities()
        for one in mountinfo.mounts():
            if identities.get(one.id) == self._identity:
                unmount_for_good(one)
                return


def _agree(requests: Requests, device: int, session: Session) -> bool:
    """Answer INIT, which a kernel with a later major version sends twice; False where all ends."""
    for _ in range(2):
        request = requests.next()
        if request is None:
            return False
        _send(device, session.handle(request))
        if session.minor is not None:
            return True
    raise HostError("the kernel's FUSE is too old: it takes Linux 5.4 or later")


def _answer(requests: Requests, device: int, session: Session, fs: FileSystem) -> None:
    """Answer requests until there is no mount any more."""
    next_one, handle = requests.next, session.handle
    takes = SlowRequests(session, lambda reply: _send(device, reply)).take

    def answer_one() -> bool:
        request = requests.now()
        if request and not takes(request):
            _send(device, handle(request))
        return request is not None

    all_stable = session.all_stable
    session.on_read = Pusher(device, fs, requests.waiting, answer_one).was_read
    while request := next_one():
        if all_stable or not takes(request):
            _send(device, handle(request))


def _send(device: int, reply: Reply) -> None:
    """Send a reply, if there is one to be sent."""
    if not reply:
        return
    try:
        os.writev(device, reply)
    except OSError as error:
        # With ENODEV the mount is gone, which the next read says as well.
        if error.errno not in GO_ON and error.errno != errno.ENODEV:
            _log.error("the kernel refused a reply of %d bytes: %s", sum(map(len, reply)), error)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the collector of cycles off: it would walk all nodes in vain, as they hold no cycles."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
