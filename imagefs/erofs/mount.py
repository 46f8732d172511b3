"""Having the kernel mount an image: its metadata from one file, its bytes from others.

Owns the system calls (fsopen(2), fsconfig(2), fsmount(2), move_mount(2)), the loop devices where
the kernel cannot read from files by itself, and the sentences that say what is missing. Any thread
may call it.
"""

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from imagefs.erofs import loop
from imagefs.erofs.live import FSTYPE
from imagefs.errors import HostError, MountError
from imagefs.host import mountinfo
from imagefs.host.mount_point import MountPoint

# <linux/mount.h> and <asm-generic/unistd.h>, Linux 5.2
_NR_MOVE_MOUNT, _NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT = 429, 430, 431, 432
_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_FROM_AND_TO_EMPTY = 0x04 | 0x40
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_ATTRIBUTES = {
    "noexec": 0x8,
    "noatime": 0x10,
    "strictatime": 0x20,
    "nodiratime": 0x80,
    "nosymfollow": 0x20_0000,
    "relatime": 0,
}
"""Flags that are the mount's own; others are the file system's."""

LOST = Path("/proc/self/oom_score_adj")
"""A file that the kernel opens but cannot read for itself, as it has no read_iter: whatever is to
come from there is EIO."""
_NO_FILES = {errno.ENOTBLK, errno.EINVAL}


class _RefusedError(Exception):
    """The kernel would not mount: `number` is the errno, `words` what it says of it."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(number)
        self.number, self.words = number, words


def check_kernel() -> None:
    """Raise HostError, before any work is done, if this machine cannot mount that way."""
    if os.geteuid() != 0:
        raise HostError("--driver kernel is for root; --driver native is for everybody")
    try:
        os.close(_opened())
    except _RefusedError as error:
        raise HostError(_reason(error.number)) from None


def mount(
    point: MountPoint, image: Path, devices: Sequence[int], flags: Sequence[str], *, loses: bool
) -> mountinfo.Mount:
    """Mount an image on a directory; return the mount, which is read-only, nosuid and nodev.

    `devices` are descriptors of the files of bytes, in the image's order; with `loses`, something
    in it is lost. `flags` are among KERNEL_FLAGS. Raises MountError.
    """
    paths = [os.fspath(mountinfo.anchor(fd)) for fd in devices]
    try:
        try:
            mounted = _mounted(os.fspath(image), [*paths, *([str(LOST)] * loses)], flags)
        except _RefusedError as error:
            if error.number not in _NO_FILES:
                raise
            mounted = _mounted_by_loop(image, devices, flags, loses=loses)
    except _RefusedError as error:
        reason = _reason(error.number)
        said = f" ({error.words})" if error.words else ""
        raise MountError(f"{point.path}: cannot mount: {reason}{said}") from None
    try:
        _call(_NR_MOVE_MOUNT, mounted, b"", point.fd, b"", _FROM_AND_TO_EMPTY)
    except OSError as error:
        raise MountError(f"{point.path}: cannot mount: {error.strerror}") from error
    finally:
        os.close(mounted)
    found = point.mounted()
    if found is None:
        raise MountError(f"{point.path}: it was moved, or mounted on, while it was mounted on")
    return found


def _mounted(source: str, devices: Sequence[str], flags: Sequence[str]) -> int:
    """Return a descriptor of a mount that is nowhere yet."""
    fd = _opened()
    try:
        _configure(fd, _SET_STRING, "source", source)
        _configure(fd, _SET_FLAG, "ro")
        for device in devices:
            _configure(fd, _SET_STRING, "device", device)
        for flag in flags:
            if flag not in _ATTRIBUTES:
                _configure(fd, _SET_FLAG, flag)
        _configure(fd, _CREATE)
        attributes = sum(_ATTRIBUTES.get(flag, 0) for flag in set(flags))
        return _call(_NR_FSMOUNT, fd, _CLOEXEC, _RDONLY | _NOSUID | _NODEV | attributes)
    except OSError as error:
        raise _RefusedError(error.errno or 0, _said(fd)) from error
    finally:
        os.close(fd)


def _mounted_by_loop(
    image: Path, devices: Sequence[int], flags: Sequence[str], *, loses: bool
) -> int:
    """Mount by a loop device for each file, which goes with the mount."""
    with contextlib.ExitStack() as stack:
        metadata = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, metadata)
        # What is lost lies beyond the end of any device.
        files = [metadata, *devices, *([metadata] * loses)]
        loops = [stack.enter_context(loop.attached(fd)) for fd in files]
        return _mounted(loops[0], loops[1:], flags)


def _opened() -> int:
    try:
        return _call(_NR_FSOPEN, FSTYPE.encode(), _CLOEXEC)
    except OSError as error:
        raise _RefusedError(error.errno or 0, "") from error


def _configure(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (key, value)]
    _call(_NR_FSCONFIG, fd, command, *words, 0)


def _said(fd: int) -> str:
    """Return what the kernel says of a failure, if it does."""
    with contextlib.suppress(OSError):
        return os.read(fd, 4096).decode(errors="replace").strip().removeprefix("e ")
    return ""


def _reason(number: int) -> str:
    native = "; --driver native needs none of it"
    return {
        errno.ENODEV: f"this kernel has no EROFS: `modprobe erofs`{native}",
        errno.ENOSYS: f"this kernel is older than 5.16 and cannot{native}",
        errno.EPERM: "mounting is not permitted here; a container needs `--cap-add SYS_ADMIN`",
        errno.ENOTBLK: "this kernel mounts EROFS from devices only, and there is no loop device:"
        f" Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE needs none{native}",
        errno.EINVAL: f"this kernel's EROFS has no blocks of 512 bytes: Linux 6.4 has{native}",
    }.get(number, os.strerror(number))


def _call(number: int, *args: int | bytes | None) -> int:
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    typed = [ctypes.c_long(arg) if isinstance(arg, int) else ctypes.c_char_p(arg) for arg in args]
    result = int(libc.syscall(ctypes.c_long(number), *typed))
    if result < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))
    return result
