"""The threads that answer the requests of one mount: one leads, until it is stuck in an answer.

A second thread would only wait for the interpreter's lock, so the leader takes every request and
answers it. While it does, the right to lead, the baton, lies where anybody may pick it up: it is
the request itself, in a list of one or none, which each leader has of his own. To put it down and
to pick it up are single operations of the list, which is all that a quick request pays.

The watch looks at the baton at each tick. If the same one lies there twice in turn, a new thread
picks it up, enters in `_slow` who is stuck and in what, and leads on. (Should the old leader have
come to its next request just then, it is that one's baton which is gone; this does no harm.) Who
finds the baton gone has sent its reply, takes itself off `_slow`, and ends; no thread waits to be
used again. So there is one leader, and besides a thread for each request that takes long. While
nobody asks, the watch sleeps, and the next request wakes it.

Who is interrupted is told so once, by INTERRUPT, at the first signal, be it one that a program
handles and goes on after. No system call on files may fail for those, so EINTR is only for askers
that are to end. The work then stops at the next `check_asker`; if it replies nevertheless, the
kernel refuses, and the session takes back what the reply gave away.
"""

import errno
import gc
import logging
import os
import threading
import time
from dataclasses import dataclass
from threading import get_ident

from imagefs.filesystem import asker
from imagefs.fuse import abi
from imagefs.fuse.device import GO_ON, Requests
from imagefs.fuse.replies import BODY, Reply, failed
from imagefs.fuse.session import Session
from imagefs.fuse.signals import Stop
from imagefs.host import processes

_TICK, _QUICK_TICK = 0.02, 0.005
"""Seconds after which a request that is still the same is taken to be slow: the first, and those
that come upon it, so that a crowd of them does not hold up the others by its number."""
_LONG = 1.0
"""Seconds from which on an answer may leave many cycles behind; the collector is off meanwhile."""

_log = logging.getLogger(__name__)


class _RelievedError(Exception):
    """Another thread leads."""


@dataclass(slots=True)
class _Slow:
    """A request that takes long, who asked, and whether they were interrupted and have left.

    `since` is about when it was taken up, on the monotonic clock.
    """

    number: int
    pid: int
    since: float
    interrupted: bool = False
    left: bool = False


class Crew:
    """Answers the requests of a mount; `run` is for one thread, `waiting` for any one at a time."""

    def __init__(self, device: int, stop: Stop, session: Session) -> None:
        self._device = device
        self._session = session
        self._requests = Requests(device, stop, self._prepare)
        self.waiting = self._requests.waiting
        self._baton: list[bytes] = []
        self._lock = threading.Lock()
        self._leader = 0
        self._slow: dict[int, _Slow] = {}  # by the thread that answers it
        self._calm = False
        self._called = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        session.on_interrupt = self._interrupt

    @property
    def busy(self) -> bool:
        """Whether a thread is still at work on a request, which it will reply to."""
        return bool(self._slow)

    def run(self) -> None:
        """Answer until there is no mount any more, or it is to end."""
        # Who waits for the end is none of them: the end does not wait for what is slow.
        for work in (self._watch, self._lead):
            threading.Thread(target=work, daemon=True).start()
        self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def _lead(self) -> None:
        try:
            self._answer()
        except _RelievedError:
            with self._lock:
                slow = self._slow.pop(get_ident())
            if time.monotonic() - slow.since > _LONG:
                gc.collect()
            return
        except BaseException as failure:
            self._failure = failure
        self._ended.set()
        self._called.set()

    def _answer(self) -> None:
        me, slow = get_ident(), self._slow
        self._leader = me
        asker.has_left = lambda: me in slow and slow[me].left
        next_one, handle, send = self._requests.next, self._session.handle, self._send
        # One's own: who was relieved must not pick up what the next leader has put down.
        baton = self._baton = []
        put_down, pick_up = baton.append, baton.pop
        while request := next_one():
            put_down(request)
            if self._calm:
                self._call()
            reply = handle(request)
            if reply:
                send(request, reply)
            try:
                pick_up()
            except IndexError:
                raise _RelievedError from None

    def _prepare(self) -> bool:
        """Prepare what may be asked for, which may take as long as a request."""
        if not self._session.can_prepare():
            return False
        baton = self._baton
        baton.append(bytes(BODY))
        prepared = self._session.prepare()
        try:
            baton.pop()
        except IndexError:
            raise _RelievedError from None
        return prepared

    def _send(self, request: bytes, reply: Reply) -> None:
        try:
            os.writev(self._device, reply)
        except OSError as error:
            self._session.undelivered(request, reply)
            # With ENODEV the mount is gone, which the next read says as well.
            if error.errno not in GO_ON and error.errno != errno.ENODEV:
                _log.error(
                    "the kernel refused a reply of %d bytes: %s", sum(map(len, reply)), error
                )

    def _call(self) -> None:
        """Wake the watch, which sleeps while nobody asks for anything."""
        self._calm = False
        self._called.set()

    def _watch(self) -> None:
        before: bytes | None = None
        while not self._ended.is_set():
            time.sleep(_QUICK_TICK if self._slow else _TICK)
            now = next(iter(self._baton), None)
            if now is not None and now is before:
                self._replace(now)
            before = now
            if not self._let_go() and now is None and self._calm:
                self._called.wait()
                self._called.clear()
            self._calm = True

    def _replace(self, request: bytes) -> None:
        """Have another thread lead, as the leader is stuck in a request."""
        try:
            threading.Thread(target=self._take_over, args=(request,), daemon=True).start()
        except RuntimeError as error:
            _log.debug("a slow request holds up the others: %s", error)

    def _take_over(self, request: bytes) -> None:
        with self._lock:
            if next(iter(self._baton), None) is not request:
                return  # it has been answered meanwhile
            try:
                number, pid = abi.ASKER.unpack_from(self._baton.pop())
            except IndexError:
                return
            self._slow[self._leader] = _Slow(number, pid, time.monotonic())
        self._lead()

    def _interrupt(self, number: int) -> None:
        with self._lock:
            for slow in self._slow.values():
                slow.interrupted |= slow.number == number

    def _let_go(self) -> bool:
        """Answer those who were interrupted and are to end; tell whether any are left to watch."""
        with self._lock:
            waiting = [one for one in self._slow.values() if one.interrupted and not one.left]
            for slow in waiting:
                if processes.is_to_end(slow.pid):
                    slow.left = True
                    self._send(b"", failed(slow.number, errno.EINTR))
        return bool(waiting)
