"""A mount by libfuse, from its options to its end: struct fuse_session, 2 or 3.

Owns the session, in libfuse 2 its channel too, and the callbacks for as long as it lives. Knows
nothing of what is asked and answered.
"""

import ctypes
import errno
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from imagefs.fuse.device import Vigil
from imagefs.fuse.libfuse_library import Library

_NAMES = (
    *("init", "destroy", "lookup", "forget", "getattr", "setattr", "readlink", "mknod", "mkdir"),
    *("unlink", "rmdir", "symlink", "rename", "link", "open", "read", "write", "flush", "release"),
    *("fsync", "opendir", "readdir", "releasedir", "fsyncdir", "statfs", "setxattr", "getxattr"),
    *("listxattr", "removexattr", "access", "create", "getlk", "setlk", "bmap", "ioctl", "poll"),
    *("write_buf", "retrieve_reply", "forget_multi", "flock", "fallocate"),
    *("readdirplus", "copy_file_range", "lseek"),
)
"""The members of struct fuse_lowlevel_ops; those of the last line are libfuse 3's."""
_POINTER, _SIZE, _OFFSET = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
_REQUEST = (_POINTER,)
_NODE = (*_REQUEST, ctypes.c_uint64)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "init": (_POINTER, _POINTER),
    "lookup": (*_NODE, ctypes.c_char_p),
    "forget": (*_NODE, ctypes.c_uint64),
    "getattr": _NODE,
    "readlink": _NODE,
    "open": (*_NODE, _POINTER),
    "read": (*_NODE, _SIZE, _OFFSET),
    "opendir": (*_NODE, _POINTER),
    "readdir": (*_NODE, _SIZE, _OFFSET),
    "readdirplus": (*_NODE, _SIZE, _OFFSET),
    "statfs": _NODE,
    "getxattr": (*_NODE, ctypes.c_char_p, _SIZE),
    "listxattr": (*_NODE, _SIZE),
    "access": (*_NODE, ctypes.c_int),
    "lseek": (*_NODE, _OFFSET, ctypes.c_int),
}
"""What those that are answered take, as much of it as is looked at; of others it is the request."""
_COUNTS = {2: 41, 3: 42}
_LSEEK_SINCE = (3, 8)

_MOST_THREADS = 1000  # libfuse 3 would have ten wait, and nobody else answered


class _Args(ctypes.Structure):
    """Struct fuse_args."""

    _fields_ = (
        ("argc", ctypes.c_int),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
        ("allocated", ctypes.c_int),
    )


class _LoopConfig(ctypes.Structure):
    """Struct fuse_loop_config, as it was before libfuse 3.12."""

    _fields_ = (("clone_fd", ctypes.c_int), ("max_idle_threads", ctypes.c_uint))


class _Buffer(ctypes.Structure):
    """Struct fuse_buf; what follows in later versions is to be zero."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("mem", ctypes.c_void_p),
        ("fd", ctypes.c_int),
        ("pos", ctypes.c_int64),
        ("later", ctypes.c_uint64 * 8),
    )


class LibfuseSession:
    """One mount. `mount` comes first, `end` last; `exit` and `has_ended` are for any thread."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._functions = library.functions
        self._session: int | None = None
        self._channel: int | None = None
        self._callbacks: list[Any] = []

    def mount(self, calls: Mapping[str, Callable[..., None]], options: bytes, place: bytes) -> bool:
        """Mount on a directory, with options as mount(8) has them; tell whether that worked.

        `calls` have the names, and take the arguments, of struct fuse_lowlevel_ops. Why it did
        not work libfuse has written to standard error.
        """
        operations, size = self._operations(calls)
        words = (ctypes.c_char_p * 3)(b"imagefs", b"-o", options)
        args = ctypes.byref(_Args(len(words), words, 0))
        if self._library.is_3:
            self._session = self._functions.fuse_session_new(args, operations, size, None)
            return bool(self._session) and not self._functions.fuse_session_mount(
                self._session, place
            )
        self._channel = self._functions.fuse_mount(place, args)
        if self._channel:
            self._session = self._functions.fuse_lowlevel_new(args, operations, size, None)
        if self._session:
            self._functions.fuse_session_add_chan(self._session, self._channel)
        return bool(self._session)

    def _operations(self, calls: Mapping[str, Callable[..., None]]) -> tuple[Any, int]:
        count = _COUNTS[self._library.version[0]]
        if self._library.version >= _LSEEK_SINCE:
            count = len(_NAMES)
        operations = (ctypes.c_void_p * count)()
        for at, name in enumerate(_NAMES[:count]):
            if name in calls:
                arguments = _ARGUMENTS.get(name, _REQUEST)
                callback = ctypes.CFUNCTYPE(None, *arguments)(calls[name])
                self._callbacks.append(callback)
                operations[at] = ctypes.cast(callback, ctypes.c_void_p)
        return operations, ctypes.sizeof(operations)

    def device(self) -> int:
        """Return the descriptor of /dev/fuse."""
        if self._library.is_3:
            return int(self._functions.fuse_session_fd(self._session))
        return int(self._functions.fuse_chan_fd(self._channel))

    def loop(self, *, in_threads: bool) -> int:
        """Answer until the mount has gone, or a signal comes that ends it; return a status."""
        self._functions.fuse_set_signal_handlers(self._session)
        try:
            if in_threads:
                return self._loop_in_threads()
            return self._loop()
        finally:
            self._functions.fuse_remove_signal_handlers(self._session)

    def _loop(self) -> int:
        """Answer as fuse_session_loop does, which would go to sleep between any two requests."""
        ended, session, vigil = self._functions.fuse_session_exited, self._session, Vigil()
        look = select.poll()
        look.register(self.device(), select.POLLIN)
        is_asked = look.poll
        since = length = 0
        with self._taker() as take:
            while not ended(session):
                if not is_asked(0):
                    since = vigil.go_on(since)
                    if since:
                        continue
                since = 0
                # Here it sleeps, if need be: a signal ends that, as poll(2) in Python would not be.
                length = take()
                if length <= 0 and length != -errno.EINTR:
                    break
        return min(length, 0)

    @contextmanager
    def _taker(self) -> Iterator[Callable[[], int]]:
        """Give what takes a request and has it answered; it returns what receive_buf returned."""
        functions, session, buffer = self._functions, self._session, _Buffer()
        receive, process = functions.fuse_session_receive_buf, functions.fuse_session_process_buf
        where = ctypes.byref(buffer)

        def take_3() -> int:
            length: int = receive(session, where)
            if length > 0:
                process(session, where)
            return length

        if self._library.is_3:
            try:
                yield take_3
            finally:
                # libfuse took it at the first request.
                functions.free(buffer.mem)
            return
        channel = ctypes.c_void_p(self._channel)
        size = functions.fuse_chan_bufsize(channel)
        memory = ctypes.create_string_buffer(size)
        buffer.mem = ctypes.addressof(memory)

        def take_2() -> int:
            buffer.size, buffer.flags = size, 0
            length: int = receive(session, where, ctypes.byref(channel))
            if length > 0:
                process(session, where, channel)
            return length

        yield take_2

    def _loop_in_threads(self) -> int:
        loop = self._functions.fuse_session_loop_mt
        if self._library.version < (3, 12):
            return int(loop(self._session, ctypes.byref(_LoopConfig(0, 10))))
        config = self._functions.fuse_loop_cfg_create()
        self._functions.fuse_loop_cfg_set_max_threads(config, _MOST_THREADS)
        try:
            return int(loop(self._session, config))
        finally:
            self._functions.fuse_loop_cfg_destroy(config)

    def exit(self) -> None:
        """Have `loop` return."""
        self._functions.fuse_session_exit(self._session)

    def has_ended(self) -> bool:
        """Tell whether the mount is to end."""
        return bool(self._functions.fuse_session_exited(self._session))

    def end(self) -> None:
        """Free what there is, and close the device. The mount is its owner's to take away.

        libfuse would have what the mount's path leads to unmounted, whatever that is by now.
        """
        if self._session:
            # This is the end of a channel, too.
            self._functions.fuse_session_destroy(self._session)
