"""From a packed image to one whose layers can be read: plain, whole, and what they should be.

Owns what happens to each layer: a plain one stays where it is, a compressed one is decompressed
into the store once, side by side with its siblings, and checked on the way. Decides what damage
means: an error that names the layer, or, if asked to keep going, a layer of what is left. Any
thread may call it; two that want the same layer, here or in another process, make it once.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from imagefs.archive import compression
from imagefs.archive.compression import Compression, TooLargeError
from imagefs.archive.members import KEEP_GOING, shown
from imagefs.archive.model import (
    ArchiveContents,
    ArchivedImage,
    ArchivedLayer,
    IngestContext,
)
from imagefs.errors import CorruptArchive, HostError
from imagefs.host import files
from imagefs.host.files import fsync_file, host_errors
from imagefs.image.config import DIGESTS
from imagefs.image.model import Blob, Image, Layer
from imagefs.image.options import SourceOptions
from imagefs.store.hashed_file import HashedFile, digest_of
from imagefs.store.store import Store

_EMPTY_TAR = bytes(1024)


def image_of(contents: ArchiveContents, image: ArchivedImage, context: IngestContext) -> Image:
    """Return the image with all its layers plain."""
    for damage in image.damage:
        context.progress.warn(damage)
    with host_errors(Path(contents.place)):
        layers = _plain_layers(image, _Maker(contents.place, context))
    packed = _packed(contents, image)
    return Image(image.id, image.names, image.config, image.manifest, layers, packed)


def _packed(contents: ArchiveContents, image: ArchivedImage) -> int | None:
    """Return how many bytes of an archive an image's layers come from; None if it lacks some."""
    files = {layer.file for layer in image.layers}
    if contents.packed is not None and None not in files:
        return contents.packed
    lengths = [file.blob.length for file in files if file is not None]
    return sum(lengths) if len(lengths) == len(files) else None


def _plain_layers(image: ArchivedImage, maker: "_Maker") -> tuple[Layer, ...]:
    kinds = [_kind(layer) for layer in image.layers]
    work = sum(map(maker.work, image.layers, kinds))
    if work:
        maker.begin("decompressing" if any(kinds) else "verifying", work)
    jobs: dict[ArchivedLayer, Callable[[], Layer]] = {}
    for number, (layer, kind) in enumerate(zip(image.layers, kinds, strict=True)):
        alike = replace(layer, created_by="")
        jobs.setdefault(alike, _job(maker, number, alike, kind))
    made = dict(zip(jobs, _side_by_side(list(jobs.values())), strict=True))
    return tuple(
        replace(made[replace(layer, created_by="")], created_by=layer.created_by)
        for layer in image.layers
    )


def _job(
    maker: "_Maker", number: int, layer: ArchivedLayer, kind: Compression | None
) -> Callable[[], Layer]:
    return lambda: maker.layer(number, layer, kind)


def _side_by_side(jobs: list[Callable[[], Layer]]) -> list[Layer]:
    """Run the jobs in as many threads as there are processors; the first error counts."""
    if len(jobs) < 2:
        return [job() for job in jobs]
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1), "imagefs-plain") as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _kind(layer: ArchivedLayer) -> Compression | None:
    """Return what a layer is compressed with, told by its first bytes."""
    if layer.file is None or layer.file.plain:
        return None
    blob = layer.file.blob
    with open_blob(blob) as fd:
        return compression.recognise(
            os.pread(fd, min(compression.MAGIC_BYTES, blob.length), blob.offset)
        )


@contextmanager
def open_blob(blob: Blob) -> Iterator[int]:
    """Open the file that a blob lies in. Raises HostError."""
    try:
        fd = files.open_blob(blob)
    except OSError as error:
        raise HostError(f"{blob.path}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def reader(fd: int, blob: Blob, took: Callable[[bytes], None] | None = None) -> compression.Read:
    """Return a function that reads a blob from its beginning to its end."""
    at = blob.offset
    end = blob.offset + blob.length

    def read(size: int) -> bytes:
        nonlocal at
        data = os.pread(fd, min(size, end - at), at)
        at += len(data)
        if took is not None:
            took(data)
        return data

    return read


def room(store: Store) -> int:
    """Return how many bytes may come into the store: nearly all that its disk has free."""
    with host_errors(store.root):
        disk = os.statvfs(store.root)
    return disk.f_bavail * disk.f_frsize * 19 // 20


def too_large(what: str, error: TooLargeError, options: SourceOptions) -> HostError:
    """Return the error for a stream that was stopped, by the user's limit or for lack of room."""
    if error.max_bytes == options.max_layer_bytes:
        return HostError(f"{what}: {error}; --max-layer-bytes sets this limit")
    return HostError(f"{what} does not fit into the cache: {error}; {files.MAKE_ROOM}")


class _Maker:
    """Makes the layers of one image plain."""

    def __init__(self, place: str, context: IngestContext) -> None:
        self._place = place
        self._context = context
        self._store = context.store
        self._progress = context.progress
        self._options = context.options

    def begin(self, phase: str, work: int) -> None:
        """Make ready for work on that many bytes; nobody has started a thread yet."""
        self._progress.phase(phase, work)
        if self._context.indexer is not None:
            self._context.indexer.begin()

    def work(self, layer: ArchivedLayer, kind: Compression | None) -> int:
        """Return how many bytes will be read to make a layer plain, or to verify it."""
        if layer.file is None or (kind and self._store.layer(layer.diff_id) is not None):
            return 0
        return layer.file.blob.length if kind or self._options.verify else 0

    def layer(self, number: int, layer: ArchivedLayer, kind: Compression | None) -> Layer:
        """Return a layer that can be read."""
        where = f"{self._place}: layer {number} ({shown(layer.name)}, digest {layer.diff_id})"
        if layer.file is None:
            return self._missing(layer, where)
        if layer.file.damage:
            self._tolerate(where, f"is damaged: {layer.file.damage}")
        if layer.file.plain:
            return self._in_store(layer, where, layer.file.plain, layer.file.damage)
        if kind is not None:
            return self._decompressed(layer, where, kind)
        damage = layer.file.damage
        if self._options.verify and not damage and _algorithm(layer.diff_id):
            damage = self._compared(where, layer.diff_id, self._digest(layer.file.blob, layer))
        return Layer(
            layer.diff_id, layer.file.blob, keep_going=self._options.keep_going, damage=damage
        )

    def _tolerate(self, where: str, damage: str) -> None:
        """Raise CorruptArchive unless damage is to be made do with."""
        if not self._options.keep_going:
            raise CorruptArchive(f"{where} {damage}{KEEP_GOING}")

    def _missing(self, layer: ArchivedLayer, where: str) -> Layer:
        """Return a layer that some other image has brought, or one without content."""
        blob = self._store.layer(layer.diff_id)
        if blob is not None:
            return Layer(layer.diff_id, blob, stored=True)
        damage = "is missing from the archive"
        self._tolerate(where, damage)
        with self._store.layer_writer(None) as file:
            file.write(_EMPTY_TAR)
        return Layer(layer.diff_id, self._stored_blob(file.digest), keep_going=True, damage=damage)

    def _in_store(self, layer: ArchivedLayer, where: str, digest: str, damage: str) -> Layer:
        """Return a layer that the store has under `digest`, be it the right one or not."""
        blob = self._stored_blob(digest)
        algorithm = _algorithm(layer.diff_id)
        if not damage and algorithm:
            damage = self._compared(where, layer.diff_id, self._found(layer, blob, digest))
        if algorithm and not damage:
            return Layer(layer.diff_id, blob, stored=True)
        return Layer(layer.diff_id, blob, keep_going=self._options.keep_going, damage=damage)

    def _found(self, layer: ArchivedLayer, blob: Blob, digest: str) -> str:
        """Return the digest, of the diff id's kind, of what the store has under `digest`."""
        if _algorithm(layer.diff_id) == "sha256":
            return digest
        if self._store.name_of(layer.diff_id) == digest:
            return layer.diff_id
        found = self._digest(blob, layer)
        if found == layer.diff_id:
            self._store.remember(layer.diff_id, digest)
        return found

    def _compared(self, where: str, expected: str, found: str) -> str:
        """Return what is wrong if two digests differ, unless that is an error."""
        if found == expected:
            return ""
        damage = f"its bytes have the digest {found}"
        self._tolerate(where, f"is damaged: {damage}")
        return damage

    def _stored_blob(self, digest: str) -> Blob:
        blob = self._store.layer(digest)
        if blob is None:
            raise HostError(f"{self._store.root}: {digest} was removed while it was needed")
        return blob

    def _digest(self, blob: Blob, layer: ArchivedLayer) -> str:
        algorithm = _algorithm(layer.diff_id)
        with open_blob(blob) as fd:
            return digest_of(reader(fd, blob), algorithm, self._progress.advance)

    def _decompressed(self, layer: ArchivedLayer, where: str, kind: Compression) -> Layer:
        with self._store.lock(f"layer {layer.diff_id}"):
            blob = self._store.layer(layer.diff_id)
            if blob is not None:
                return Layer(layer.diff_id, blob, stored=True)
            digest, damage = self._decompress(layer, where, kind)
        return self._in_store(layer, where, digest, damage)

    def _decompress(self, layer: ArchivedLayer, where: str, kind: Compression) -> tuple[str, str]:
        """Decompress a layer into the store; return its digest, and what is wrong with it."""
        assert layer.file is not None
        blob, damage = layer.file.blob, layer.file.damage
        with self._store.workspace() as work, host_errors(self._store.root):
            with open_blob(blob) as fd, HashedFile(work / "layer") as file:
                read = reader(fd, blob, lambda data: self._progress.advance(len(data)))
                bound = min(room(self._store), self._options.max_layer_bytes)
                try:
                    for piece in compression.plain(read, kind, bound, self._store.index_dir):
                        file.write(piece)
                except TooLargeError as error:
                    raise too_large(where, error, self._options) from error
                except CorruptArchive as error:
                    damage = damage or str(error)
                    self._tolerate(where, f"is damaged: {damage}")
                plain = file.finish(sync=False)
            if not damage and _algorithm(layer.diff_id) == "sha256":
                damage = self._compared(where, layer.diff_id, file.digest)
            made = Layer(file.digest, plain, stored=True)
            settle(made, self._context, blob.length, whole=not damage)
            self._store.adopt_layer(file.path, file.digest)
        return file.digest, damage


def _algorithm(diff_id: str) -> str:
    """Return the algorithm of a diff id, or "" if it is no digest of the layer's bytes."""
    algorithm = diff_id.partition(":")[0]
    return algorithm if algorithm in DIGESTS else ""


def settle(layer: Layer, context: IngestContext, packed: int, *, whole: bool) -> None:
    """See a new file to the disk, and have it indexed meanwhile if it is whole.

    `packed` is how many bytes of the archive it came from. This comes before it is in the store:
    who takes it for a layer will look for its index first.
    """
    assert layer.blob is not None
    indexed = None
    if whole and context.indexer is not None:
        indexed = context.indexer.add(layer, packed)
    fsync_file(layer.blob.path)
    if indexed is not None:
        indexed()
