"""libfuse itself, 2 or 3, and its structs, as fusepy or mfusepy declares them for each system.

Only declarations are theirs: their callbacks, which decode each path and copy each attribute by
itself, take as long as the answer. Pointers are plain addresses here. Knows no `FileSystem`.
"""

import ctypes
import importlib
import os
import struct
from collections.abc import Callable, Mapping, Sequence
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

_READDIRPLUS_AUTO = 1 << 14  # FUSE_CAP_READDIRPLUS_AUTO
_CACHE_SYMLINKS = 1 << 23  # FUSE_CAP_CACHE_SYMLINKS
_READDIR_PLUS = 1 << 0  # FUSE_READDIR_PLUS
_FILL_DIR_PLUS = 1 << 1  # FUSE_FILL_DIR_PLUS

_CODES = {2: "H", 4: "I", 8: "Q"}


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
    """One libfuse; `version` is its major and minor number."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._functions = module._libfuse
        number = self._functions.fuse_version()
        self.version: tuple[int, int] = divmod(number, 100 if number >= 100 else 10)
        self.is_3 = self.version[0] == 3
        if self.is_3 and module.__name__ == "fuse":
            raise HostError(_NEEDS_MFUSEPY)
        if self.is_3:
            self._functions.fuse_get_session.restype = ctypes.c_void_p
        self._fh = module.fuse_file_info.fh.offset
        stat_p = ctypes.c_char_p
        flags = [ctypes.c_int] if self.is_3 else []
        self._filler = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, stat_p, module.c_off_t, *flags
        )
        self.stat = _packer(module)

    def main(self, calls: Mapping[str, Callable[..., Any]], words: Sequence[bytes]) -> int:
        """Mount and serve until the end, as the words of a command line say; return a status.

        `calls` have the names, and take the arguments, of struct fuse_operations.
        """
        operations = self._module.fuse_operations()
        kept = []
        for name, prototype, *_ in operations._fields_:
            if name in calls:
                function = _plain(prototype)(calls[name])
                kept.append(function)
                setattr(operations, name, ctypes.cast(function, prototype))
        argv = (ctypes.c_char_p * len(words))(*words)
        size = ctypes.sizeof(operations)
        # mfusepy's stands in for systems without fuse_main_real.
        main = getattr(self._module, "fuse_main_real", None) or self._functions.fuse_main_real
        return int(main(len(words), argv, ctypes.pointer(operations), size, None))

    def agree(self, conn: int, config: int) -> None:
        """Set in `init` what libfuse 3 takes from there alone."""
        self._module.fuse_config.from_address(config).use_ino = 1
        wanted = self._module.fuse_conn_info.from_address(conn)
        # Left to itself the kernel asks for names alone where it saw nobody look at files.
        wanted.want &= ~_READDIRPLUS_AUTO
        wanted.want |= wanted.capable & _CACHE_SYMLINKS

    def context(self) -> tuple[int, int]:
        """Return the address of struct fuse, and the pid of who waits for this thread's answer."""
        context = self._functions.fuse_get_context().contents
        return context.fuse, context.pid

    def is_interrupted(self) -> bool:
        """Tell whether who waits for this thread's answer has got a signal."""
        return bool(self._functions.fuse_interrupted())

    def has_ended(self, fuse: int) -> bool:
        """Tell whether the mount is to end."""
        if self.is_3:
            session = self._functions.fuse_get_session(ctypes.c_void_p(fuse))
            return bool(self._functions.fuse_session_exited(ctypes.c_void_p(session)))
        return bool(self._functions.fuse_exited(ctypes.c_void_p(fuse)))

    def end(self, fuse: int) -> None:
        """Have `main` return."""
        self._functions.fuse_exit(ctypes.c_void_p(fuse))

    def handle(self, info: int | None) -> int:
        """Return what `opened` left in a struct fuse_file_info, or 0."""
        return ctypes.c_uint64.from_address(info + self._fh).value if info else 0

    def opened(self, info: int, handle: int, keep: bool = False) -> None:
        """Leave a handle in a struct fuse_file_info; `keep` lets the kernel keep a listing."""
        it = self._module.fuse_file_info.from_address(info)
        it.fh = handle
        if keep and self.is_3:
            it.keep_cache = it.cache_readdir = 1

    def fill(
        self,
        filler: int,
        buffer: int,
        entries: Sequence[tuple[bytes, Attr]],
        offset: int,
        flags: int,
    ) -> None:
        """Hand over a directory's entries, all to libfuse 2.

        To libfuse 3 as many from `offset` as it has room for: it takes attributes, which readdir's
        flags say whether to give, with those alone that have a place of their own.
        """
        call, stat = self._filler(filler), self.stat
        if not self.is_3:
            for name, attr in entries:
                call(buffer, name, stat(attr), 0)
            return
        more = _FILL_DIR_PLUS if flags & _READDIR_PLUS else 0
        for at in range(offset, len(entries)):
            name, attr = entries[at]
            if call(buffer, name, stat(attr), at + 1, more):
                return

    def statvfs(self, buffer: int, fields: Mapping[str, int]) -> None:
        """Fill a struct statvfs."""
        it = self._module.c_statvfs.from_address(buffer)
        for name, value in fields.items():
            setattr(it, name, value)


def _plain(prototype: Any) -> Any:
    """Return a callback's type with addresses in the place of pointers."""
    simple = (
        type_ if issubclass(type_, ctypes._SimpleCData) else ctypes.c_void_p
        for type_ in prototype._argtypes_
    )
    return ctypes.CFUNCTYPE(prototype._restype_, *simple)


def _packer(module: Any) -> Callable[[Attr], bytes]:
    """Return a function from attributes to the bytes of this system's struct stat."""
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
    layout, end = "=", 0
    for offset, code, _ in sorted(places):
        layout += f"{offset - end}x{code}"
        end = offset + struct.calcsize(f"={code}")
    pack = struct.Struct(f"{layout}{ctypes.sizeof(type_) - end}x").pack
    pick = itemgetter(*(at for _, _, at in sorted(places)))
    return lambda attr: pack(*pick((*attr, BLKSIZE)))
