"""The names that an engine has given its images, as directories and links; no engine, no mount."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagefs import catalog
from imagefs.catalog import Catalog
from imagefs.filesystem import ROOT_ID
from imagefs.image import Image
from imagefs.index import ensure
from tests.tars import image_of, layer


class Engine:
    """An engine whose images a test writes down, and which is asked each time."""

    def __init__(self, image: Image) -> None:
        self.images: dict[str, list[str]] = {}
        self.image = image

    def names(self) -> Iterator[tuple[str, list[str]]]:
        yield from self.images.items()

    def load(self, image_id: str) -> Image:
        return self.image


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(catalog, "FRESH", 0)
    return Engine(image_of([layer({"f": "x"})], tmp_path))


@pytest.fixture
def fs(engine: Engine, tmp_path: Path) -> Catalog:
    (tmp_path / "index").mkdir()
    return Catalog(engine.names, engine.load, tmp_path / "index")


def image_id(number: int) -> str:
    return f"sha256:{number:012x}" + "0" * 52


def below(fs: Catalog, *path: bytes) -> list[bytes]:
    """Return the names in a directory."""
    node = ROOT_ID
    for name in path:
        found = fs.lookup(node, name)
        assert found is not None, name
        node = found.ino
    return [entry.name for entry in fs.listdir(node)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("team/" + "x" * 200 + ":" + "t" * 100, id="longer than any file's"),
        pytest.param("team/a\0b:1", id="a NUL in it"),
        pytest.param("team/../b:1", id="leads elsewhere"),
        pytest.param("/b:1", id="begins with a slash"),
    ],
)
def test_a_name_that_no_file_can_have_is_left_out(fs: Catalog, engine: Engine, name: str) -> None:
    """Other names show all the same, and the image itself is there by its id."""
    engine.images = {image_id(1): [name, "team/good:1"]}
    assert below(fs) == [b"by-id", b"team"]
    assert below(fs, b"team") == [b"good:1"]
    assert below(fs, b"by-id") == [b"000000000001"]


def test_a_name_of_any_characters_can_be_shown(fs: Catalog, engine: Engine) -> None:
    """JSON may hold half a character; it neither hides other names nor fails the listing."""
    engine.images = {image_id(1): ["odd\udc00:1", "good:1"]}
    assert below(fs) == [b"by-id", b"good:1", b"odd\xed\xb0\x80:1"]


def test_images_that_went_unseen_leave_nothing(fs: Catalog, engine: Engine) -> None:
    """A daemon that runs for months grows by no image that nobody entered."""
    kept = set()
    for number in range(20):
        engine.images = {image_id(number): [f"app:{number}"]}
        assert below(fs, b"by-id") == [image_id(number)[7:19].encode()]
        kept.add((len(fs._images), len(fs._by_id), len(fs.made._nodes)))
    assert len(kept) == 1


def test_an_image_that_cannot_be_opened_leaves_no_layer_open(
    fs: Catalog, engine: Engine, tmp_path: Path
) -> None:
    """Where files run out halfway up an image, those of its lower layers are given back."""
    image = image_of([layer({"f": str(number)}) for number in range(20)], tmp_path)
    ensure(image.layers, tmp_path / "index")
    engine.images, engine.image = {image_id(1): ["app:1"]}, image
    below(fs, b"by-id")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 10, hard))
    try:
        with pytest.raises(OSError, match="Input/output error"):
            below(fs, b"by-id", b"000000000001")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not fs._layers
    assert below(fs, b"by-id", b"000000000001", b"rootfs") == [b"f"]
