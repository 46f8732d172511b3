"""Files that are written and hashed beside the work that makes their bytes.

Owns one kind of object, a new file whose SHA-256 is known when it is complete. hashlib and
writev(2) both release the interpreter lock, so that what comes in over a socket or out of a
decompressor costs its thread no more than the handing over. A HashedFile belongs to one thread,
and has one of its own once there is enough to do.
"""

import hashlib
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Self

from imagefs.image.model import Blob

_CHUNK = 1 << 20
_BATCH = 1 << 20
"""Bytes that are handed over at a time; a file that has fewer is written in place."""
_AHEAD = 4
"""Batches that may wait for the other thread; more would be out of the processor's cache before
their turn comes."""

_FEW = 64
"""Chunks of a batch that are written as they are: writev(2) takes no more than 1024."""

_Batch = list[bytes | memoryview]


def digest_of(read: Callable[[int], bytes], algorithm: str, advance: Callable[[int], None]) -> str:
    """Return the digest of all that `read` returns; `advance` hears how much each piece has."""
    digest = hashlib.new(algorithm)
    while chunk := read(_CHUNK):
        digest.update(chunk)
        advance(len(chunk))
    return f"{algorithm}:{digest.hexdigest()}"


class HashedFile:
    """A new file at `path`; what is written must not change afterwards, as bytes do not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.digest = ""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._sha256 = sha256()
        self._batch: _Batch = []
        self._batched = 0
        self._thread: Thread | None = None
        self._queue: Queue[_Batch] = Queue(_AHEAD)
        self._failure: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._join()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, chunk: bytes | memoryview) -> int:
        """Append a chunk; return its length. An OSError may be that of an earlier chunk."""
        self._batch.append(chunk)
        self._batched += len(chunk)
        self.size += len(chunk)
        if self._batched >= _BATCH:
            if self._thread is None:
                self._thread = Thread(target=self._run, name="imagefs-write", daemon=True)
                self._thread.start()
            if self._failure is not None:
                raise self._failure
            self._queue.put(self._batch)
            self._batch, self._batched = [], 0
        return len(chunk)

    def finish(self, *, sync: bool = True) -> Blob:
        """Close the file, on the disk if `sync`; `digest` is `sha256:<hex>` from now on."""
        self._join()
        if self._failure is not None:
            raise self._failure
        self._put(self._batch)
        if sync:
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        self.digest = f"sha256:{self._sha256.hexdigest()}"
        return Blob(self.path, 0, self.size)

    def _run(self) -> None:
        while batch := self._queue.get():
            # After a failure the queue is still emptied, so that nobody waits to put into it.
            if self._failure is None:
                try:
                    self._put(batch)
                except OSError as error:
                    self._failure = error

    def _put(self, batch: _Batch) -> None:
        if len(batch) > _FEW:
            # Joined, many small chunks cost one call of each kind.
            batch = [b"".join(batch)]
        waiting = list(batch)
        while waiting:
            written = os.writev(self._fd, waiting)
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if written:
                waiting[0] = memoryview(waiting[0])[written:]
        for chunk in batch:
            self._sha256.update(chunk)

    def _join(self) -> None:
        if self._thread is not None:
            self._queue.put([])
            self._thread.join()
            self._thread = None
