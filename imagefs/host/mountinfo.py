"""What is mounted where, as the kernel tells it in /proc/self/mountinfo.

Never looks at a mount point itself: on a dead or hanging FUSE mount, even stat(2) fails or waits
for ever. Stateless, for any thread.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")
_MOST_LINKS = 40  # the kernel's own limit, MAXSYMLINKS


class Mount(NamedTuple):
    """A line of mountinfo; see proc_pid_mountinfo(5). `device` is its `major:minor`.

    `owner` is the uid of who mounted it, which the kernel keeps for FUSE alone.
    """

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
            place, fstype, source = map(_plain, (here[4], there[0], there[1]))
            owner = _owner(there[2:])
            mounts.append(Mount(here[2], place, here[5], fstype, source, owner))
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
    for _ in range(_MOST_LINKS):
        if place in by_place:
            return by_place[place]
        try:
            target = os.readlink(place)
        except OSError:
            return None
        place = absolute(Path(place).parent / target)
    return None


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
