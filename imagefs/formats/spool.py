"""Archives that cannot be read in place, because they are compressed or arrive by a pipe.

Owns the one pass in which such an archive comes into the store, decompressed, and the note that
lets the next mount of the same file find it there. Any thread may call it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from imagefs import compression
from imagefs.compression import TooLargeError
from imagefs.errors import CorruptArchive, HostError
from imagefs.formats import detect
from imagefs.formats.members import TarFiles
from imagefs.formats.plain import room
from imagefs.formats.values import Packed, Piece
from imagefs.progress import Progress
from imagefs.store import Store

_CHUNK = 256 << 10


def compressed(
    fd: int, path: Path, store: Store, progress: Progress, *, keep_going: bool
) -> Packed:
    """Return what a compressed file holds; the second time, the file itself is not read."""
    status = os.fstat(fd)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    key = f"archive {os.path.realpath(path)} {identity}"
    with store.lock(key):
        digest = store.recall(key)
        damage = ""
        if digest is None or store.layer(digest) is None:
            progress.phase("decompressing", status.st_size)
            digest, damage = _take(fd, str(path), store, progress, keep_going=keep_going)
            if not damage:
                store.remember(key, digest)
    return _whole(digest, damage, str(path), store)


def stream(fd: int, place: str, store: Store, progress: Progress, *, keep_going: bool) -> Packed:
    """Return what arrives by a pipe, once all of it has arrived."""
    progress.phase(f"reading {place}")
    digest, damage = _take(fd, place, store, progress, keep_going=keep_going)
    return _whole(digest, damage, place, store)


def _whole(digest: str, damage: str, place: str, store: Store) -> Packed:
    blob = store.layer(digest)
    if blob is None:
        raise HostError(f"{store.root}: {digest} was removed while it was needed")
    files = TarFiles(blob, keep_going=bool(damage), enough=detect.enough())
    files.place = place
    return detect.read_tar(files, Piece(blob, damage, digest))


def _take(
    fd: int, place: str, store: Store, progress: Progress, *, keep_going: bool
) -> tuple[str, str]:
    """Bring a stream into the store, plain; return its digest and what is wrong with it."""
    damage = ""
    with store.layer_writer(None) as file:
        try:
            for piece in _plain(fd, place, store, progress):
                file.write(piece)
        except TooLargeError as error:
            raise HostError(f"{place} does not fit into the cache: {error}") from error
        except CorruptArchive as error:
            if not keep_going or not file.size:
                raise CorruptArchive(f"{place}: {error}") from error
            damage = str(error)
    return file.digest, damage


def _plain(fd: int, place: str, store: Store, progress: Progress) -> Iterator[bytes]:
    """Yield the stream's bytes, decompressed if need be."""
    head = b""
    while len(head) < compression.MAGIC_BYTES and (more := os.read(fd, _CHUNK)):
        head += more
    if not head:
        raise CorruptArchive("is empty")
    waiting = [head]

    def read(size: int) -> bytes:
        data = waiting.pop() if waiting else os.read(fd, size)
        progress.advance(len(data))
        return data

    kind = compression.recognise(head)
    if kind is not None:
        yield from compression.plain(read, kind, room(store))
    else:
        while data := read(_CHUNK):
            yield data
