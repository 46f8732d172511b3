"""`imagefs ls` and `imagefs cat`, beside what a mount shows."""

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import users
from tests.support.mounted import COMMAND, mounted
from tests.support.needs import need_fuse
from tests.support.saved import docker_save
from tests.support.tars import Char, File, Hard, Sym, layer
from tests.support.users import User

BASE = layer(
    {
        "etc/": "",
        "etc/motd": File("hello\n", 0o640, uid=3, gid=4, mtime=5),
        "etc/same": Hard("etc/motd"),
        "abs": Sym("/etc/motd"),
        "dir": Sym("etc"),
        "null": Char(1, 3),
        ".hidden/": "",
        ".hidden/x": "x",
        "od\x1b[2Jd": "",
        "old": File("", mtime=-(10**12)),
    }
)
TOP = layer({"etc/": "", "etc/top": File(b"\0\xff" * 100_000)})
ARCHIVE = docker_save(BASE, TOP, steps=("ADD base", "RUN top"))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests, with an archive app.tar."""
    with users.caller(tmp_path / "home") as one:
        one.file("app.tar", ARCHIVE)
        yield one


def test_names_are_listed_as_ls_does(user: User) -> None:
    """Hidden names are for -a, details for -l, all below for -R; a terminal obeys no name."""
    names = ["abs", "dir", "etc", "null", "od\\x1b[2Jd", "old"]
    assert user.does("ls", "app.tar").split("\n")[:-1] == names
    assert user.does("ls", "-a", "app.tar").split("\n")[:-1] == [".", "..", ".hidden", *names]
    assert user.does("ls", "app.tar", "dir").split() == ["motd", "same", "top"]
    assert user.does("ls", "-R", "app.tar", "etc", "null") == "null\n\n/etc:\nmotd\nsame\ntop\n"
    [line] = user.does("ls", "-l", "app.tar", "etc/motd").splitlines()
    assert line.split() == ["-rw-r-----", "2", "3", "4", "6", "1970-01-01", "00:00:05", "etc/motd"]
    assert "1, 3 " in user.does("ls", "-l", "app.tar", "null")
    assert user.does("ls", "-l", "app.tar", "dir").endswith(" dir -> etc\n")
    assert "/.hidden:" not in user.does("ls", "-R", "app.tar")
    assert "/.hidden:" in user.does("ls", "-aR", "app.tar")
    assert user.does("ls", "--view", "layers/01", "app.tar") == "etc\n"


def test_json_agrees_with_the_mount(user: User, tmp_path: Path) -> None:
    """Each entry has what lstat(2) and readlink(2) say of it on a mount, and its layer."""
    need_fuse()
    listed = user.does("ls", "-aR", "--json", "app.tar").splitlines()
    found = {one["path"]: one for one in map(json.loads, listed)}
    with mounted(user.home / "app.tar", tmp_path / "m") as mountpoint:
        root = mountpoint / "rootfs"
        seen = ["/" + str(path.relative_to(root)) for path in root.rglob("*")]
        assert sorted(seen) == sorted(found)
        for path, one in found.items():
            there = Path(f"{root}{path}")
            status = there.lstat()
            is_link = stat.S_ISLNK(status.st_mode)
            assert int(one["mode"], 8) == stat.S_IMODE(status.st_mode)
            assert (one["uid"], one["gid"]) == (status.st_uid, status.st_gid)
            assert one["mtime"] == status.st_mtime
            assert one["size"] == status.st_size
            assert one["target"] == (os.readlink(there) if is_link else None)
    assert found["/etc/top"]["layer"].startswith("01-")
    assert found["/etc/motd"]["layer"].startswith("00-")


def test_files_are_written_byte_by_byte(user: User, tmp_path: Path) -> None:
    """`cat` writes just the bytes, in the order of the paths, and follows links."""
    done = subprocess.run(
        [*COMMAND, "cat", "-q", user.home / "app.tar", "abs", "etc/top", "dir/same"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"hello\n" + b"\0\xff" * 100_000 + b"hello\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ls", "app.tar", "etc", "no"), "no: No such file"),
        (("cat", "app.tar", "etc/motd", "no"), "no: No such file"),
        (("cat", "app.tar", "etc"), "etc: Is a directory"),
        (("cat", "app.tar", "null"), "null: Invalid argument"),
        (("ls", "no.tar"), "no.tar"),
    ],
)
def test_bad_paths_are_one_line(user: User, words: tuple[str, ...], said: str) -> None:
    """What is not there, or of the wrong kind, fails before anything is printed."""
    answer = user.imagefs(*words)
    assert (answer.status, answer.out, answer.err.count("\n")) == (1, "", 1)
    assert said in answer.err


@pytest.mark.parametrize("words", [("cat", "big"), ("ls", "-aR")])
def test_a_closed_pipe_ends_quietly(user: User, words: tuple[str, ...]) -> None:
    """A reader that has seen enough is no error."""
    members = {f"d/{number:05}": "" for number in range(20_000)}
    user.file("big.tar", docker_save(layer({"big": File(bytes(5 << 20)), **members})))
    command, argument = words
    rest = ["big.tar", argument] if command == "cat" else [argument, "big.tar"]
    with subprocess.Popen(
        [*COMMAND, command, *rest], cwd=user.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(users.ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_full_disk_is_one_line(user: User) -> None:
    """What cannot be written is an error, at the latest at the end."""
    for words in ("cat -q app.tar etc/top", "ls -q app.tar"):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*COMMAND, *words.split()], cwd=user.home, stdout=full, stderr=subprocess.PIPE,
                check=False, env={**os.environ, "PYTHONPATH": str(users.ROOT)},
            )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.decode().count("\n") == 1
        assert "No space left" in done.stderr.decode()
