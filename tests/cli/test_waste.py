"""`imagefs waste`: its tables and JSON, the rules that it judges by, and its exit statuses."""

import fcntl
import json
import os
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagefs.cli.main import run
from tests.support.mounted import COMMAND
from tests.support.saved import docker_save
from tests.support.tars import File, layer
from tests.support.users import Answer

BASE = layer({"etc/motd": "1234567890", "d/a": "12345", "d/b": "12345", "x": "same!", "y": "same!"})
TOP = layer({"etc/motd": File("1234567890", 0o600), ".wh.d": "", "n\x1b[2J": "!" * 12})
STEPS = ("ADD base", "RUN chmod 600 /etc/motd && rm -r /d")
# 30 bytes come with the first layer and 22 with the second; 20 of the first are hidden.


Waste = Callable[..., Answer]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with an archive app.tar."""
    (tmp_path / "app.tar").write_bytes(docker_save(BASE, TOP, steps=STEPS))
    return tmp_path


@pytest.fixture
def waste(folder: Path, capsys: pytest.CaptureFixture[str]) -> Waste:
    """Run the command in this process, on app.tar or on another archive of the directory."""

    def call(*words: str, archive: str = "app.tar", command: str = "waste") -> Answer:
        status = run([command, "-q", str(folder / archive), *words])
        return Answer(status, *capsys.readouterr())

    return call


def as_json(waste: Waste, *words: str) -> dict[str, Any]:
    answer = waste("--json", *words)
    assert answer.err == ""
    found: dict[str, Any] = json.loads(answer.out)
    return found


def test_json_tells_all_to_the_byte(waste: Waste) -> None:
    """Sums, layers, causes, steps and paths; what is shown and hidden is what is brought."""
    found = as_json(waste)
    assert (found["brought"], found["shown"], found["hidden"]) == (52, 32, 20)
    assert found["efficiency"] == 32 / 52
    assert found["user_wasted"] == 20 / 22
    bottom, top = found["layers"]
    assert (bottom["brought"], bottom["shown"], bottom["hidden"]) == (30, 10, 20)
    assert (top["brought"], top["shown"], top["hidden"]) == (22, 22, 0)
    assert {cause: size for cause, size in bottom["causes"].items() if size} == {
        "copied": 10, "below": 10,
    }  # fmt: skip
    assert bottom["created_by"] == STEPS[0]
    assert sorted(found["steps"], key=lambda step: str(step["cause"])) == [
        {"made_by": 0, "hidden_by": 1, "cause": "below", "bytes": 10},
        {"made_by": 0, "hidden_by": 1, "cause": "copied", "bytes": 10},
    ]
    assert {one["path"]: (one["bytes"], one["files"]) for one in found["paths"]} == {
        "/etc/motd": (10, 1), "/d": (10, 2),
    }  # fmt: skip
    assert found["rules"] == []
    assert "duplicates" not in found


def test_duplicates_are_found_on_demand(waste: Waste) -> None:
    """Files of one content under several names."""
    assert as_json(waste, "--duplicates")["duplicates"] == [
        {"bytes": 5, "wasted": 5, "paths": ["/x", "/y"]}
    ]
    assert "/x  /y" in waste("--duplicates").out


def test_the_table_names_steps_and_paths(waste: Waste, folder: Path) -> None:
    """Who made it, who hid it, and what; a terminal obeys no name."""
    said = waste().out
    for words in (*STEPS, "copied again unchanged", "directory gone", "/etc/motd", "38.5%"):
        assert words in said
    (folder / "odd.tar").write_bytes(docker_save(TOP, layer({".wh.n\x1b[2J": ""})))
    assert "n\\x1b[2J" in waste(archive="odd.tar").out
    assert "copied again" not in waste("--top", "0").out


# Rules as options, and whether they are kept: 20 of 52 bytes are hidden, and 20 beside 22.
RULES = [
    (["--fail-above", "20"], 0),
    (["--fail-above", "19"], 1),
    (["--fail-above", "1k"], 0),
    (["--fail-above", "38.47%"], 0),
    (["--fail-above", "38.46%"], 1),
    (["--fail-above", "38.4615384615384615%"], 1),
    (["--lowest-efficiency", "0.6"], 0),
    (["--lowestEfficiency", "0.62"], 1),
    (["--highest-wasted-bytes", "20B"], 0),
    (["--highestWastedBytes", "0.01KB"], 1),
    (["--highest-user-wasted-percent", "0.91"], 0),
    (["--highestUserWastedPercent", ".9"], 1),
    (["--highestUserWastedPercent", "disabled"], 0),
    (["--fail-above", "19", "--lowest-efficiency", "0.1"], 1),
]


@pytest.mark.parametrize(("words", "status"), RULES, ids=str)
def test_rules_are_judged_exactly(waste: Waste, words: list[str], status: int) -> None:
    """A rule on its very limit is kept; one that is broken is exit status 1, and is named."""
    answer = waste(*words)
    assert (answer.status, answer.err) == (status, "")
    assert ("BROKEN" in answer.out) == bool(status)
    assert all(one["kept"] for one in as_json(waste, *words)["rules"]) == (not status)


DIVE_CI = """---
# What we allow.
rules:
  lowestEfficiency: 0.95   # as a ratio
  highestWastedBytes: "1MB"
  highestUserWastedPercent: 'disabled'
"""


def test_rules_of_dive_are_read(waste: Waste, folder: Path) -> None:
    """A .dive-ci is taken as it is, and an option beside it counts instead of its line."""
    (folder / ".dive-ci").write_text(DIVE_CI)
    rules = "--dive-ci", str(folder / ".dive-ci")
    answer = waste(*rules, "--json")
    assert answer.status == 1
    assert {one["rule"]: one["kept"] for one in json.loads(answer.out)["rules"]} == {
        "lowestEfficiency": False, "highestWastedBytes": True,
    }  # fmt: skip
    assert waste(*rules, "--lowest-efficiency", "off").status == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"rules:\n  lowestEficiency: 0.9\n", "line 2 is none of dive's rules"),
        (b"\x7fELF", "line 1 is none of dive's rules"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"lowestEfficiency: [0.9]", "lowestEfficiency: '[0.9]' is not a number from 0 to 1"),
        (b"lowestEfficiency: 95", "'95' is not a number from 0 to 1"),
        (b"highestWastedBytes: much", "'much' is no size"),
        (b" " * 70_000, "it is no .dive-ci"),
    ],
)
def test_bad_rules_are_one_line(
    waste: Waste, folder: Path, content: bytes | None, said: str
) -> None:
    """A file that is no .dive-ci, or a limit that is none, is trouble: exit status 2."""
    if content is not None:
        (folder / ".dive-ci").write_bytes(content)
    answer = waste("--dive-ci", str(folder / ".dive-ci"))
    assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert said in answer.err


@pytest.mark.parametrize(
    "words",
    [
        ["no.tar"],
        ["app.tar", "--fail-above", "-1%"],
        ["app.tar", "--fail-above", "101%"],
        ["app.tar", "--fail-above", "nan%"],
        ["app.tar", "--lowest-efficiency", "1e-1"],
        ["app.tar", "--no-such-option"],
        ["cut.tar", "--fail-above", "1G"],
    ],
    ids=" ".join,
)
def test_trouble_is_told_from_a_broken_rule(waste: Waste, folder: Path, words: list[str]) -> None:
    """Whatever goes wrong is exit status 2 and one line, so that 1 means a rule."""
    (folder / "cut.tar").write_bytes(docker_save(BASE)[:3000])
    answer = waste(*words[1:], archive=words[0])
    assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1)


def test_a_full_disk_is_trouble(folder: Path) -> None:
    """Who cannot be told the verdict must not take it for one."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "waste", "-q", folder / "app.tar", "--fail-above", "1"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 2
    assert b"No space left" in done.stderr


def test_what_is_left_of_a_damaged_layer_is_counted(waste: Waste, folder: Path) -> None:
    """With --keep-going, what cannot be read is like nothing else, and the sums still add up."""
    lower = layer({"a": "x" * 3000, "b": "y" * 3000})
    upper = layer({"a": File("x" * 3000, 0o600), "b": "z" * 5000})
    cut = docker_save(lower, upper[:2000])
    (folder / "cut.tar").write_bytes(cut)
    assert waste(archive="cut.tar").status == 2
    found = json.loads(waste("--keep-going", "--duplicates", "--json", archive="cut.tar").out)
    assert [(one["brought"], one["shown"], one["hidden"]) for one in found["layers"]] == [
        (6000, 3000, 3000), (3000, 3000, 0),
    ]  # fmt: skip
    assert found["causes"]["overwritten"] == 3000
    assert found["duplicates"] == []


@pytest.mark.parametrize("columns", [80, 62])
@pytest.mark.parametrize("command", ["layers", "waste"])
def test_a_narrow_terminal_cuts_only_the_last(tmp_path: Path, command: str, columns: int) -> None:
    """Every line fits, and shows all of each column but the step; bars show where they fit."""
    wide = layer({"big": File(bytes(1 << 20)), **{f"d/{number}": "" for number in range(1000)}})
    archive = tmp_path / "app.tar"
    archive.write_bytes(docker_save(wide, layer({".wh.big": ""}), steps=("x" * 200, "y" * 200)))
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**os.environ, "TERM": "dumb", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    env.pop("COLUMNS", None)
    with subprocess.Popen(
        [*COMMAND, command, "-q", archive], stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        said = b""
        while piece := _read(ours):
            said += piece
        assert process.wait() == 0
    os.close(ours)
    lines = said.decode().splitlines()
    assert max(map(len, lines)) <= columns
    top = next(line for line in lines if line.startswith("00-"))
    assert len(top.split()[0]) == 15
    assert "1.0 MB" in top
    assert top.endswith("x…")
    assert ("░" in top) == (columns == 80)
    assert all(name in lines[0] for name in ("DIRECTORY", "HIDDEN", "CREATED BY"))


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        # The other end is closed.
        return b""


def test_layers_tell_what_is_hidden(waste: Waste) -> None:
    """`imagefs layers` has the sum beside the size, in both forms."""
    found = json.loads(waste("--json", command="layers").out)
    assert [(one["size"], one["hidden"]) for one in found] == [(30, 20), (22, 0)]
    assert "20 B" in waste(command="layers").out
