"""`imagefs diff`: what it prints, and its exit statuses, which are those of diff(1)."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import users
from tests.support.mounted import COMMAND
from tests.support.needs import need_tool
from tests.support.saved import docker_save
from tests.support.tars import File, Hard, layer
from tests.support.users import User

BASE = layer(
    {"etc/": "", "etc/motd": "hello\n", "etc/gone/x": "x", "bin/tool": File("\0tool", 0o755)}
)
SECOND = layer({"etc/motd": "bye\n", "etc/.wh.gone": ""})
THIRD = layer({"bin/tool": File("\0tool", 0o4755), "new\x1b[2J": "one\ttwo\n"})
STEPS = ("ADD base", "RUN echo bye", "RUN chmod")
OLD = docker_save(BASE, SECOND, steps=STEPS[:2])
NEW = docker_save(BASE, SECOND, THIRD, steps=STEPS)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests, with two archives."""
    with users.caller(tmp_path / "home") as one:
        one.file("old.tar", OLD)
        one.file("new.tar", NEW)
        yield one


def names(user: User) -> list[str]:
    return [one["directory"] for one in json.loads(user.does("layers", "--json", "new.tar"))]


def test_two_images_are_compared(user: User) -> None:
    """A line a path: what was done, with what, and by which layer and step."""
    third = f"{names(user)[2]} RUN chmod"
    answer = user.imagefs("diff", "old.tar", "new.tar")
    assert answer == users.Answer(1, f"C /bin/tool\tmode\t{third}\nA /new\\x1b[2J\t\t{third}\n", "")
    assert user.imagefs("diff", "new.tar", "new.tar") == users.Answer(0, "", "")
    ignoring = ("--ignore", "mode,mtime", "--ignore", "owner")
    answer = user.imagefs("diff", *ignoring, "old.tar", "new.tar")
    assert (answer.status, answer.out.count("\n")) == (1, 1)
    # What one has and the other never had was taken away by no layer.
    answer = user.imagefs("diff", "new.tar", "old.tar")
    assert "D /new\\x1b[2J\n" in answer.out


def test_an_image_is_compared_with_what_it_was_made_from(user: User) -> None:
    """What the last layer did, what that of a snapshot did, or each of them below its heading."""
    first, second, third = names(user)
    assert user.imagefs("diff", "new.tar").out.startswith("C /bin/tool\tmode\t")
    answer = user.imagefs("diff", "--view", "snapshots/01", "new.tar")
    assert answer.out == (
        f"D /etc/gone\t\t{second} RUN echo bye\nC /etc/motd\tcontent\t{second} RUN echo bye\n"
    )
    lines = user.imagefs("diff", "--layers", "new.tar").out.splitlines()
    assert [line for line in lines if "  " in line] == [
        f"{first}  ADD base", f"{second}  RUN echo bye", f"{third}  RUN chmod"
    ]  # fmt: skip
    assert "A /etc/motd" in lines
    assert "C /etc/motd\tcontent" in lines
    assert user.imagefs("diff", "--view", "snapshots/0", "new.tar").status == 1


def test_programs_get_an_object_a_line(user: User) -> None:
    """With what was there before, and what is now."""
    answer = user.imagefs("diff", "--json", "--layers", "new.tar")
    found = {(one["layer"], one["path"]): one for one in map(json.loads, answer.out.splitlines())}
    first, second, third = names(user)
    changed = found[third, "/bin/tool"]
    assert (changed["change"], changed["what"], changed["step"]) == (
        "changed", ["mode"], "RUN chmod"
    )  # fmt: skip
    assert (changed["old"]["mode"], changed["new"]["mode"]) == ("0755", "4755")
    gone = found[second, "/etc/gone"]
    assert (gone["change"], gone["new"], gone["old"]["kind"]) == ("deleted", None, "directory")
    assert found[first, "/etc"]["old"] is None


def test_text_is_shown_as_diff_does(user: User) -> None:
    """What patch(1) takes, in a pipe; nothing that a terminal obeys, on one."""
    answer = user.imagefs("diff", "--content", "--layers", "new.tar")
    assert "--- a/etc/motd\n+++ b/etc/motd\n@@ -1 +1 @@\n-hello\n+bye\n" in answer.out
    assert "Binary files /dev/null and b/bin/tool differ\n" in answer.out
    (user.home / "etc").mkdir()
    (user.home / "etc/motd").write_text("hello\n")
    changed = user.imagefs("diff", "--content", "--view", "snapshots/1", "new.tar").out
    patch = need_tool("patch", "patch")
    assert user.run(patch, "-p1", stdin=changed.encode()).status == 0
    assert (user.home / "etc/motd").read_text() == "bye\n"


def test_a_hard_link_to_nothing_has_no_text(user: User) -> None:
    """It is no trouble where it is on both sides, and like no file at all where it is on one."""
    user.file("none.tar", docker_save(layer({"l": Hard("no"), "m": Hard("no")})))
    user.file("one.tar", docker_save(layer({"l": Hard("no"), "m": "1"})))
    answer = user.imagefs("diff", "--content", "none.tar", "one.tar")
    assert (answer.status, answer.err) == (1, "")
    assert answer.out.splitlines()[1:] == [
        "--- /dev/null", "+++ b/m", "@@ -0,0 +1 @@", "+1", "\\ No newline at end of file"
    ]  # fmt: skip


def test_a_terminal_has_its_pager(user: User) -> None:
    """Text for people goes through $PAGER, with nothing in it that a terminal obeys."""
    ours, theirs = pty.openpty()
    (user.home / "pager").write_text("#!/bin/sh\nexec cat >paged\n")
    (user.home / "pager").chmod(0o755)
    done = subprocess.run(
        [*COMMAND, "diff", "-q", "--content", "new.tar"], cwd=user.home, stdin=theirs,
        stdout=theirs, stderr=subprocess.PIPE, check=False,
        env={**user.environment, "PAGER": str(user.home / "pager"), "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    assert (done.returncode, done.stderr) == (1, b"")
    paged = (user.home / "paged").read_text()
    assert "+++ b/new\\x1b[2J\n@@ -0,0 +1 @@\n+one\ttwo\n" in paged
    assert "\x1b" not in paged


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("old.tar no.tar", "no.tar"),
        ("--view layers/00 new.tar", "has nothing below it"),
        ("--view snapshots/9 old.tar new.tar", "no view"),
        ("--layers old.tar new.tar", "--layers is of one image"),
        ("--json --content new.tar", "choose"),
        ("--ignore size new.tar", "'size' is none of type, content"),
        ("- -", "standard input can be read once"),
    ],
)
def test_trouble_is_one_line_and_status_2(user: User, words: str, said: str) -> None:
    """1 says that something differs, and nothing else does."""
    answer = user.imagefs("diff", *words.split())
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert said in answer.err


def test_a_full_disk_is_trouble(user: User) -> None:
    """What cannot be printed must not be taken for a difference."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "diff", "new.tar"], cwd=user.home, stdout=full, stderr=subprocess.PIPE,
            check=False, env=user.environment,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2, b"imagefs: standard output: No space left on device\n"
    )  # fmt: skip
