"""Layers in the cache that are not as long as they were: brought in anew, or said to be gone."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagefs.engine.addresses import Endpoint
from imagefs.image.model import Image
from imagefs.index import cache as index_cache
from imagefs.source.loader import Loader, LoaderConfig
from imagefs.store.store import Store
from tests.support import samples
from tests.support.badengine import Export, ScriptedEngine, chunked
from tests.support.opening import opened, trees
from tests.support.saved import docker_save
from tests.support.tars import layer


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1024)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def lengthen(path: Path) -> None:
    with path.open("ab") as out:
        out.write(bytes(512))


CHANGES = [cut, empty, lengthen]


@pytest.mark.parametrize("change", CHANGES)
def test_an_archive_is_decompressed_anew(change: Callable[[Path], None], tmp_path: Path) -> None:
    """What is shown is the image, not what is left of it."""
    archive = tmp_path / "image.tar.gz"
    archive.write_bytes(gzip.compress(samples.tar_of(samples.docker_20(samples.IMAGE))))
    store = Store(tmp_path / "cache")
    image = opened(archive, store)
    right = trees(image, store)
    for one in image.layers:
        assert one.blob
        if one.stored:
            change(one.blob.path)
    assert any(one.stored for one in image.layers)
    assert trees(opened(archive, store), store) == right


@pytest.mark.parametrize("change", CHANGES)
def test_an_engine_is_asked_anew(change: Callable[[Path], None], tmp_path: Path) -> None:
    """The daemon of `serve` fetches what its cache has lost."""
    image = Export([layer({"f": "x" * 300_000})])
    with ScriptedEngine(tmp_path / "s", image.answers(chunked(image.classic()))) as engine:
        loader = Loader(LoaderConfig(Endpoint(engine.host), tmp_path / "cache"))
        (one,) = loader.load(image.id).layers
        assert one.blob
        content = one.blob.path.read_bytes()
        change(one.blob.path)
        (again,) = loader.load(image.id).layers
        assert again.blob
        assert again.blob.path.read_bytes() == content
        loader.unload(image.id)


@pytest.mark.parametrize("change", CHANGES)
def test_standard_input_is_read_anew(change: Callable[[Path], None], tmp_path: Path) -> None:
    """A file on standard input is found in the cache as by its name, and so is what was lost."""
    archive = tmp_path / "image.tar.gz"
    archive.write_bytes(gzip.compress(docker_save(layer({"f": "x" * 300_000}))))
    store = Store(tmp_path / "cache")

    def read() -> Image:
        fd, saved = os.open(archive, os.O_RDONLY), os.dup(0)
        os.dup2(fd, 0)
        try:
            image = opened("-", store)
            index_cache.ensure(image.layers, store.index_dir)
            return image
        finally:
            os.dup2(saved, 0)
            os.close(saved)
            os.close(fd)

    image = read()
    right = trees(image, store)
    (one,) = image.layers
    assert one.stored
    assert one.blob
    change(one.blob.path)
    assert trees(read(), store) == right


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_of_parts_is_made_anew(change: Callable[[Path], None], tmp_path: Path) -> None:
    """An archive whose record is not what was written is read as if there were none."""
    archive = tmp_path / "image.tar.gz"
    archive.write_bytes(gzip.compress(samples.tar_of(samples.docker_20(samples.IMAGE))))
    store = Store(tmp_path / "cache")
    right = trees(opened(archive, store), store)
    (record,) = store.archives_dir.iterdir()
    change(record)
    assert trees(opened(archive, store), store) == right
