"""Memory that all who work for one cache take from one budget, however many processes they are.

Each MiB of the budget is a byte of a file, and who has it holds a lock on that byte, which goes
with its process. The locks are those of open file descriptions (fcntl(2)), by which threads exclude
each other as processes do; where a file system knows none, it is done without. What somebody will
need is not always known before, so one at a time may go beyond the budget: who has that turn waits
for nobody, and who waits for room has nothing, so that all come to an end. Knows nothing of what
memory is taken for. A Share belongs to one thread.
"""

import fcntl
import os
from pathlib import Path
from struct import Struct
from typing import Self

BUDGET = 320 << 20
"""Bytes for all but who has the turn. A tree of 250,000 files takes 25 MB, `xz -9` takes 65 MiB,
`zstd -d` at most 128."""
SMALL = 2 << 20
"""Bytes that need not be asked for: a process takes ten times as much by itself."""
FILE = "memory"
"""What the file is called."""

_UNIT = 1 << 20
_UNITS = BUDGET // _UNIT
_PART = _UNITS // 4
"""What one may have that grows, so that others find room beside it."""
# struct flock of <fcntl.h>: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = Struct("hhqqi0q")
# Other systems than Linux say that they do not know these.
_TRY, _WAIT = (getattr(fcntl, f"F_OFD_{name}", -1) for name in ("SETLK", "SETLKW"))


class Share:
    """What one has of the budget; it is given back behind the block.

    `directory` is where all have their file in common.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._fd = -1
        self._mine: set[int] = set()
        self._alone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def take(self, need: int) -> None:
        """Have `need` bytes, at most BUDGET, instead of what it has; wait until there is room."""
        self._give_back()
        units = self._more(need)
        if units and not self._find(units):
            self._lock(0, units, _WAIT)
            self._mine.update(range(units))

    def grow(self, total: int) -> None:
        """Have `total` bytes with what it has; where that is too much, wait for the turn."""
        units = self._more(total)
        if units <= 0 or self._alone:
            return
        if len(self._mine) + units > _PART or not self._find(units):
            self._lock(_UNITS, 1, _WAIT)
            self._alone = True

    def _more(self, total: int) -> int:
        return -(-total // _UNIT) - len(self._mine) if total > SMALL else 0

    def _find(self, units: int) -> bool:
        """Take the last room of that size, if there is any: who waits, waits for the first."""
        for start in range(_UNITS - units, -1, -1):
            room = range(start, start + units)
            if self._mine.isdisjoint(room) and self._lock(start, units, _TRY):
                self._mine.update(room)
                return True
        return False

    def _lock(self, start: int, length: int, how: int, kind: int = fcntl.F_WRLCK) -> bool:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.fcntl(self._fd, how, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            pass
        return True

    def _give_back(self) -> None:
        # Closing alone would leave it with a fork that has the descriptor too.
        if self._fd >= 0:
            self._lock(0, 0, _TRY, fcntl.F_UNLCK)
        self._mine.clear()
        self._alone = False
