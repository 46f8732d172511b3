"""An EROFS image with all bytes in it: a file that any kernel since 5.16 mounts without us."""

import os
from pathlib import Path

from imagefs.erofs.build import write
from imagefs.erofs.content import Included
from imagefs.host.files import host_errors, published
from imagefs.vfs.image_fs import ImageFs

BITS = 12
"""Blocks of 4096 bytes, which every kernel takes whose pages are no smaller."""


def export(fs: ImageFs, path: Path) -> None:
    """Write what a file system shows to an image at `path`: whole, or not at all.

    Raises HostError where it cannot be written, and CorruptArchive where content is lost.
    """
    with host_errors(path, "cannot write the image "), published(path) as out:
        write(fs, Included(BITS), out.fileno(), BITS)
        os.fsync(out.fileno())
