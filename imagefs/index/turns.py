"""Who may take much memory to index a layer: one at a time, of all threads and processes.

What a layer's tree takes is not known before it has been read, and most take little. So each may
take its part of LITTLE unasked. Whoever comes to need more waits until it is alone in that, with
what it has so far; whoever is alone waits for nobody, so that all come to an end. Knows nothing of
trees.
"""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from imagefs.host.files import take_lock
from imagefs.index import workers

LITTLE = 64 << 20
"""Bytes that all may have together who do not wait for a turn; 250,000 files take 25 MB."""


class Turn:
    """One who indexes a layer; the turn is given back behind the block, or with the process.

    `directory` is what all who take turns have in common. It belongs to one thread.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._most = LITTLE // workers.most()
        self._kept = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def took(self, total: int) -> None:
        """Say how many bytes have been taken by now, before more are; it may wait."""
        if total <= self._most:
            return
        self._most = 1 << 62
        # Where a file system knows no locks, it is done without.
        with suppress(OSError):
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._kept.callback(os.close, fd)
            take_lock(fd)
