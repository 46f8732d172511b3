"""The layers' indexes on disk: which layer has which, and how they come to be.

Owns the files of the index directory: their names, and that each is there whole or not at all
(temporary file, rename). `indexfile.py` reads them. Any thread may call it.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from imagefs import lifeline, rows
from imagefs.errors import CorruptArchive, HostError
from imagefs.files import published
from imagefs.image import Blob, Layer
from imagefs.indexfile import Index


def key_of(layer: Layer, fd: int | None = None) -> bytes:
    """Return the 32-byte key of a layer's index: what the layer is, or where it lies.

    With `fd`, the layer is what that descriptor has open. Raises HostError where it is gone.

    A layer in the store is known by its diff id alone. One that is read in place is known by its
    file's path, device, inode, size and modification time, and its place in the file. What is left
    of a damaged layer has an index apart, so that it never passes for a whole one.
    """
    if layer.stored:
        identity: tuple[object, ...] = ("layer", layer.diff_id)
    else:
        blob = blob_of(layer)
        try:
            status = os.stat(blob.path if fd is None else fd)
        except OSError as error:
            raise HostError(f"{blob.path}: {error.strerror}") from error
        identity = (
            os.path.realpath(blob.path),
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            blob.offset,
            blob.length,
            *(("keep going",) if layer.keep_going else ()),
        )
    return hashlib.sha256(
        repr((rows.VERSION, identity)).encode("utf-8", "surrogateescape")
    ).digest()


def blob_of(layer: Layer) -> Blob:
    """Return a layer's bytes; CorruptArchive where the archive lacks them."""
    if layer.blob is None:
        raise CorruptArchive(f"the archive lacks layer {layer.diff_id}")
    return layer.blob


def path_of(index_dir: Path, key: bytes) -> Path:
    """Return where the index of that key lies."""
    return index_dir / f"{key.hex()}.idx"


def missing(layers: Sequence[Layer], index_dir: Path) -> list[Layer]:
    """Return those of the layers that have no index yet, each once."""
    found = {
        key: layer for layer in layers if not path_of(index_dir, key := key_of(layer)).exists()
    }
    return list(found.values())


def ensure(layers: Sequence[Layer], index_dir: Path) -> None:
    """Index those of the layers that have no index yet, side by side in worker processes.

    The workers give back to the system the memory that the trees took. Raises CorruptArchive for
    a layer that is no tar, HostError where the index cannot be written.
    """
    # The largest first, so that no worker is left alone with it at the end.
    order = sorted(missing(layers, index_dir), key=lambda layer: -blob_of(layer).length)
    if not order:
        return
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415
    from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415
    from multiprocessing import get_context  # noqa: PLC0415

    workers = min(
        len(order),
        os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count() or 1,
    )
    context = get_context("fork")
    # Workers that outlived us would hold our locks.
    with ProcessPoolExecutor(workers, context, lifeline.end_with, (os.getpid(),)) as pool:
        try:
            for _ in pool.map(build, order, [index_dir] * len(order)):
                pass
        except BrokenProcessPool as error:
            raise HostError(
                "a process that indexed a layer was killed; is memory short?"
            ) from error


def build(layer: Layer, index_dir: Path) -> None:
    """Scan a layer and write its index, whole or not at all."""
    from imagefs import indexbuild  # noqa: PLC0415

    key = key_of(layer)
    path = path_of(index_dir, key)
    # Of a tar that is the image itself, nothing else knows the length.
    flat = layer.diff_id.startswith("flat:")
    blob, keep_going = blob_of(layer), layer.keep_going
    try:
        # An index that a crash tore fails its checksums, and is rebuilt.
        with published(path) as out:
            indexbuild.write_index(blob, key, out, marked=flat, keep_going=keep_going)
    except CorruptArchive as error:
        raise CorruptArchive(f"layer {layer.diff_id} is damaged: {error}") from error
    except OSError as error:
        raise HostError(f"cannot write the index {path}: {error.strerror}") from error


def open_index(layer: Layer, index_dir: Path) -> Index:
    """Map a layer's index, made anew if it is missing or damaged."""
    key = key_of(layer)
    return Index(path_of(index_dir, key), key, lambda: build(layer, index_dir))
