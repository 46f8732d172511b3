"""Archives taken apart into the store: what is kept of them, where, and what is not."""

import os
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import CorruptArchive
from imagefs.progress import Silent
from imagefs.source.opening import SourceRequest, open_image
from imagefs.store.inventory import contents
from imagefs.store.prune import prune
from imagefs.store.store import Store
from imagefs.store.verify import verify
from tests.support import samples
from tests.support.opening import opened, trees
from tests.support.samples import SampleImage, digest
from tests.support.tars import File, layer

LARGE = [layer({f"large{number}": File(os.urandom(400_000))}) for number in range(2)]
IMAGE = SampleImage((*LARGE, layer({"small": "x"})))
SAVED = samples.tar_of(samples.docker_20(IMAGE))


class Phases(Silent):
    """A Progress that keeps the phases."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def phase(self, text: str, total: int | None = None) -> None:
        self.said.append(text)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def write(tmp_path: Path, archive: bytes, name: str = "archive") -> Path:
    return samples.write(tmp_path / name, samples.gz(archive))


def filed(store: Store) -> dict[str, Any]:
    """What lies among the layers and among the archives, each file with its inode."""
    tops = (store.layers_dir, store.archives_dir)
    return {path.name: path.stat().st_ino for top in tops for path in top.iterdir()}


def test_what_is_among_the_layers_is_a_layer(tmp_path: Path, store: Store) -> None:
    """The record of an archive has a room of its own; it is counted, and verified like a layer."""
    opened(write(tmp_path, SAVED), store)
    found = contents(store)
    assert {one.diff_id for one in found.layers} == set(map(digest, LARGE))
    (record,) = store.archives_dir.iterdir()
    assert found.archive_bytes == record.stat().st_size
    assert found.total_bytes == sum(map(len, LARGE)) + found.archive_bytes + found.index_bytes
    assert verify(store, Silent()) == ()
    record.write_bytes(record.read_bytes()[:-1] + b"x")
    (damage,) = verify(store, Silent())
    assert damage.name == f"sha256:{record.name}"
    assert not record.exists()


def test_a_record_in_use_is_not_pruned(tmp_path: Path, store: Store) -> None:
    """It holds the small layers of a mount; once nobody uses it, it goes, and what meant it."""
    path = write(tmp_path, SAVED)
    image = opened(path, store)
    (record,) = store.archives_dir.iterdir()
    other = Store(store.root)
    before = filed(store)
    assert prune(other).layers == ()
    assert filed(store) == before
    assert trees(image, store)
    store.close()
    size = record.stat().st_size + sum(map(len, LARGE))
    assert prune(other).bytes >= size
    assert filed(other) == {}
    assert os.listdir(other.refs.directory) == []
    assert len(opened(path, other).layers) == 3


def test_what_was_filed_among_the_layers_is_moved(tmp_path: Path, store: Store) -> None:
    """A cache of before is used as it is: the archive is not read again, the layers are layers."""
    path = write(tmp_path, SAVED)
    right = trees(opened(path, store), store)
    (record,) = store.archives_dir.iterdir()
    record.rename(store.layers_dir / f"{record.name}.tar")
    store.archives_dir.rmdir()
    store = Store(store.root)
    assert {one.diff_id for one in contents(store).layers} == set(map(digest, LARGE))
    phases = Phases()
    image = open_image(SourceRequest(str(path)), store, phases)
    assert phases.said == []
    assert trees(image, store) == right


@pytest.mark.parametrize("damage", ["cut", "a layer spoilt"])
def test_an_archive_that_is_not_whole_leaves_nothing(
    damage: str, tmp_path: Path, store: Store
) -> None:
    """Layers that came before what is damaged are not kept either."""
    archive = SAVED
    if damage == "cut":
        archive = SAVED[: SAVED.index(LARGE[1][:512]) + 100_000]
    else:
        packed = bytearray(samples.gz(LARGE[1]))
        packed[len(packed) // 2] ^= 0xFF
        kaniko = samples.kaniko(IMAGE)
        name = next(name for name, stored in kaniko.items() if stored == samples.gz(LARGE[1]))
        archive = samples.tar_of({**kaniko, name: bytes(packed)})
    with pytest.raises(CorruptArchive, match="--keep-going"):
        opened(write(tmp_path, archive), store)
    assert filed(store) == {}
    assert os.listdir(store.work_dir) == []


def test_layers_that_are_there_are_left(tmp_path: Path, store: Store) -> None:
    """Another archive of the same layers does not write them again."""
    opened(write(tmp_path, SAVED), store)
    before = filed(store)
    other = SampleImage(IMAGE.layers[:2], names=("other:1",))
    opened(write(tmp_path, samples.tar_of(samples.docker_20(other)), "other"), store)
    after = filed(store)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
