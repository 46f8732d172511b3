"""The portable driver: a `FileSystem` before libfuse 2, by way of fusepy.

Owns the way from paths, in which libfuse speaks, to node ids. fusepy decodes names as Latin-1
here, so that each character stands for one byte of the name. `serve` is for the main thread;
`_Operations` is called from libfuse's threads, so that what is slow holds up nobody else; where
nothing changes there is one. An interrupted request ends at the file system's next `check_asker`,
as nobody but its own thread can answer it.
"""

import contextlib
import ctypes
import errno
import logging
import os
import signal
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import IO, Any

from imagefs.errors import HostError, MountError
from imagefs.filesystem import NAME_MAX, ROOT_ID, Attr, FileSystem, asker
from imagefs.fuse.mount import MountOptions, check, check_flags, escaped, settled
from imagefs.fuse.replies import BLKSIZE, BRIEFLY, denial, errno_of
from imagefs.host import mountinfo
from imagefs.host.mount_point import MountPoint
from imagefs.host.processes import is_to_end

_ENCODING = "latin-1"
_FOREVER = 10**9  # seconds that the kernel may keep what never changes
_MOST_PATHS = 10_000

_log = logging.getLogger(__name__)


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
    fuse = load()
    before = {one.id for one in mountinfo.mounts()}

    def mounted() -> None:
        settled(point, None, before)
        ready()

    all_stable = fs.is_stable(ROOT_ID)
    timeout = _FOREVER if all_stable else BRIEFLY
    with _complaints() as complaints, _place_of(point) as place:
        operations = _Operations(fs, mounted, complaints.end, fuse)
        try:
            with _default_signals():
                fuse.FUSE(
                    operations,
                    place,
                    encoding=_ENCODING,
                    foreground=True,
                    intr=True,
                    # Threads double what a request takes.
                    nothreads=all_stable,
                    ro=True,
                    nosuid=True,
                    nodev=True,
                    fsname=escaped(os.fsencode(options.source).decode(_ENCODING)),
                    subtype="imagefs",
                    allow_other=options.allow_other,
                    default_permissions=options.allow_other,
                    **dict.fromkeys(options.flags, True),
                    use_ino=True,
                    kernel_cache=True,
                    entry_timeout=timeout,
                    attr_timeout=timeout,
                    negative_timeout=timeout,
                )
        except RuntimeError as error:
            if operations.failure is None:
                reason = complaints.first() or f"libfuse gave up with status {error}"
                raise MountError(f"{point.path}: cannot mount: {reason}") from error
    if operations.failure is not None:
        raise operations.failure


@contextlib.contextmanager
def _place_of(point: MountPoint) -> Iterator[str]:
    """Return what to call the directory before libfuse, until the mount has ended.

    fusermount, which libfuse runs for ordinary users, takes no path that leads through /proc.
    """
    held = os.dup(point.fd)
    try:
        place = mountinfo.anchor(held) if os.geteuid() == 0 else point.path
        yield os.fsencode(place).decode(_ENCODING)
    finally:
        os.close(held)


def load() -> Any:
    """Return fusepy's module; HostError, with the remedy, if libfuse is missing."""
    try:
        import fuse  # noqa: PLC0415  (loads libfuse, which only this driver needs)
    except OSError as error:
        raise HostError(
            "libfuse 2 is missing: apt install libfuse2 (libfuse2t64 on newer releases)"
        ) from error
    return fuse


@contextlib.contextmanager
def _default_signals() -> Iterator[None]:
    """Let libfuse have the signals: it takes those that nobody handles."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
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


class _Operations:
    """The callbacks of fusepy; those that are missing, libfuse answers by itself."""

    use_ns = True  # fusepy: times are whole nanoseconds

    def __init__(
        self,
        fs: FileSystem,
        ready: Callable[[], None],
        mounted: Callable[[], None],
        fuse: Any,
    ) -> None:
        self.failure: BaseException | None = None
        self._fs = fs
        self._ready = ready
        self._mounted = mounted
        self._fuse = fuse
        self._all_stable = fs.is_stable(ROOT_ID)
        self._directories = _Directories(fs, self._all_stable)

    def __call__(self, operation: str, *args: Any) -> Any:
        """Run an operation; this is where every error gets its errno."""
        asker.has_left = self._has_left
        try:
            return getattr(self, operation)(*args)
        except OSError as error:
            error.errno = errno_of(error)
            raise
        except Exception as error:
            _log.exception("%s of %s failed", operation, ascii(args[0]))
            raise OSError(errno.EIO, "internal error") from error

    def init(self, _path: str) -> None:
        self._mounted()
        try:
            self._ready()
        except BaseException as failure:
            self.failure = failure
            self._fuse.fuse_exit()

    def _has_left(self) -> bool:
        """Tell whether who waits for this thread's operation is to end, or the mount is."""
        library = self._fuse._libfuse
        if library.fuse_exited(ctypes.c_void_p(library.fuse_get_context().contents.fuse)):
            return True
        return bool(library.fuse_interrupted()) and is_to_end(self._fuse.fuse_get_context()[2])

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        attr = self._directories.find(path) if fh is None else self._fs.getattr(fh)
        time = attr.mtime * 10**9 + attr.mtimensec
        return {
            "st_ino": attr.ino,
            "st_mode": attr.mode,
            "st_nlink": attr.nlink,
            "st_uid": attr.uid,
            "st_gid": attr.gid,
            "st_rdev": attr.rdev,
            "st_size": attr.size,
            "st_blocks": attr.blocks,
            "st_blksize": BLKSIZE,
            "st_atime": time,
            "st_mtime": time,
            "st_ctime": time,
        }

    def access(self, path: str, mask: int) -> None:
        number = denial(self._directories.find(path).mode, mask)
        if number:
            raise OSError(number, os.strerror(number))

    def opendir(self, path: str) -> int:
        node = self._directories.find(path).node
        # An open file is all that refers to a node: paths are walked anew.
        self._refer(node, 1)
        return node

    def releasedir(self, _path: str, fh: int) -> None:
        self._refer(fh, -1)

    def _refer(self, node: int, count: int) -> None:
        if not self._all_stable:
            self._fs.adjust_lookups((node,), count)

    def readdir(self, _path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        own = self._fs.getattr(fh)
        entries = [(b".", own), (b"..", self._fs.lookup(fh, b"..") or own), *self._fs.listdir(fh)]
        return [
            (name.decode(_ENCODING), {"st_ino": attr.ino, "st_mode": attr.mode}, 0)
            for name, attr in entries
        ]

    def readlink(self, path: str) -> str:
        return self._fs.readlink(self._directories.find(path).node).decode(_ENCODING)

    def open(self, path: str, flags: int) -> int:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._read_only()
        return self.opendir(path)

    release = releasedir

    def read(self, _path: str, size: int, offset: int, fh: int) -> bytes:
        return self._fs.read(fh, offset, size)

    def getxattr(self, path: str, name: str, *_position: int) -> bytes:
        node = self._directories.find(path).node
        value = self._fs.getxattr(node, name.encode(_ENCODING))
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return value

    def listxattr(self, path: str) -> list[str]:
        names = self._fs.listxattr(self._directories.find(path).node)
        return [name.decode(_ENCODING) for name in names]

    def statfs(self, _path: str) -> dict[str, int]:
        bsize, blocks, files, namelen = self._fs.statfs()
        return {
            "f_bsize": bsize,
            "f_frsize": bsize,
            "f_blocks": blocks,
            "f_files": files,
            "f_namemax": namelen,
        }

    def _read_only(self, *_args: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    mknod = mkdir = unlink = rmdir = symlink = rename = link = chmod = chown = _read_only
    truncate = write = create = utimens = setxattr = removexattr = _read_only


class _Directories:
    """From paths to what they name; where nothing changes, by way of the directories used last.

    Elsewhere a node that is remembered may have gone, and its number may be another's.
    """

    def __init__(self, fs: FileSystem, all_stable: bool) -> None:
        self._fs = fs
        self._all_stable = all_stable
        self._lock = threading.Lock()
        self._known: OrderedDict[str, int] = OrderedDict()

    def find(self, path: str) -> Attr:
        """Return the attributes of what a path names; OSError where there is no such thing."""
        if path == "/":
            return self._fs.getattr(ROOT_ID)
        head, _, name = path.rpartition("/")
        return self._child(self._directory(head), name)

    def _directory(self, path: str) -> int:
        missing: list[str] = []
        node = self._recall(path)
        while node is None:
            path, _, name = path.rpartition("/")
            missing.append(name)
            node = self._recall(path)
        for name in reversed(missing):
            node = self._child(node, name).node
            path = f"{path}/{name}"
            if self._all_stable:
                self._remember(path, node)
        return node

    def _child(self, parent: int, name: str) -> Attr:
        if len(name) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "longer than any name")
        attr = self._fs.lookup(parent, name.encode(_ENCODING))
        if attr is None:
            raise OSError(errno.ENOENT, "no such name")
        return attr

    def _recall(self, path: str) -> int | None:
        if not path:
            return ROOT_ID
        with self._lock:
            node = self._known.get(path)
            if node is not None:
                self._known.move_to_end(path)
            return node

    def _remember(self, path: str, node: int) -> None:
        with self._lock:
            self._known[path] = node
            if len(self._known) > _MOST_PATHS:
                self._known.popitem(last=False)
