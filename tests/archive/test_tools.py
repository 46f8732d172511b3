"""What the real tools write, each given the same image, mounts as that image."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from imagefs.store.store import Store
from tests.support import samples
from tests.support.engines import RunningEngine
from tests.support.mounted import clear
from tests.support.needs import DOCKER, need_fuse, need_tool
from tests.support.opening import Tree, opened, trees, trees_of
from tests.support.producers import (
    BUILT,
    IMAGE,
    NAME,
    OTHER_LAYERS,
    TOOLS,
    Bench,
    bench_with,
)
from tests.support.samples import OTHER

ESTARGZ = frozenset({"stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"})
"""What eStargz adds to the root of a layer."""


@pytest.fixture
def bench() -> Iterator[Bench]:
    with bench_with(IMAGE) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture(scope="module")
def expected(
    docker_engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tree]:
    """The whole mount of the image, as dockerd saves it."""
    folder = tmp_path_factory.mktemp("expected")
    start = samples.write(folder / "start.tar", samples.docker_20(IMAGE))
    docker_engine.docker("load", "--input", str(start))
    docker_engine.docker("save", "--output", str(folder / "saved.tar"), NAME)
    store = Store(folder / "cache")
    return trees(opened(folder / "saved.tar", store), store)


@pytest.mark.parametrize("producer", [*TOOLS, *BUILT])
def test_each_producer_gives_what_dockerd_saves(
    producer: str, bench: Bench, store: Store, expected: dict[str, Tree]
) -> None:
    """Names, kinds, modes, owners, sizes, mtimes, links, xattrs and contents are dockerd's, in
    rootfs, layers and snapshots, whatever has written the image."""
    made = opened(_write(producer, {**TOOLS, **BUILT}, bench), store)
    assert trees(made, store) == expected


@pytest.mark.parametrize("producer", OTHER_LAYERS)
def test_layers_written_anew_give_the_same_root(
    producer: str, bench: Bench, store: Store, expected: dict[str, Tree]
) -> None:
    """Where a producer changes the layers themselves, rootfs and snapshots are still dockerd's,
    but for eStargz's table of contents and landmarks, which show everywhere."""
    made = opened(_write(producer, OTHER_LAYERS, bench), store)
    found = trees(made, store)
    assert _without_estargz(found["rootfs"]) == expected["rootfs"]
    assert _below_top(_without_estargz(found["snapshots"])) == _below_top(expected["snapshots"])
    for view, count in {"layers": 3, "snapshots": 3, "rootfs": 1}.items():
        tables = [path for path in found[view] if path.split("/")[-1] == "stargz.index.json"]
        assert len(tables) == (count if "eStargz" in producer else 0)


def _without_estargz(tree: Tree) -> Tree:
    return {path: said for path, said in tree.items() if path.split("/")[-1] not in ESTARGZ}


def _write(producer: str, table: Mapping[str, Callable[[Bench], Path]], bench: Bench) -> Path:
    program = re.match(r"[\w-]+", producer)
    assert program is not None
    if producer in TOOLS:
        need_tool(program[0], program[0].replace("xz", "xz-utils"))
    return table[producer](bench)


def _below_top(tree: Tree) -> list[str]:
    """Return the paths below the directories of all layers, which are named after diff ids."""
    return sorted(f"{path[:2]}{path[15:]}" for path in tree)


def test_docker_gives_the_same_tree(
    docker_engine: RunningEngine, tmp_path: Path, store: Store
) -> None:
    """Docker, given the image, saves what mounts as that image, with and without a tag."""
    images = {
        image: trees_of(image.layers, tmp_path / image.names[0][7:]) for image in (IMAGE, OTHER)
    }
    for image, tree in images.items():
        start = samples.write(tmp_path / "start.tar", samples.docker_20(image))
        docker_engine.docker("load", "--input", str(start))
        for name in (*image.names, samples.digest(image.config)):
            saved = tmp_path / "saved.tar"
            docker_engine.docker("save", "--output", str(saved), name)
            assert trees(opened(saved, store), store) == tree


def test_podman_saves_several_images(bench: Bench, store: Store, tmp_path: Path) -> None:
    """Of several images in one archive, each is there under its name."""
    images = (IMAGE, OTHER)
    start = samples.write(tmp_path / "both.tar", samples.docker_20(*images))
    bench.podman("load", "--quiet", f"--input={start}")
    names = [image.names[0] for image in images]
    bench.podman("save", "--quiet", "-m", "-o", str(bench.folder / "both.tar"), *names)
    for image in images:
        for name in (
            image.names[0],
            f"localhost/{image.names[0]}",
            samples.hexdigest(image.config),
        ):
            made = opened(bench.folder / "both.tar", store, image=name)
            expected = trees_of(image.layers, tmp_path / image.names[0][7:])
            assert trees(made, store) == expected


@pytest.mark.parametrize("pack", [samples.plain, samples.gz])
def test_docker_export_gives_the_same_root(
    pack: samples.Pack, docker_engine: RunningEngine, tmp_path: Path, store: Store
) -> None:
    """The flat root of a container of the image is the image's, but for what Docker adds."""
    start = samples.write(tmp_path / "start.tar", samples.docker_20(IMAGE))
    docker_engine.docker("load", "--input", str(start))
    container = docker_engine.docker("create", NAME, "/bin/sh")
    exported = tmp_path / "exported.tar"
    docker_engine.docker("export", "--output", str(exported), container)
    docker_engine.docker("rm", container)
    found = trees(opened(samples.write(exported, pack(exported.read_bytes())), store), store)
    expected = trees_of(IMAGE.layers, tmp_path / "expected")["rootfs"]
    for path, said in expected.items():
        if path != "etc":
            # Without extended attributes: ours name another layer, Docker's export has no users'.
            assert found["rootfs"][path][:-1] == said[:-1], path
    added = found["rootfs"].keys() - expected.keys()
    assert {path.partition("/")[0] for path in added} <= {".dockerenv", "dev", "etc", "proc", "sys"}


@pytest.mark.parametrize("packer", ["cat", "gzip", "zstd", "xz", "bzip2"])
def test_a_pipe_mounts(packer: str, docker_engine: RunningEngine, tmp_path: Path) -> None:
    """`docker save | gzip | imagefs mount - DIRECTORY` mounts, whatever compresses the pipe."""
    need_fuse()
    start = samples.write(tmp_path / "start.tar", samples.docker_20(IMAGE))
    docker_engine.docker("load", "--input", str(start))
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    line = '"$0" --host "$1" save "$2" | "$3" -c | "$4" -m imagefs mount --quiet - "$5"'
    if packer == "cat":
        line = line.replace(" -c", "")
    words = [DOCKER, docker_engine.host, NAME, packer, sys.executable, str(mountpoint)]
    environment = {**os.environ, "IMAGEFS_CACHE": str(tmp_path / "cache")}
    try:
        subprocess.run(["/bin/sh", "-c", line, *words], check=True, env=environment)
        assert (mountpoint / "rootfs/etc/conf").read_bytes() == b"a = 2\n"
        assert (mountpoint / "config.json").read_bytes() == IMAGE.config
    finally:
        clear(mountpoint)
