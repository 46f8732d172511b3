"""Which layers a scan has done before, and what it found in them.

A file for each part of a layer that was read without a failure, below a directory for each
function; it is written whole or not at all. Files are pickles of our own: the directory must be
the caller's alone.
"""

import hashlib
import os
import pickle
from pathlib import Path

from imagefs.errors import HostError
from imagefs.host.files import host_errors, published
from imagefs.scanning.plan import Part
from imagefs.scanning.worker import Read


class State:
    """The results that a directory keeps for one function, which `name` tells from others."""

    def __init__(self, root: Path, name: str) -> None:
        self._folder = root / hashlib.sha256(name.encode()).hexdigest()[:32]
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._folder.stat()
        except OSError as error:
            raise HostError(f"{root}: {error.strerror}") from error
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise HostError(f"{root}: the state of a scan must be in a directory of your own")

    def recall(self, part: Part) -> Read | None:
        """Return what a part had when it was read; None if that is not known."""
        try:
            return Read(*pickle.loads(self._path(part).read_bytes()))
        except Exception:
            return None  # not there, of another version, or cut: read anew

    def remember(self, part: Part, done: Read) -> None:
        """Keep what a part had, unless something in it failed. Raises HostError."""
        if done.failures:
            return
        path = self._path(part)
        with host_errors(path), published(path) as out:
            pickle.dump(tuple(done), out)

    def _path(self, part: Part) -> Path:
        return self._folder / part.key.replace(":", "-")
