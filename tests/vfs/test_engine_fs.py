"""The names that an engine has given its images, as directories and links; no engine, no mount."""

import json
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagefs.engine.api import ListedImage
from imagefs.filesystem import ROOT_ID
from imagefs.image.model import Image
from imagefs.index.cache import ensure
from imagefs.vfs import engine_fs, nodeid
from imagefs.vfs.engine_fs import Catalog
from imagefs.vfs.image_fs import LAYER_XATTR, ImageFs
from tests.support.tars import image_of, layer

CREATED = 1_600_000_000 * 10**9


class Engine:
    """An engine whose images a test writes down, and which is asked each time."""

    def __init__(self, image: Image) -> None:
        self.images: dict[str, list[str]] = {}
        self.image = image

    def names(self) -> Iterator[ListedImage]:
        for image_id, names in self.images.items():
            yield ListedImage(image_id, tuple(names), CREATED)

    def load(self, image_id: str) -> Image:
        return self.image


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(engine_fs, "FRESH", 0)
    return Engine(image_of([layer({"f": "x"})], tmp_path))


@pytest.fixture
def fs(engine: Engine, tmp_path: Path) -> Catalog:
    (tmp_path / "index").mkdir()
    return Catalog(engine.names, engine.load, tmp_path / "index")


def image_id(number: int) -> str:
    return f"sha256:{number:012x}" + "0" * 52


def node_of(fs: ImageFs, *path: bytes) -> int:
    node = ROOT_ID
    for name in path:
        found = fs.lookup(node, name)
        assert found is not None, name
        node = found.node
    return node


def below(fs: ImageFs, *path: bytes) -> list[bytes]:
    """Return the names in a directory."""
    return [entry.name for entry in fs.listdir(node_of(fs, *path))]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("team/" + "x" * 200 + ":" + "t" * 100, id="longer than any file's"),
        pytest.param("team/a\0b:1", id="a NUL in it"),
        pytest.param("team/../b:1", id="leads elsewhere"),
        pytest.param("/b:1", id="begins with a slash"),
        pytest.param("a/" * 8000 + "b:1", id="thousands of slashes"),
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


ONE, OTHER = (f"sha256:{'abc' * 4}{digit * 52}" for digit in "12")


def catalog_of(ids: tuple[str, ...], engine: Engine, folder: Path) -> Catalog:
    """Show the engine's images of these ids, each of which has its id in the file f."""
    contents = {}
    for one in ids:
        (folder / one[-1]).mkdir()
        contents[one] = image_of([layer({"f": one})], folder / one[-1])
    (folder / "index").mkdir()
    return Catalog(engine.names, contents.__getitem__, folder / "index")


def shown_by_tag(fs: Catalog, one: str) -> str:
    """Return what the file f of the image holds that the tag of an id leads to."""
    target = fs.readlink(node_of(fs, f"app:{one[-1]}".encode()))
    return fs.read(node_of(fs, *target.split(b"/"), b"rootfs", b"f"), 0, 100).decode()


@pytest.mark.parametrize("ids", [(ONE, OTHER), (OTHER, ONE)], ids=["in turn", "turned round"])
def test_images_whose_ids_begin_alike_are_told_apart(
    ids: tuple[str, str], engine: Engine, tmp_path: Path
) -> None:
    """Each tag shows its own image, whichever the engine lists first."""
    fs = catalog_of(ids, engine, tmp_path)
    engine.images = {one: [f"app:{one[-1]}"] for one in ids}
    assert below(fs, b"by-id") == sorted(one[7:20].encode() for one in ids)
    for one in ids:
        target = fs.readlink(node_of(fs, f"app:{one[-1]}".encode()))
        assert target == b"by-id/" + one[7:20].encode()
        assert shown_by_tag(fs, one) == one


@pytest.mark.parametrize("back", [(ONE, OTHER), (OTHER, ONE)], ids=["in turn", "turned round"])
def test_an_image_that_comes_back_has_its_name_to_itself(
    back: tuple[str, str], engine: Engine, tmp_path: Path
) -> None:
    """What was looked into may return, so nobody else is given its name meanwhile."""
    fs = catalog_of(back, engine, tmp_path)
    for listed in ((ONE,), (OTHER,), back):
        engine.images = {one: [f"app:{one[-1]}"] for one in listed}
        assert [shown_by_tag(fs, one) for one in listed] == list(listed)


def test_a_directory_keeps_its_name(engine: Engine, fs: Catalog) -> None:
    """An image that comes later and begins alike has the longer one; who is inside stays there."""
    engine.images = {ONE: ["app:1"]}
    assert below(fs, b"by-id") == [ONE[7:19].encode()]
    engine.images = {OTHER: ["app:2"], ONE: ["app:1"]}
    assert below(fs, b"by-id") == [ONE[7:19].encode(), OTHER[7:20].encode()]
    assert fs.readlink(node_of(fs, b"app:1")) == b"by-id/" + ONE[7:19].encode()
    assert fs.readlink(node_of(fs, b"app:2")) == b"by-id/" + OTHER[7:20].encode()


@pytest.mark.parametrize("said", [None, 1_500_000_000], ids=["unsaid", "said"])
def test_what_is_made_up_has_the_time_of_its_image(
    fs: Catalog, engine: Engine, said: int | None
) -> None:
    """The engine's until the image is loaded, then its configuration's, if that says one."""
    before = time.time()
    if said is not None:
        when = datetime.fromtimestamp(said, UTC).isoformat()
        engine.image = replace(engine.image, config=json.dumps({"created": when}).encode())
    engine.images = {image_id(1): ["team/app:1"]}
    image = node_of(fs, b"by-id", b"000000000001")
    listed = CREATED // 10**9
    assert {fs.getattr(node).mtime for node in (image, node_of(fs, b"team", b"app:1"))} == {listed}
    for node in (ROOT_ID, node_of(fs, b"by-id"), node_of(fs, b"team")):
        assert before - 1 <= fs.getattr(node).mtime <= time.time()
    names = (b"layers", b"snapshots", b"layers.txt", b"config.json", b"manifest.json")
    nodes = (image, *(node_of(fs, b"by-id", b"000000000001", name) for name in names))
    assert {fs.getattr(node).mtime for node in nodes} == {said or listed}


def test_images_that_went_unseen_leave_nothing(fs: Catalog, engine: Engine) -> None:
    """A daemon that runs for months grows by no image that nobody entered."""
    kept = set()
    for number in range(20):
        engine.images = {image_id(number): [f"app:{number}"]}
        assert below(fs, b"by-id") == [image_id(number)[7:19].encode()]
        kept.add((len(fs._images), len(fs._by_id), len(fs.synthetic._nodes)))
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


def test_what_names_make_up_has_a_bound(
    fs: Catalog, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it images show by their ids alone, and those that are named still do."""
    monkeypatch.setattr(engine_fs, "MAX_DIRECTORIES", 50)
    deep = "a/" * (engine_fs.MAX_DEPTH - 1)
    engine.images = {image_id(1): ["first:1", f"{deep}b:1", *(f"{n}/b:1" for n in range(99))]}
    assert below(fs)[-2:] == [b"by-id", b"first:1"]
    assert node_of(fs, *[b"a"] * (engine_fs.MAX_DEPTH - 1), b"b:1")
    assert len(fs.synthetic._nodes) < 2 * engine_fs.MAX_DEPTH
    engine.images = {image_id(1): ["first:1"]}
    assert below(fs) == [b"by-id", b"first:1"]
    assert len(fs.synthetic._nodes) < 6


class Kernel:
    """Looks paths up, and holds what it has found until it is told to forget it."""

    def __init__(self, fs: Catalog, engine: Engine, folder: Path) -> None:
        self.fs, self.engine, self.folder = fs, engine, folder
        self.held: list[int] = []

    def look(self, *path: bytes) -> int:
        node = ROOT_ID
        for name in path:
            found = self.fs.lookup(node, name)
            assert found is not None, name
            node = found.node
            self.fs.adjust_lookups([node], 1)
            self.held.append(node)
        return node

    def forget(self, *but: int) -> None:
        self.fs.adjust_lookups([node for node in self.held if node not in but], -1)
        self.held = [node for node in self.held if node in but]

    def root_of(self, number: int, *layers: dict[str, str]) -> tuple[bytes, ...]:
        """Have an image of these layers come; return where its root is."""
        self.engine.images[image_id(number)] = []
        self.engine.image = image_of(map(layer, layers), self.folder)
        return b"by-id", image_id(number)[7:19].encode(), b"rootfs"

    def remove(self, number: int) -> None:
        del self.engine.images[image_id(number)]
        below(self.fs, b"by-id")


@pytest.fixture
def kernel(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel before a mount that has numbers for few images at a time."""
    monkeypatch.setattr(nodeid, "MAX_VIEWS", 17)
    monkeypatch.setattr(nodeid, "MAX_LAYERS", 4)
    (tmp_path / "index").mkdir()
    return Kernel(Catalog(engine.names, engine.load, tmp_path / "index"), engine, tmp_path)


SHARED = {"d/f": "shared"}


def test_numbers_of_images_that_went_are_given_again(kernel: Kernel) -> None:
    """More images come and go than there are numbers; the inode numbers stay as low as they were.

    They share a layer with one that stays, and what somebody has open of them can be read.
    """
    stays = kernel.look(*kernel.root_of(0, SHARED), b"d")
    kernel.held.clear()
    inos = set()
    for number in range(1, 30):
        path = kernel.root_of(number, SHARED, {"x": str(number)})
        file = kernel.look(*path, b"x")
        inos.add(kernel.fs.getattr(kernel.look(*path, b"d")).ino)
        kernel.remove(number)
        kernel.forget(file)
        assert kernel.fs.read(file, 0, 9) == str(number).encode()
        kernel.forget()
        with pytest.raises(FileNotFoundError):
            kernel.fs.read(file, 0, 9)
    assert len(inos) == 1
    assert kernel.fs.getattr(stays).ino not in inos


def test_a_number_is_not_given_again_while_the_kernel_knows_it(kernel: Kernel) -> None:
    """A directory of a removed image is known by a layer that lives on: it becomes no other's."""
    kernel.look(*kernel.root_of(0, SHARED))
    kernel.held.clear()
    old = kernel.look(*kernel.root_of(1, SHARED, {"x": ""}), b"d")
    kernel.remove(1)
    kernel.forget(old)
    for number in range(2, 30):
        kernel.look(*kernel.root_of(number, SHARED, {"x": str(number)}))
        assert nodeid.unpack(old)[0] not in kernel.fs._views
        with pytest.raises(FileNotFoundError):
            kernel.fs.getattr(old)
        kernel.remove(number)
        kernel.forget(old)
    kernel.forget()
    assert kernel.fs.free_views.left() == 17 - 3


def test_a_file_says_its_layer_in_each_image(tmp_path: Path) -> None:
    """Also where one image has so many layers that their directories' numbers are longer."""
    (tmp_path / "index").mkdir()
    fs, bottom = ImageFs(), layer({"f": "x"})
    for count in (2, 101):
        image = image_of([bottom, *[layer({})] * (count - 1)], tmp_path)
        directory = fs.synthetic.directory(ROOT_ID)
        fs.synthetic.link(ROOT_ID, str(count).encode(), directory.node)
        fs.add_image(image, tmp_path / "index", directory.node)
        file = node_of(fs, str(count).encode(), b"rootfs", b"f")
        assert fs.getxattr(file, LAYER_XATTR) == image.layer_names()[0].encode()


def test_what_is_asked_of_a_layer_that_went_is_not_there() -> None:
    """A node id outlives its image: whatever the kernel still asks has an answer."""
    fs, gone = ImageFs(), nodeid.pack(0, 7, 1)
    for question in (
        lambda: fs.getattr(gone),
        lambda: fs.read(gone, 0, 1),
        lambda: fs.seek(gone, 0, os.SEEK_DATA),
        lambda: fs.getxattr(gone, b"user.x"),
        lambda: fs.listxattr(gone),
        lambda: fs.readlink(gone),
        lambda: fs.lookup(gone, b"x"),
        lambda: fs.listdir(gone),
    ):
        with pytest.raises(FileNotFoundError):
            question()
