"""A directory of the user's that keeps what is written on top of an image, and takes it up again.

Owns the record beside overlayfs's two parts: on which layers it was written, and in which way,
since neither makes sense with another one. Held by a lock as long as anybody writes. Any thread
may call it.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from imagefs.errors import HostError, UsageError
from imagefs.host import trees
from imagefs.host.files import host_errors, try_lock, write_atomic
from imagefs.overlay import stack

_RECORD = "imagefs.json"
_MOST = 1 << 20
_WAYS = {
    stack.TRUSTED: "by root, or with `mount --writable` as root",
    stack.USER: "by `imagefs run` as an ordinary user",
    stack.FUSE: "by `imagefs mount --writable` as an ordinary user",
}


@dataclass(frozen=True, slots=True)
class Record:
    """What a directory of changes says of itself: its image's layers, and how it is written."""

    layers: tuple[str, ...]
    way: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A directory of changes, locked until `fd` is closed, also in forks."""

    path: Path
    fd: int
    record: Record

    @property
    def upper(self) -> Path:
        """Where the changes lie."""
        return self.path / stack.UPPER


def take_up(path: Path, layers: Sequence[str], way: str) -> Kept:
    """Return a directory to write to, made if there is none; UsageError if it is not for that.

    `layers` are the diff ids of the image. HostError where somebody writes to it just now.
    """
    record = Record(tuple(layers), way)
    with host_errors(path):
        path.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _claim(path, fd, record)
            stack.make(path)
        except BaseException:
            os.close(fd)
            raise
    return Kept(path.resolve(), fd, record)


def thrown_away(path: Path, fd: int, layers: Sequence[str], way: str) -> Kept:
    """Return a new directory, held by a descriptor of it, as one that will not be taken up."""
    with host_errors(path):
        _write(path, Record(tuple(layers), way))
        stack.make(path)
    return Kept(path, fd, Record(tuple(layers), way))


def remove(path: Path) -> None:
    """Remove a directory of changes, as far as that can be, however those who wrote it left it."""
    with contextlib.suppress(OSError):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            trees.remove(parent, path.name)
        finally:
            os.close(parent)


def open_kept(path: Path) -> Kept:
    """Return a directory of changes to read, whoever may be writing to it; UsageError if none."""
    with host_errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        found = _read(path)
        if found is None:
            os.close(fd)
            raise UsageError(f"{path}: holds no changes to an image")
        return Kept(path.resolve(), fd, found)


def _claim(path: Path, fd: int, record: Record) -> None:
    owner = os.fstat(fd).st_uid
    if owner != os.geteuid():
        # Who owns it could lead what is written anywhere, by a symbolic link.
        raise UsageError(f"{path}: belongs to uid {owner}; name a directory of your own")
    if not try_lock(fd):
        raise HostError(f"{path}: somebody is writing to it; end that, or name another directory")
    found = _read(path)
    if found is None:
        if os.listdir(path):
            raise UsageError(f"{path}: holds something else; name an empty or a new directory")
        _write(path, record)
    elif found.layers != record.layers:
        raise UsageError(f"{path}: was written on top of another image; name another directory")
    elif found.way != record.way:
        raise UsageError(
            f"{path}: was written {_WAYS.get(found.way, found.way)}, which cannot be gone on with"
            " like this; name another directory"
        )


def _write(path: Path, record: Record) -> None:
    content = json.dumps(asdict(record)).encode()
    write_atomic(path / _RECORD, content, path / f"{_RECORD}.{os.getpid()}")


def _read(path: Path) -> Record | None:
    """Return a directory's record; None if there is none, or none that makes sense."""
    try:
        with (path / _RECORD).open("rb") as file:
            said = json.loads(file.read(_MOST))
        return Record(tuple(map(str, said["layers"])), str(said["way"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path / _RECORD}: makes no sense; name another directory") from error
