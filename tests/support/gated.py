"""A catalog of two images whose loading a test can hold up or make fail, mounted for real.

Run as `python -m tests.support.gated FOLDER MOUNTPOINT`. An image is loaded when FOLDER/open
exists; it fails for as long as FOLDER/broken does. Each attempt leaves a line in FOLDER/attempts,
each image that is let go one in FOLDER/unloaded. The slow one is gone when FOLDER/gone exists. The
driver is libfuse if FOLDER/libfuse exists.
"""

import os
import sys
import time
from pathlib import Path

from imagefs.engine.api import ListedImage
from imagefs.errors import EngineError
from imagefs.fuse import libfuse, server
from imagefs.fuse.mount import MountOptions
from imagefs.host.mount_point import hold
from imagefs.image.model import Image
from imagefs.vfs.engine_fs import Catalog
from tests.support.tars import image_of, layer

SLOW, QUICK = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NAMES = [ListedImage(SLOW, ("slow:1",)), ListedImage(QUICK, ("team/quick:1",))]


def main(folder: Path, mountpoint: Path) -> None:
    """Serve until unmounted; write `ready` to standard output when the mount is there."""

    def load(image_id: str) -> Image:
        with (folder / "attempts").open("a") as attempts:
            attempts.write(image_id + "\n")
        while image_id == SLOW and not (folder / "open").exists():
            time.sleep(0.01)
        if (folder / "broken").exists():
            raise EngineError("the engine is out of order")
        return image_of([layer({"name": image_id})], folder)

    index_dir = folder / "index"
    index_dir.mkdir(exist_ok=True)

    def names() -> list[ListedImage]:
        return NAMES[(folder / "gone").exists() :]

    def unload(image_id: str) -> None:
        with (folder / "unloaded").open("a") as unloaded:
            unloaded.write(image_id + "\n")

    catalog = Catalog(names, load, index_dir, unload)
    driver = libfuse if (folder / "libfuse").exists() else server

    def ready() -> None:
        os.write(1, b"ready\n")

    driver.serve(catalog, hold(mountpoint), MountOptions(), ready)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
