"""Loop devices, for kernels that read a file system from devices alone; see loop(4).

Each goes when its last user has: with the mount, or at once where nothing mounts it.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct

from imagefs.errors import HostError

CONTROL = Path("/dev/loop-control")
# <linux/loop.h>: LOOP_CONFIGURE is since Linux 5.8
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
_CONFIG = Struct("=II 8x8x8x8x8x I I I I 64x 64x 32x 16x 64x")
_TRIES = 64
_BLOCK = 512


@contextmanager
def attached(fd: int) -> Iterator[str]:
    """Have a loop device that shows a file, read-only; it stays while something mounts it.

    Raises HostError where there is none to be had.
    """
    device, name = _attach(fd)
    try:
        yield name
    finally:
        os.close(device)


def _attach(fd: int) -> tuple[int, str]:
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{CONTROL}: {error.strerror}; `modprobe loop` makes it") from error
    try:
        for _ in range(_TRIES):
            name = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, _config(fd))
            except OSError as error:
                os.close(device)
                # Another process has taken it meanwhile.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device, name
    except OSError as error:
        raise HostError(f"no loop device: {error.strerror}") from error
    finally:
        os.close(control)
    raise HostError("no loop device: all are taken as soon as they are free")


def _config(fd: int) -> bytes:
    """Return a struct loop_config: fd, block_size, a struct loop_info64 and what is reserved."""
    return _CONFIG.pack(fd, _BLOCK, 0, 0, 0, _READ_ONLY | _AUTOCLEAR)
