"""Signals, terminals and ends of commands of images: what passes through, and what is left."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.conftest import World
from tests.support.polling import soon
from tests.support.runnable import busybox
from tests.support.users import User

TRAPS = """
trap 'echo int' INT; trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'echo winch' WINCH
trap 'echo term; exit 9' TERM
echo up; while :; do sleep 0.1; done
"""


def archive_of(user: User) -> Path:
    """Return the archive of an image of a user's, made when it is first asked for."""
    place = user.home / "image.tar"
    return place if place.exists() else user.file("image.tar", busybox())


@contextlib.contextmanager
def started(user: User, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Have a command that says `up` run as long as the context lasts."""
    process = user.start(*user.command("run", "-q", archive_of(user), *words))
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


@pytest.mark.parametrize("name", ["USR1", "HUP", "INT"])
def test_signals_pass(world: World, name: str) -> None:
    """A signal for the outer process is the command's, and so is what the command makes of it."""
    for user in (world.root, world.poor):
        with started(user, "sh", "-c", TRAPS) as process:
            assert process.stdout is not None
            process.send_signal(getattr(signal, f"SIG{name}"))
            assert process.stdout.readline() == f"{name.lower()}\n".encode()
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == b"term\n"
            assert process.wait(60) == 9


class Terminal:
    """A terminal with a command of imagefs in its foreground."""

    def __init__(self, user: User, *words: str) -> None:
        self.fd, theirs = pty.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(theirs)
        command = ["setsid", "--ctty", *user.before, *user.command("run", "-q", *words)]
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=user.home,
            env=dict(user.environment),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        self.theirs = theirs
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal's window another size."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def until(self, words: bytes) -> bytes:
        """Return all that was shown until these words are."""
        while words not in self.seen:
            assert select.select([self.fd], [], [], 30)[0], self.seen
            self.seen += os.read(self.fd, 4096)
        before, _, self.seen = self.seen.partition(words)
        return before

    def close(self) -> None:
        """End it all."""
        self.process.kill()
        self.process.wait(60)
        os.close(self.fd)
        os.close(self.theirs)


def test_a_terminal_of_its_own(someone: User) -> None:
    """With -t the command has a terminal, of our window's size; keys and sizes reach it."""
    script = f"tty; stty size; {TRAPS}"
    terminal = Terminal(someone, "-t", str(archive_of(someone)), "sh", "-c", script)
    try:
        shown = terminal.until(b"up").split()
        assert shown == [b"/dev/pts/0", b"30", b"100"]
        terminal.resize(50, 120)
        terminal.until(b"winch")
        os.write(terminal.fd, b"\x03")
        terminal.until(b"int")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.until(b"term")
        assert terminal.process.wait(60) == 9
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    finally:
        terminal.close()


def test_the_callers_terminal(someone: User) -> None:
    """Without -t, Ctrl-C reaches the command all the same, and once."""
    terminal = Terminal(someone, str(archive_of(someone)), "sh", "-c", TRAPS)
    try:
        terminal.until(b"up")
        os.write(terminal.fd, b"\x03")
        terminal.until(b"int")
        terminal.process.send_signal(signal.SIGTERM)
        assert b"int" not in terminal.until(b"term")
        assert terminal.process.wait(60) == 9
    finally:
        terminal.close()


def left(user: User, mark: str) -> list[str]:
    """Return the processes of a command with a mark, and those of a user's runs."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if (mark in words and "pytest" not in words) or str(user.home / "image.tar") in words:
                found.append(words)
    return found


def state(user: User) -> tuple[str, set[Path]]:
    """Return what is mounted where the users are, and all files of one of them."""
    return user.run("cat", "/proc/self/mounts").out, set(user.home.rglob("*"))


def children(pid: int) -> list[int]:
    """Return the processes that one has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return list(map(int, text.split()))


@pytest.mark.parametrize(
    ("victim", "with_keep"),
    [
        *((one, False) for one in ("outer", "between", "daemon", "runtime", "command")),
        *((one, True) for one in ("outer", "daemon")),
    ],
)
def test_nothing_is_left(someone: User, victim: str, *, with_keep: bool) -> None:
    """Whoever is killed, all others end, and no mount and no file stays."""
    keep = ["--keep", str(someone.home / f"kept-{victim}")] if with_keep else []
    assert someone.imagefs("run", "-q", *keep, archive_of(someone), "true").status == 0
    before = state(someone)
    mark = f"4242.{os.urandom(4).hex()}"
    script = f"touch /tmp/file; echo up; sleep 4242 {mark} & sleep 4242 {mark}"
    # sleep(1) of busybox adds its words up: they serve to find it.
    script = script.replace(f"4242 {mark}", f"4242 ; : {mark}")
    process = someone.start(
        *someone.command("run", "-q", *keep, archive_of(someone), "sh", "-c", script)
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        between = children(process.pid)[0]
        daemon = children(between)[0]
        runtime = children(daemon)[0]
        command = children(runtime)[0]
        assert left(someone, mark)
        pids = {"outer": process.pid, "between": between, "daemon": daemon, "runtime": runtime}
        os.kill((pids | {"command": command})[victim], signal.SIGKILL)
        status = process.wait(60)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert soon(lambda: not left(someone, mark)), left(someone, mark)
    expected = {"outer": -9, "runtime": 137, "command": 137}
    assert status == expected.get(victim, 125)
    # The command may have had to do without its root for a moment, and say so.
    assert err.decode().count("imagefs: ") == (status == 125)
    mounts, files = state(someone)
    assert mounts == before[0]
    assert {path for path in files - before[1] if f"kept-{victim}" not in path.parts} == set()
    if with_keep:
        again = someone.imagefs("run", "-q", *keep, archive_of(someone), "ls", "/tmp")
        assert (again.status, again.out) == (0, "file\n")
