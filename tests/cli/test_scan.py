"""`imagefs scan`: what it prints, and with which status, beside grep on what was planted."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import users
from tests.support.saved import docker_save
from tests.support.tars import File, layer
from tests.support.users import User

ROOT = Path(__file__).parent.parent.parent
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"
BASE = layer(
    {
        "etc/app.conf": "user = me\nPassword = hunter2\n",
        "etc/gone": "password: 1\nno\npassword: 2",
        "bin/tool": File(b"\0ELF password\n\xff"),
        "root/.ssh/id_rsa": KEY,
        "odd\x1b[2J": "password of \x1b[31mred\n",
        "usr/share/doc/x/copyright": "License: MIT\nLicense: GPL-2+\n",
    }
)
OWN = layer({"etc/.wh.gone": "", "root/.ssh/.wh.id_rsa": "", "srv/big": "password\n" * 3})


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests, with two images of one base."""
    with users.caller(tmp_path / "home") as one:
        one.file("a.tar", docker_save(BASE, tags=["a:1"], steps=["ADD base"]))
        both = docker_save(BASE, OWN, tags=["b:1"], steps=["ADD base", "COPY srv"])
        one.file("b.tar.gz", gzip.compress(both))
        yield one


def lines(text: str) -> list[str]:
    return sorted(line.partition(":")[2].partition("/")[2] for line in text.splitlines())


def test_lines_are_printed_as_grep_does(user: User) -> None:
    """Each layer once, with the first image that holds it; a terminal obeys nothing of it."""
    answer = user.imagefs("scan", "-q", "password", "a.tar", "b.tar.gz")
    assert (answer.status, answer.err) == (0, "")
    assert lines(answer.out) == [
        "bin/tool matches",
        "etc/gone:password: 1",
        "etc/gone:password: 2",
        "odd\\x1b[2J:password of \\x1b[31mred",
        *["srv/big:password"] * 3,
    ]
    assert lines(user.does("scan", "-qi", "PASSW", "a.tar")) == [
        "bin/tool matches",
        "etc/app.conf:Password = hunter2",
        "etc/gone:password: 1",
        "etc/gone:password: 2",
        "odd\\x1b[2J:password of \\x1b[31mred",
    ]
    assert lines(user.does("scan", "-qa", "ELF", "a.tar")) == ["bin/tool:\\x00ELF password"]


def test_files_are_chosen(user: User) -> None:
    """By name or path and size, and by what no root shows any more."""

    def found(*words: str) -> list[str]:
        return lines(user.does("scan", "-q", *words, "password", "a.tar", "b.tar.gz"))

    assert found("--path", "b*g") == ["srv/big:password"] * 3
    assert found("--path", "/bin/*", "--path", "nope") == ["bin/tool matches"]
    assert found("--max-size", "20", "--path", "/[be]*") == ["bin/tool matches"]
    only = user.imagefs("scan", "-q", "--deleted", "password: 1", "b.tar.gz")
    assert (only.status, lines(only.out)) == (0, ["etc/gone:password: 1"])
    both = user.imagefs("scan", "-q", "--deleted", "password: 1", "a.tar", "b.tar.gz")
    assert (both.status, both.out) == (1, "")


def test_json_tells_all(user: User) -> None:
    """The layer, the step that made it, where the line is, and who shows the file."""
    said = user.does("scan", "-q", "--json", "password: 2", "a.tar", "b.tar.gz")
    found = json.loads(said)
    assert found["path"] == "/etc/gone"
    assert (found["offset"], found["number"], found["line"]) == (15, 3, "password: 2")
    assert found["step"] == "ADD base"
    shown = {one["source"]: (one["name"], one["shown"]) for one in found["images"]}
    assert shown == {"a.tar": ("a:1", True), "b.tar.gz": ("b:1", False)}


def test_a_catalogue_has_every_file(user: User) -> None:
    """With its SHA-256, which sha256sum would say; and as Parquet."""
    said = user.does("scan", "-q", "--files", "a.tar")
    rows = {line.split("/", 1)[1]: line.split() for line in said.splitlines()}
    assert len(rows) == 6
    key = rows["root/.ssh/id_rsa"]
    assert key[1] == str(len(KEY))
    summed = subprocess.run(["sha256sum"], input=KEY.encode(), capture_output=True, check=True)
    assert summed.stdout.decode().split()[0] == key[0]
    pytest.importorskip("pyarrow")
    from pyarrow import parquet  # noqa: PLC0415

    user.does("scan", "-q", "--files", "-o", "files.parquet", "a.tar")
    table = parquet.read_table(user.home / "files.parquet").to_pylist()
    assert {one["path"]: one["sha256"] for one in table}["/root/.ssh/id_rsa"] == key[0]
    user.does("scan", "-q", "-o", "found.parquet", "assword", "a.tar")
    found = parquet.read_table(user.home / "found.parquet").to_pylist()
    assert [one["line"] for one in found if one["path"] == "/etc/app.conf"] == [
        b"Password = hunter2"
    ]


def test_state_makes_the_next_run_short(user: User) -> None:
    """What was read is not read again, but by another pattern; the last line counts."""
    first = user.imagefs("scan", "--state", "state", "password", "a.tar")
    again = user.imagefs("scan", "--state", "state", "password", "a.tar", "b.tar.gz")
    assert "1 layer read and 0 known" in first.err
    assert "1 layer read and 1 known, 1 file, 27 bytes" in again.err
    assert set(lines(first.out)) < set(lines(again.out))
    other = user.imagefs("scan", "--state", "state", "hunter", "a.tar")
    assert "1 layer read and 0 known" in other.err


@pytest.mark.parametrize(
    ("around", "status"),
    [('"$@" >/dev/full', 2), ('"$@" 2>/dev/full', 0), ('"$@" 2>&1 >/dev/null | head -n 0', 0)],
    ids=["output is full", "errors are full", "nobody reads errors"],
)
def test_what_is_found_decides_not_who_is_told(user: User, around: str, status: int) -> None:
    """1 says that nothing was found: never that something could not be said."""
    words = user.command("scan", "password", "a.tar")
    answer = user.run("bash", "-c", f"{around}; exit ${{PIPESTATUS[0]}}", "bash", *words)
    assert answer.status == status, answer.err
    if status == 2:
        assert answer.err.endswith("imagefs: standard output: No space left on device\n")


def test_sources_and_patterns_come_from_files(user: User) -> None:
    """A line each; standard input too."""
    user.file("sources", b"a.tar\n\nb.tar.gz\n")
    user.file("patterns", b"hunter[0-9]\nid_?rsa\n(?i)begin rsa\n")
    said = user.does("scan", "-q", "-f", "patterns", "--sources", "sources")
    assert lines(said) == [
        "etc/app.conf:Password = hunter2",
        "root/.ssh/id_rsa:-----BEGIN RSA PRIVATE KEY-----",
    ]
    repeated = ("-e", "(.)\\1\\1\\1\\1B", "-e", "n(.)\\1")
    assert user.imagefs("scan", "-q", *repeated, "a.tar").status == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "say what to look for: PATTERN, -e, -f or --files"),
        (["x"], 2, "name the sources to look into, or --sources FILE"),
        (["(", "a.tar"], 2, "'(' is no regular expression: missing ), unterminated subpattern"),
        (["-f", "nope", "a.tar"], 2, "nope: No such file or directory"),
        (["nothing like it", "a.tar"], 1, ""),
        (["password", "a.tar", "gone.tar"], 2, "gone.tar: there is no file gone.tar"),
        (["-o", "no/such/dir", "x", "a.tar"], 2, "no/such/dir: No such file or directory"),
        (["--dask", "tcp://127.0.0.1:9", "-j", "2", "x", "a.tar"], 2, "-j is for processes"),
        (["--dask", "tcp://127.0.0.1:9", "x", "a.tar"], 2, "no Dask scheduler answers at"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_goes_wrong_is_one_line(user: User, words: list[str], status: int, said: str) -> None:
    """And the status is grep's: 1 for nothing, 2 for trouble."""
    answer = user.imagefs("scan", "-q", *words)
    assert answer.status == status
    assert answer.err.startswith(f"imagefs: {said}" if said else "")
    assert answer.err.count("\n") == bool(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["secrets.py", str(ROOT / "scripts/examples/secrets.txt")],
            "/root/.ssh/id_rsa\t-----BEGIN R...\tADD base\tshown by a:1\n",
        ),
        (["licences.py"], "     1 GPL-2+\n     1 MIT\n"),
    ],
    ids=["secrets", "licences"],
)
def test_the_examples_work(user: User, words: list[str], said: str) -> None:
    """They find what the page says of them."""
    example = str(ROOT / "scripts/examples" / words[0])
    done = subprocess.run(
        [sys.executable, example, *words[1:], "a.tar", "b.tar.gz"],
        cwd=user.home,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(user.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (said, "")
