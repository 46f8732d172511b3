"""Archives that cannot be read in place, because they are compressed or arrive by a pipe.

Owns the one pass in which such an archive comes into the store, and the notes that let the next
mount of the same file find it there. An archive of images is taken apart, so that images share
their layers; anything else comes in whole. Any thread may call it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from imagefs.archive import compression, detect
from imagefs.archive.compression import TooLargeError
from imagefs.archive.members import KEEP_GOING, TarFiles
from imagefs.archive.model import ArchiveContents, ArchiveFile, IngestContext
from imagefs.archive.record import SpooledFiles
from imagefs.archive.spool import spooling
from imagefs.archive.uncompress import room, too_large
from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import identity_of
from imagefs.store.store import Store

_CHUNK = 64 << 10
_HEAD = 32 << 10
"""Bytes in which the first name of a tar is looked for."""


def compressed(fd: int, path: Path, context: IngestContext) -> ArchiveContents:
    """Return what a compressed file holds; the second time, the file itself is not read."""
    store, progress = context.store, context.progress
    status = os.fstat(fd)
    identity = (*identity_of(status), status.st_size, status.st_mtime_ns)
    key = f"{os.path.realpath(path)} {identity}"
    with store.lock(key, lambda: progress.note(f"waiting for another process that has {path}")):
        spooled = _recall(key, str(path), store)
        if spooled is None:
            progress.phase("decompressing", status.st_size)
            spooled = _take(_Source(fd, context), str(path), context)
            if not spooled.damage:
                store.remember(_key(key, apart=spooled.apart), spooled.digest)
        return replace(spooled.contents(context), packed=status.st_size)


def stream(fd: int, place: str, context: IngestContext) -> ArchiveContents:
    """Return what arrives by a pipe, once all of it has arrived."""
    context.progress.phase(f"reading {place}")
    source = _Source(fd, context)
    contents = _take(source, place, context).contents(context)
    return replace(contents, packed=source.took)


@dataclass(frozen=True, slots=True)
class _Spooled:
    """An archive in the store: the digest of what came in whole, or of the record of its parts."""

    place: str
    digest: str
    apart: bool
    damage: str = ""

    def contents(self, context: IngestContext) -> ArchiveContents:
        """Return what the archive holds."""
        store, keep_going = context.store, context.options.keep_going
        blob = store.archive(self.digest) if self.apart else store.layer(self.digest)
        if blob is None:
            raise HostError(f"{store.root}: {self.digest} was removed while it was needed")
        if self.apart:
            parts = SpooledFiles(self.place, blob, store.layer, keep_going=keep_going)
            return detect.read_parts(parts)
        files = TarFiles(blob, self.place, keep_going=keep_going, enough=detect.enough())
        return detect.read_tar(files, ArchiveFile(blob, self.damage, self.digest))


def _recall(key: str, place: str, store: Store) -> _Spooled | None:
    """Return an archive that is in the store, with all its parts."""
    for apart in (True, False):
        digest = store.recall(_key(key, apart=apart))
        if digest is None:
            continue
        blob = store.archive(digest) if apart else store.layer(digest)
        if blob is None:
            continue
        try:
            if not apart or SpooledFiles(place, blob, store.layer, keep_going=False).whole():
                return _Spooled(place, digest, apart)
        except HostError:
            store.discard_archive(digest)
    return None


def _key(key: str, *, apart: bool) -> str:
    return f"{'parts' if apart else 'whole'} {key}"


class _Source:
    """A file that is read from where it is open, forward; `took` is how many bytes were read."""

    def __init__(self, fd: int, context: IngestContext) -> None:
        self._fd, self._progress = fd, context.progress
        self._head = b""
        self.took = 0

    def head(self) -> bytes:
        """Return the first bytes, which are read again; fewer than asked for at the end only."""
        while len(self._head) < compression.MAGIC_BYTES and (more := os.read(self._fd, _CHUNK)):
            self._head += more
        return self._head

    def read(self, size: int) -> bytes:
        """Return the next bytes; none at the end."""
        data, self._head = self._head or os.read(self._fd, size), b""
        self.took += len(data)
        self._progress.advance(len(data))
        return data


def _take(source: _Source, place: str, context: IngestContext) -> _Spooled:
    """Bring a stream into the store."""
    try:
        chunks = _plain(source, context)
        head = b""
        for chunk in chunks:
            head += chunk
            if len(head) >= _HEAD:
                break
        if detect.begins_archive(head):
            digest, damage = _take_apart(chain([head], chunks), context, lambda: source.took)
            return _Spooled(place, digest, True, damage)
        digest, damage = _take_whole(chain([head], chunks), context)
        return _Spooled(place, digest, False, damage)
    except TooLargeError as error:
        raise too_large(place, error, context.options) from error
    except CorruptArchive as error:
        raise CorruptArchive(f"{place}: {error}") from error


def _take_apart(
    chunks: Iterator[bytes], context: IngestContext, packed: Callable[[], int]
) -> tuple[str, str]:
    """Bring an archive of images into the store; return its record, and what is wrong with it."""
    with spooling(context, packed=packed) as spool:
        damage = spool.take(chunks)
        return spool.keep(), damage


def _take_whole(chunks: Iterator[bytes], context: IngestContext) -> tuple[str, str]:
    """Bring a tar into the store as it is; return its digest, and what is wrong with it."""
    damage = ""
    with context.store.layer_writer(None) as file:
        try:
            for chunk in chunks:
                file.write(chunk)
                if file.size > context.options.max_layer_bytes:
                    raise TooLargeError(context.options.max_layer_bytes)
        except TooLargeError:
            raise
        except CorruptArchive as error:
            if not context.options.keep_going:
                raise CorruptArchive(f"{error}{KEEP_GOING}") from error
            damage = str(error)
    return file.digest, damage


def _plain(source: _Source, context: IngestContext) -> Iterator[bytes]:
    """Yield a stream's bytes, decompressed if need be."""
    head, store = source.head(), context.store
    if not head:
        raise CorruptArchive("is empty")
    kind = compression.recognise(head)
    if kind is not None:
        yield from compression.plain(source.read, kind, room(store), store.index_dir)
    else:
        while data := source.read(_CHUNK):
            yield data
