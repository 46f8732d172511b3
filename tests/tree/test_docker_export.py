"""Forty random images: as Docker exports them, as a mount shows them, and as we take them out."""

import io
import json
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import imagefs
from imagefs.progress import Silent
from imagefs.tree.extract import copy
from imagefs.tree.tree import Tree
from tests.mounts.test_docker_oracle import differences, from_disk, from_tar
from tests.support import needs
from tests.support.engines import RunningEngine
from tests.support.mounted import COMMAND, mounted
from tests.support.samples import SampleImage, docker_20, tar_of
from tests.support.tars import Char, Dir, Fifo, File, Node, Sym, layer
from tests.tree.test_export import exported

IMAGES = 40
OWNERS = (0, 3, 2**21 + 1)


Facts = dict[str, tuple[Any, ...]]


def unlike(ours: Facts, theirs: Facts) -> dict[str, tuple[Any, Any]]:
    """Return where they differ; which of a file's names comes first is nobody's business."""
    return differences(_settled(ours), _settled(theirs))


def _settled(facts: Facts) -> Facts:
    names: dict[str, str] = {}
    for name in sorted(facts):
        names.setdefault(facts[name][-1], name)
    return {name: (*said[:-1], names[said[-1]]) for name, said in facts.items()}


class _Maker:
    """Makes layers as engines write them: parents first, each path once."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._held: dict[str, Node] = {"bin": Dir()}
        self._members: dict[str, Node] = {}
        self._touched: set[str] = set()

    def layers(self) -> Iterator[bytes]:
        for _ in range(self._chance.randint(2, 5)):
            self._members, self._touched = {}, set()
            self._enter("bin")
            for _ in range(self._chance.randint(3, 14)):
                self._step()
            yield layer(self._members)

    def _enter(self, folder: str) -> None:
        parts = folder.split("/")
        for path in ("/".join(parts[: depth + 1]) for depth in range(len(parts))):
            if path not in self._touched:
                self._touched.add(path)
                self._members[f"{path}/"] = self._held[path]

    def _step(self) -> None:
        chance, held = self._chance, self._held
        folder = chance.choice([path for path in held if _is_directory(held[path])])
        name = f"{folder}/{chance.choice(('a', 'b', 'é', 'n' * 120))}{chance.randint(0, 3)}"
        if name in self._touched:
            return
        if name in held and chance.random() < 0.4:
            self._enter(folder)
            self._members[f"{folder}/.wh.{name.rpartition('/')[2]}"] = File()
            for path in [path for path in held if f"{path}/".startswith(f"{name}/")]:
                del held[path]
        else:
            node = self._node()
            if name in held and _is_directory(held[name]) and not _is_directory(node):
                return
            self._enter(folder)
            self._members[f"{name}/" if _is_directory(node) else name] = held[name] = node
        self._touched.add(name)

    def _node(self) -> Node:
        chance = self._chance
        header: dict[str, Any] = {
            "uid": chance.choice(OWNERS),
            "gid": chance.choice(OWNERS),
            "mtime": chance.randint(0, 2**33),
        }
        made = {
            "f": File(chance.randbytes(chance.randint(1, 5000)), 0o4755, **header),
            "d": Dir(0o2750, **header),
            "l": Sym("../" * chance.randint(0, 3) + "bin", **header),
            "c": Char(5, chance.randint(1, 255), 0o620),
            "p": Fifo(0o600),
        }
        files = [path for path, node in self._members.items() if node.content]
        if files and chance.random() < 0.15:
            path = chance.choice(files)
            # Docker gives a file what its last name's header says.
            return replace(self._members[path], type=tarfile.LNKTYPE, content=b"", target=path)
        return made[chance.choice("fffddlcp")]


def _is_directory(node: Node) -> bool:
    return node.type == tarfile.DIRTYPE


def image(seed: int) -> SampleImage:
    """Return an image of a few layers, each of which adds, replaces and deletes by chance."""
    return SampleImage(tuple(_Maker(seed).layers()), (f"random:{seed}",))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forty") / "forty.tar"
    path.write_bytes(tar_of(docker_20(*map(image, range(IMAGES)))))
    return path


@pytest.fixture(scope="module")
def trees(archive: Path) -> Iterator[list[Tree]]:
    """The forty, opened."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEFS_CACHE", str(archive.with_suffix(".cache")))
        yield [imagefs.open_image(archive, image=f"random:{seed}") for seed in range(IMAGES)]


@pytest.fixture(scope="module")
def exports(trees: list[Tree]) -> list[bytes]:
    return [exported(tree) for tree in trees]


def test_an_export_is_dockers(
    docker_engine: RunningEngine,
    archive: Path,
    trees: list[Tree],
    exports: list[bytes],
    tmp_path: Path,
) -> None:
    """What Docker says of a container that nobody has started, `export` and `cp` say, too."""
    docker_engine.docker("load", "-q", "-i", str(archive))
    path = tmp_path / "exported"
    for seed, tree in enumerate(trees):
        container = docker_engine.docker("create", f"random:{seed}", "/bin/sh")
        docker_engine.docker("export", "-o", str(path), container)
        theirs = from_tar(path.read_bytes())
        assert unlike(from_tar(exports[seed]), theirs) == {}
        copy(tree, "/", str(tmp_path / str(seed)), Silent())
        assert unlike(from_disk(tmp_path / str(seed)), theirs) == {}


def test_an_export_is_the_same_each_time(trees: list[Tree], exports: list[bytes]) -> None:
    """To the byte, so that it has one digest."""
    assert [exported(tree) for tree in trees] == exports


@pytest.mark.parametrize(("reader", "package"), [("tar", "tar"), ("bsdtar", "libarchive-tools")])
def test_both_tars_list_it(reader: str, package: str, exports: list[bytes]) -> None:
    """GNU tar and bsdtar find each name that Python's tarfile does."""
    tool = needs.need_tool(reader, package)
    for tar in exports:
        done = subprocess.run(
            [tool, "tf", "-"], input=tar, capture_output=True, check=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TAR_OPTIONS": ""},
        )  # fmt: skip
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            names = opened.getnames()
        # GNU tar shows what is no ASCII by its bytes, in octal digits.
        shown = [name.replace("é", "\\303\\251") for name in names]
        listed = [line.rstrip("/") for line in done.stdout.decode().splitlines()]
        assert listed in (names, shown)


def test_a_mount_shows_the_same(archive: Path, exports: list[bytes], tmp_path: Path) -> None:
    """A mount of all forty agrees with the exports, and with `ls -lR --json`."""
    needs.need_fuse()
    with mounted(archive, tmp_path / "m", "--all") as mountpoint:
        for seed, tar in enumerate(exports):
            there = from_disk(mountpoint / f"random:{seed}" / "rootfs")
            assert unlike(from_tar(tar), there) == {}
            if seed % 8:
                continue
            words = ["ls", "-q", "-alR", "--json", "--image", f"random:{seed}", str(archive)]
            listed = subprocess.run([*COMMAND, *words], capture_output=True, check=True).stdout
            said = {one["path"][1:]: one for one in map(json.loads, listed.splitlines())}
            assert said.keys() == there.keys()
            for path, one in said.items():
                _, mode, uid, gid, mtime, target, *_ = there[path]
                assert (int(one["mode"], 8), one["uid"], one["gid"]) == (mode, uid, gid)
                assert (one["mtime"], one["target"] or "") == (mtime, target)
