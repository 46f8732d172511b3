"""Layers of a registry into the store: those that it lacks, several at a time.

Owns the one pass over each blob, in which it is received, decompressed, hashed and indexed. A layer
is in the store as soon as it is whole, whatever becomes of the others; two processes that want the
same one pull it once. The first failure ends the others soon. Any thread may call it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from itertools import chain

from imagefs.archive import compression
from imagefs.archive.compression import TooLargeError
from imagefs.archive.model import IngestContext
from imagefs.archive.uncompress import room, settle, too_large
from imagefs.errors import CorruptArchive, ImageNotFound, RegistryError
from imagefs.host.files import host_errors
from imagefs.image.model import Layer
from imagefs.image.short_id import short_id
from imagefs.registry.api import Registry
from imagefs.registry.manifests import RemoteLayer
from imagefs.store.hashed_file import HashedFile
from imagefs.store.store import Store
from imagefs.text import one_line

AT_A_TIME = 4


def missing(layers: Sequence[RemoteLayer], store: Store) -> list[RemoteLayer]:
    """Return those of the layers that the store lacks, each once."""
    by_id = {layer.diff_id: layer for layer in reversed(layers)}
    return [layer for layer in list(by_id.values())[::-1] if store.layer(layer.diff_id) is None]


def pull(layers: Sequence[RemoteLayer], registry: Registry, context: IngestContext) -> None:
    """Pull layers into the store. Raises HostError where they are more than can be taken in."""
    _check_sizes(layers, registry, context)
    context.progress.phase("pulling", sum(layer.blob.size for layer in layers))
    if context.indexer is not None:
        context.indexer.begin()
    with ThreadPoolExecutor(AT_A_TIME, "imagefs-pull") as pool:
        # The largest first, so that none is left alone at the end.
        order = sorted(layers, key=lambda layer: -layer.blob.size)
        futures = [pool.submit(_Pull(layer, registry, context).run) for layer in order]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                _raise_failure(future)
        except BaseException:
            registry.cancel()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _check_sizes(layers: Sequence[RemoteLayer], registry: Registry, context: IngestContext) -> None:
    """Raise HostError where layers are larger than all that could come of them."""
    limit, free = context.options.max_layer_bytes, room(context.store)
    whole = sum(layer.blob.size for layer in layers)
    for size, most, what in (
        *((layer.blob.size, limit, f": {layer.blob.where}") for layer in layers),
        (whole, free, ""),
    ):
        if size > compression.most_packed(most):
            error = TooLargeError(most, f"{size} bytes are far more than {most} take, packed")
            raise too_large(f"{registry.reference}{what}", error, context.options)


def _raise_failure(future: "Future[None]") -> None:
    """Raise what a job has failed with; one that still runs has not."""
    if future.done():
        future.result()


class _Pull:
    """One layer being pulled."""

    def __init__(self, layer: RemoteLayer, registry: Registry, context: IngestContext) -> None:
        self._layer = layer
        self._registry = registry
        self._context = context
        self._store = context.store
        self._where = f"{registry.reference}: {layer.blob.where} ({layer.blob.digest})"

    def run(self) -> None:
        """Bring the layer into the store, unless another does it."""
        diff_id, blob = self._layer.diff_id, self._layer.blob
        note = f"another process brings in layer {short_id(diff_id)}; waiting for it"
        with self._store.lock(f"layer {diff_id}", lambda: self._context.progress.note(note)):
            if self._store.layer(diff_id) is not None:
                self._context.progress.advance(blob.size)
                return
            with self._context.progress.part(
                f"{blob.where} {short_id(diff_id)}", blob.size
            ) as took:
                self._receive(took)

    def _receive(self, took: Callable[[int], None]) -> None:
        packed = hashlib.new(self._layer.blob.digest.partition(":")[0])
        with (
            self._store.workspace() as work,
            host_errors(self._store.root),
            HashedFile(work / "layer") as file,
        ):
            chunks = self._chunks(packed, took)
            try:
                for piece in self._plain(chunks):
                    file.write(piece)
            except TooLargeError as error:
                raise too_large(self._where, error, self._context.options) from error
            except CorruptArchive as error:
                # What was changed on its way is told by its digest, if all of it comes.
                for _ in chunks:
                    pass
                self._registry.compare(self._layer.blob, packed.hexdigest())
                raise CorruptArchive(f"{self._where} is damaged: {error}") from error
            plain = file.finish(sync=False)
            self._registry.compare(self._layer.blob, packed.hexdigest())
            self._check(file)
            layer = Layer(file.digest, plain, stored=True)
            settle(layer, self._context, self._layer.blob.size, whole=True)
            self._store.adopt_layer(file.path, file.digest)
        if file.digest != self._layer.diff_id:
            self._store.remember(self._layer.diff_id, file.digest)

    def _chunks(self, packed: "hashlib._Hash", took: Callable[[int], None]) -> Iterator[bytes]:
        try:
            for chunk in self._registry.blob(self._layer.blob):
                packed.update(chunk)
                took(len(chunk))
                yield chunk
        except ImageNotFound:
            raise
        except RegistryError as error:
            if not self._layer.foreign:
                raise
            place = one_line(self._layer.foreign[0])
            raise RegistryError(f"{error}; the layer is not the registry's own: {place}") from error

    def _plain(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield what a blob decompresses to; its first bytes tell how, not what it is called."""
        head = b""
        while len(head) < compression.MAGIC_BYTES and (more := next(chunks, b"")):
            head += more
        rest = chain([head] if head else [], chunks)
        bound = min(room(self._store), self._context.options.max_layer_bytes)
        kind = compression.recognise(head)
        if kind is not None:
            yield from compression.plain(
                lambda _: next(rest, b""), kind, bound, self._store.index_dir
            )
            # Decompressors may stop before what is behind the end.
            for _ in rest:
                pass
            return
        taken = 0
        for piece in rest:
            taken += len(piece)
            if taken > bound:
                raise TooLargeError(bound)
            yield piece

    def _check(self, file: HashedFile) -> None:
        """Raise CorruptArchive unless what was received is the layer of the configuration."""
        algorithm, _, wanted = self._layer.diff_id.partition(":")
        found = file.digest
        if algorithm != "sha256":
            with file.path.open("rb") as content:
                found = f"{algorithm}:{hashlib.file_digest(content, algorithm).hexdigest()}"
        if found != f"{algorithm}:{wanted}":
            raise CorruptArchive(
                f"{self._where} is damaged: it should have the diff id {self._layer.diff_id},"
                f" and has {found}"
            )
