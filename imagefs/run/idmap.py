"""A user namespace for an ordinary user: which ids it has, and the way into it.

Inside, the caller is root; the subordinate ids that /etc/subuid and /etc/subgid give the caller
follow from 1 on. Where there are none, there is no id but root's. To be entered by a process of
one thread.
"""

import contextlib
import errno
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imagefs.errors import HostError
from imagefs.host import libc

_OWN = Path("/proc/self")
SUBUID, SUBGID = Path("/etc/subuid"), Path("/etc/subgid")
_HELPERS = ("newuidmap", "newgidmap")
_SYSTEM_PATH = ":/usr/sbin:/usr/bin:/sbin:/bin"
_LAST = 2**32 - 1
# What closes user namespaces to ordinary users, when it has which value, and how to open them.
_LOCKS = {
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
    "/proc/sys/kernel/unprivileged_userns_clone": "0",
    "/proc/sys/user/max_user_namespaces": "0",
}
_KEYS = {
    "apparmor_restrict_unprivileged_userns": "kernel.apparmor_restrict_unprivileged_userns=0",
    "unprivileged_userns_clone": "kernel.unprivileged_userns_clone=1",
    "max_user_namespaces": "user.max_user_namespaces=10000",
}


class Range(NamedTuple):
    """`length` ids from `inside` on, which are those from `outside` on where the caller lives."""

    inside: int
    outside: int
    length: int


@dataclass(frozen=True, slots=True)
class IdMap:
    """The users and groups of a user namespace."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]

    @property
    def root_alone(self) -> bool:
        """Whether root is all there is."""
        return sum(one.length for one in self.uids) == 1

    @property
    def everybody(self) -> bool:
        """Whether it is the machine's own, and no user namespace."""
        return self.uids == (Range(0, 0, _LAST),)

    def has(self, uid: int, gid: int) -> bool:
        """Tell whether a user and a group exist."""
        pairs = ((uid, self.uids), (gid, self.gids))
        return all(any(0 <= id_ - one.inside < one.length for one in many) for id_, many in pairs)


def of_caller() -> IdMap:
    """Return the ids that the caller may have: root those that there are."""
    if os.geteuid() == 0:
        return IdMap(_present("uid_map"), _present("gid_map"))
    uid, gid = os.geteuid(), os.getegid()
    uids, gids = [Range(0, uid, 1)], [Range(0, gid, 1)]
    if all(_helper(name) for name in _HELPERS):
        more = subordinate(SUBUID, uid), subordinate(SUBGID, uid)
        if all(more):
            return IdMap((*uids, *more[0]), (*gids, *more[1]))
    return IdMap(tuple(uids), tuple(gids))


def _present(name: str) -> tuple[Range, ...]:
    lines = (_OWN / name).read_text().splitlines()
    fields = [tuple(map(int, line.split())) for line in lines]
    return tuple(Range(inside, inside, length) for inside, _, length in fields)


def subordinate(path: Path, uid: int) -> tuple[Range, ...]:
    """Return the ranges that a file like /etc/subuid gives a user, by name or number: subuid(5)."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ()
    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    found: list[Range] = []
    inside = 1
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) != 3 or fields[0] not in names:
            continue
        if not all(one.isascii() and one.isdecimal() for one in fields[1:]):
            continue
        outside, count = map(int, fields[1:])
        if count > 0 and outside + count <= _LAST:
            found.append(Range(inside, outside, count))
            inside += count
    return tuple(found)


def enter(ids: IdMap) -> None:
    """Become root of a new user namespace; HostError, with the remedy, where that is closed."""
    helper = None if ids.root_alone else _Helper(ids)
    failure = libc.call("unshare", libc.CLONE_NEWUSER)
    try:
        if failure:
            raise closed(failure)
        if helper is not None:
            helper.work()
        else:
            _write_own(ids)
    finally:
        if helper is not None:
            helper.end()
    if helper is not None:
        os.setgroups([])


def closed(failure: int) -> HostError:
    """Return the error for a user namespace that may not be made, or is of no use."""
    for path, value in _LOCKS.items():
        try:
            found = Path(path).read_text().strip()
        except OSError:
            continue
        if found == value:
            key = _KEYS[path.rpartition("/")[2]]
            return HostError(f"user namespaces are closed here: as root, `sysctl -w {key}`")
    reason = os.strerror(failure)
    if failure in (errno.EPERM, errno.EACCES):
        reason += "; a container needs `--security-opt seccomp=unconfined`"
    return HostError(f"no user namespace can be used here: {reason}")


def _write_own(ids: IdMap) -> None:
    try:
        (_OWN / "setgroups").write_text("deny")
        (_OWN / "uid_map").write_text(_lines(ids.uids))
        (_OWN / "gid_map").write_text(_lines(ids.gids))
    except OSError as error:
        raise closed(error.errno or errno.EPERM) from error


def _lines(ranges: tuple[Range, ...]) -> str:
    return "".join(f"{one.inside} {one.outside} {one.length}\n" for one in ranges)


class _Helper:
    """A process that stays outside, to run the programs that may hand out subordinate ids."""

    def __init__(self, ids: IdMap) -> None:
        asked, self._ask = os.pipe2(os.O_CLOEXEC)
        self._said, say = os.pipe2(os.O_CLOEXEC)
        target = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._ask)
            try:
                if os.read(asked, 1):
                    os.write(say, _map(target, ids).encode("utf-8", "replace"))
            finally:
                os._exit(0)
        os.close(asked)
        os.close(say)

    def work(self) -> None:
        """Have the ids of our namespace be set; HostError if that fails."""
        os.write(self._ask, b"+")
        with open(self._said, "rb", closefd=False) as answer:
            complaint = answer.read().decode("utf-8", "replace")
        if complaint:
            raise HostError(complaint)

    def end(self) -> None:
        """Let the process end, whether it was needed or not."""
        os.close(self._ask)
        os.close(self._said)
        os.waitpid(self._pid, 0)


def _map(target: int, ids: IdMap) -> str:
    """Set the ids of a process; return what is wrong, or nothing."""
    for name, ranges in zip(_HELPERS, (ids.uids, ids.gids), strict=True):
        numbers = [str(number) for one in ranges for number in one]
        done = subprocess.run(
            [_helper(name) or name, str(target), *numbers],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            words = " ".join(os.fsdecode(done.stderr).split()) or f"status {done.returncode}"
            return f"subordinate ids cannot be had: {words}; see {SUBUID} and {SUBGID}"
    return ""


def _helper(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + _SYSTEM_PATH)
