"""The mounts that live: where they may be put, which there are, and how to take them away.

Owns the records that daemons leave of themselves, a small file each, and joins them with what
the kernel says is mounted, which alone is believed. Nothing here touches a mount point before
the kernel's table has said that no dead mount is on it. Any thread may call it.
"""

import contextlib
import errno
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from imagefs import mountinfo
from imagefs.errors import MountError
from imagefs.fuse import mount as fuse_mount

_OURS = {fuse_mount.FSTYPE}


@dataclass(frozen=True, slots=True)
class Record:
    """What a daemon says of itself; `started` is its start in clock ticks since boot (proc(5))."""

    source: str
    mountpoint: str
    pid: int
    started: int
    since: str


@dataclass(frozen=True, slots=True)
class LiveMount:
    """A mount of imagefs; `pid` and `since` are None where its daemon left no record.

    `alive` is False where the daemon is known to be dead.
    """

    source: str
    mountpoint: str
    pid: int | None
    since: str | None
    alive: bool


def check_mountpoint(path: Path) -> None:
    """Raise MountError unless `path` is an empty directory with nothing mounted on it."""
    if mountinfo.at(path) is not None:
        raise MountError(f"{path}: something is mounted here already; unmount it first")
    try:
        with os.scandir(path) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        raise MountError(f"{path}: there is no such directory; make it first") from None
    except NotADirectoryError:
        raise MountError(f"{path}: is not a directory") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(f"{path}: lies in a dead mount; unmount that first") from error
        raise MountError(f"{path}: {error.strerror}") from error
    if not empty:
        raise MountError(f"{path}: is not empty; choose an empty directory")


class Registry:
    """The records of this user's daemons, in a directory of theirs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, source: str, mountpoint: Path) -> Path:
        """Record that this process serves a mount; return the record, to be removed at the end."""
        pid = os.getpid()
        record = Record(
            source,
            mountinfo.absolute(mountpoint),
            pid,
            _started(pid) or 0,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{pid}-{os.urandom(4).hex()}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(record)))
        temporary.rename(path)
        return path

    def mounts(self) -> list[LiveMount]:
        """Return the mounts of imagefs that the kernel has, in the order they were made."""
        records = self._records()
        found = []
        for mount in mountinfo.mounts():
            if mount.fstype in _OURS:
                record = records.get(mount.mountpoint)
                found.append(_joined(mount, record))
        return found

    def _records(self) -> dict[str, Record]:
        """Return the records by mount point; those of daemons that left no mount are removed."""
        mounted = {mount.mountpoint for mount in mountinfo.mounts()}
        records: dict[str, Record] = {}
        for path in sorted(self._directory.glob("*.json"), key=_age):
            record = _read(path)
            if record is None:
                continue
            if record.mountpoint not in mounted and not _is_alive(record):
                with contextlib.suppress(OSError):
                    path.unlink()
            # Where two speak of one place, the living one is right.
            elif record.mountpoint not in records or _is_alive(record):
                records[record.mountpoint] = record
        return records


def unmount(path: Path, *, lazy: bool = False) -> None:
    """Take a mount of imagefs away, a dead one too; MountError if it is busy or none."""
    mount = mountinfo.at(path)
    if mount is None:
        raise MountError(f"{path}: nothing is mounted here")
    if mount.fstype not in _OURS:
        raise MountError(f"{path}: is a mount of {mount.fstype}, not of imagefs")
    try:
        fuse_mount.unmount(Path(mount.mountpoint), lazy)
    except fuse_mount.MountBusyError as error:
        raise MountError(f"{error}; end that, or use --lazy") from error


def _joined(mount: mountinfo.Mount, record: Record | None) -> LiveMount:
    if record is None:
        return LiveMount(mount.source, mount.mountpoint, None, None, alive=True)
    alive = _is_alive(record)
    return LiveMount(record.source, mount.mountpoint, record.pid, record.since, alive)


def _read(path: Path) -> Record | None:
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0


def _is_alive(record: Record) -> bool:
    return _started(record.pid) == record.started


def _started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it has ended."""
    try:
        # The name, in parentheses, may hold blanks; the start is the 20th field behind it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
