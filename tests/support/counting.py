"""An image that keeps count of what is read from it, mounted for real.

Run as `python -m tests.support.counting FOLDER MOUNTPOINT`; FOLDER holds the layers as 0.tar,
1.tar, ..., which are read in place, or, where it has a file `stored`, as layers of the cache.
Each READ leaves the first bytes of what was read as a line in FOLDER/reads; the record of the mount
is in FOLDER/records.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from imagefs.fuse import server
from imagefs.fuse.mount import MountOptions
from imagefs.host.mount_point import hold
from imagefs.mounts.registry import Registry
from imagefs.vfs.image_fs import ImageFs
from tests.support.tars import image_of


class CountingFs(ImageFs):
    """As ImageFs, with a record of what is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def read(self, node: int, offset: int, size: int) -> bytes:
        content = super().read(node, offset, size)
        with (self.folder / "reads").open("ab") as record:
            record.write(content.partition(b"\n")[0] + b"\n")
        return content


def main(folder: Path, mountpoint: Path, kind: type[CountingFs] = CountingFs) -> None:
    """Serve until unmounted; write `ready` to standard output when the mount is there."""
    layers = [path.read_bytes() for path in sorted(folder.glob("[0-9].tar"))]
    image = image_of(layers, folder)
    if (folder / "stored").exists():
        image = replace(image, layers=tuple(replace(one, stored=True) for one in image.layers))
    fs = kind(folder)
    fs.add_image(image, folder)

    point = hold(mountpoint)

    def ready() -> None:
        Registry(folder / "records").add("counting", point)
        os.write(1, b"ready\n")

    server.serve(fs, point, MountOptions(), ready)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
