"""SHA-256 beside the work that makes the bytes: a digest costs the writing thread no time.

Owns one kind of object, a new file that is written and hashed in one pass. hashlib and write(2)
both release the interpreter lock, so the two really run side by side. A HashedFile belongs to one
thread at a time.
"""

import os
from hashlib import sha256
from pathlib import Path
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Self

from imagefs.image import Blob

_AHEAD = 16
"""Chunks that may wait for the hash: with chunks of 1 MiB, at most 16 MiB of memory."""
_WORTH_A_THREAD = 1 << 20
"""Bytes that are hashed in place before a thread is started: most files are smaller."""


class HashedFile:
    """A new file at `path`; what is written must not change afterwards, as bytes do not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.digest = ""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._sha256 = sha256()
        self._thread: Thread | None = None
        self._waiting: Queue[bytes | memoryview | None] = Queue(_AHEAD)

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
        """Append a chunk to the file and to the digest; return its length."""
        if self._thread is not None:
            self._waiting.put(chunk)
        else:
            self._sha256.update(chunk)
            if self.size > _WORTH_A_THREAD:
                self._thread = Thread(target=self._hash, name="imagefs-hash", daemon=True)
                self._thread.start()
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self.size += len(chunk)
        return len(chunk)

    def finish(self, *, sync: bool = True) -> Blob:
        """Close the file, on the disk if `sync`; `digest` is `sha256:<hex>` from now on."""
        if sync:
            os.fsync(self._fd)
        self._join()
        os.close(self._fd)
        self._fd = -1
        self.digest = f"sha256:{self._sha256.hexdigest()}"
        return Blob(self.path, 0, self.size)

    def _hash(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            self._sha256.update(chunk)

    def _join(self) -> None:
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None
