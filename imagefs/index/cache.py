"""The layers' indexes on disk: which layer has which, and how they come to be.

Owns the files of the index directory: their names, and that each is there whole or not at all
(temporary file, rename). `reader.py` reads them. Any thread may call it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from imagefs.errors import CorruptArchive, HostError
from imagefs.host import processes
from imagefs.host.files import check_identity, host_errors, published
from imagefs.image.model import Blob, Layer
from imagefs.index import rows
from imagefs.index.reader import Index, layer_bytes

if TYPE_CHECKING:
    from concurrent.futures import Executor

_THREADS_EACH, _DESCRIPTORS_EACH = 3, 10
"""What an executor of processes takes for itself, and something to spare."""


def key_of(layer: Layer, fd: int | None = None) -> bytes:
    """Return the 32-byte key of a layer's index: what the layer is, or where it lies.

    With `fd`, the layer is what that descriptor has open. Raises HostError where it is gone.

    A layer in the store is known by its diff id alone, one within a file of the store by that
    file's digest and its place there. One that is read in place is known by its
    file's path, device, inode, size, modification and change time, and its place in the file: who
    rewrites a file can set back the one time, but not the other. What is left of a damaged layer
    has an index apart, so that it never passes for a whole one.
    """
    if layer.stored:
        identity: tuple[object, ...] = ("layer", layer.diff_id)
    elif (blob := blob_of(layer)).digest:
        identity = ("within", blob.digest, blob.offset, blob.length, layer.keep_going)
    else:
        try:
            status = os.stat(blob.path if fd is None else fd)
        except OSError as error:
            raise HostError(f"{blob.path}: {error.strerror}") from error
        check_identity(blob, status)
        identity = (
            os.path.realpath(blob.path),
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
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


def damaged(layers: Iterable[Layer], index_dir: Path) -> set[str]:
    """Return the diff ids of layers in the store that are not as long as when they were indexed."""
    return {
        layer.diff_id
        for layer in set(layers)
        if layer.stored and layer.blob is not None and not layer.keep_going
        if (length := layer_bytes(path_of(index_dir, key := key_of(layer)), key)) is not None
        and length != layer.blob.length
    }


def ensure(layers: Sequence[Layer], index_dir: Path) -> None:
    """Index those of the layers that have no index yet, side by side in worker processes.

    The workers give back to the system the memory that the trees took. Raises CorruptArchive for
    a layer that is no tar, HostError where the index cannot be written.
    """
    # The largest first, so that no worker is left alone with it at the end.
    order = sorted(missing(layers, index_dir), key=lambda layer: -blob_of(layer).length)
    if not order:
        return
    from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415

    with _processes(min(len(order), _processors())) as pool:
        try:
            for _ in pool.map(build, order, [index_dir] * len(order)):
                pass
        except BrokenProcessPool as error:
            raise HostError(
                "a process that indexed a layer was killed; is memory short?"
            ) from error


class Indexer:
    """Indexes layers of the store in processes beside the work that brings them in.

    The processes are forked by `begin`, which comes before any thread of that work. What fails
    here is tried again by `ensure`, which says why.
    """

    def __init__(self, index_dir: Path) -> None:
        self._index_dir = index_dir
        self._pool: Executor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def begin(self) -> None:
        """Make ready for layers to come."""
        if self._pool is None:
            self._pool = _processes(max(1, _processors() - 1))
            # All processes are forked with the first task.
            self._pool.submit(os.getpid)

    def add(self, layer: Layer) -> Callable[[], object]:
        """Have a layer indexed; what is returned waits until its file is no longer read."""
        from concurrent.futures import wait  # noqa: PLC0415
        from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415

        assert self._pool is not None
        try:
            future = self._pool.submit(build, layer, self._index_dir)
        except BrokenProcessPool:
            return lambda: None
        return lambda: wait([future])


def _processors() -> int:
    return os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count() or 1


def _processes(count: int) -> "Executor":
    """Return that many processes, which end with this one: outliving it they held its locks.

    A daemon of multiprocessing's, as workers of others are, may have none: a thread must do.
    """
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor  # noqa: PLC0415
    from multiprocessing import current_process, get_context  # noqa: PLC0415

    if current_process().daemon:
        return ThreadPoolExecutor(1)
    _check_room(count)
    return ProcessPoolExecutor(count, get_context("fork"), processes.end_with, (os.getpid(),))


def _check_room(processes: int) -> None:
    """Raise OSError or RuntimeError where an executor would get no threads or descriptors.

    It takes them in a thread of its own, whose failure its caller would wait for without end.
    """
    import threading  # noqa: PLC0415

    enough = threading.Event()
    threads: list[threading.Thread] = []
    descriptors: list[int] = []
    try:
        for _ in range(_THREADS_EACH):
            threads.append(threading.Thread(target=enough.wait, daemon=True))
            threads[-1].start()
        for _ in range(_DESCRIPTORS_EACH + 4 * processes):
            descriptors.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise OSError(error.errno, error.strerror) from None  # whatever file it was
    finally:
        enough.set()
        for descriptor in descriptors:
            os.close(descriptor)
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def build(layer: Layer, index_dir: Path) -> None:
    """Scan a layer and write its index, whole or not at all."""
    from imagefs.index import build as index_build  # noqa: PLC0415

    key = key_of(layer)
    path = path_of(index_dir, key)
    # Of a tar that is the image itself, nothing else knows the length.
    flat = layer.diff_id.startswith("flat:")
    blob, keep_going = blob_of(layer), layer.keep_going
    try:
        # An index that a crash tore fails its checksums, and is rebuilt.
        with host_errors(path, "cannot write the index "), published(path) as out:
            index_build.write_index(blob, key, out, marked=flat, keep_going=keep_going)
    except CorruptArchive as error:
        where = f"; the layer begins at byte {blob.offset} of {blob.path}" if blob.offset else ""
        raise CorruptArchive(f"layer {layer.diff_id} is damaged: {error}{where}") from error


def open_index(layer: Layer, index_dir: Path) -> Index:
    """Open a layer's index, made anew if it is missing or damaged."""
    key = key_of(layer)
    return Index(path_of(index_dir, key), key, lambda: build(layer, index_dir))
