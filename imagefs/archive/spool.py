"""An archive that arrives as a stream, taken apart: layers by their digests, the rest in a record.

Owns the one pass over the stream, in which layers are decompressed, written, hashed, indexed and
seen to the disk, and a workspace in which all of it stays until somebody keeps it: what is not
kept was never there. Knows no format of archives. A Spool belongs to one thread, and has some of
its own until it is closed.
"""

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

from imagefs.archive import compression
from imagefs.archive.members import KEEP_GOING, MAX_MEMBERS, normal, shown
from imagefs.archive.model import ArchiveFile, IngestContext
from imagefs.archive.record import SpooledFiles, Table
from imagefs.archive.uncompress import open_blob, reader, room, settle, too_large
from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import fsync_file, host_errors
from imagefs.image.model import MAX_LAYER_BYTES, Blob, Layer
from imagefs.store.hashed_file import HashedFile
from imagefs.tar.header import LNKTYPE, REGTYPE, SYMTYPE
from imagefs.tar.scan import Member
from imagefs.tar.stream import members

SMALL = 256 << 10
"""Up to this many bytes a file stays in the record: JSON mostly, and layers not worth sharing."""
MAX_IDLE = MAX_LAYER_BYTES
"""Bytes that may arrive and leave nothing: headers, padding, layers that came before."""
MAX_NAMES = 64 << 20
"""Most characters of all names and link targets: they stay in memory until the archive ends."""
_CHUNK = 1 << 20
_SETTLING = 4

_Pieces = Iterator[bytes | memoryview]


@contextmanager
def spooling(
    context: IngestContext,
    expected: Iterable[str] = (),
    packed: Callable[[], int] | None = None,
) -> Iterator["Spool"]:
    """Make room for an archive to come; at the end of the block goes what was not kept.

    `packed` tells how many bytes of it have been read, where it may be compressed as a whole.
    `expected` are digests of layers that it is known to have: those that the store has are
    compared with what arrives, and not written again.
    """
    if context.indexer is not None:
        context.indexer.begin()
    store = context.store
    found = filter(None, map(store.layer, expected))
    present = {blob.length: (blob.digest, blob) for blob in found}
    with (
        store.workspace() as work,
        host_errors(store.root),
        HashedFile(work / "record") as record,
        # What has been written is seen to the disk while the next members are decompressed.
        ThreadPoolExecutor(_SETTLING, "imagefs-settle") as pool,
    ):
        try:
            yield Spool(record, pool, context, present, packed)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Spool:
    """An archive's files: made by `spooling`, filled by `take`."""

    def __init__(
        self,
        record: HashedFile,
        pool: ThreadPoolExecutor,
        context: IngestContext,
        present: Mapping[int, tuple[str, Blob]],
        packed: Callable[[], int] | None,
    ) -> None:
        self._packed, self._before = packed, 0
        self._record = record
        self._pool = pool
        self._context = context
        self._store = context.store
        self._options = context.options
        self._present = present
        # A layer that is there already may arrive once.
        self._arrived, self._kept = 0, sum(present)
        self._names = 0
        self._numbers = count()
        self._table = Table()
        self._layers: dict[str, Blob] = {}
        self._new: dict[str, Future[None]] = {}

    def take(self, chunks: Iterator[bytes]) -> str:
        """Take in a whole tar; return what is wrong with it, if it was to keep going.

        Raises CorruptArchive for damage, HostError for a file that may not be so large.
        """
        damage = ""
        try:
            for number, (member, content) in enumerate(members(self._counted(chunks))):
                if number >= MAX_MEMBERS:
                    raise CorruptArchive(f"it has more than {MAX_MEMBERS} members")
                self._take(member, content)
        except compression.TooLargeError:
            raise
        except CorruptArchive as error:
            if not self._options.keep_going:
                raise CorruptArchive(f"{error}{KEEP_GOING}") from error
            damage = str(error)
        self._record.write(self._table.encoded())
        self._record.finish(sync=False)
        return damage

    def files(self, place: str) -> SpooledFiles:
        """Return what was taken in, wherever it lies by now; `place` names it in messages."""
        record = Blob(self._record.path, 0, self._record.size)
        keep_going = self._options.keep_going
        return SpooledFiles(place, record, self._layers.get, keep_going=keep_going)

    def as_layer(self, name: str, file: ArchiveFile) -> Layer:
        """Return one of the files as a layer, known by the digest of its plain bytes.

        Raises HostError for one that may not be so large.
        """
        if file.plain:
            digest = file.plain
        else:
            self._check_size(name, file.blob.length)
            with open_blob(file.blob) as fd:
                read = reader(fd, file.blob)
                digest, _ = self._write(name, iter(lambda: read(_CHUNK), b""))
        return Layer(digest, self._layers[digest], stored=True)

    def settle(self) -> None:
        """Wait until the layers are on the disk, and indexed if they are tars."""
        for settled in self._new.values():
            settled.result()

    def keep_layers(self, digests: Iterable[str]) -> None:
        """Bring those of the layers into the store, after `settle`, that it does not have."""
        for digest in digests:
            if self._new.pop(digest, None) is not None:
                blob = self._store.adopt_layer(self._layers[digest].path, digest)
                self._layers[digest] = blob

    def keep(self) -> str:
        """Bring all layers and the record into the store; return the record's digest."""
        self.settle()
        self.keep_layers(list(self._new))
        fsync_file(self._record.path)
        self._store.adopt_archive(self._record.path, self._record.digest)
        return self._record.digest

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on what arrives, unless much of it leaves nothing; the rest ends with the disk."""
        for chunk in chunks:
            self._arrived += len(chunk)
            if self._arrived - self._kept > MAX_IDLE:
                raise CorruptArchive(
                    f"more than {MAX_IDLE} bytes of it are no files, or come again"
                )
            yield chunk

    def _take(self, member: Member, content: Iterator[memoryview]) -> None:
        """Take a member in; of several with one name, the last counts."""
        name = normal(os.fsdecode(member.name))
        self._names += len(name) + len(member.linkname)
        if self._names > MAX_NAMES:
            raise CorruptArchive(f"its names have more than {MAX_NAMES} characters")
        self._table.forget(name)
        if member.typeflag == SYMTYPE:
            target = posixpath.join("/", posixpath.dirname(name), os.fsdecode(member.linkname))
            self._table.links[name] = normal(target)
        elif member.typeflag == LNKTYPE:
            self._table.links[name] = normal(os.fsdecode(member.linkname))
        elif member.typeflag == REGTYPE:
            self._take_file(name, member.stored, content)

    def _take_file(self, name: str, size: int, content: Iterator[memoryview]) -> None:
        head = b""
        while len(head) < compression.MAGIC_BYTES and (more := next(content, None)):
            head += more
        pieces: _Pieces = chain([head], content)
        kind = compression.recognise(head)
        if kind is not None:
            bound = min(room(self._store), self._options.max_layer_bytes)
            memory = self._store.index_dir
            read = lambda _size: bytes(next(pieces, b""))  # noqa: E731
            plain = compression.plain(read, kind, bound, memory)
            self._table.large[name] = self._write(name, plain)
        elif size <= SMALL:
            start = self._record.size
            for piece in pieces:
                # A view would keep all of the chunk that it is of.
                self._kept += self._record.write(bytes(piece))
            self._table.small[name] = (start, self._record.size - start)
        else:
            self._check_size(name, size)
            self._table.large[name] = self._compared(name, size, pieces)

    def _check_size(self, name: str, size: int) -> None:
        limit = self._options.max_layer_bytes
        if size > limit:
            raise self._too_large(name, compression.TooLargeError(limit))

    def _too_large(self, name: str, error: compression.TooLargeError) -> HostError:
        return too_large(f"layer {shown(name)}", error, self._options)

    def _compared(self, name: str, size: int, pieces: _Pieces) -> tuple[str, str]:
        """Take a plain layer in; it is not written again where the store is known to have it."""
        if size not in self._present:
            return self._write(name, pieces)
        digest, blob = self._present[size]
        same, rest = _compare(blob.path, pieces)
        if same == size:
            self._layers[digest] = blob
            return digest, ""
        with open_blob(blob) as fd:
            read = reader(fd, Blob(blob.path, 0, same))
            return self._write(name, chain(iter(lambda: read(_CHUNK), b""), rest))

    def _write(self, name: str, pieces: _Pieces) -> tuple[str, str]:
        """Write a layer; return its digest and what is wrong with it.

        How it gets to the disk is left to other threads.
        """
        damage, kept = "", self._kept
        path = self._record.path.with_name(f"layer{next(self._numbers)}")
        with HashedFile(path) as file:
            try:
                for piece in pieces:
                    self._kept += file.write(piece)
            except compression.TooLargeError as error:
                raise self._too_large(name, error) from error
            except CorruptArchive as error:
                if not self._options.keep_going:
                    raise CorruptArchive(f"{shown(name)}: {error}") from error
                damage = str(error)
            blob = file.finish(sync=False)
        if file.digest in self._layers:
            self._kept = kept
        self._written(Layer(file.digest, blob, stored=True), whole=not damage)
        return file.digest, damage

    def _written(self, layer: Layer, *, whole: bool) -> None:
        """See to a new file, unless it turns out to be a layer that is there already."""
        assert layer.blob is not None
        known = self._layers.get(layer.diff_id) or self._store.layer(layer.diff_id)
        if known is not None and known.length == layer.blob.length:
            layer.blob.path.unlink()
            self._layers[layer.diff_id] = known
        else:
            self._layers[layer.diff_id] = layer.blob
            packed = layer.blob.length
            if self._packed is not None:
                packed, self._before = self._packed() - self._before, self._packed()
            settling = self._pool.submit(settle, layer, self._context, packed, whole=whole)
            self._new[layer.diff_id] = settling


def _compare(path: Path, pieces: _Pieces) -> tuple[int, _Pieces]:
    """Compare what comes with a file; return how much is the same, and the rest."""
    same = 0
    with path.open("rb", buffering=0) as file:
        for piece in pieces:
            if file.read(len(piece)) != piece:
                return same, chain([piece], pieces)
            same += len(piece)
    return same, iter(())
