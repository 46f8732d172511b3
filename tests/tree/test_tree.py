"""An image as an object of Python: paths and nodes, without a mount."""

import errno
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import imagefs
from imagefs.errors import UsageError
from imagefs.tree.tree import Tree
from tests.support.saved import docker_save
from tests.support.tars import File, Hard, Sym, layer

BASE = layer(
    {
        "etc/": "",
        "etc/motd": File("hello\n", 0o640, uid=3, gid=4, mtime=5, xattrs={"user.a": b"b"}),
        "etc/same": Hard("etc/motd"),
        "gone": "x",
        "up": Sym("../../../etc"),
        "abs": Sym("/etc/motd"),
        "outside": Sym("/proc/self/environ"),
        "loop": Sym("loop"),
        "big": File(bytes(range(256)) * 2000),
    }
)
TOP = layer(
    {".wh.gone": "", "etc/": "", "etc/new": Sym("motd"), "a/": "", "a/b/": "", "a/b/c": "!"}
)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """An image of two layers."""
    (tmp_path / "app.tar").write_bytes(docker_save(BASE, TOP, steps=("ADD base", "RUN top")))
    with imagefs.open_image(tmp_path / "app.tar") as opened:
        yield opened


def test_paths_lead_where_they_do_on_a_mount(tree: Tree) -> None:
    """Links are followed inside the image, an absolute one from its root; `..` ends there."""
    for path in ("etc/motd", "/etc/motd", b"abs", "up/motd", "etc/new", "a/../../up/same"):
        with tree.open(path) as file:
            assert file.read() == b"hello\n", path
    assert stat.S_ISLNK(tree.stat("abs", follow=False).mode)
    assert tree.readlink("up") == b"../../../etc"
    found = tree.stat("etc/motd")
    assert (found.mode, found.uid, found.gid, found.size) == (stat.S_IFREG | 0o640, 3, 4, 6)
    assert found.nlink == 2
    assert tree.stat("etc/same").node == found.node
    assert tree.xattrs("abs") == {b"user.a": b"b"}


def test_each_node_has_an_origin(tree: Tree) -> None:
    """A node is told of with the layer directory that it comes from, and that layer's step."""
    for path, number, step in (("etc/motd", 0, "ADD base"), ("etc/new", 1, "RUN top")):
        assert tree.origin(path) == (tree.layers[number], step)


def test_a_walk_goes_through_no_link(tree: Tree) -> None:
    """A walk comes to each directory once, before what it holds."""
    assert [one.path for one in tree.walk()] == [b"", b"a", b"a/b", b"etc"]
    assert [one.path for one in tree.walk("/a")] == [b"a", b"a/b"]
    assert [entry.name for entry in tree.listdir("up")] == [b"motd", b"new", b"same"]


def test_files_are_seekable(tree: Tree) -> None:
    """Any part of a file can be had, in any order, and reading past the end gives nothing."""
    content = bytes(range(256)) * 2000
    with tree.open("big") as file:
        for at in (511_000, 0, 131_071, 131_072, len(content), len(content) + 9):
            assert file.seek(at) == at
            assert file.read(700) == content[at : at + 700]
        assert file.seek(-5, os.SEEK_END) == len(content) - 5
        assert file.read() == content[-5:]


@pytest.mark.parametrize(
    ("number", "call"),
    [
        (errno.ENOENT, lambda tree: tree.stat("no")),
        (errno.ENOENT, lambda tree: tree.stat("gone")),
        (errno.ENOENT, lambda tree: tree.open("outside")),
        (errno.ELOOP, lambda tree: tree.stat("loop")),
        (errno.ENOTDIR, lambda tree: tree.stat("etc/motd/x")),
        (errno.ENOTDIR, lambda tree: tree.stat("etc/motd/")),
        (errno.ENOTDIR, lambda tree: tree.listdir("abs")),
        (errno.ENOTDIR, lambda tree: list(tree.walk("abs"))),
        (errno.EISDIR, lambda tree: tree.open("etc")),
        (errno.EINVAL, lambda tree: tree.readlink("etc")),
    ],
)
def test_what_cannot_be_is_told_as_on_a_mount(
    tree: Tree, number: int, call: Callable[[Tree], Any]
) -> None:
    """An error has the number that the kernel would give, and the path."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        call(tree)
    assert caught.value.errno == number
    assert caught.value.filename


def test_views_are_named_by_number_or_in_full(tmp_path: Path) -> None:
    """A layer or snapshot is told by its number or its name; one that is not there is refused."""
    archive = tmp_path / "app.tar"
    archive.write_bytes(docker_save(BASE, TOP))
    with imagefs.open_image(archive, "layers/01") as tree:
        assert tree.stat(".wh.gone").size == 0
        full = f"snapshots/{tree.layers[0]}"
    for view in ("snapshots/00", "snapshots/0", full):
        with imagefs.open_image(archive, view) as tree:
            assert tree.stat("gone").size == 1
            assert tree.stat("..").node == tree.stat("/").node
    with pytest.raises(UsageError, match="no view"):
        imagefs.open_image(archive, "layers/07")


def test_a_tree_is_pickled_and_closed(tree: Tree) -> None:
    """The other side opens the same source anew; a closed tree answers nothing."""
    with pickle.loads(pickle.dumps(tree)) as other:
        assert other.open("abs").read() == b"hello\n"
    with pytest.raises(ValueError, match="closed"):
        other.stat("/")
