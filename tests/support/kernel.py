"""Images mounted by the kernel's own driver, in this process: nobody has to serve them."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from imagefs.erofs import kept
from imagefs.erofs import mount as erofs_mount
from imagefs.erofs.kept import Kept, Named
from imagefs.errors import HostError
from imagefs.host.mount_point import hold
from imagefs.image.model import Image
from imagefs.vfs.image_fs import image_fs
from tests.support.mounted import clear
from tests.support.needs import unavailable
from tests.support.tars import image_of


def need_kernel() -> None:
    """Go on only where the kernel can mount what we write."""
    if os.geteuid() != 0:
        unavailable("erofs", "only root mounts by --driver kernel")
    try:
        erofs_mount.check_kernel()
    except HostError as error:
        unavailable("erofs", str(error))


def keep(image: Image, folder: Path, view: str | None = None) -> Kept:
    """Write the metadata of an image into a folder, where its indexes go as well."""
    for name in ("indexes", "erofs"):
        (folder / name).mkdir(exist_ok=True)
    return kept.ensure(
        [Named(b"", image)],
        view,
        folder / "erofs",
        lambda: image_fs(image, folder / "indexes", view),
    )


@contextlib.contextmanager
def mounted_image(
    image: Image, folder: Path, mountpoint: Path, view: str | None = None
) -> Iterator[Path]:
    """Have an image mounted for as long as the context lasts."""
    found = keep(image, folder, view)
    mountpoint.mkdir(exist_ok=True)
    with kept.opened(found, [Named(b"", image)]) as files:
        point = hold(mountpoint)
        erofs_mount.mount(point, found.path, files, (), loses=found.loses)
        point.release()
    try:
        yield mountpoint
    finally:
        clear(mountpoint)


def kernel_mounted(
    layers: Iterable[bytes], folder: Path, mountpoint: Path, view: str | None = None
) -> contextlib.AbstractContextManager[Path]:
    """Have an image of these layers mounted for as long as the context lasts."""
    return mounted_image(image_of(layers, folder), folder, mountpoint, view)
