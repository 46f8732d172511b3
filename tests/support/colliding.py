"""An image whose files are handed over just when somebody else has asked for one, mounted for real.

Run as `python -m tests.support.colliding FOLDER MOUNTPOINT`. The READ of the file f01 leaves
FOLDER/asked and is answered when there is a file FOLDER/go. That another request waits goes
unnoticed, and nobody takes the lead before a file is being handed over, which leaves
FOLDER/storing, nor while there is a file FOLDER/frozen.
"""

import os
import sys
import time
from pathlib import Path

from imagefs.fuse import crew, server
from imagefs.fuse.crew import Crew
from imagefs.fuse.device import Requests
from imagefs.fuse.prefetch import Pusher
from tests.support import counting

PATIENCE = 60


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


class LateCrew(Crew):
    """Has its leader replaced when `folder` says so."""

    folder: Path

    def _replace(self, request: bytes) -> None:
        names = os.listdir(self.folder)
        if "storing" in names and "frozen" not in names:
            super()._replace(request)


class TellingPusher(Pusher):
    """Leaves a file in `folder` when it hands something over."""

    folder: Path

    def _store(self, node: int, content: bytes | memoryview) -> bool:
        (self.folder / "storing").touch()
        return super()._store(node, content)


if __name__ == "__main__":
    crew.Requests = Blind  # type: ignore[attr-defined]
    server.Crew, server.Pusher = LateCrew, TellingPusher  # type: ignore[attr-defined]
    LateCrew.folder = TellingPusher.folder = Path(sys.argv[1])
    counting.main(Path(sys.argv[1]), Path(sys.argv[2]), CollidingFs)
