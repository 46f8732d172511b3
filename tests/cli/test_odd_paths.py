"""Archives at paths that are no text, that a terminal would obey, or that are too long: every
command works with them, and shows them as one harmless line."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imagefs.cli.progress_bars import reporter
from imagefs.errors import UsageError
from imagefs.host import daemon
from imagefs.image.reference import parse
from imagefs.store.store import Store
from tests.support import samples
from tests.support.mounted import imagefs, mounted
from tests.support.needs import need_fuse
from tests.support.samples import IMAGE

ODD = {
    "no text": b"\xff\xfe\x80",
    "orders": b"\x1b[2J\x1b]0;title\x07\x9b31m",
    "lines": b"one\ntwo\rthree\x7f\xc2\x85",
    "turned round": "\u202egpj.tar\u2066".encode(),
    "letters": "caf\u00e9 \u65e5\u672c".encode(),
}
PACKED = {"plain": samples.plain, "packed": samples.gz}


def harmless(said: str) -> bool:
    """A terminal shows it, a line for a line, and does nothing."""
    return all(line.isprintable() for line in said.split("\n"))


@pytest.mark.parametrize("pack", PACKED)
@pytest.mark.parametrize("name", ODD)
def test_every_command_takes_any_path(name: str, pack: str, tmp_path: Path) -> None:
    """Inspected and listed, as a table and as JSON, in a locale of few letters as well."""
    folder = tmp_path / os.fsdecode(ODD[name])
    folder.mkdir()
    content = PACKED[pack](samples.tar_of(samples.docker_20(IMAGE)))
    path = samples.write(folder / os.fsdecode(b"x" + ODD[name]), content)
    cache = str(tmp_path / "cache")
    encoding = "ascii:strict" if name == "letters" else "utf-8"
    for words in (["inspect"], ["layers"], ["inspect", "--json"]):
        done = imagefs(*words, path, IMAGEFS_CACHE=cache, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert harmless(done.stdout), done.stdout
        assert harmless(done.stderr), done.stderr
    path.write_bytes(content[:2000])
    done = imagefs("inspect", "--quiet", path, IMAGEFS_CACHE=cache)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert harmless(done.stderr)
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("name", ODD)
def test_it_is_mounted_and_listed(name: str, tmp_path: Path) -> None:
    """Source and mount point may be called anything, in the records and the list of mounts too."""
    need_fuse()
    content = samples.gz(samples.tar_of(samples.docker_20(IMAGE)))
    path = samples.write(tmp_path / os.fsdecode(b"x" + ODD[name]), content)
    cache = str(tmp_path / "cache")
    place = tmp_path / os.fsdecode(b"m" + ODD[name])
    with mounted(path, place, IMAGEFS_CACHE=cache) as mountpoint:
        assert (mountpoint / "config.json").read_bytes() == IMAGE.config
        listed = imagefs("mounts", IMAGEFS_CACHE=cache)
        assert listed.returncode == 0, listed.stderr
        assert harmless(listed.stdout)
        found = json.loads(imagefs("mounts", "--json", IMAGEFS_CACHE=cache).stdout)
        assert str(path) in {one["source"] for one in found}


def test_a_view_that_is_no_text(tmp_path: Path) -> None:
    """It is no view, and that is said."""
    path = samples.write(tmp_path / "x", samples.docker_20(IMAGE))
    (tmp_path / "m").mkdir()
    view = f"--view={os.fsdecode(ODD['no text'])}"
    done = imagefs("mount", view, path, tmp_path / "m", IMAGEFS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 2
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("name", ODD)
def test_waiting_and_reading_lines(name: str, tmp_path: Path) -> None:
    """What is said of work names the path without obeying it, on a terminal as in a pipe."""
    text = os.fsdecode(ODD[name])
    for quiet in (False, True):
        with (tmp_path / "said").open("w+") as stream, reporter(quiet=quiet, stream=stream) as said:
            said.phase(f"reading {text}")
            said.note(f"waiting for {text}")
            said.warn(f"odd: {text}")
        assert harmless((tmp_path / "said").read_text())
    program = (
        "import os, sys; from imagefs.cli.progress_bars import reporter\n"
        "with reporter(stream=sys.stdout) as said:\n"
        "    text = os.fsdecode(bytes.fromhex(sys.argv[1]))\n"
        "    said.phase('reading ' + text); said.note('waiting for ' + text)\n"
    )
    words = [sys.executable, "-c", program, ODD[name].hex()]
    shown = on_a_terminal(words)
    assert b"\x1b]0;" not in shown
    assert b"waiting for" in shown
    assert ODD[name] not in shown or name == "letters"


def on_a_terminal(words: list[str]) -> bytes:
    """Run a program on a terminal of its own; return what came out there."""
    ours, theirs = os.openpty()
    with subprocess.Popen(words, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:
                break  # what Linux says when nobody has the other end any more
            if not more:
                break
            shown += more
        assert process.wait() == 0, shown
    os.close(ours)
    return shown


@pytest.mark.parametrize("name", ODD)
def test_the_log_is_harmless(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a daemon logs of names is one line of text."""
    text = os.fsdecode(ODD[name])
    before, level = logging.root.handlers[:], logging.root.level
    try:
        daemon.log_to_terminal(logging.INFO)
        logging.getLogger("imagefs.test").warning("cannot read %s", text)
    finally:
        logging.root.handlers[:] = before
        logging.root.setLevel(level)
    said = capsys.readouterr().err
    assert said.startswith("imagefs: cannot read ")
    assert said.count("\n") == 1
    assert harmless(said)


def test_keys_may_be_no_text(tmp_path: Path) -> None:
    """What is remembered by a path of any bytes is found again, and not by another's."""
    store = Store(tmp_path / "cache")
    for number, odd in enumerate(ODD.values()):
        key = f"whole {os.fsdecode(odd)}"
        with store.lock(key):
            store.remember(key, f"sha256:{number:064}")
    assert [store.recall(f"whole {os.fsdecode(odd)}") for odd in ODD.values()] == [
        f"sha256:{number:064}" for number in range(len(ODD))
    ]
    record = next(store.refs.directory.iterdir())
    said = json.loads(record.read_bytes())
    record.write_text(json.dumps({**said, "key": "another"}))
    assert store.recall(said["key"]) is None


@pytest.mark.parametrize("text", ["x" * 4096, "/" + "x/" * 2048, "docker-archive:" + "x" * 5000])
def test_a_source_that_is_too_long(text: str) -> None:
    """The message says so, and does not repeat all of it."""
    with pytest.raises(UsageError, match=r"has \d+ bytes; a path, or .* at most 4095") as caught:
        parse(text)
    assert len(str(caught.value)) < 200


def test_a_directory_that_is_no_layout_is_not_walked(tmp_path: Path) -> None:
    """An image is told by marks at the top, so that `inspect /` looks at nothing below."""
    for number in range(50):
        (tmp_path / f"top/usr/{number}/deep").mkdir(parents=True)
    (tmp_path / "top/etc").mkdir()
    program = (
        "import sys; listed = []\n"
        "sys.addaudithook(lambda event, args: event in ('os.scandir', 'os.listdir')"
        " and listed.append(args[0]))\n"
        "from pathlib import Path\n"
        "from imagefs.archive import reader as archive\n"
        "from imagefs.archive.model import IngestContext\n"
        "from imagefs.image.options import SourceOptions\n"
        "from imagefs.errors import CorruptArchive\n"
        "listed.clear()\n"
        "try: archive.read(Path(sys.argv[1]), IngestContext(None, None, SourceOptions()))\n"
        "except CorruptArchive as error: print(len(listed), error)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "top")]
    done = subprocess.run(words, capture_output=True, check=True)
    count, _, said = done.stdout.decode().partition(" ")
    assert int(count) <= 1
    assert "holds neither manifest.json nor index.json" in said
