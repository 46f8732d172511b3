"""The directory of the cache: whose it is, who works in it, and what the dead have left.

Owns the mark that tells our directory from another program's, the locks, and the workspaces that go
with the process that made them. Knows nothing of what the cache holds. Any thread may call it.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from imagefs.errors import HostError
from imagefs.host.files import host_errors, is_locked, locked, take_lock, user_path

_TRANSIENT = re.compile(r"[0-9a-f]{16}|\.[0-9a-f]{16}\.tmp")
"""What workspaces, claims and unfinished indexes are called."""
_TAG = "CACHEDIR.TAG"
_TAG_CONTENT = b"""\
Signature: 8a477f597d28d172789f06886806bc55
# This directory is the cache of imagefs; `imagefs cache` looks after it.
"""


def default_root() -> Path:
    """Return where the cache is: $IMAGEFS_CACHE, or `imagefs` in the user's cache directory.

    The path is absolute, since a daemon works in another directory.
    """
    if given := os.environ.get("IMAGEFS_CACHE"):
        return Path(given).absolute()
    return user_path("cache")


class CacheDirectory:
    """A directory that is made if it does not exist, and swept.

    Raises HostError if it is another user's, or neither empty nor a cache of imagefs.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()
        self.index_dir = self.root / "index"
        self.erofs_dir = self.root / "erofs"
        self.uses_dir = self.root / "uses"
        self.locks_dir = self.root / "locks"
        self.work_dir = self.root / "work"
        self._swept = (self.work_dir, self.uses_dir, self.index_dir, self.erofs_dir)
        with host_errors(self.root):
            self._make()
            self._sweep()

    def _make(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.root.stat()
        if status.st_uid != os.geteuid():
            raise HostError(
                f"{self.root}: the cache belongs to uid {status.st_uid}, not to you;"
                " set IMAGEFS_CACHE to a directory of your own"
            )
        self._mark()
        if status.st_mode & 0o077:
            self.root.chmod(0o700)
        for directory in (self.locks_dir, *self._swept):
            directory.mkdir(exist_ok=True)

    def _mark(self) -> None:
        """See to it that the directory bears our mark; one that holds something else is refused."""
        tag = self.root / _TAG
        if _tag_of(tag) == _TAG_CONTENT:
            return
        # Another process may be making the cache: then the tag is what makes it not empty.
        if set(os.listdir(self.root)) - {_TAG} and _tag_of(tag) != _TAG_CONTENT:
            raise self._foreign()
        fd = os.open(tag, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "r+b") as file:
            take_lock(fd)
            found = file.read(len(_TAG_CONTENT) + 1)
            # Whoever was killed while writing it has left nothing else.
            if not _TAG_CONTENT.startswith(found):
                raise self._foreign()
            file.write(_TAG_CONTENT[len(found) :])

    def _foreign(self) -> HostError:
        return HostError(
            f"{self.root}: is neither empty nor a cache of imagefs; set IMAGEFS_CACHE to an empty"
            " or a new directory"
        )

    def _sweep(self) -> None:
        """Remove the workspaces, claims and files whose makers are dead: their locks are free."""
        dead = [path for path in self._transient() if _is_free(path)]
        if not dead:
            return
        with self.guard():
            # Seen under the guard, what is free was not just being made.
            for path in filter(_is_free, dead):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _transient(self) -> Iterator[Path]:
        """Yield what goes with its maker, as far as it bears names that we give."""
        for directory in self._swept:
            for entry in os.scandir(directory):
                if _TRANSIENT.fullmatch(entry.name) and not entry.is_symlink():
                    yield directory / entry.name

    def guard(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """Hold the lock that makes claims (shared) and removals (exclusive) exclude each other."""
        return locked(self.locks_dir / "store", shared=shared)

    def lock(
        self, key: str, waiting: Callable[[], None] | None = None
    ) -> AbstractContextManager[None]:
        """Hold the lock on a piece of work; `waiting` is called once if another process has it."""
        name = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return locked(self.locks_dir / name, waiting=waiting)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Make a directory on the cache's disk, which goes with the block or with the process."""
        path, fd = self.lasting_workspace()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(fd)

    def lasting_workspace(self) -> tuple[Path, int]:
        """Make a directory that goes once its descriptor is closed, also in forks, or later."""
        with host_errors(self.root), self.guard(shared=True):
            path = self.work_dir / os.urandom(8).hex()
            path.mkdir()
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            take_lock(fd)
        return path, fd


def _tag_of(path: Path) -> bytes | None:
    """Return the beginning of a directory's tag, None where it has none."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_TAG_CONTENT) + 1)
    return None


def _is_free(path: Path) -> bool:
    """Tell whether a file or directory is locked by nobody; one that is gone is not free."""
    try:
        return not is_locked(path)
    except FileNotFoundError:
        return False
