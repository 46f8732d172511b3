"""Layers that hold the same bytes, which for those read in place only a look at them all tells.

Owns what is remembered of such a look: an empty file beside the indexes, which bears the keys of
both layers, and so is of no use any more once one of them has changed. Any thread may call it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from imagefs.host.files import host_errors, open_blob, published
from imagefs.image.model import Blob, Layer
from imagefs.index.cache import key_of

_COMPARED = 256 << 10
"""Bytes of two layers that are compared at a time. Room that is used again, and fits a processor's
cache, makes this twice as fast; to map the layers instead takes as long."""


def same_bytes(one: Layer, other: Layer, index_dir: Path) -> bool:
    """Tell whether two layers hold the same bytes; those that did are not read again.

    A layer that its archive lacks is like no other. Raises CorruptArchive where one was changed
    since it was found, HostError where the index directory cannot be written, OSError where a layer
    cannot be read.
    """
    blobs = [layer.blob for layer in (one, other) if layer.blob is not None]
    if len({blob.length for blob in blobs}) != 1 or len(blobs) != 2:
        return False
    with _opened(blobs[0]) as mine, _opened(blobs[1]) as theirs:
        keys = key_of(one, mine), key_of(other, theirs)
        mark = index_dir / f"{sha256(b''.join(sorted(keys))).hexdigest()}.same"
        with suppress(FileNotFoundError):
            os.utime(mark)  # what was used longest ago is pruned first
            return True
        if not _compared((mine, theirs), blobs):
            return False
        if keys == (key_of(one, mine), key_of(other, theirs)):
            with host_errors(index_dir), published(mark):
                pass
    return True


@contextmanager
def _opened(blob: Blob) -> Iterator[int]:
    fd = open_blob(blob)
    try:
        yield fd
    finally:
        os.close(fd)


def _compared(fds: tuple[int, int], blobs: Sequence[Blob]) -> bool:
    """Tell whether two open files hold the same at their blobs' places, which are of one length."""
    length = blobs[0].length
    rooms = bytearray(_COMPARED), bytearray(_COMPARED)
    for at in range(0, length, _COMPARED):
        size = min(_COMPARED, length - at)
        for fd, blob, room in zip(fds, blobs, rooms, strict=True):
            del room[size:]
            if os.preadv(fd, [room], blob.offset + at) < size:
                return False
        if rooms[0] != rooms[1]:
            return False
    return True
