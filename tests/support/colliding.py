"""An image whose files are handed over just when somebody else has asked for one, mounted for real.

Run as `python -m tests.support.colliding FOLDER MOUNTPOINT`. The READ of the file f01 leaves
FOLDER/asked and is answered when there is a file FOLDER/go. That another request waits goes
unnoticed.
"""

import sys
import time
from pathlib import Path

from imagefs.fuse import crew
from imagefs.fuse.device import Requests
from tests.support import counting

PATIENCE = 20


class CollidingFs(counting.CountingFs):
    """As CountingFs, with a file that holds the others up."""

    def read(self, node: int, offset: int, size: int) -> bytes:
        content = super().read(node, offset, size)
        if content == b"f01\n":
            (self.folder / "asked").touch()
            end = time.monotonic() + PATIENCE
            while not (self.folder / "go").exists() and time.monotonic() < end:
                time.sleep(0.01)
        return content


class Blind(Requests):
    """Notices no request but the one that it returns."""

    def waiting(self) -> bool:
        return False


if __name__ == "__main__":
    crew.Requests = Blind  # type: ignore[attr-defined]
    counting.main(Path(sys.argv[1]), Path(sys.argv[2]), CollidingFs)
