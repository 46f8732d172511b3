"""A file system at a mount point, from the check before it to the record after it.

Owns the order of things that every command that mounts goes through, and the choice of the
driver. Called from the main thread.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imagefs.filesystem import FileSystem
from imagefs.fuse.mount import MountOptions, check_device, check_flags, check_helper
from imagefs.host import daemon
from imagefs.host.mount_point import MountPoint
from imagefs.mounts.registry import Registry

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """How to serve a mount: what it is called, by which driver, for whom, and how watched."""

    source: str
    mountpoint: Path
    driver: str
    registry: Registry
    allow_other: bool = False
    foreground: bool = False
    log_level: int = logging.INFO
    flags: tuple[str, ...] = ()

    @property
    def options(self) -> MountOptions:
        """The options that the driver takes."""
        return MountOptions(self.source, self.allow_other, self.flags)


def default_driver() -> str:
    """Return the driver that suits this system best."""
    return "native" if sys.platform == "linux" else "libfuse"


def check_host(serving: Serving) -> None:
    """Raise HostError, before any work is done, if this machine cannot mount that way."""
    if serving.driver == "kernel":
        from imagefs.erofs.mount import check_kernel  # noqa: PLC0415

        check_kernel()
        return
    check_device()
    if os.geteuid() != 0:
        check_helper(serving.options)
    if serving.driver == "libfuse":
        from imagefs.fuse.libfuse_library import load  # noqa: PLC0415

        check_flags(serving.options, "libfuse")
        load()


def serve(make: Callable[[], FileSystem], point: MountPoint, serving: Serving) -> int:
    """Serve what `make` returns; in the foreground until it is unmounted, else from a daemon.

    Returns the pid of the process that serves. `make` is called in that process.
    """

    def work(ready: Callable[[], None]) -> None:
        record: Path | None = None

        def mounted() -> None:
            nonlocal record
            try:
                record = serving.registry.add(serving.source, point)
            except OSError as error:
                # On a full disk, say; the kernel's own list of mounts still tells of it.
                _log.warning("cannot leave a record of the mount: %s", error)
            point.release()
            ready()

        try:
            _driver(serving.driver)(make(), point, serving.options, mounted)
        finally:
            if record is not None:
                with contextlib.suppress(OSError):
                    record.unlink()

    if serving.foreground:
        work(lambda: daemon.notify("READY=1"))
        return os.getpid()
    return daemon.detach(work, serving.log_level)


def _driver(
    name: str,
) -> Callable[[FileSystem, MountPoint, MountOptions, Callable[[], None]], None]:
    if name == "libfuse":
        from imagefs.fuse import libfuse  # noqa: PLC0415

        return libfuse.serve
    from imagefs.fuse import server  # noqa: PLC0415

    return server.serve
