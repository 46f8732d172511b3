"""A mount that can be written to: the image's own, out of the way, and an overlay on top of it.

Owns the order in which the two come about; `registry.py` has them go. Called from the main thread.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from imagefs.filesystem import FileSystem
from imagefs.fuse.kernel_flags import KERNEL_FLAGS
from imagefs.fuse.mount import unmount_for_good
from imagefs.host import mountinfo
from imagefs.host.mount_point import MountPoint, hold
from imagefs.host.processes import wait_for_end
from imagefs.mounts.registry import PATIENCE
from imagefs.mounts.serve import Serving, serve
from imagefs.overlay import stack
from imagefs.overlay.kept import Kept


def serve_writable(
    make: Callable[[], FileSystem],
    point: MountPoint,
    serving: Serving,
    kept: Kept,
    *,
    temporary: bool,
) -> int:
    """Serve what `make` returns from a daemon, with an overlay on top; return the daemon's pid.

    What is written goes into `kept`, which goes with the mount where it is `temporary`.
    """
    place = kept.path / stack.IMAGE
    place.mkdir(mode=0o700, exist_ok=True)
    pid = serve(make, hold(place), replace(serving, mountpoint=place))
    try:
        _lay_on(point, serving, kept)
        serving.registry.add(
            serving.source,
            point,
            pid,
            changes=os.fspath(kept.path),
            below=os.fspath(place),
            temporary=temporary,
        )
    except BaseException:
        for mount in (point.mounted(), mountinfo.at(place)):
            if mount is not None:
                unmount_for_good(mount)
        # Until it ends, it keeps open where the changes were to lie.
        with contextlib.suppress(ProcessLookupError):
            daemon = os.pidfd_open(pid)
            wait_for_end(daemon, PATIENCE)
            os.close(daemon)
        raise
    point.release()
    return pid


def _lay_on(point: MountPoint, serving: Serving, kept: Kept) -> None:
    before = os.getcwd()
    os.chdir(kept.path)
    try:
        if kept.record.way == stack.FUSE:
            options = [*serving.flags, *(["allow_other"] if serving.allow_other else [])]
            stack.mount_by_program(Path(stack.IMAGE), Path(), point.path, options)
        else:
            flags = sum(KERNEL_FLAGS[one] for one in set(serving.flags))
            stack.mount(Path(stack.IMAGE), Path(), point.anchor, kept.record.way, flags=flags)
    finally:
        os.chdir(before)
