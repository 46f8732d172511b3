"""What is mounted where, as the kernel tells it: in /proc/self/mountinfo, and by listmount(2).

Never looks at a mount point itself: on a dead or hanging FUSE mount, even stat(2) fails or waits
for ever. Stateless, for any thread.
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
MOST_LINKS = 40
"""Symbolic links that a path may lead through: the kernel's own limit, MAXSYMLINKS."""

# <asm/unistd.h> and <linux/mount.h>, Linux 6.8
_NR_STATMOUNT, _NR_LISTMOUNT = 457, 458
_LSMT_ROOT = 0xFFFF_FFFF_FFFF_FFFF
_STATMOUNT_MNT_BASIC = 2
_MNT_ID_REQ = struct.Struct("=IIQQ")
_STATMOUNT = struct.Struct("=II Q II Q II QQ II")  # up to mnt_parent_id_old
_STATMOUNT_SIZE = 512
_AT_ONCE = 256


class Mount(NamedTuple):
    """A line of mountinfo; see proc_pid_mountinfo(5). `device` is its `major:minor`.

    `id` is the number of the mount, `parent` that of the one that it is mounted on. Like `device`
    they are given again when the mount has gone: see `identities`. `owner` is the uid of who
    mounted it, which the kernel keeps for FUSE alone.
    """

    id: int
    parent: int
    device: str
    mountpoint: str
    options: str
    fstype: str
    source: str
    owner: int | None = None


def parse(content: bytes) -> list[Mount]:
    """Return the mounts that a mountinfo file lists, in the order they were made."""
    mounts = []
    for line in os.fsdecode(content).split("\n"):
        # id parent major:minor root mountpoint options [optional...] - type source super
        before, _, after = line.partition(" - ")
        here, there = before.split(" "), after.split(" ")
        if len(here) >= 6 and len(there) >= 2:
            number, parent = int(here[0]), int(here[1])
            place, fstype, source = map(_plain, (here[4], there[0], there[1]))
            owner = _owner(there[2:])
            mounts.append(Mount(number, parent, here[2], place, here[5], fstype, source, owner))
    return mounts


def mounts() -> list[Mount]:
    """Return what is mounted in this process's namespace, in the order it was mounted."""
    return parse(MOUNTINFO.read_bytes())


def at(path: Path) -> Mount | None:
    """Return the mount at `path`, the one on top if there are several; None if it is no mount.

    A symbolic link to a mount point will do.
    """
    place = absolute(path)
    by_place = {mount.mountpoint: mount for mount in mounts()}
    for _ in range(MOST_LINKS):
        if place in by_place:
            return by_place[place]
        try:
            target = os.readlink(place)
        except OSError:
            return None
        place = absolute(Path(place).parent / target)
    return None


def identities() -> dict[int, str]:
    """Return, by mount id, what tells each mount from all others, those before and after too.

    From Linux 6.8 on, each has a number that is never given again until the next boot; on older
    kernels a later mount may, with bad luck, have the id and the device of one that has gone.
    """
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = ""
    unique = dict(_numbers())
    return {one.id: f"{boot}/{unique.get(one.id, f'{one.id}/{one.device}')}" for one in mounts()}


def _numbers() -> Iterator[tuple[int, int]]:
    """Yield each mount's id with its unique one, where the kernel has those."""
    import ctypes  # noqa: PLC0415

    syscall = ctypes.CDLL(None).syscall
    found = (ctypes.c_uint64 * _AT_ONCE)()
    answer = ctypes.create_string_buffer(_STATMOUNT_SIZE)
    last = 0
    while True:
        request = _MNT_ID_REQ.pack(_MNT_ID_REQ.size, 0, _LSMT_ROOT, last)
        count = syscall(_NR_LISTMOUNT, request, found, ctypes.c_size_t(_AT_ONCE), 0)
        if count <= 0:
            return
        for last in found[:count]:
            request = _MNT_ID_REQ.pack(_MNT_ID_REQ.size, 0, last, _STATMOUNT_MNT_BASIC)
            if syscall(_NR_STATMOUNT, request, answer, ctypes.c_size_t(_STATMOUNT_SIZE), 0) == 0:
                yield _STATMOUNT.unpack_from(answer)[-2], last


def anchor(fd: int) -> Path:
    """Return a path that leads this process to what a descriptor is of, and nowhere else."""
    return Path(f"/proc/self/fd/{fd}")


def place_of(fd: int) -> str:
    """Return where what a descriptor is of lies now."""
    return os.readlink(anchor(fd))


def mount_of(fd: int) -> int:
    """Return the id of the mount that what a descriptor is of lies on."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    match = re.search(r"^mnt_id:\s*(\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else 0


def absolute(path: Path) -> str:
    """Return where `path` itself lies: with links resolved in front of its last part only."""
    text = os.path.join(os.getcwd(), path).rstrip("/")
    head, tail = os.path.split(text)
    if tail in ("", ".", ".."):
        return os.path.realpath(text or "/")
    return os.path.join(os.path.realpath(head), tail)


def _owner(super_options: list[str]) -> int | None:
    match = re.search(r"(?:^|,)user_id=(\d+)", super_options[0]) if super_options else None
    return int(match[1]) if match else None


def _plain(field: str) -> str:
    # Blanks, newlines and backslashes are written as \ooo.
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
