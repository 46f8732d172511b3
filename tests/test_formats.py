"""Every archive that tools write gives the same tree as the image that went in."""

import bz2
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from imagefs.image import Image
from imagefs.progress import Silent
from imagefs.source import SourceRequest, open_image
from imagefs.store import Store
from imagefs.vfs import ImageFs, image_fs
from tests import samples, tars
from tests.samples import SampleImage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def opened(path: Path | str, store: Store, **options: Any) -> Image:
    return open_image(SourceRequest(str(path), **options), store, Silent())


def tree_of(fs: ImageFs, top: str = "") -> dict[str, tuple[Any, ...]]:
    """Return all there is to say of all that lies below `top`: what stat(2), readlink(2), read(2)
    and getxattr(2) would say, but for inode numbers, of which only equality counts.
    """
    names: dict[int, str] = {}
    tree = {}
    for path, attr in sorted(tars.paths(fs, top).items()):
        kind = attr.mode & 0o170000
        said = fs.readlink(attr.ino) if kind == 0o120000 else b""
        if kind == 0o100000:
            said = fs.read(attr.ino, 0, attr.size)
        xattrs = [(name, fs.getxattr(attr.ino, name)) for name in sorted(fs.listxattr(attr.ino))]
        tree[path] = (*attr[1:], names.setdefault(attr.ino, path), said, xattrs)
    return tree


def expected(image: SampleImage, folder: Path) -> dict[str, tuple[Any, ...]]:
    folder.mkdir(exist_ok=True)
    fs = tars.fs_of(image.layers, folder)
    return {
        path: said
        for top in ("rootfs", "layers", "snapshots")
        for path, said in tree_of(fs, top).items()
    }


def found(image: Image, store: Store) -> dict[str, tuple[Any, ...]]:
    fs = image_fs(image, store.index_dir, None)
    return {
        path: said
        for top in ("rootfs", "layers", "snapshots")
        for path, said in tree_of(fs, top).items()
    }


LAYOUTS: Mapping[str, Callable[[SampleImage], Any]] = {
    "docker 1.10 to 24": samples.docker_20,
    "docker 25": samples.docker_25,
    "containerd image store": samples.containerd,
    "buildkit type=docker": samples.containerd,
    "buildkit type=oci": lambda image: samples.containerd(image, docker_manifest=False),
    "oci archive": samples.oci_layout,
    "oci archive, plain": lambda image: samples.oci_layout(image, pack=samples.plain, kind="tar"),
    "podman": samples.podman,
    "dir: in a tar": samples.docker_dir,
    "kaniko, crane, ko": samples.kaniko,
    "kaniko, named .tar.gz and plain": lambda image: samples.kaniko(image, samples.plain),
    "crane, layers as .tar and gzip": lambda image: samples.kaniko(image, samples.gz, ".tar"),
    "ko, xz": lambda image: samples.kaniko(image, lzma.compress, ".tar.xz"),
    "ko, bzip2": lambda image: samples.kaniko(image, bz2.compress, ".tar.bz2"),
    "crane --format=legacy": samples.crane_legacy,
    "jib": samples.jib,
    "rules_oci": samples.rules_oci,
    "rules_docker": samples.rules_docker,
    "nix, streamed": samples.nix_stream,
    "nix, built": samples.nix_build,
}


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
    assert found(made, store) == expected(image, tmp_path / "expected")
