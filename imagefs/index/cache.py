"""The layers' indexes on disk: which layer has which, and how they come to be.

Owns the files of the index directory: their names, and that each is there whole or not at all
(temporary file, rename). `reader.py` reads them. Any thread may call it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Self

from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import check_identity, host_errors, published
from imagefs.host.memory import Share
from imagefs.image.model import Blob, Layer
from imagefs.index import rows, workers
from imagefs.index.reader import Index, layer_bytes
from imagefs.tar.header import BLOCK

if TYPE_CHECKING:
    from concurrent.futures import Executor

BYTES_A_NAME, FREE_NAMES = 8, 1 << 17
"""What an archive must take for each name of its image, beside those that are free: the name, its
header and its content, compressed. Directories alone come to 10 to 13 bytes each, all of /etc to
484."""

_FEW = 256
"""Names that a layer may have beyond its blocks, of directories that no member describes."""

_refused: dict[Path, tuple[object, CorruptArchive]] = {}
"""Why an Indexer of this process could not index a layer, by the index's path, with the file that
it was. `ensure` says it instead of scanning the layer again, once: it may be another by then."""


def key_of(layer: Layer, fd: int | None = None) -> bytes:
    """Return the 32-byte key of a layer's index: what the layer is, or where it lies.

    With `fd`, the layer is what that descriptor has open. Raises HostError where it is gone.

    A layer in the store is known by its digest there alone, one within a file of the store by that
    file's digest and its place there. One that is read in place is known by its
    file's path, device, inode, size, modification and change time, and its place in the file: who
    rewrites a file can set back the one time, but not the other. What is left of a damaged layer
    has an index apart, so that it never passes for a whole one.
    """
    if layer.stored:
        identity: tuple[object, ...] = ("layer", blob_of(layer).digest or layer.diff_id)
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


def ensure(layers: Sequence[Layer], index_dir: Path, packed: int | None = None) -> None:
    """Index those of the layers that have no index yet, side by side in worker processes.

    `packed` is how many bytes of an archive they came from, if that is known; it bounds how many
    names are taken. Raises CorruptArchive for a layer that is no tar, or beyond what one may have,
    HostError where the index cannot be written.
    """
    # The largest first, so that no worker is left alone with it at the end.
    order = sorted(missing(layers, index_dir), key=lambda layer: -blob_of(layer).length)
    if not order:
        return
    for layer in order:
        file, error = _refused.pop(path_of(index_dir, key_of(layer)), (None, None))
        if error is not None and file == _file_of(layer):
            raise error
    from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415

    tally = None
    if packed is not None:
        tally = workers.Tally(len(order), most_names(packed), packed)
    with workers.executor(min(len(order), workers.most()), tally) as pool:
        try:
            for _ in pool.map(_build_task, range(len(order)), order, [index_dir] * len(order)):
                pass
        except BrokenProcessPool as error:
            raise HostError(
                "a process that indexed a layer was killed; is memory short?"
            ) from error


def _build_task(task: int, layer: Layer, index_dir: Path) -> None:
    tally = workers.own_tally()
    build(layer, index_dir, count=partial(tally.count, task) if tally else None)


def most_names(packed: int) -> int:
    """Return how many names an image may have that comes from so many bytes of an archive."""
    return FREE_NAMES + packed // BYTES_A_NAME


class _LeftError(Exception):
    """A layer turns out to be more than its length told; `ensure` counts."""


def _build_short(layer: Layer, index_dir: Path) -> None:
    """Index a layer that has no more names than blocks and a few, as nearly all."""
    most = blob_of(layer).length // BLOCK + _FEW
    build(layer, index_dir, count=partial(_leave_beyond, most))


def _leave_beyond(most: int, names: int) -> None:
    if names > most:
        raise _LeftError


class Indexer:
    """Indexes layers of the store in processes beside the work that brings them in.

    The processes are forked by `begin`, which comes before any thread of that work. What fails
    here is an error only to who needs the layer: `ensure` says why, or tries again.
    """

    def __init__(self, index_dir: Path) -> None:
        self._index_dir = index_dir
        self._pool: Executor | None = None
        self._lock = Lock()
        self._blocks = self._packed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def begin(self) -> None:
        """Make ready for layers to come."""
        if self._pool is None:
            self._pool = workers.executor(max(1, workers.most() - 1))
            # All processes are forked with the first task.
            self._pool.submit(os.getpid)

    def add(self, layer: Layer, packed: int) -> Callable[[], object]:
        """Have a layer indexed; what is returned waits until its file is no longer read.

        `packed` is how many bytes of an archive it came from. Where all together are so long that
        they may have more names than these stand for, it is left to `ensure`, which counts; so is
        one that has more than blocks.
        """
        with self._lock:
            self._packed += packed
            blocks = self._blocks + blob_of(layer).length // BLOCK
            if blocks > most_names(self._packed):
                return lambda: None
            self._blocks = blocks
        from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415

        assert self._pool is not None
        try:
            future = self._pool.submit(_build_short, layer, self._index_dir)
        except BrokenProcessPool:
            return lambda: None

        def settled() -> None:
            error = future.exception()
            if isinstance(error, CorruptArchive):
                _refused[path_of(self._index_dir, key_of(layer))] = _file_of(layer), error

        return settled


def _file_of(layer: Layer) -> object:
    """Return what tells a layer's file from others; another name makes it no other."""
    status = os.stat(blob_of(layer).path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def build(
    layer: Layer,
    index_dir: Path,
    count: Callable[[int], None] | None = None,
) -> None:
    """Scan a layer and write its index, whole or not at all. Raises CorruptArchive for no tar.

    `count` is told again and again how many names there are by now, and may raise CorruptArchive.
    What memory it takes comes from the budget of `index_dir`.
    """
    from imagefs.index import build as index_build  # noqa: PLC0415

    key = key_of(layer)
    path = path_of(index_dir, key)
    # Of a tar that is the image itself, nothing else knows the length.
    flat = layer.diff_id.startswith("flat:")
    blob, keep_going = blob_of(layer), layer.keep_going
    try:
        # An index that a crash tore fails its checksums, and is rebuilt.
        with (
            Share(index_dir) as share,
            host_errors(path, "cannot write the index "),
            published(path) as out,
        ):

            def took(names: int, memory: int) -> None:
                share.grow(memory)
                if count is not None:
                    count(names)

            index_build.write_index(blob, key, out, took, marked=flat, keep_going=keep_going)
    except CorruptArchive as error:
        where = f"; the layer begins at byte {blob.offset} of {blob.path}" if blob.offset else ""
        raise CorruptArchive(f"layer {layer.diff_id} is damaged: {error}{where}") from error


def open_index(layer: Layer, index_dir: Path) -> Index:
    """Open a layer's index, made anew if it is missing or damaged."""
    key = key_of(layer)
    return Index(path_of(index_dir, key), key, lambda: build(layer, index_dir))
