"""From a layer's bytes to its index's: scan, fold, lay out. The one place where the three meet."""

import gc
import os
from typing import BinaryIO

from imagefs.errors import CorruptArchive, HostError
from imagefs.fold import Fold
from imagefs.image import Blob
from imagefs.indexwrite import Table
from imagefs.tarscan import scan


def write_index(blob: Blob, key: bytes, out: BinaryIO, *, keep_going: bool = False) -> None:
    """Write the index of the layer whose plain tar `blob` holds to a new file.

    With `keep_going`, what was read before the damage is kept and the damage noted; else
    CorruptArchive is raised.
    """
    # Nothing made here forms a cycle, and walking a million live tuples takes longer than
    # parsing them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        fold = Fold(blob.offset)
        damage = ""
        try:
            _scan(blob, fold)
        except CorruptArchive as error:
            if not keep_going:
                raise
            damage = str(error)
        fold.finish()
        Table(blob.offset, key).write(fold, out, damage)
    finally:
        if collecting:
            gc.enable()


def _scan(blob: Blob, fold: Fold) -> None:
    try:
        fd = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fold.add(
                scan(lambda n, at: os.pread(fd, n, at), blob.offset, blob.offset + blob.length)
            )
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"cannot read {blob.path}: {error.strerror}") from error
