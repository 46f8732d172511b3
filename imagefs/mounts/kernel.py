"""A mount that the kernel serves by itself: the checks around it, and the record that is left.

Called from the main thread. What the user must know is refused here: an archive that others may
write to, since nobody notices what they change.
"""

import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imagefs.erofs import kept
from imagefs.erofs import mount as erofs_mount
from imagefs.erofs.kept import Device, Named
from imagefs.errors import HostError
from imagefs.fuse.mount import unmount_for_good
from imagefs.host.mount_point import MountPoint
from imagefs.image.model import Image, directory_names
from imagefs.mounts.serve import Serving

if TYPE_CHECKING:
    from imagefs.vfs.image_fs import ImageFs

_log = logging.getLogger(__name__)
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Shown(NamedTuple):
    """Images to show: one, or one view of it, or several, each `in_directories` of its own."""

    images: Sequence[Image]
    view: str | None
    in_directories: bool

    def named(self) -> list[Named]:
        """Return the images with what their directories are called."""
        names = directory_names(self.images) if self.in_directories else [b""]
        return [Named(*one) for one in zip(names, self.images, strict=True)]


def check_trust(images: Sequence[Image]) -> None:
    """Raise HostError for a file of layers, read in place, that others than root may write to."""
    for device in kept.devices_of([Named(b"", image) for image in images]):
        if device.stamp and _is_open_to_others(device):
            raise HostError(
                f"{device.path}: others than root may change it, and the kernel would show what"
                " they write: have root own it alone, or say --trust-archive, or --driver native"
            )


def _is_open_to_others(device: Device) -> bool:
    status = os.stat(device.path)
    return status.st_uid != 0 or bool(status.st_mode & _OTHERS)


def mount(
    shown: Shown,
    directory: Path,
    make: Callable[[], "ImageFs"],
    point: MountPoint,
    serving: Serving,
) -> None:
    """Have the kernel mount images; `make` is called if their metadata is not in `directory`.

    Raises MountError, and HostError if files of theirs were changed meanwhile.
    """
    images = shown.named()
    found = kept.ensure(images, shown.view, directory, make)
    with kept.in_use(found), kept.opened(found, images) as files:
        mounted = erofs_mount.mount(point, found.path, files, serving.flags, loses=found.loses)
        try:
            kept.check(found, files)
        except HostError:
            unmount_for_good(mounted)
            raise
        try:
            serving.registry.add_kernel(serving.source, mounted)
        except OSError as error:
            # On a full disk, say; the kernel's own list of mounts still tells of it.
            _log.warning("cannot leave a record of the mount: %s", error)
    point.release()
