"""Archives with much in them, and what taking them in may cost."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread

import pytest

from imagefs.archive import ingest, spool
from imagefs.errors import CorruptArchive, HostError, ImagefsError
from imagefs.store.store import Store
from tests.support import samples, tars
from tests.support.headers import END, content, header, long_name
from tests.support.opening import opened
from tests.support.samples import SampleImage

LAYERS = 80
FILES = 60
"""How many more files may be opened than are open already."""


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Let this process have few files open, as the usual limit is few for the largest images."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + FILES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what comes in wait for the disk, however fast this one is."""
    never = Event()
    monkeypatch.setattr(os, "fsync", lambda _fd: never.wait(0.01))


@pytest.mark.usefixtures("few_descriptors", "slow_disk")
@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "plain"])
def test_files_open_do_not_grow_with_layers(tmp_path: Path, compressed: bool) -> None:
    """Making many compressed layers plain keeps few files open, also of a compressed archive."""
    layers = tuple(tars.layer({f"f{number}": "x"}) for number in range(LAYERS))
    archive = samples.tar_of(samples.oci_layout(SampleImage(layers)))
    path = samples.write(tmp_path / "archive", samples.gz(archive) if compressed else archive)
    assert len(opened(path, Store(tmp_path / "cache")).layers) == LAYERS


LARGE = tars.layer({"large": "\0" * 2_000_000})
BOMBS = {
    "a layer": samples.tar_of(samples.kaniko(SampleImage((LARGE,)))),
    "a layer, piped": samples.gz(samples.tar_of(samples.kaniko(SampleImage((LARGE,))))),
    "a plain layer, packed with its archive": samples.gz(
        samples.tar_of(samples.docker_20(SampleImage((LARGE,))))
    ),
    "a flat root": samples.gz(LARGE),
}


@pytest.mark.parametrize("keep_going", [False, True])
@pytest.mark.parametrize("name", BOMBS)
def test_a_layer_may_not_decompress_without_end(
    name: str, keep_going: bool, tmp_path: Path
) -> None:
    """The error names the layer, the limit and its option; nothing half-made is left."""
    store = Store(tmp_path / "cache")
    path = samples.write(tmp_path / "archive", BOMBS[name])
    which = "archive" if name == "a flat root" else r"[0-9a-f]{64}(/layer)?\.tar"
    said = f"{which}.* decompresses to more than 1000000 bytes; --max-layer-bytes"
    with pytest.raises(HostError, match=said):
        opened(path, store, keep_going=keep_going, max_layer_bytes=1_000_000)
    assert not any(store.work_dir.iterdir())
    assert opened(path, store, keep_going=keep_going, max_layer_bytes=3_000_000).layers


def test_members_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that is taken apart may not have members without end, either."""
    monkeypatch.setattr(spool, "MAX_MEMBERS", 4)
    archive = samples.gz(samples.tar_of(samples.docker_20(samples.IMAGE)))
    path = samples.write(tmp_path / "archive", archive)
    with pytest.raises(CorruptArchive, match="more than 4 members"):
        opened(path, Store(tmp_path / "cache"))


ARCHIVE = samples.tar_of(samples.docker_20(samples.IMAGE))
OPEN = content(ARCHIVE.rstrip(b"\0"))
"""An archive that does not end."""


def test_names_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive may not have names that fill the memory."""
    monkeypatch.setattr(spool, "MAX_NAMES", 1_000_000)
    names = b"".join(long_name(b"%04d" % n + b"n" * 3000) + header(b"n") for n in range(400))
    path = samples.write(tmp_path / "archive", samples.gz(OPEN + names) + samples.gz(END))
    with pytest.raises(CorruptArchive, match="its names have more than 1000000 characters"):
        opened(path, Store(tmp_path / "cache"))


def label(number: int) -> bytes:
    """Return the pieces of what no reader of an archive asks for, and of which there is no end."""
    return bytes(1 << 16) if number else header(b"label", b"V", size=1 << 60)


ENDLESS: dict[str, tuple[bytes, Callable[[int], bytes], str]] = {
    "a label": (OPEN, label, "more than 1000000 bytes of it are no files"),
    "a packed label": (
        samples.gz(OPEN),
        lambda number: samples.gz(label(number)) * 9,
        "more than 1000000 bytes of it are no files",
    ),
    "packed emptiness": (
        samples.gz(ARCHIVE),
        lambda _: samples.gz(b"") * 3000,
        "packs at most [0-9]+ bytes into more than twice as many",
    ),
    "a root's packed emptiness": (
        samples.gz(tars.layer({"a": "x"})),
        lambda _: samples.gz(b"") * 3000,
        "packs at most [0-9]+ bytes into more than twice as many",
    ),
    "a root's file": (
        header(b"file", size=1 << 60),
        lambda _: bytes(1 << 16),
        "decompresses to more than 3000000 bytes; --max-layer-bytes",
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_pipe_may_not_go_on_without_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes by a pipe and is of no use ends it soon, with an error; nothing is left."""
    begin, more, words = ENDLESS[name]
    monkeypatch.setattr(spool, "MAX_IDLE", 1_000_000)
    if "emptiness" in name:
        monkeypatch.setattr(ingest, "room", lambda _: len(ARCHIVE))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def write() -> None:
        with suppress(BrokenPipeError), fifo.open("wb", buffering=0) as out:
            out.write(begin)
            for number in count():
                out.write(more(number))

    writer = Thread(target=write)
    writer.start()
    store = Store(tmp_path / "cache")
    with pytest.raises(ImagefsError, match=words):
        opened(fifo, store, max_layer_bytes=3_000_000)
    writer.join()
    assert not any(store.work_dir.iterdir())
