"""Archives with much in them, and what taking them in may cost."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from imagefs.archive import spool
from imagefs.errors import CorruptArchive, HostError
from imagefs.store.store import Store
from tests.support import samples, tars
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
