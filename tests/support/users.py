"""Users of this machine who type commands of imagefs: whoever runs the tests, and others.

The others live in a mount namespace of their own, where they find the checkout and the
interpreter wherever those lie, and a /dev/fuse that anybody may open, as udev makes it. Nothing
of the machine itself is changed for them.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagefs.host import mountinfo
from tests.support.needs import SETPRIV, need_fuse

ROOT = Path(__file__).parent.parent.parent
NOBODY, DAEMON = 65534, 1
"""Uids that every Debian has; fusermount3 wants to know its caller's name."""

_FSTYPE = "fuse.imagefs"
_WITHIN = 60

# $1 is a directory that all can reach; the rest are pairs of what to show there and where.
_PREPARE = """
set -e
world=$1; shift
while [ $# -gt 0 ]; do mkdir "$world/$2"; mount --bind "$1" "$world/$2"; shift 2; done
if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
    mkdir "$world/dev"; mount -t tmpfs -o mode=755 tmpfs "$world/dev"
    mknod -m 666 "$world/dev/fuse" c 10 229; mount --bind "$world/dev/fuse" /dev/fuse
fi
echo ready; read -r end || :
"""


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit status and what it wrote."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class User:
    """Somebody with a directory and a cache of their own; `before` turns a command into theirs."""

    home: Path
    python: Path
    before: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """Where the user's cache is."""
        return self.home / ".cache" / "imagefs"

    def start(self, *words: str | Path, **env: str) -> "subprocess.Popen[bytes]":
        """Start a program as the user, in the user's directory."""
        return subprocess.Popen(
            [*self.before, *map(str, words)],
            cwd=self.home,
            env={**self.environment, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str | Path, stdin: bytes = b"", **env: str) -> Answer:
        """Run a program as the user, to its end."""
        process = self.start(*words, **env)
        try:
            out, err = process.communicate(stdin, timeout=_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Answer(process.returncode, os.fsdecode(out), os.fsdecode(err))

    def imagefs(self, *words: str | Path, stdin: bytes = b"", **env: str) -> Answer:
        """Run a command of imagefs."""
        return self.run(*self.command(*words), stdin=stdin, **env)

    def command(self, *words: str | Path) -> tuple[str | Path, ...]:
        """Return the words that run a command of imagefs."""
        return (self.python, "-P", "-m", "imagefs", *words)

    def does(self, *words: str | Path, stdin: bytes = b"", **env: str) -> str:
        """Run a command of imagefs that must succeed; return what it printed."""
        answer = self.imagefs(*words, stdin=stdin, **env)
        assert answer.status == 0, answer.err
        return answer.out

    def reads(self, path: Path | str) -> str:
        """Return the content of a file, as the user sees it."""
        answer = self.run("cat", path)
        assert answer.status == 0, answer.err
        return answer.out

    def mounted(self, place: Path) -> bool:
        """Tell whether the user sees a mount of imagefs at a place."""
        lines = self.run("cat", "/proc/self/mounts").out.splitlines()
        return any(line.split()[1:3] == [str(place), _FSTYPE] for line in lines)

    def directory(self, name: str = "mnt") -> Path:
        """Make a directory of the user's; return it."""
        assert self.run("mkdir", name).status == 0
        return self.home / name

    def file(self, name: str, content: bytes | str) -> Path:
        """Make a file of the user's; return it."""
        data = content.encode() if isinstance(content, str) else content
        answer = self.run("sh", "-c", 'cat >"$1"', "sh", name, stdin=data)
        assert answer.status == 0, answer.err
        return self.home / name


@contextlib.contextmanager
def caller(home: Path) -> Iterator[User]:
    """Be whoever runs the tests."""
    home.mkdir(exist_ok=True)
    user = User(home, Path(sys.executable), (), _environment(home, [ROOT]))
    try:
        yield user
    finally:
        for mount in reversed(mountinfo.mounts()):
            if mount.fstype == _FSTYPE and Path(mount.mountpoint).is_relative_to(home):
                subprocess.run(["umount", "--lazy", mount.mountpoint], check=False)


@contextlib.contextmanager
def others(*uids: int) -> Iterator[tuple[User, ...]]:
    """Be other users, or root, in one namespace: they see each other's mounts, if they may."""
    need_fuse(user=True)
    # TMPDIR may be closed to them.
    world = Path(tempfile.mkdtemp(prefix="imagefs-users-", dir="/tmp"))
    world.chmod(0o755)
    base = sys.base_prefix
    shown = {str(ROOT): "checkout", sysconfig.get_path("purelib"): "site", base: "python"}
    pairs = [word for pair in shown.items() for word in pair]
    prepare = ["sh", "-c", _PREPARE, "sh", str(world), *pairs]
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", *prepare],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            pytest.fail(holder.stderr.read().decode())
        yield tuple(_other(uid, world, holder.pid) for uid in uids)
    finally:
        try:
            _end_daemons(world)
        finally:
            holder.communicate()
            shutil.rmtree(world)


def _other(uid: int, world: Path, holder: int) -> User:
    home = world / f"home-{uid}"
    home.mkdir(mode=0o700)
    os.chown(home, uid, uid)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    become = [SETPRIV, "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
    enter = ["nsenter", f"--mount=/proc/{holder}/ns/mnt", f"--wdns={home}"]
    environment = _environment(home, [world / "checkout", world / "site"])
    python = world / "python" / "bin" / version
    return User(home, python, (*enter, *become), environment)


def _environment(home: Path, path: Sequence[Path]) -> dict[str, str]:
    return {
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }


def _end_daemons(world: Path) -> None:
    """End the daemons that users have left, and wait for them: they still tidy up their cache.

    Their mounts and their namespace go with them.
    """
    ending = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={world}".encode() in (process / "environ").read_bytes():
                ending.append(os.pidfd_open(int(process.name)))
                signal.pidfd_send_signal(ending[-1], signal.SIGTERM)
    late = [one for one in ending if not select.select([one], [], [], _WITHIN)[0]]
    for descriptor in ending:
        os.close(descriptor)
    assert not late, "daemons go on after SIGTERM"
