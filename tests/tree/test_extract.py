"""Copies of an image's files on this machine: exact, whole or not there, and never elsewhere."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from imagefs.errors import HostError, ImagefsError, PathError
from imagefs.host import trees
from imagefs.progress import Silent
from imagefs.tree.extract import copy
from imagefs.tree.tree import Tree
from tests.support import users
from tests.support.saved import docker_save
from tests.support.tars import Char, Dir, Fifo, File, Hard, Sym, layer
from tests.support.trees import (
    names_in,
    names_on_disk,
    told_by_disk,
    told_by_tree,
    tree_of_image,
    tree_of_layers,
)
from tests.test_hostile import KINDS, image_of, mounted
from tests.tree.test_export import COSTLY, exported, sparse

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has owners and devices")
BASE = layer(
    {
        "etc/": Dir(0o2750, uid=3, gid=4, mtime=5.25),
        "etc/motd": File("hello\n", 0o4640, uid=7, gid=4, mtime=-7, xattrs={"user.a": b"\0="}),
        "etc/same": Hard("etc/motd"),
        "etc/closed/": Dir(0, mtime=3),
        "etc/closed/x": File("x", 0),
        "link": Sym("etc/motd", uid=9, mtime=8),
        "away": Sym("/etc"),
        "odd\udcff\n": "odd",
        "null": Char(1, 3),
        "pipe": Fifo(0o600),
    }
)
TOP = layer({"etc/third": Hard("etc/motd"), "big": File(b"b" * (3 << 20))})


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return tree_of_layers([BASE, TOP], tmp_path / "image")


def copied(tree: Tree, path: str, to: Path) -> None:
    copy(tree, path, str(to), Silent())


@ROOT_ONLY
def test_a_copy_is_what_was_in_the_image(tree: Tree, tmp_path: Path) -> None:
    """Modes, owners, times, links, hard links, devices and attributes, of directories too."""
    copied(tree, "/", tmp_path / "out")
    assert told_by_disk(tmp_path / "out") == told_by_tree(tree)
    status, attr = (tmp_path / "out").stat(), tree.stat("/")
    assert (status.st_mode, status.st_mtime) == (attr.mode, attr.mtime)


@pytest.mark.parametrize(
    ("path", "to", "made"),
    [
        ("etc", "there", "there/etc/motd"),
        ("etc/", "there", "there/etc/motd"),
        ("etc", "new", "new/motd"),
        ("etc/.", "empty", "empty/motd"),
        ("/", "empty", "empty/etc/motd"),
        ("etc/motd", "there", "there/motd"),
        ("etc/motd", "new", "new"),
        ("etc/motd", "there/file", "there/file"),
        ("link", "there", "there/link"),
        ("etc/../etc/same", "there", "there/same"),
    ],
)
def test_it_is_called_as_cp_calls_it(
    path: str, to: str, made: str, tree: Tree, tmp_path: Path
) -> None:
    """In a directory that is there it keeps its name; else it is what was said."""
    for name in ("there", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "there/file").write_text("old")
    copied(tree, path, tmp_path / to)
    place = tmp_path / made
    assert place.is_symlink() or place.read_bytes() == b"hello\n"
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        ("etc", "full", "full/etc: there is a directory of that name, and not empty"),
        ("/", "full", "full: there is a directory of that name"),
        ("etc", "file", "file: there is a file of that name"),
        ("big", "full", "full/big: there is a directory of that name"),
        ("etc/motd", "no/such/place", "no/such/place: No such file"),
        ("etc/motd", "new/", "new: Not a directory"),
    ],
)
def test_nothing_is_overwritten_but_a_file_by_a_file(
    path: str, to: str, said: str, tree: Tree, tmp_path: Path
) -> None:
    """What is in the way stays, and is told of."""
    (tmp_path / "full/etc").mkdir(parents=True)
    (tmp_path / "full/etc/mine").write_text("mine")
    (tmp_path / "full/big").mkdir()
    (tmp_path / "file").write_text("mine")
    before = told_by_disk(tmp_path)
    with pytest.raises(HostError, match=said):
        copy(tree, path, f"{tmp_path}/{to}", Silent())
    assert told_by_disk(tmp_path) == before


def test_an_empty_directory_is_filled_where_it_is(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be where the user stands, or a link; and it is empty again if that fails."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "link").symlink_to("here")
    before = here.stat().st_ino
    lost = tree_of_layers([layer({"a/b": "", "lost": Hard("no")})], tmp_path / "lost")
    with pytest.raises(PathError, match="lost"):
        copied(lost, "/", here)
    assert list(here.iterdir()) == []
    monkeypatch.chdir(here)
    copied(tree, "etc/.", Path("."))
    assert (here / "motd").stat().st_nlink == 3
    for name in ("motd", "same", "third", "closed/x"):
        (here / name).unlink()
    (here / "closed").rmdir()
    copied(tree, "/", tmp_path / "link")
    assert (here / "etc/motd").read_text() == "hello\n"
    assert here.stat().st_ino == before


def test_holes_are_kept(tmp_path: Path) -> None:
    """A file of 64 GiB with little in it takes little of the disk."""
    runs = ((4096, 700), (1 << 35, 1000))
    tree = tree_of_layers([sparse(1 << 36, *runs)], tmp_path / "image")
    copied(tree, "sparse", tmp_path / "out")
    status = (tmp_path / "out").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (1 << 36, True)
    with (tmp_path / "out").open("rb") as file:
        for start, length in runs:
            file.seek(start - 1)
            assert file.read(length + 2) == b"\0" + b"s" * length + b"\0"


def test_however_deep_it_is(tmp_path: Path) -> None:
    """More levels than Python's stack, a path or open files allow, made and taken away again."""
    depth = 3000
    names = [b"d" * (n % 3 + 1) for n in range(depth)]
    members = {f"{'d/' * n}f": str(n) for n in (1, 900)}
    tree = tree_of_layers([layer(members)], tmp_path / "image")
    copied(tree, "/", tmp_path / "out")
    assert (tmp_path / "out" / ("d/" * 900) / "f").read_text() == "900"
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        at = os.dup(here)
        for name in names:
            os.mkdir(name, dir_fd=at)
            below = os.open(name, os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        trees.remove(here, os.fsdecode(names[0]))
        trees.remove(here, "out")
    finally:
        os.close(here)
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


CASES = [
    (kind, name)
    for kind in ("names", "links", "whiteouts", "sparse")
    for name, case in KINDS[kind].items()
    if case.says is None and not COSTLY.search(name)
]


@ROOT_ONLY
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_hostile_trees_stay_where_they_are_put(kind: str, name: str, tmp_path: Path) -> None:
    """A stranger's tree is copied whole into its directory, or one line says why it is not."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "outside").write_text("mine")
    image = image_of(KINDS[kind][name], tmp_path / "parts")
    tree = tree_of_image(image, mounted(image, tmp_path / "parts"))
    before = names_on_disk(tmp_path)
    try:
        copied(tree, "/", tmp_path / "out")
    except ImagefsError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some are whole, and some not
    else:
        assert names_on_disk(tmp_path / "out") == names_in(tree)
        here = os.open(tmp_path, os.O_RDONLY)
        trees.remove(here, "out")
        os.close(here)
    assert names_on_disk(tmp_path) == before
    assert (tmp_path / "outside").read_text() == "mine"


def test_planted_links_lead_nowhere(tmp_path: Path) -> None:
    """An upper layer that writes below a lower one's link writes into the image's directories."""
    outside = tmp_path / "outside"
    outside.mkdir()
    lower = layer({"a": Sym(str(outside)), "b": Sym("../../outside"), "c/": ""})
    upper = layer({"a/x": "x", "b/x": "x", "c/d": Sym(str(outside)), "c/d/x": Hard("a/x")})
    tree = tree_of_layers([lower, upper], tmp_path / "image")
    copied(tree, "/", tmp_path / "out")
    assert list(outside.iterdir()) == []


def test_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    """What does not fit is taken away again, and the error names where it did not."""
    members = {f"d/{number}": File(bytes(1 << 20)) for number in range(20)}
    place = small_disk.parent / "image-of-full-disk"
    place.mkdir()
    tree = tree_of_layers([layer({**members, "f": File(bytes(20 << 20))})], place)
    free = os.statvfs(small_disk).f_bavail
    for path in ("/", "d", "f"):
        with pytest.raises(HostError, match=f"{small_disk}/out: No space left"):
            copied(tree, path, small_disk / "out")
        assert list(small_disk.iterdir()) == []
        assert os.statvfs(small_disk).f_bavail == free


def test_ordinary_users_copy_what_they_may(tmp_path: Path) -> None:
    """Owners are theirs, set-user-id bits go with the owner, and devices are told of."""
    with users.others(users.NOBODY) as (user,):
        user.file("app.tar", docker_save(BASE, TOP))
        answer = user.imagefs("cp", "-q", "app.tar", "/", "out")
        assert answer.status == 0, answer.err
        assert answer.err == "imagefs: warning: 1 devices left out: only root makes them\n"
        listed = user.run("stat", "-c", "%n %a %u", "out/etc/motd", "out/etc", "out/etc/closed")
        told = [line.split()[:3] for line in listed.out.splitlines()]
        assert told == [
            ["out/etc/motd", "640", "65534"],
            ["out/etc", "750", "65534"],
            ["out/etc/closed", "0", "65534"],
        ]
        assert user.run("cat", "out/link").out == "hello\n"


@ROOT_ONLY
def test_a_copy_by_gnu_tar_is_the_same(tree: Tree, tmp_path: Path) -> None:
    """What `export` writes and GNU tar extracts is what `cp` makes."""
    copied(tree, "/", tmp_path / "out")
    (tmp_path / "tar").mkdir()
    subprocess.run(
        ["tar", "-xp", "--xattrs", "--xattrs-include=*", "-C", tmp_path / "tar"],
        input=exported(tree),
        check=True,
    )
    assert told_by_disk(tmp_path / "tar") == told_by_disk(tmp_path / "out")
    assert stat.S_ISCHR((tmp_path / "tar/null").stat().st_mode)
