"""Archives that are changed while they are opened: nothing else is shown in their place, ever."""

import contextlib
import ctypes
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagefs.archive import beneath
from imagefs.errors import CorruptArchive, ImagefsError
from imagefs.filesystem import FileSystem
from imagefs.store.store import Store
from imagefs.vfs.image_fs import image_fs
from tests.support import samples, tars
from tests.support.opening import opened, tree_of
from tests.support.samples import IMAGE

SECRET = b"only root may read this"
FOREIGN = replace(IMAGE, layers=(tars.layer({"etc/conf": SECRET.decode()}), *IMAGE.layers[1:]))
ROUNDS = 100
AT_FDCWD, RENAME_EXCHANGE = -100, 2

LAYOUTS = {
    "OCI layout": lambda image: samples.oci_layout(image, pack=samples.plain, kind="tar"),
    "packed OCI layout": samples.oci_layout,
    "dir:": samples.docker_dir,
    "docker-archive": samples.docker_20,
    "Docker before 1.10": samples.docker_1_9,
}


LAYER_OF = {"OCI layout": samples.plain, "packed OCI layout": samples.gz}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    """A directory with links of all kinds, opened."""
    (tmp_path / "secret").write_bytes(SECRET)
    inside = samples.unpack(
        tmp_path / "top",
        {
            "real/file": b"x",
            "link": "real/file",
            "way": "real",
            "around": "real/../way/../link",
            "above": "..",
            "out": "../secret",
            "up": "real/../../secret",
            "circle": "circle",
            "away": str(tmp_path / "secret"),
            "back": str(tmp_path / "top/real/file"),
            "beside": str(tmp_path / "top.other"),
        },
    )
    os.mkfifo(inside / "fifo")
    fd = os.open(inside, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("real/file", "real/file"),
        ("./real//file", "real/file"),
        ("link", "real/file"),
        ("way/file", "real/file"),
        ("way/../way/file", "real/file"),
        ("around", "real/file"),
        ("back", "real/file"),
        ("real", None),
        ("way", None),
        ("fifo", None),
        ("circle", None),
        ("", None),
        ("out", beneath.LeadsOutError),
        ("up", beneath.LeadsOutError),
        ("away", beneath.LeadsOutError),
        ("beside", beneath.LeadsOutError),
        ("above/secret", beneath.LeadsOutError),
        ("above/top/real/file", beneath.LeadsOutError),
        ("../top/real/file", beneath.LeadsOutError),
        ("real/absent", FileNotFoundError),
        ("real/file/x", NotADirectoryError),
        ("fifo/x", NotADirectoryError),
    ],
)
def test_what_lies_beneath(
    top: int, tmp_path: Path, name: str, found: str | type[Exception] | None
) -> None:
    """Links are followed as long as they stay inside, and nothing else but files is found."""
    before = len(os.listdir("/proc/self/fd"))
    if isinstance(found, type):
        with pytest.raises(found):
            beneath.find(top, str(tmp_path / "top"), name)
    else:
        there = beneath.find(top, str(tmp_path / "top"), name)
        assert (there and there.path) == found
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_file_that_became_a_link_is_not_shown(kind: str, tmp_path: Path, store: Store) -> None:
    """Between the look at a layout and the mount, its files are swapped for links to others."""
    path = samples.unpack(tmp_path / "layout", LAYOUTS[kind](IMAGE))
    foreign = tmp_path / "foreign"
    foreign.write_bytes(FOREIGN.layers[0])
    image = opened(path, store)
    for file in [file for file in path.rglob("*") if file.is_file()]:
        file.unlink()
        file.symlink_to(foreign)
    if all(layer.stored for layer in image.layers):
        assert SECRET not in contents(image_fs(image, store.index_dir, None))
        return
    with pytest.raises(CorruptArchive, match="was changed while it was opened"):
        image_fs(image, store.index_dir, None)


def test_an_archive_that_became_a_link_is_not_shown(tmp_path: Path, store: Store) -> None:
    """The same with a single file, whose members lie where they did."""
    path = samples.write(tmp_path / "x.tar", samples.docker_20(IMAGE))
    image = opened(path, store)
    path.unlink()
    path.symlink_to(samples.write(tmp_path / "y.tar", samples.docker_20(FOREIGN)))
    with pytest.raises(CorruptArchive, match="was changed while it was opened"):
        image_fs(image, store.index_dir, None)


def test_what_a_name_has_come_to_mean_is_not_even_opened(tmp_path: Path, store: Store) -> None:
    """A FIFO in the place of an archive would have its opener wait for ever."""
    path = samples.write(tmp_path / "x.tar", samples.docker_20(IMAGE))
    image = opened(path, store)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptArchive, match="was changed while it was opened"):
        image_fs(image, store.index_dir, None)


@pytest.mark.parametrize("kind", ["OCI layout", "packed OCI layout"])
def test_swapping_all_the_while_shows_nothing_else(kind: str, tmp_path: Path) -> None:
    """However often the blobs' directory changes hands, an image is shown as it is, or not."""
    path = samples.unpack(tmp_path / "layout", LAYOUTS[kind](IMAGE))
    blobs = path / "blobs"
    swapped = {LAYER_OF[kind](IMAGE.layers[0]): LAYER_OF[kind](FOREIGN.layers[0])}
    kept = {f"sha256/{file.name}": file.read_bytes() for file in (blobs / "sha256").iterdir()}
    samples.unpack(
        tmp_path / "foreign", {name: swapped.get(one, one) for name, one in kept.items()}
    )
    shown = 0
    with swapping(blobs, tmp_path / "foreign"):
        for number in range(ROUNDS):
            store = Store(tmp_path / f"cache{number}")
            with contextlib.closing(store), contextlib.suppress(ImagefsError):
                said = contents(image_fs(opened(path, store), store.index_dir, None))
                assert SECRET not in said
                shown += 1
    assert shown, "nothing was opened in time: swap less often"


@contextlib.contextmanager
def swapping(directory: Path, foreign: Path) -> Iterator[None]:
    """Have a directory be, in turn, itself and a link to a foreign one; it is never absent."""
    ended = threading.Event()
    other = directory.with_name("aside")
    other.symlink_to(foreign)
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    rng = random.Random(1)

    def swap() -> None:
        # At moments of an opening that differ from round to round.
        while not ended.wait(rng.choice((0.001, 0.01, 0.03, 0.3))):
            assert rename(AT_FDCWD, bytes(directory), AT_FDCWD, bytes(other), RENAME_EXCHANGE) == 0

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def contents(fs: FileSystem) -> bytes:
    """All bytes of all files of an image's layers."""
    return b"".join(said[-2] for said in tree_of(fs, "layers").values())
