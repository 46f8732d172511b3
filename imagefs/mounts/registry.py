"""The mounts that live: which there are, and how to take them away.

Owns the records that daemons leave of themselves, a small file each, and joins them with what
the kernel says is mounted, which alone is believed. Nothing here touches a mount point before
the kernel's table has said that no dead mount is on it. Any thread may call it.
"""

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imagefs.erofs import live
from imagefs.errors import MountError
from imagefs.fuse import mount as fuse_mount
from imagefs.host import mountinfo
from imagefs.host.mount_point import MountPoint
from imagefs.host.processes import is_killed, wait_for_end
from imagefs.overlay import kept, stack

_log = logging.getLogger(__name__)
_ROOT = 0
_NOBODY = 0
"""The pid in the record of a mount that the kernel serves by itself."""
_PAUSE = 0.02  # seconds
PATIENCE = 5.0  # seconds; a daemon ends in a moment, or serves its mount in another namespace


@dataclass(frozen=True, slots=True)
class Record:
    """What a daemon says of itself; `started` is its start in clock ticks since boot (proc(5)).

    `mount` tells its mount from all others, as `mountinfo.identities` does. Of a mount that can be
    written to, `changes` is the directory with what is written, `below` the mount point of the
    image itself, and `temporary` tells that the directory goes with the mount.
    """

    source: str
    mountpoint: str
    mount: str
    pid: int
    started: int
    since: str
    changes: str = ""
    below: str = ""
    temporary: bool = False


@dataclass(frozen=True, slots=True)
class LiveMount:
    """A mount of imagefs; `pid` and `since` are None where its daemon left no record.

    `owner` is the uid of who mounted it; `alive` is False where the daemon is known to be dead. A
    mount by the driver `kernel` has no daemon; `changed` tells that its archive is another by now.
    `changes` is the directory with what is written on top of the image, None if nothing can be.
    """

    source: str
    mountpoint: str
    owner: int | None
    pid: int | None
    since: str | None
    alive: bool
    driver: str = "fuse"
    changed: bool = False
    changes: str | None = None


class Registry:
    """The records of this user's daemons, in a directory of theirs; none where that is None.

    Where they cannot be read, the directory being another user's, there are none either.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def add(
        self, source: str, point: MountPoint, pid: int | None = None, **written: Any
    ) -> Path | None:
        """Record that a process, if none other than this one, serves a mount; return the record.

        It is to be removed at the end. `written` are Record's fields of a mount that can be.
        """
        mount = point.mounted()
        return None if mount is None else self._add(source, mount, pid or os.getpid(), **written)

    def add_kernel(self, source: str, mount: mountinfo.Mount) -> None:
        """Record what a mount that no process serves is called."""
        self._add(source, mount, _NOBODY)

    def _add(self, source: str, mount: mountinfo.Mount, pid: int, **written: Any) -> Path | None:
        if self._directory is None:
            return None
        record = Record(
            source,
            mount.mountpoint,
            mountinfo.identities().get(mount.id, ""),
            pid,
            _started(pid) or 0,
            datetime.now(UTC).isoformat(timespec="seconds"),
            **written,
        )
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{pid}-{os.urandom(4).hex()}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(record)))
        temporary.rename(path)
        return path

    def mounts(self) -> list[LiveMount]:
        """Return the mounts of imagefs that the kernel has, in the order they were made."""
        return [live for _, live in self._found()]

    def unmount(self, path: Path, *, lazy: bool = False) -> None:
        """Take a mount away as `unmount` does, and let its daemon end, which frees the image.

        A dead mount is taken away at once, and who waits for something in it gets an error. That
        the daemon ends is waited for up to PATIENCE, where it is known which one it is. A mount
        that can be written to goes first, then the one below it.
        """
        record = self._written(path)
        if record is None:
            self._unmount(path, lazy=lazy)
            return
        mount = mountinfo.at(path)
        if mount is not None:
            _take_away(mount, lazy=lazy or not _is_alive(record))
        if mountinfo.at(Path(record.below)) is not None:
            self._unmount_below(Path(record.below), lazy=lazy)
        if record.temporary:
            kept.remove(Path(record.changes))
        # Its daemon being dead, the record goes.
        self.mounts()

    def _unmount_below(self, path: Path, *, lazy: bool) -> None:
        """Take away what an overlay lay on, which fuse-overlayfs may hold until it has ended."""
        late = time.monotonic() + PATIENCE
        while True:
            try:
                self._unmount(path, lazy=lazy)
            except fuse_mount.MountBusyError:
                if time.monotonic() > late:
                    raise
                time.sleep(_PAUSE)
            else:
                return

    def _unmount(self, path: Path, *, lazy: bool) -> None:
        here = self._at(path)
        if lazy or here is None or here.pid is None or not here.alive:
            unmount(path, lazy=lazy, dead=here is not None and not here.alive)
            return
        try:
            daemon = os.pidfd_open(here.pid)
        except OSError:
            unmount(path)
            return
        try:
            # If this is still so, the descriptor is of the daemon and of no other process.
            same = self._at(path) == here
            unmount(path)
            if same:
                wait_for_end(daemon, PATIENCE)
        finally:
            os.close(daemon)

    def _written(self, path: Path) -> Record | None:
        """Return the record of a mount that can be written to, if one is at a path."""
        mount = mountinfo.at(path)
        if mount is None or mount.fstype not in stack.FSTYPES:
            return None
        identity = mountinfo.identities().get(mount.id, "")
        found = self._records({identity}).get(identity)
        return found if found is not None and found.below else None

    def _at(self, path: Path) -> LiveMount | None:
        mount = mountinfo.at(path)
        known = self._found(below=True)
        found = [live for one, live in known if mount and one.id == mount.id]
        return found[0] if found else None

    def _found(self, *, below: bool = False) -> list[tuple[mountinfo.Mount, LiveMount]]:
        """Return our mounts; those that others can be written on top of only with `below`."""
        some = [
            mount
            for mount in mountinfo.mounts()
            if _is_ours(mount) or mount.fstype in stack.FSTYPES
        ]
        if not some:
            self._records(set())
            return []
        identities = mountinfo.identities()
        of = {mount.id: identities.get(mount.id, "") for mount in some}
        records = self._records(set(of.values()))
        ours = {of[one.id] for one in some if _is_ours(one)} | {
            key for key, record in records.items() if record.below
        }
        hidden = {one.below for one in records.values() if one.below and not below}
        return [
            (one, _joined(one, records.get(of[one.id])))
            for one in some
            if of[one.id] in ours and one.mountpoint not in hidden
        ]

    def _records(self, mounted: set[str]) -> dict[str, Record]:
        """Return the records of what is mounted; those of the dead that left no mount go."""
        records: dict[str, Record] = {}
        for path in sorted(self._files(), key=_age):
            record = _read(path)
            if record is None:
                continue
            key = record.mount
            if key not in mounted and not _is_alive(record):
                with contextlib.suppress(OSError):
                    path.unlink()
            # Where two speak of one mount, the living one is right.
            elif key not in records or _is_alive(record):
                records[key] = record
        return records

    def _files(self) -> list[Path]:
        if self._directory is None:
            return []
        try:
            names = os.listdir(self._directory)
        except OSError as error:
            _log.debug("%s", error)
            return []
        return [self._directory / name for name in names if name.endswith(".json")]


def unmount(path: Path, *, lazy: bool = False, dead: bool = False) -> None:
    """Take a mount of imagefs away, a dead one too; MountError if it is busy or none."""
    mount = mountinfo.at(path)
    if mount is None:
        raise MountError(f"{path}: nothing is mounted here")
    if not _is_ours(mount):
        raise MountError(f"{path}: is a mount of {mount.fstype}, not of imagefs")
    if not is_own(_owner(mount)):
        raise MountError(f"{path}: was mounted by another user, who alone may unmount it")
    _take_away(mount, lazy=lazy, dead=dead)


def _take_away(mount: mountinfo.Mount, *, lazy: bool, dead: bool = False) -> None:
    try:
        fuse_mount.unmount(mount, lazy, dead)
    except fuse_mount.MountBusyError as error:
        raise fuse_mount.MountBusyError(f"{error}; end that, or use --lazy") from error


def is_own(owner: int | None) -> bool:
    """Tell whether this user may unmount what `owner` mounted."""
    return os.geteuid() in (0, owner)


def _is_ours(mount: mountinfo.Mount) -> bool:
    return mount.fstype == fuse_mount.FSTYPE or live.of(mount) is not None


def _owner(mount: mountinfo.Mount) -> int | None:
    return _ROOT if mount.fstype == live.FSTYPE else mount.owner


def _joined(mount: mountinfo.Mount, record: Record | None) -> LiveMount:
    place, owner = mount.mountpoint, mount.owner
    metadata = live.of(mount)
    if metadata is not None:
        source, since = (record.source, record.since) if record else (mount.source, None)
        changed = any(device.is_changed() for device in metadata.devices)
        return LiveMount(source, place, _ROOT, None, since, True, "kernel", changed)
    if record is None:
        return LiveMount(mount.source, place, owner, None, None, alive=True)
    alive, changes = _is_alive(record), record.changes or None
    return LiveMount(record.source, place, owner, record.pid, record.since, alive, changes=changes)


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
    return _started(record.pid) == record.started and not is_killed(record.pid)


def _started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it has ended."""
    try:
        # The name, in parentheses, may hold blanks; the start is the 20th field behind it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
