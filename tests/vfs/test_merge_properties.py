"""The lazy merge against the obvious eager one, and both against real unpacking, at random."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagefs.index import cache as index_cache
from imagefs.vfs.image_fs import ImageFs, image_fs
from tests.support import oracle
from tests.support.tars import (
    Char,
    Dir,
    Fifo,
    File,
    Hard,
    Node,
    Sym,
    image_of,
    layer,
    paths,
)

PARTS = st.sampled_from(["a", "b", "c"])
LAST = st.one_of(
    PARTS,
    PARTS,
    PARTS,
    PARTS.map(".wh.".__add__),
    st.sampled_from([oracle.OPAQUE, oracle.OPAQUE, ".wh..wh.x", ".wh.", ".wh..", ".wh..."]),
)
PATHS = st.builds(
    lambda parents, last: "/".join([*parents, last]), st.lists(PARTS, max_size=2), LAST
)
ODD_PATHS = st.one_of(
    PATHS,
    PATHS,
    PATHS,
    PATHS.map("./".__add__),
    PATHS.map("/../".__add__),
    PATHS.map("a//./".__add__),
    PATHS.map("b/../".__add__),
    PATHS.map(lambda path: path + "/."),
    st.sampled_from(["./", ".wh.a/x", ".wh.b/.wh.c"]),
)
TARGETS = st.one_of(
    PATHS,
    PATHS.map("/".__add__),
    PATHS.map("../".__add__),
    st.sampled_from([".", "/", "..", "a/../b", "./c/"]),
)
HEADER = {
    "uid": st.integers(0, 2),
    "gid": st.integers(0, 2),
    "mtime": st.integers(0, 3),
    "xattrs": st.sampled_from([{}, {}, {"user.k": b"v"}]),
}
MODES = st.sampled_from([0o644, 0o755, 0o4750, 0])
NODES = st.one_of(
    st.builds(File, st.sampled_from(["", "x", "yy"]), MODES, **HEADER),
    st.builds(Dir, MODES, **HEADER),
    st.builds(Sym, TARGETS, **HEADER),
    st.builds(Hard, ODD_PATHS, **HEADER),
    st.sampled_from([Fifo(), Char(0, 0), Char(1, 3)]),
)
LAYERS = st.lists(
    st.lists(st.tuples(ODD_PATHS, NODES), max_size=10),
    min_size=1,
    max_size=4,
)


@contextmanager
def mounted(layers: list[list[tuple[str, Node]]]) -> Iterator[tuple[ImageFs, list[str]]]:
    """Show layers as a file system; they are indexed here and not in worker processes."""
    with tempfile.TemporaryDirectory() as folder:
        image = image_of(map(layer, layers), Path(folder))
        for one in image.layers:
            index_cache.build(one, Path(folder))
        yield image_fs(image, Path(folder)), list(image.layer_names())


@settings(max_examples=200, deadline=None)
@given(LAYERS)
def test_lazy_merge_is_the_eager_one(layers: list[list[tuple[str, Node]]]) -> None:
    """Every layer and every snapshot shows what eager unpacking and merging would leave."""
    with mounted(layers) as (fs, names):
        trees = [oracle.unpack(members, number) for number, members in enumerate(layers)]
        for name, tree in zip(names, trees, strict=True):
            assert oracle.shown(fs, f"layers/{name}", names) == oracle.expected(tree)
        for name, tree in zip(names, oracle.stack(trees), strict=True):
            assert oracle.shown(fs, f"snapshots/{name}", names) == oracle.expected(tree)
        assert oracle.shown(fs, "rootfs", names) == oracle.expected(tree)


# On a real disk: each layer unpacked by GNU tar, then laid on what is there by hand

Branch: TypeAlias = "Node | tuple[Node | None, Mapping[str, Branch]]"
"""A leaf, or a directory: its own member if it has one, and what it holds."""

NAMES = st.one_of(
    PARTS, PARTS, PARTS.map(".wh.".__add__), st.sampled_from([oracle.OPAQUE, ".wh..wh.x"])
)
DIRECTORIES = st.one_of(st.none(), st.builds(Dir, MODES, **HEADER))
LEAVES = st.one_of(
    st.builds(File, st.sampled_from(["", "x", "yy"]), MODES, **HEADER),
    st.builds(Sym, st.sampled_from(["x", "/a"]), uid=HEADER["uid"], mtime=HEADER["mtime"]),
    st.sampled_from([Fifo(), Char(1, 3)]),
)


def branches(depth: int) -> st.SearchStrategy[Branch]:
    """Return trees of at most `depth` directories above each other; markers are never such."""
    if not depth:
        return LEAVES
    below = st.dictionaries(NAMES, branches(depth - 1), min_size=1, max_size=4)
    return st.one_of(LEAVES, st.tuples(DIRECTORIES, below))


@st.composite
def consistent_layers(draw: st.DrawFn) -> list[tuple[str, Node]]:
    """Draw a layer in which no name comes twice, in any order, with hard links at its end."""
    top = draw(st.dictionaries(NAMES, branches(2), max_size=4))
    members = list(flat(top, ""))
    files = [name for name, node in members if node.type == File().type]
    members = draw(st.permutations(members))
    if files:
        targets = draw(st.lists(st.sampled_from(files), max_size=2))
        members += [(f"link{at}", Hard(name)) for at, name in enumerate(targets)]
    return members


def flat(tree: Mapping[str, Branch], prefix: str) -> Iterator[tuple[str, Node]]:
    for name, branch in tree.items():
        if isinstance(branch, Node):
            yield prefix + name, branch
        elif not name.startswith(".wh."):
            if branch[0]:
                yield f"{prefix}{name}/", branch[0]
            yield from flat(branch[1], f"{prefix}{name}/")


class Disk:
    """A root directory that layers are laid on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept: dict[str, os.stat_result] = {}

    def lay(self, alone: Path, described: set[str]) -> None:
        """Lay an unpacked layer on the root; `described` are its directories with a member."""
        for folder, _, files in os.walk(alone):
            for name in files:
                self.delete(os.path.relpath(folder, alone), name)
        for folder, folders, files in os.walk(alone):
            here = os.path.relpath(folder, alone)
            folders[:] = [
                name
                for name in folders
                if f".wh.{name}" not in files or not is_bare(Path(folder, name), alone, described)
            ]
            for name in folders:
                self.enter(os.path.normpath(f"{here}/{name}"), alone, described)
            for name in files:
                if not name.startswith(".wh."):
                    self.remove(self.root / here / name)
                    os.link(f"{folder}/{name}", self.root / here / name, follow_symlinks=False)

    def delete(self, here: str, marker: str) -> None:
        """Do what a marker says."""
        folder = self.root / here
        if marker == oracle.OPAQUE and folder.is_dir() and not folder.is_symlink():
            for child in folder.iterdir():
                self.remove(child)
        elif marker.startswith(".wh.") and not marker.startswith(".wh..wh."):
            self.remove(folder / marker.removeprefix(".wh."))

    def remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
        gone = os.path.relpath(path, self.root)
        self.kept = {p: s for p, s in self.kept.items() if not f"{p}/".startswith(f"{gone}/")}

    def enter(self, path: str, alone: Path, described: set[str]) -> None:
        """Make a directory, and keep what its member says of it until all is in place."""
        there = self.root / path
        if there.is_symlink() or not there.is_dir():
            self.remove(there)
            there.mkdir(0o755)
        if path in described:
            self.kept[path] = (alone / path).stat()

    def listing(self) -> dict[str, tuple[object, ...]]:
        """Return what is there, by path, and which paths are one inode."""
        found: dict[str, tuple[object, ...]] = {}
        inodes: dict[int, set[str]] = {}
        for folder, folders, files in os.walk(self.root):
            for name in folders + files:
                path = os.path.relpath(f"{folder}/{name}", self.root)
                status = self.kept.get(path) or (self.root / path).lstat()
                mtime = int(status.st_mtime)
                if stat.S_ISDIR(status.st_mode) and path not in self.kept:
                    mtime = 0
                inode = inodes.setdefault((self.root / path).lstat().st_ino, set())
                inode.add(path)
                owner = status.st_uid, status.st_gid
                found[path] = (status.st_mode, *owner, mtime, on_disk(self.root / path), inode)
        return found


def is_bare(folder: Path, alone: Path, described: set[str]) -> bool:
    """Tell whether a directory is there for the sake of markers only."""
    return os.path.relpath(folder, alone) not in described and all(
        is_bare(child, alone, described)
        if child.is_dir() and not child.is_symlink()
        else child.name.startswith(".wh.")
        for child in folder.iterdir()
    )


def on_disk(path: Path) -> object:
    if path.is_symlink():
        return os.readlink(path)
    return path.read_bytes() if path.is_file() else None


def listing(fs: ImageFs, top: str) -> dict[str, tuple[object, ...]]:
    """Return what a file system shows, as Disk.listing does."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, set[str]] = {}
    for path, attr in paths(fs, top).items():
        inode = inodes.setdefault(attr.node, set())
        inode.add(path)
        content = oracle.content_of(fs, path, top)
        if stat.S_ISCHR(attr.mode):
            content = None
        found[path] = (attr.mode, attr.uid, attr.gid, attr.mtime, content, inode)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can unpack devices and owners")
@settings(max_examples=40, deadline=None)
@given(st.lists(consistent_layers(), min_size=1, max_size=3))
def test_merge_is_what_unpacking_leaves(layers: list[list[tuple[str, Node]]]) -> None:
    """The merged root is what `tar -x` of each layer and following its markers leaves on disk."""
    with mounted(layers) as (fs, names), tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder, "root"))
        disk.root.mkdir()
        for number, members in enumerate(layers):
            alone = Path(folder, str(number))
            alone.mkdir()
            unpack = ["tar", "-xpf", "-", "--numeric-owner", "--delay-directory-restore"]
            subprocess.run(unpack, input=layer(members), cwd=alone, check=True)
            disk.lay(alone, {name.rstrip("/") for name, _ in members if name.endswith("/")})
            assert listing(fs, f"snapshots/{names[number]}") == disk.listing()
