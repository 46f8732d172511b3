"""The portable driver: a `FileSystem` before libfuse, 2 or 3.

Owns the mount from its options to its end; `serve` is for the main thread. An interrupted request
ends at the file system's next `check_asker`, as nobody but its own thread can answer it.
"""

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO

from imagefs.errors import MountError
from imagefs.filesystem import ROOT_ID, FileSystem
from imagefs.fuse.invalidate import Notices
from imagefs.fuse.libfuse_calls import Calls
from imagefs.fuse.libfuse_library import load
from imagefs.fuse.libfuse_session import LibfuseSession
from imagefs.fuse.mount import MountOptions, check, check_flags, escaped, settled, unmount_own
from imagefs.host import mountinfo
from imagefs.host.mount_point import MountPoint


def serve(
    fs: FileSystem, point: MountPoint, options: MountOptions, ready: Callable[[], None]
) -> None:
    """Mount `fs`, serve it until it is unmounted, and return.

    `ready` is called once the kernel and libfuse have agreed; what it does must not look into
    the mount, which answers as soon as it has returned. SIGTERM, SIGINT and SIGHUP unmount.
    Raises MountError if it cannot be mounted.
    """
    check(options)
    check_flags(options, "libfuse")
    library = load()
    session = LibfuseSession(library)
    all_stable = fs.is_stable(ROOT_ID)
    before = {one.id for one in mountinfo.mounts()}
    with _complaints() as complaints, _place_of(point) as place:

        def mounted() -> None:
            complaints.end()
            if not all_stable:
                calls.quiet.tell_by(Notices(session.device()).gone)
                fs.watch(calls.quiet.gone)
            ready()

        calls = Calls(fs, library, session, mounted)
        status = identity = None
        with _default_signals():
            try:
                if session.mount(calls.table(), _options(options), place):
                    mount = settled(point, session.device(), before)
                    identity = mountinfo.identities().get(mount.id)
                    # Threads double what a request takes.
                    status = session.loop(in_threads=not all_stable)
            finally:
                # By libfuse, it would be what its path leads to by now.
                if identity is not None:
                    unmount_own(identity)
                session.end()
        # libfuse 3 also has a status upon a signal.
        if status is None or (status and not calls.has_begun):
            reason = complaints.first() or "libfuse gave up"
            raise MountError(f"{point.path}: cannot mount: {reason}")
    if calls.failure is not None:
        raise calls.failure


def _options(options: MountOptions) -> bytes:
    """Return the options that libfuse is to have."""
    given = ["ro", "nosuid", "nodev", *options.flags, "subtype=imagefs"]
    given += [f"fsname={escaped(options.source)}"]
    if options.allow_other:
        given += ["allow_other", "default_permissions"]
    return os.fsencode(",".join(given))


@contextlib.contextmanager
def _place_of(point: MountPoint) -> Iterator[bytes]:
    """Return what to call the directory before libfuse, until the mount has ended.

    fusermount, which libfuse runs for ordinary users, takes no path that leads through /proc, and
    walks that anew; nobody may put a link in it before root.
    """
    held = os.dup(point.fd)
    try:
        yield os.fsencode(mountinfo.anchor(held) if os.geteuid() == 0 else point.path)
    finally:
        os.close(held)


@contextlib.contextmanager
def _default_signals() -> Iterator[None]:
    """Let libfuse have the signals: it takes those that nobody handles."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Complaints:
    """What libfuse, and fusermount below it, write to standard error until the mount is there."""

    def __init__(self, written: IO[bytes]) -> None:
        self._written = written
        self._stderr: int | None = os.dup(2)
        os.dup2(written.fileno(), 2)

    def end(self) -> None:
        """Give standard error back."""
        if self._stderr is not None:
            os.dup2(self._stderr, 2)
            os.close(self._stderr)
            self._stderr = None

    def first(self) -> str:
        """Return the first line, without the name of the program that wrote it."""
        self._written.seek(0)
        line = os.fsdecode(self._written.readline()).strip()
        return line.partition(": ")[2] or line


@contextlib.contextmanager
def _complaints() -> Iterator[_Complaints]:
    with tempfile.TemporaryFile() as written:
        complaints = _Complaints(written)
        try:
            yield complaints
        finally:
            complaints.end()
