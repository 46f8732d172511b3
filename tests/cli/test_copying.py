"""`imagefs cp` and `imagefs export`: where the bytes go, and what is said when they cannot."""

import hashlib
import io
import os
import pty
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import users
from tests.support.mounted import COMMAND
from tests.support.polling import soon
from tests.support.saved import docker_save
from tests.support.tars import File, Hard, Sym, layer
from tests.support.users import User

BASE = layer(
    {"etc/": "", "etc/motd": File("hello\n", 0o640, mtime=5), "link": Sym("etc"), "gone": "x"}
)
TOP = layer({".wh.gone": "", "big": File(b"b" * 300_000), "d/f": "f"})
ARCHIVE = docker_save(BASE, TOP)
LOST = docker_save(layer({"a": "a", "d/lost": Hard("nowhere")}))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests, with an archive app.tar."""
    with users.caller(tmp_path / "home") as one:
        one.file("app.tar", ARCHIVE)
        one.file("lost.tar", LOST)
        yield one


def ran(user: User, *words: str) -> bytes:
    """Run a command in the user's directory; return the bytes that it wrote."""
    done = subprocess.run(
        [*COMMAND, *words], cwd=user.home, capture_output=True, check=True, env=user.environment
    )
    return done.stdout


def names(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.getnames()


def test_export_writes_the_same_bytes_wherever_to(user: User) -> None:
    """To standard output, to a file, to a link's target; and an image of it exports as itself."""
    tar = ran(user, "export", "app.tar")
    assert names(tar) == ["big", "link", "d", "d/f", "etc", "etc/motd"]
    (user.home / "old").write_text("old")
    (user.home / "l").symlink_to("old")
    for name in ("new.tar", "l"):
        assert user.imagefs("export", "app.tar", "-o", name) == users.Answer(0, "", "")
        assert (user.home / name).read_bytes() == tar
    assert (user.home / "l").is_symlink()
    umask = os.umask(0o022)
    os.umask(umask)
    assert (user.home / "new.tar").stat().st_mode & 0o777 == 0o666 & ~umask
    digests = {hashlib.sha256(ran(user, "export", one)).hexdigest() for one in ("new.tar", "l")}
    assert digests == {hashlib.sha256(tar).hexdigest()}
    assert names(ran(user, "export", "--view", "snapshots/00", "app.tar"))[0] == "gone"


def test_export_writes_to_what_is_no_file(user: User) -> None:
    """A device or a pipe is written to, and not replaced by a file."""
    assert user.imagefs("export", "app.tar", "-o", "/dev/null").status == 0
    assert Path("/dev/null").is_char_device()
    assert user.run("mkfifo", "pipe").status == 0
    with subprocess.Popen(["cp", "pipe", "read"], cwd=user.home) as reader:
        answer = user.imagefs("export", "app.tar", "-o", "pipe")
        assert (answer.status, reader.wait(60)) == (0, 0), answer.err
    assert (user.home / "read").read_bytes() == ran(user, "export", "app.tar")


def test_cp_copies_to_a_directory_or_as_a_tar(user: User) -> None:
    """As cp(1) and `docker cp` name what they make."""
    user.directory("out")
    assert user.imagefs("cp", "app.tar", "etc", "out") == users.Answer(0, "", "")
    assert (user.home / "out/etc/motd").read_text() == "hello\n"
    assert (user.home / "out/etc/motd").stat().st_mtime == 5
    assert user.imagefs("cp", "app.tar", "/", "whole") == users.Answer(0, "", "")
    assert os.readlink(user.home / "whole/link") == "etc"
    assert names(ran(user, "cp", "app.tar", "etc", "-")) == ["etc", "etc/motd"]
    assert names(ran(user, "cp", "app.tar", "big", "-")) == ["big"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("cp app.tar no out", 1, "no: No such file or directory"),
        ("cp app.tar etc no/where", 1, "no/where: No such file or directory"),
        ("cp app.tar etc app.tar", 1, "app.tar: there is a file of that name"),
        ("cp lost.tar / out", 1, "/d/lost: hard link to a file that no layer holds"),
        ("cp lost.tar d/lost out", 1, "/d/lost: hard link to a file that no layer holds"),
        ("cp lost.tar / -", 1, "/d/lost: hard link to a file that no layer holds"),
        ("export lost.tar -o out", 1, "/d/lost: hard link to a file that no layer holds"),
        ("export app.tar -o no/where", 1, "no/where: No such file or directory"),
        ("export app.tar -o .", 1, ".: Is a directory"),
        ("export no.tar -o out", 1, "no.tar"),
        ("export app.tar -o /dev/full", 1, "/dev/full: No space left on device"),
        ("export app.tar --view layers/7 -o out", 2, "no view"),
    ],
)
def test_what_goes_wrong_is_one_line(user: User, words: str, status: int, said: str) -> None:
    """A path, a place, a file that cannot be read; and nothing half-made is left."""
    before = sorted(user.home.iterdir())
    answer = user.imagefs(*words.split())
    assert (answer.status, answer.err.count("\n")) == (status, 1), answer.err
    assert said in answer.err
    assert sorted(user.home.iterdir()) == sorted({*before, *user.home.glob(".cache")})


def test_no_terminal_gets_a_tar(user: User) -> None:
    """Nobody wants one on a screen."""
    for words in (["export", "app.tar"], ["cp", "app.tar", "etc", "-"]):
        ours, theirs = pty.openpty()
        done = subprocess.run(
            [*COMMAND, *words], cwd=user.home, stdout=theirs, stderr=subprocess.PIPE, check=False,
            env=user.environment,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        assert done.returncode == 2
        assert b"a tar is nothing for a terminal" in done.stderr


def test_a_reader_may_leave(user: User) -> None:
    """What nobody reads any more is no error."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as gone:
        done = subprocess.run(
            [*COMMAND, "export", "app.tar"], cwd=user.home, stdout=gone, stderr=subprocess.PIPE,
            check=False, env=user.environment,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_who_is_ended_leaves_nothing(user: User, number: signal.Signals) -> None:
    """What is half-made goes with the command that makes it."""
    members = {f"d{at % 100}/{at}": "x" for at in range(40_000)}
    user.file("many.tar", docker_save(layer(members)))
    process = user.start(*user.command("cp", "-q", "many.tar", "/", "out"))
    with process:
        assert soon(lambda: any(user.home.glob(".imagefs-*/*")))
        process.send_signal(number)
        _, said = process.communicate(timeout=100)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number), said
    assert not [*user.home.glob(".imagefs-*"), *user.home.glob("out")]


@pytest.mark.parametrize("words", ["export -q app.tar", "cp -q app.tar / -"])
def test_a_full_disk_is_one_line(user: User, words: str) -> None:
    """What standard output cannot take is its fault, not the image's."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *words.split()], cwd=user.home, stdout=full, stderr=subprocess.PIPE,
            check=False, env=user.environment,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"imagefs: standard output: No space left on device\n"
