"""Archives with much in them, and what taking them in may cost."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from imagefs.store import Store
from tests import samples, tars
from tests.opening import opened
from tests.samples import SampleImage

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
