"""What differs between two trees, beside the obvious way to find it: all of both, path by path."""

import os
import stat
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagefs.errors import PathError
from imagefs.image.options import SourceOptions
from imagefs.index import cache as index_cache
from imagefs.source.opening import SourceRequest
from imagefs.tree import unified
from imagefs.tree.compare import ASPECTS, Change, changes
from imagefs.tree.opening import open_two
from imagefs.tree.tree import Tree
from tests.support.saved import docker_save
from tests.support.tars import Char, Dir, File, Hard, Node, Sym, layer
from tests.support.trees import tree_of_layers
from tests.tree.test_export import sparse
from tests.vfs.test_merge_properties import LAYERS

Members = list[tuple[str, Node]]


def told(found: Sequence[Change]) -> dict[bytes, tuple[str, tuple[str, ...]]]:
    return {one.path: (one.kind, one.what) for one in found}


def aspects(tree: Tree, path: bytes, attr: Any) -> tuple[Any, ...]:
    """Return what there is to say of something, in the order of ASPECTS."""
    kind = stat.S_IFMT(attr.mode)
    content: object = None
    if kind == stat.S_IFREG:
        try:
            content = tree.read(attr, 0, attr.size, path)
        except OSError:
            content = "lost"
    target = tree.fs.readlink(attr.node) if kind == stat.S_IFLNK else None
    device = attr.rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else None
    mode = None if kind == stat.S_IFLNK else stat.S_IMODE(attr.mode)
    times = attr.mtime, attr.mtimensec
    xattrs = tree.node_xattrs(attr.node)
    return kind, content, target, device, mode, (attr.uid, attr.gid), times, xattrs


def everything(tree: Tree) -> dict[bytes, tuple[Any, ...]]:
    found = {b"": aspects(tree, b"", tree.stat("/"))}
    for walked in tree.walk():
        for name, attr in walked.entries:
            path = walked.path + b"/" + name if walked.path else name
            found[path] = aspects(tree, path, attr)
    return found


def brute_force(old: Tree, new: Tree) -> dict[bytes, tuple[str, tuple[str, ...]]]:
    """Return what differs, from all that both say of all paths."""
    before, after = everything(old), everything(new)
    found: dict[bytes, tuple[str, tuple[str, ...]]] = {}
    for path in sorted(before.keys() | after.keys()):
        one, other = before.get(path), after.get(path)
        if other is None:
            above = path.rpartition(b"/")[0]
            if after.get(above, (0,))[0] == stat.S_IFDIR:
                found[path] = "D", ()
        elif one is None:
            found[path] = "A", ()
        elif one != other:
            same_kind = one[0] == other[0]
            link = stat.S_IFLNK in (one[0], other[0])
            what = tuple(
                aspect
                for aspect, mine, theirs in zip(ASPECTS, one, other, strict=True)
                if mine != theirs
                and (same_kind or aspect not in ("content", "target", "device"))
                and not (aspect == "mode" and link)
            )
            if what:
                found[path] = "C", what
    return found


@settings(max_examples=150, deadline=None)
@given(LAYERS, LAYERS, st.integers(0, 4))
def test_it_is_what_brute_force_finds(
    first: list[Members], second: list[Members], shared: int
) -> None:
    """Of images that begin alike, whose layers are one, and of any two snapshots of one image."""
    both = [layer(members) for members in first], [layer(members) for members in second]
    stacks = both[0], both[0][:shared] + both[1]
    with tempfile.TemporaryDirectory() as folder:
        trees = open_both(stacks, Path(folder))
        assert trees[0].fs is trees[1].fs
        agree(*trees)
        new = trees[1]
        names = new.snapshots()
        for below, above in pairwise(names):
            agree(new.at(f"snapshots/{below}"), new.at(f"snapshots/{above}"))


def agree(old: Tree, new: Tree) -> None:
    wanted = brute_force(old, new)
    found = list(changes(old, new))
    assert told(found) == wanted
    assert len({one.path for one in found}) == len(found)


def open_both(stacks: Sequence[Sequence[bytes]], folder: Path) -> tuple[Tree, Tree]:
    """Open two archives as the command does, their layers indexed in this process."""
    requests = []
    for number, layers in enumerate(stacks):
        archive = folder / f"{number}.tar"
        archive.write_bytes(docker_save(*layers))
        requests.append(SourceRequest(str(archive), SourceOptions()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEFS_CACHE", str(folder / "cache"))
        patch.setattr(index_cache, "ensure", _index_here)
        return open_two(requests[0], requests[1], "rootfs")


def _index_here(layers: Sequence[Any], index_dir: Path, _packed: int | None = None) -> None:
    for one in index_cache.missing(layers, index_dir):
        index_cache.build(one, index_dir)


BASE = layer(
    {
        "etc/": "",
        "etc/conf": "a = 1\n",
        "etc/gone/": "",
        "etc/gone/x": "x",
        "bin/tool": File("tool", 0o755),
        "bin/other": "1",
        "same/": "",
        "same/file": "same",
        "link": Sym("etc"),
        "tty": Char(5, 1),
        "kind": "file",
    }
)
STEPS: list[dict[str, Any]] = [
    {"etc/.wh.gone": "", "etc/conf": "a = 2\n"},
    {"bin/tool": File("tool", 0o4755), "new/": "", "new/x": Hard("etc/conf")},
    {"kind/": "", "kind/x": "x", "link": Sym("bin"), "tty": Char(5, 2)},
    {"bin/other": File("1", 0o644, mtime=9, uid=3, xattrs={"user.a": b"b"})},
]


def test_each_change_is_told_with_the_layer_that_did_it(tmp_path: Path) -> None:
    """What is added, changed and deleted, in order, and where; a deleted directory is one line."""
    tree = tree_of_layers([BASE, *(layer(step) for step in STEPS)], tmp_path / "image")
    found = list(changes(tree.at("snapshots/00"), tree))
    said = [
        (one.kind, one.path.decode(), one.what, tree.layers.index(one.origin.layer))
        for one in found
        if one.origin
    ]
    assert said == [
        ("C", "bin/other", ("owner", "mtime", "xattr"), 4),
        ("C", "bin/tool", ("mode",), 2),
        ("C", "etc/conf", ("content",), 1),
        ("D", "etc/gone", (), 1),
        ("C", "kind", ("type", "mode"), 3),
        ("A", "kind/x", (), 3),
        ("C", "link", ("target",), 3),
        ("A", "new", (), 2),
        ("A", "new/x", (), 1),
        ("C", "tty", ("device",), 3),
    ]
    assert len(found) == len(said)
    assert [one.path for one in changes(tree, tree)] == []
    assert [one.path for one in changes(tree.at("snapshots/00"), tree, ASPECTS)] == [
        b"etc/gone", b"kind/x", b"new", b"new/x"
    ]  # fmt: skip


def test_what_a_layer_deleted_is_not_looked_for_in_all_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what was there before it, no more snapshots are opened than it takes to know."""
    layers = [layer({f"f{n}": "", f".wh.f{n - 1}": ""}) for n in range(1, 30)]
    tree = tree_of_layers(layers, tmp_path / "image")
    old, new = (tree.at(f"snapshots/{name}") for name in tree.layers[-2:])
    opened: list[str] = []
    at = Tree.at

    def counted(self: Tree, view: str) -> Tree:
        opened.append(view)
        return at(self, view)

    monkeypatch.setattr(Tree, "at", counted)
    said = [(one.kind, one.path, one.origin and one.origin.layer) for one in changes(old, new)]
    assert said == [("D", b"f28", tree.layers[-1]), ("A", b"f29", tree.layers[-1])]
    assert len(opened) <= 2


def test_what_two_images_share_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of the same bytes are one, so that what they show in both is passed over."""
    old, new = open_both([[BASE, layer(STEPS[0])], [BASE, layer(STEPS[1])]], tmp_path)
    listed: list[int] = []
    listdir = old.fs.listdir

    def counted(node: int) -> Any:
        listed.append(node)
        return listdir(node)

    monkeypatch.setattr(old.fs, "listdir", counted)
    assert b"etc/conf" in [one.path for one in changes(old, new)]
    assert new.stat("etc").node in listed
    assert not {tree.stat("same").node for tree in (old, new)} & set(listed)


def test_bytes_that_were_compared_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless one of the archives was written to since, though its size and time are the same."""
    read: list[int] = []
    preadv = os.preadv

    def counted(fd: int, rooms: Any, at: int) -> Any:
        read.append(sum(map(len, rooms)))
        return preadv(fd, rooms, at)

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setenv("IMAGEFS_CACHE", str(tmp_path / "cache"))
    stacks = [[BASE, layer(STEPS[0])], [BASE, layer(STEPS[1])]]
    wanted = told(list(changes(*open_both(stacks, tmp_path))))
    assert sum(read) == 2 * len(BASE)
    requests = [SourceRequest(str(tmp_path / f"{number}.tar")) for number in range(2)]
    read.clear()
    assert told(list(changes(*open_two(requests[0], requests[1], "rootfs")))) == wanted
    assert told(list(changes(*open_two(requests[1], requests[0], "rootfs"))))
    assert read == []
    archive = tmp_path / "1.tar"
    before = archive.stat()
    with archive.open("r+b") as file:
        file.write(archive.read_bytes().replace(b"a = 1\n", b"a = 7\n"))
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = told(list(changes(*open_two(requests[0], requests[1], "rootfs"))))
    assert found[b"etc/conf"] == ("C", ("content",))
    assert read


def test_who_says_wrongly_that_a_layer_is_shared_is_found_out(tmp_path: Path) -> None:
    """A layer of the same digest and other bytes is another; its changes show."""
    old, changed = BASE, BASE.replace(b"a = 1\n", b"a = 7\n")
    for name, content in (("old", old), ("new", changed)):
        archive = docker_save(old).replace(old, content)
        (tmp_path / name).write_bytes(archive)
    requests = [SourceRequest(str(tmp_path / name)) for name in ("old", "new")]
    trees = open_two(requests[0], requests[1], "rootfs")
    assert told(list(changes(*trees))) == {b"etc/conf": ("C", ("content",))}


def test_sparse_files_are_compared_by_their_data(tmp_path: Path) -> None:
    """Files of 64 GiB are compared at once; a hole is as good as zeros."""
    hole = [sparse(1 << 36, (4096, 700)), sparse(1 << 36, (4096, 700), (1 << 35, 8))]
    old, new = (tree_of_layers([one], tmp_path / str(at)) for at, one in enumerate(hole))
    assert told(list(changes(old, new))) == {b"sparse": ("C", ("content",))}
    assert list(changes(old, tree_of_layers([hole[0]], tmp_path / "again"))) == []
    zeros = [sparse(5000, (0, 0)), layer({"sparse": File(bytes(5000))})]
    old, new = (tree_of_layers([one], tmp_path / f"z{at}") for at, one in enumerate(zeros))
    assert list(changes(old, new)) == []


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n"]), max_size=25)
TEXTS = st.builds(lambda lines, end: b"".join(lines) + end, LINES, st.sampled_from([b"", b"end"]))


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS)
def test_what_is_shown_makes_one_text_of_the_other(old: bytes, new: bytes) -> None:
    """patch(1) would agree: applied hunk by hunk to the old text, it gives the new one."""
    shown = list(unified.unified(old, new, b"a/x", b"b/x"))
    assert shown[0] == b"--- a/x\n+++ b/x\n"
    assert applied(old, shown[1:]) == new
    assert sum(line.startswith(b"@@") for line in shown) or old == new


def applied(old: bytes, shown: list[bytes]) -> bytes:
    before = old.splitlines(keepends=True)
    made, at = [], 0
    for line in shown:
        mark = line[:1]
        text = line[1:].removesuffix(b"\n\\ No newline at end of file\n")
        if mark == b"@":
            start, _, count = line.split()[1][1:].partition(b",")
            begin = int(start) - (0 if count == b"0" else 1)
            made += before[at:begin]
            at = begin
            continue
        if mark in b" -":
            assert before[at] == text
            at += 1
        if mark in b" +":
            made.append(text)
    return b"".join(made + before[at:])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"\0", b"x", b"Binary files a and b differ\n"),
        (b"x\n" * 9000, b"y\n" * 9000, b"Files a and b differ in more than 4000 lines\n"),
        (b"\xff\n", b"\xfe\n", b"--- a\n+++ b\n"),
    ],
)
def test_what_is_no_text_or_too_much_is_said(old: bytes, new: bytes, said: bytes) -> None:
    """Nobody waits for what a stranger has made hard to compare."""
    assert next(unified.unified(old, new, b"a", b"b")) == said


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """What cannot be compared is trouble, and no difference."""
    lost = [layer({"d/": Dir(mtime=at), "d/lost": "content"}) for at in range(2)]
    old, new = (tree_of_layers([one], tmp_path / str(at)) for at, one in enumerate(lost))
    (archive,) = (tmp_path / "1").glob("*.tar")
    os.truncate(archive, 100)
    with pytest.raises(PathError, match=r"^/d/lost: "):
        list(changes(old, new))


def test_a_hard_link_to_nothing_is_like_another(tmp_path: Path) -> None:
    """It has no content that could differ, and none that a file of its one byte could have."""
    sides = {
        "a": layer({"l": Hard("nowhere"), "m": Hard("nowhere")}),
        "b": layer({"l": Hard("elsewhere"), "m": "1"}),
    }
    old, new = (tree_of_layers([one], tmp_path / name) for name, one in sides.items())
    assert told(list(changes(old, new))) == {b"m": ("C", ("content",))}
