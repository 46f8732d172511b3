"""`imagefs report`: where the page is written, and what is said where it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imagefs.cli.main import run
from tests.support.mounted import COMMAND
from tests.support.saved import docker_save
from tests.support.tars import Hard, layer


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "app.tar"
    lower, upper = layer({"a": "123", "b": "45"}), layer({".wh.a": ""})
    path.write_bytes(docker_save(lower, upper, steps=("ADD rootfs", "RUN rm a")))
    return path


def test_the_page_is_written_whole(archive: Path, tmp_path: Path) -> None:
    """To a file, instead of what was there, or to standard output, byte by byte the same."""
    target = tmp_path / "app.html"
    target.write_text("what was there")
    # With no other word it looks like a call of mount(8), which it must not be taken for.
    assert run(["report", str(archive), "-o", str(target)]) == 0
    content = target.read_bytes()
    assert content.startswith(b"<!doctype html>")
    assert content.rstrip().endswith(b"</html>")
    assert b"RUN rm a" in content
    for more in ((), ("-o", "-"), ("-o", "/dev/stdout")):
        done = subprocess.run(
            [*COMMAND, "report", "-q", archive, *more], capture_output=True, check=True
        )
        assert (done.stdout, done.stderr) == (content, b"")
    assert sorted(os.listdir(tmp_path)) == ["app.html", "app.tar", "imagefs-cache"]


def test_two_images_are_on_one_page(archive: Path, tmp_path: Path) -> None:
    """Whatever they are called; and standard input is one image at most."""
    other = tmp_path / "other.tar"
    other.write_bytes(docker_save(layer({"a": "1"}), tags=("other:2",), steps=("ADD other",)))
    assert run(["report", "-q", str(archive), str(other), "-o", str(tmp_path / "two.html")]) == 0
    content = (tmp_path / "two.html").read_text()
    for words in ("test:latest", "other:2", "RUN rm a", "ADD other", "What differs"):
        assert words in content
    assert run(["report", "-q", str(archive), str(archive), "-o", os.devnull]) == 0
    assert run(["report", "-q", "-", "-", "-o", os.devnull]) == 2


def test_hard_links_to_nothing_are_on_the_page(tmp_path: Path) -> None:
    """Of one image and of two, which are told apart by all else."""
    archives = [str(tmp_path / name) for name in ("old.tar", "new.tar")]
    for name in archives:
        content = layer({"lost": Hard("nowhere"), "other": name})
        Path(name).write_bytes(docker_save(content))
    target = tmp_path / "page.html"
    for sources in (archives[:1], archives):
        assert run(["report", "-q", *sources, "-o", str(target)]) == 0
        assert "lost" in target.read_text()
        target.unlink()


@pytest.mark.parametrize("target", ["no/app.html", "imagefs-cache", "/dev/full"])
def test_what_cannot_be_written_is_one_line(
    archive: Path, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and nothing half-made stays."""
    assert run(["report", "-q", str(archive), "-o", str(tmp_path / target)]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert target in said.err
    assert sorted(os.listdir(tmp_path)) == ["app.tar", "imagefs-cache"]


def test_a_terminal_is_spared(archive: Path) -> None:
    """Nobody reads HTML off a terminal: it is misuse, and the option is named."""
    ours, theirs = os.openpty()
    done = subprocess.run(
        [*COMMAND, "report", archive], stdout=theirs, stderr=subprocess.PIPE, check=False
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert b"-o FILE.html" in done.stderr


@pytest.mark.parametrize("library", ["jinja2", "squarify"])
def test_a_missing_library_is_named(archive: Path, library: str) -> None:
    """Who installed imagefs without its extra is told of it in a line."""
    program = f"import sys; sys.modules[{library!r}] = None; from imagefs.cli.main import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; main()", "report", archive],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert f"needs {library}".encode() in done.stderr
    assert b"imagefs[report]" in done.stderr
