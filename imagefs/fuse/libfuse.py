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
from imagefs.fuse.libfuse_calls import Calls
from imagefs.fuse.libfuse_library import Library, load
from imagefs.fuse.mount import MountOptions, check, check_flags, escaped, settled
from imagefs.fuse.replies import BRIEFLY
from imagefs.host import mountinfo
from imagefs.host.mount_point import MountPoint

_FOREVER = 10**9  # seconds that the kernel may keep what never changes
_MOST_THREADS = 1000  # libfuse 3 would have ten wait, and nobody else answered


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
    before = {one.id for one in mountinfo.mounts()}
    with _complaints() as complaints, _place_of(point) as place:

        def mounted() -> None:
            complaints.end()
            settled(point, None, before)
            ready()

        calls = Calls(fs, library, mounted)
        words = _words(options, library, fs.is_stable(ROOT_ID))
        with _default_signals():
            status = library.main(calls.table(), [*words, place])
        # libfuse 3 also ends so upon a signal.
        if status and calls.failure is None and not (calls.has_begun and library.is_3):
            reason = complaints.first() or f"libfuse gave up with status {status}"
            raise MountError(f"{point.path}: cannot mount: {reason}")
    if calls.failure is not None:
        raise calls.failure


def _words(options: MountOptions, library: Library, all_stable: bool) -> list[bytes]:
    """Return the command line that libfuse is to have, but for the mount point."""
    timeout = _FOREVER if all_stable else BRIEFLY
    given = ["ro", "nosuid", "nodev", *options.flags, "kernel_cache", "subtype=imagefs"]
    given += [f"fsname={escaped(options.source)}"]
    given += [f"{name}_timeout={timeout}" for name in ("entry", "attr", "negative")]
    if options.allow_other:
        given += ["allow_other", "default_permissions"]
    if not library.is_3:
        given += ["use_ino", "intr"]
    elif library.version >= (3, 12) and not all_stable:
        given += [f"max_threads={_MOST_THREADS}"]
    # Threads double what a request takes.
    alone = [b"-s"] if all_stable else []
    return [b"imagefs", b"-f", *alone, b"-o", os.fsencode(",".join(given))]


@contextlib.contextmanager
def _place_of(point: MountPoint) -> Iterator[bytes]:
    """Return what to call the directory before libfuse, until the mount has ended.

    fusermount, which libfuse runs for ordinary users, takes no path that leads through /proc.
    """
    held = os.dup(point.fd)
    try:
        place = mountinfo.anchor(held) if os.geteuid() == 0 else point.path
        yield os.fsencode(place)
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
