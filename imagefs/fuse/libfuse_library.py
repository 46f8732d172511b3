"""libfuse itself, 2 or 3: its functions, and its structs as fusepy or mfusepy declare them.

Only declarations of what differs between systems are theirs. libfuse's low-level interface is used,
which knows nodes and no paths. By the other one the kernel cannot be had to open directories by
itself: libfuse would follow a null pointer as soon as one is listed. Pointers are plain addresses
here. Knows no `FileSystem`.
"""

import ctypes
import importlib
import os
import struct
from collections.abc import Callable, Mapping
from ctypes.util import find_library
from operator import itemgetter
from typing import Any

from imagefs.errors import HostError
from imagefs.filesystem import Attr
from imagefs.fuse.replies import BLKSIZE

_MISSING = (
    "libfuse is missing: apt install libfuse2 (libfuse2t64 on newer releases), "
    "or libfuse3-3 and pip install 'imagefs[fuse3]'"
)
_NEEDS_MFUSEPY = "libfuse 3 needs mfusepy: pip install 'imagefs[fuse3]'"
_TOO_SHORT = "libfuse 2 has too short numbers on this machine: apt install libfuse3-3"

_EXPORT_SUPPORT = 1 << 4  # FUSE_CAP_EXPORT_SUPPORT
_READDIRPLUS_AUTO = 1 << 14  # FUSE_CAP_READDIRPLUS_AUTO
_CACHE_SYMLINKS = 1 << 23  # FUSE_CAP_CACHE_SYMLINKS

_NODE_BYTES = 8
_CTX_PID = 8
"""Where struct fuse_ctx has the pid, behind two numbers of 32 bits."""
_TIMEOUTS = 8
"""How often a timeout stands in struct fuse_entry_param. fusepy leaves out the end of struct stat,
which is reserved, so that the place of the two is not known."""
_CODES = {2: "H", 4: "I", 8: "Q"}
_INT, _POINTER, _BYTES = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
_SIZE, _OFFSET = ctypes.c_size_t, ctypes.c_int64
_SESSION = _REQUEST = _POINTER
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "fuse_reply_err": (_INT, _REQUEST, _INT),
    "fuse_reply_none": (None, _REQUEST),
    "fuse_reply_entry": (_INT, _REQUEST, _BYTES),
    "fuse_reply_attr": (_INT, _REQUEST, _BYTES, ctypes.c_double),
    "fuse_reply_readlink": (_INT, _REQUEST, _BYTES),
    "fuse_reply_open": (_INT, _REQUEST, _POINTER),
    "fuse_reply_buf": (_INT, _REQUEST, _BYTES, _SIZE),
    "fuse_reply_statfs": (_INT, _REQUEST, _POINTER),
    "fuse_reply_xattr": (_INT, _REQUEST, _SIZE),
    "fuse_req_ctx": (_POINTER, _REQUEST),
    "fuse_req_interrupted": (_INT, _REQUEST),
    "fuse_set_signal_handlers": (_INT, _SESSION),
    "fuse_remove_signal_handlers": (None, _SESSION),
    "fuse_session_exit": (None, _SESSION),
    "fuse_session_exited": (_INT, _SESSION),
    "fuse_session_loop_mt": (_INT, _SESSION, _POINTER),
    "fuse_session_destroy": (None, _SESSION),
}
_FUNCTIONS_2: dict[str, tuple[Any, ...]] = {
    "fuse_mount": (_POINTER, _BYTES, _POINTER),
    "fuse_chan_fd": (_INT, _POINTER),
    "fuse_lowlevel_new": (_SESSION, _POINTER, _POINTER, _SIZE, _POINTER),
    "fuse_chan_bufsize": (_SIZE, _POINTER),
    "fuse_session_receive_buf": (_INT, _SESSION, _POINTER, _POINTER),
    "fuse_session_process_buf": (None, _SESSION, _POINTER, _POINTER),
    "fuse_session_add_chan": (None, _SESSION, _POINTER),
}
_FUNCTIONS_3: dict[str, tuple[Any, ...]] = {
    "fuse_session_new": (_SESSION, _POINTER, _POINTER, _SIZE, _POINTER),
    "fuse_session_mount": (_INT, _SESSION, _BYTES),
    "fuse_session_fd": (_INT, _SESSION),
    "free": (None, _POINTER),
    "fuse_session_receive_buf": (_INT, _SESSION, _POINTER),
    "fuse_session_process_buf": (None, _SESSION, _POINTER),
}
_FUNCTIONS_LATER: dict[tuple[int, int], dict[str, tuple[Any, ...]]] = {
    (3, 8): {"fuse_reply_lseek": (_INT, _REQUEST, _OFFSET)},
    (3, 12): {
        "fuse_loop_cfg_create": (_POINTER,),
        "fuse_loop_cfg_set_max_threads": (None, _POINTER, ctypes.c_uint),
        "fuse_loop_cfg_destroy": (None, _POINTER),
    },
}


def load() -> "Library":
    """Return libfuse: 3 before 2, if mfusepy is installed; HostError, with the remedy, if missing.

    FUSE_LIBRARY_PATH and, for mfusepy, FUSE_LIBRARY_NAME choose another.
    """
    try:
        return Library(_module())
    except (OSError, AttributeError) as error:
        # AttributeError: mfusepy's word for a version that it does not know.
        raise HostError(_MISSING) from error


def _module() -> Any:
    """Return mfusepy, or else fusepy, which both load libfuse as they are imported."""
    chosen = "FUSE_LIBRARY_NAME" in os.environ or not find_library("fuse3")
    if not chosen:
        os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
    try:
        return importlib.import_module("mfusepy")
    except ImportError:
        return importlib.import_module("fuse")
    finally:
        if not chosen:
            del os.environ["FUSE_LIBRARY_NAME"]


class Library:
    """One libfuse: its `functions` by their names; `version` is its major and minor number."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.functions = ctypes.CDLL(module._libfuse._name)
        number = self.functions.fuse_version()
        self.version: tuple[int, int] = divmod(number, 100 if number >= 100 else 10)
        self.is_3 = self.version[0] == 3
        if self.is_3 and module.__name__ == "fuse":
            raise HostError(_NEEDS_MFUSEPY)
        if not self.is_3 and ctypes.sizeof(ctypes.c_ulong) < _NODE_BYTES:
            raise HostError(_TOO_SHORT)
        for name, (result, *arguments) in self._declared().items():
            if not hasattr(self.functions, name):
                raise HostError(f"{self.functions._name} has no low-level interface: no {name}")
            function = getattr(self.functions, name)
            function.restype, function.argtypes = result, arguments
        self._pack_stat, self._pack_entry, self._pick = _packers(module)

    def _declared(self) -> Mapping[str, tuple[Any, ...]]:
        declared = _FUNCTIONS | (_FUNCTIONS_3 if self.is_3 else _FUNCTIONS_2)
        for since, functions in _FUNCTIONS_LATER.items():
            if self.version >= since:
                declared |= functions
        return declared

    def agree(self, conn: int) -> None:
        """Set in `init` what libfuse 3 takes from there alone."""
        if self.is_3:
            wanted = self._module.fuse_conn_info.from_address(conn)
            # Left to itself the kernel asks for names alone where it saw nobody look at files.
            wanted.want &= ~_READDIRPLUS_AUTO
            wanted.want |= wanted.capable & (_CACHE_SYMLINKS | _EXPORT_SUPPORT)

    def stat(self, attr: Attr) -> bytes:
        """Return struct stat."""
        return self._pack_stat(*self._pick((*attr, BLKSIZE)))

    def entry(self, attr: Attr, valid: float) -> bytes:
        """Return struct fuse_entry_param; times are in seconds, and node 0 is none."""
        fields = self._pick((*attr, BLKSIZE))
        return self._pack_entry(attr.node, 0, *fields, *(valid,) * _TIMEOUTS)

    def asker(self, request: int) -> int:
        """Return the pid of who waits for a request's answer."""
        return ctypes.c_int.from_address(self.functions.fuse_req_ctx(request) + _CTX_PID).value

    def keep(self, info: int) -> None:
        """Let the kernel keep what it reads of a file or, by libfuse 3, of a directory."""
        it = self._module.fuse_file_info.from_address(info)
        it.keep_cache = 1
        if self.is_3:
            it.cache_readdir = 1

    def statvfs(self, fields: Mapping[str, int]) -> Any:
        """Return a struct statvfs."""
        return self._module.c_statvfs(**fields)


def _packers(module: Any) -> tuple[Callable[..., bytes], Callable[..., bytes], Any]:
    """Return what packs this system's struct stat, alone and in struct fuse_entry_param.

    Besides, what picks their fields in that order from those of Attr and st_blksize.
    """
    type_, time = module.c_stat, module.c_timespec
    fields = (*Attr._fields, "blksize")
    places = []
    for name in ("ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blocks", "blksize"):
        field = getattr(type_, f"st_{name}")
        places.append((field.offset, _CODES[field.size], fields.index(name)))
    for name in ("atime", "mtime", "ctime"):
        at = getattr(type_, f"st_{name}spec").offset
        for part, value in ((time.tv_sec, "mtime"), (time.tv_nsec, "mtimensec")):
            places.append((at + part.offset, _CODES[part.size].lower(), fields.index(value)))
    layout, end = "", 0
    for offset, code, _ in sorted(places):
        layout += f"{offset - end}x{code}"
        end = offset + struct.calcsize(f"={code}")
    layout += f"{ctypes.sizeof(type_) - end}x"
    pick = itemgetter(*(at for _, _, at in sorted(places)))
    return struct.Struct(f"={layout}").pack, struct.Struct(f"=QQ{layout}{_TIMEOUTS}d").pack, pick
