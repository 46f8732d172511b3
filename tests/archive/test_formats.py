"""Every archive that tools write gives the same tree as the image that went in."""

import bz2
import gzip
import lzma
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from imagefs.archive import reader, uncompress
from imagefs.archive.model import IngestContext
from imagefs.cli.progress_bars import reporter
from imagefs.image.options import SourceOptions
from imagefs.index import cache as index_cache
from imagefs.progress import Silent
from imagefs.source.opening import SourceRequest, open_image
from imagefs.store.store import Store
from imagefs.vfs.image_fs import image_fs
from tests.support import samples, tars
from tests.support.opening import opened, trees, trees_of
from tests.support.samples import LAYOUTS, SampleImage
from tests.support.tars import File


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.mark.parametrize("image", [samples.IMAGE, samples.TWICE], ids=["image", "twice"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gives_the_same_tree(
    name: str, image: SampleImage, tmp_path: Path, store: Store
) -> None:
    """What a tool writes mounts as the image that it wrote: rootfs, layers and snapshots."""
    path = samples.write(tmp_path / "archive", LAYOUTS[name](image))
    made = opened(path, store)
    assert made.config == image.config
    assert [layer.created_by for layer in made.layers] == [
        step["created_by"] for step in image.history if not step.get("empty_layer")
    ]
    assert trees(made, store) == trees_of(image.layers, tmp_path / "expected")


OUTER: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": samples.gz,
    "gzip, several members": lambda data: samples.gz(data[:5000]) + samples.gz(data[5000:]),
    "zstd": samples.zstd,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("layout", ["docker 1.10 to 24", "oci archive", "buildkit type=docker"])
def test_a_compressed_archive_is_decompressed_once(
    outer: str, layout: str, tmp_path: Path, store: Store
) -> None:
    """The archive as a whole may be compressed; the next mount reads nothing of it again."""
    packed = OUTER[outer](samples.packed(LAYOUTS[layout](samples.IMAGE)))
    path = samples.write(tmp_path / "archive", packed)
    made = opened(path, store)
    assert trees(made, store) == trees_of(samples.IMAGE.layers, tmp_path / "expected")
    with (tmp_path / "said").open("w+") as said, reporter(stream=said) as progress:
        assert open_image(SourceRequest(str(path)), store, progress) == made
    assert (tmp_path / "said").read_text() == ""


def test_a_compressed_archive_that_is_rewritten_is_read_anew(tmp_path: Path, store: Store) -> None:
    """Also where its size and its time of modification are kept, as rsync and touch can."""
    images = [replace(samples.IMAGE, made_by=(step, "b", "c")) for step in ("one", "two")]
    packed = [gzip.compress(samples.tar_of(samples.docker_20(image)), 0) for image in images]
    assert len(packed[0]) == len(packed[1])
    path = tmp_path / "archive"
    for image, data in zip(images, packed, strict=True):
        path.write_bytes(data)
        os.utime(path, ns=(1, 1))
        assert opened(path, store).config == image.config


SHA512: Mapping[str, Callable[[SampleImage], samples.Layout | bytes]] = {
    "oci archive": samples.in_sha512(samples.oci_layout),
    "oci archive, plain": samples.in_sha512(
        lambda image: samples.oci_layout(image, pack=samples.plain, kind="tar")
    ),
    "docker archive": samples.in_sha512(samples.docker_20),
    "docker archive, packed": lambda image: samples.gz(
        samples.tar_of(samples.in_sha512(samples.docker_20)(image))
    ),
}


@pytest.mark.parametrize("name", SHA512)
def test_digests_may_be_sha512(name: str, tmp_path: Path, store: Store) -> None:
    """Layers whose diff ids are SHA-512 give the same tree, and are made plain once only."""
    path = samples.write(tmp_path / "x", SHA512[name](samples.IMAGE))
    for _ in range(2):
        made = opened(path, store, verify=True)
        assert [layer.diff_id[:7] for layer in made.layers] == ["sha512:"] * 3
        expected = trees_of(samples.IMAGE.layers, tmp_path / "expected")
        assert trees(made, store)["rootfs"] == expected["rootfs"]
    before = {path: path.stat().st_ino for path in store.layers_dir.iterdir()}
    other = samples.in_sha512(samples.oci_layout)(replace(samples.IMAGE, names=()))
    made = opened(samples.write(tmp_path / "other", other), store)
    assert all(layer.stored for layer in made.layers)
    after = {path: path.stat().st_ino for path in store.layers_dir.iterdir()}
    assert before.items() <= after.items()


@pytest.mark.parametrize("packed", [samples.zstd, samples.plain], ids=["archive", "layers"])
def test_layers_are_indexed_while_they_come_in(
    packed: samples.Pack, tmp_path: Path, store: Store
) -> None:
    """What is decompressed into the store has its index when the last of it has arrived."""
    layout = samples.docker_20 if packed is samples.zstd else samples.oci_layout
    path = samples.write(tmp_path / "x", packed(samples.tar_of(layout(samples.IMAGE))))
    made = opened(path, store)
    stored = [layer for layer in made.layers if layer.stored]
    assert samples.digest(samples.MIDDLE) in {layer.diff_id for layer in stored}
    assert index_cache.missing(stored, store.index_dir) == []


def test_an_indexer_that_dies_is_made_do_without(tmp_path: Path, store: Store) -> None:
    """Where its process has been killed, layers still come in, and are indexed in the end."""
    with index_cache.Indexer(store.index_dir) as indexer:
        indexer.begin()
        children = multiprocessing.active_children()
        for child in children:
            child.kill()
        for child in children:
            child.join()
        means = IngestContext(store, Silent(), SourceOptions(), indexer)
        path = samples.write(tmp_path / "x", samples.oci_layout(samples.IMAGE))
        packed = reader.read(path, means)
        made = uncompress.image_of(packed, packed.images[0], means)
    assert trees(made, store) == trees_of(samples.IMAGE.layers, tmp_path / "expected")


def test_a_flat_root_is_one_layer(tmp_path: Path, store: Store) -> None:
    """What `docker export` or BuildKit's type=tar writes mounts as an image of one layer."""
    path = samples.write(tmp_path / "root.tar", samples.BOTTOM)
    made = opened(path, store)
    tree = trees(made, store)["rootfs"]
    expected = trees_of([samples.BOTTOM], tmp_path / "expected")["rootfs"]
    assert [(name, said[:-1]) for name, said in tree.items()] == [
        (name, said[:-1]) for name, said in expected.items()
    ]
    assert made.layers[0].diff_id.startswith("flat:")


def test_a_flat_root_may_hold_a_manifest_json(tmp_path: Path, store: Store) -> None:
    """A root file system with a file of that name is none the less a root file system."""
    root = tars.layer({"etc/": "", "etc/motd": "hello", "manifest.json": '{"name": "app"}'})
    made = opened(samples.write(tmp_path / "root.tar", root), store)
    assert trees(made, store)["rootfs"].keys() == {"etc", "etc/motd", "manifest.json"}


ROOTS: Mapping[str, dict[str, str]] = {
    "a configuration": {"config.json": "{}", "app": "x"},
    "an index that is empty": {"index.json": "[]", "www/a": "x"},
    "an index of something else": {"index.json": '{"manifests": ["a"]}', "www/a": "x"},
    "a web app's manifest": {"manifest.json": '{"name": "app", "icons": []}', "index.html": "x"},
    "a manifest with layers": {"manifest.json": '{"layers": []}', "map": "x"},
    "a list of numbers": {"manifest.json": "[1]", "app": "x"},
    "an empty list": {"manifest.json": "[]", "app": "x"},
    "no JSON": {"manifest.json": "{", "index.json": "{", "app": "x"},
    "version and repositories": {"version": "1", "repositories": "{}", "app": "x"},
    "blobs": {"blobs/": "", "blobs/a": "x"},
}
"""Roots of images from scratch, which hold no /etc or /usr that would give them away."""


@pytest.mark.parametrize("piped", [False, True], ids=["file", "compressed"])
@pytest.mark.parametrize("name", ROOTS)
def test_a_flat_root_may_hold_names_of_archives(
    name: str, piped: bool, tmp_path: Path, store: Store
) -> None:
    """Only JSON that does describe images makes a tar an archive, also where it arrives packed."""
    root = tars.layer(ROOTS[name])
    made = opened(samples.write(tmp_path / "root", samples.gz(root) if piped else root), store)
    expected = trees_of([root], tmp_path / "expected")["rootfs"]
    assert trees(made, store)["rootfs"].keys() == expected.keys()


def test_archives_before_docker_1_10(tmp_path: Path, store: Store) -> None:
    """Without manifest.json, names lead to layers, and layers to their parents."""
    stray = {f"{'0' * 64}.json": b"{}"}
    for number, (tagged, more) in enumerate([(True, {}), (False, {}), (True, stray)]):
        layout = {**samples.docker_1_9(samples.IMAGE, tagged=tagged), **more}
        path = tmp_path / f"{number}"
        made = opened(samples.write(path, layout), store)
        packed = samples.write(tmp_path / f"{number}.gz", samples.gz(samples.tar_of(layout)))
        assert opened(packed, store).id == made.id
        assert made.names == (("sample/app:1",) if tagged else ())
        assert all(layer.diff_id.startswith("v1:") for layer in made.layers)
        assert [layer.created_by for layer in made.layers] == [
            f"/bin/sh -c step {number}" for number in range(3)
        ]
        fs = image_fs(made, store.index_dir, None)
        other = tars.fs_of(samples.IMAGE.layers, folder(tmp_path / "expected"))
        assert tars.shown(fs) == tars.shown(other)


DIRECTORIES: Mapping[str, Callable[[SampleImage], samples.Layout]] = {
    "oci layout": samples.oci_layout,
    "containerd, unpacked": samples.containerd,
    "dir:": samples.docker_dir,
    "docker save, unpacked": samples.docker_20,
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories_are_archives_too(name: str, tmp_path: Path, store: Store) -> None:
    """OCI layouts, `dir:`, and what somebody unpacked, mount as directories."""
    path = samples.unpack(tmp_path / "directory", DIRECTORIES[name](samples.IMAGE))
    made = opened(path, store)
    assert trees(made, store) == trees_of(samples.IMAGE.layers, tmp_path / "expected")


LAZY: Sequence[dict[str, str | tars.Node]] = (
    {".prefetch.landmark": "\x0f", "a": "1", "stargz.index.json": "{}"},
    {".no.prefetch.landmark": "\x0f", "a": "1"},
    {".no.prefetch.landmark": File("\x0f", mtime=0.5)},
    {".prefetch.landmark": "notes", "a": "1", "home/stargz.index.json": "{}"},
)


def test_lazy_pullers_entries_are_shown(tmp_path: Path, store: Store) -> None:
    """eStargz's table of contents, and the landmarks of eStargz and zstd:chunked, are files as any
    other, as in a container: a layer must have no way to hide a file by its name."""
    for number, files in enumerate(LAZY):
        image = SampleImage((tars.layer(files),))
        made = opened(samples.write(tmp_path / f"{number}", samples.oci_layout(image)), store)
        found = trees(made, store)
        in_layer = {path[16:] for path in found["layers"]} - {""}
        assert in_layer == found["rootfs"].keys() >= files.keys()


def test_empty_layers_are_layers(tmp_path: Path, store: Store) -> None:
    """A layer of nothing but NUL bytes, of either usual length, packed or not, is a layer."""
    image = SampleImage((samples.BOTTOM, bytes(1024), bytes(10240)))
    for number, layout in enumerate((samples.docker_20(image), samples.kaniko(image))):
        made = opened(samples.write(tmp_path / f"{number}", layout), store)
        assert trees(made, store) == trees_of(image.layers, tmp_path / "expected")


def test_stored_layers_are_not_decompressed_again(tmp_path: Path, store: Store) -> None:
    """Another archive of the same layers, packed in another way, finds them in the store."""
    opened(samples.write(tmp_path / "one", samples.kaniko(samples.IMAGE)), store)
    before = {path: path.stat().st_ino for path in store.layers_dir.iterdir()}
    made = opened(samples.write(tmp_path / "two", samples.oci_layout(samples.IMAGE)), store)
    assert all(layer.stored for layer in made.layers)
    assert {path: path.stat().st_ino for path in store.layers_dir.iterdir()} == before


def folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path
