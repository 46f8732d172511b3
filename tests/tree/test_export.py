"""A tree as one tar: whole, the same each time, and read by others as it was."""

import io
import os
import re
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from imagefs.errors import PathError
from imagefs.progress import Silent
from imagefs.tar import header as tar_header
from imagefs.tar.write import Member, head, padding
from imagefs.tree.export import write_tar
from imagefs.tree.tree import Tree
from tests.support.needs import need_tool
from tests.support.tars import Block, Char, Dir, Fifo, File, Hard, Sym, layer
from tests.support.trees import (
    names_in,
    names_on_disk,
    told_by_tree,
    tree_of_image,
    tree_of_layers,
)
from tests.test_hostile import KINDS, image_of, mounted

COSTLY = re.compile("thousand|much")
"""Cases that are about what it costs to look at them, which other tests bound."""
LONG = "a-long-name/" * 20
BASE = layer(
    {
        "etc/": Dir(0o750, uid=3, gid=4, mtime=5.25),
        "etc/motd": File("hello\n", 0o4640, uid=2**31, gid=4, mtime=-7, xattrs={"user.a": b"\0="}),
        "etc/same": Hard("etc/motd"),
        "gone": "x",
        "link": Sym("../" * 50 + "etc"),
        "same": Hard("link"),
        LONG + "é": "deep",
        "odd\udcff": "odd",
        "empty": "",
        "null": Char(1, 3),
        "disk": Block(8, 1),
        "pipe": Fifo(),
    }
)
TOP = layer(
    {".wh.gone": "", "new/": "", "new/third": Hard("etc/motd"), "big": File(bytes(3 << 20))}
)


def exported(tree: Tree, path: str = "/") -> bytes:
    out = io.BytesIO()
    write_tar(tree, path, out.write, Silent())
    return out.getvalue()


def sparse(size: int, *runs: tuple[int, int]) -> bytes:
    """Return a layer of a sparse file, for which Python's tarfile has no words."""
    stored = sum(length for _, length in runs)
    member = Member(b"sparse", tar_header.REGTYPE, 0o644, size=size, runs=runs)
    return head(member) + b"s" * stored + bytes(padding(stored)) + bytes(1024)


def test_the_tar_is_an_image_of_the_same_tree(tmp_path: Path) -> None:
    """What is read from it is what went in, holes and all; and it is written the same again."""
    holes = sparse(1 << 33, (4096, 700), (1 << 32, 1000))
    tree = tree_of_layers([BASE, TOP, holes], tmp_path / "a")
    written = exported(tree)
    assert len(written) < 5 << 20
    again = tree_of_layers([written], tmp_path / "b")
    assert again.stat("sparse").blocks == tree.stat("sparse").blocks
    assert list(again.runs(again.stat("sparse"))) == [(4096, 4796), (1 << 32, (1 << 32) + 1000)]
    # The file of 8 GiB is compared by where its data is.
    others = [tree_of_layers([BASE, TOP], tmp_path / "c")]
    others.append(tree_of_layers([exported(others[0])], tmp_path / "d"))
    assert told_by_tree(others[0]) == told_by_tree(others[1])
    assert exported(again) == written == exported(tree)


def test_it_is_in_the_order_that_readers_want(tmp_path: Path) -> None:
    """Directories before what is in them, hard links behind what they lead to, as ustar can."""
    tree = tree_of_layers([BASE, TOP], tmp_path / "a")
    with tarfile.open(fileobj=io.BytesIO(exported(tree)), errors="surrogateescape") as opened:
        members = opened.getmembers()
    seen: set[str] = set()
    for member in members:
        above = os.path.dirname(member.name)
        assert not above or above in seen, member.name
        assert not member.islnk() or member.linkname in seen
        seen.add(member.name)
    assert len(seen) == len(members)
    assert "gone" not in seen


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("etc", ["etc", "etc/motd", "etc/same"]),
        ("/etc/../etc/", ["etc", "etc/motd", "etc/same"]),
        ("etc/.", ["motd", "same"]),
        ("etc/motd", ["motd"]),
        ("link", ["link"]),
    ],
)
def test_a_part_of_it_has_the_names_that_docker_cp_gives(
    path: str, names: list[str], tmp_path: Path
) -> None:
    """Names begin with the last one of the path; those of a directory's contents with none."""
    tree = tree_of_layers([BASE], tmp_path / "a")
    with tarfile.open(fileobj=io.BytesIO(exported(tree, path))) as opened:
        assert opened.getnames() == names


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("names", "links", "whiteouts", "sparse")
        for name, case in KINDS[kind].items()
        if case.says is None and not COSTLY.search(name)
    ],
)
def test_hostile_trees_are_exported_or_refused(kind: str, name: str, tmp_path: Path) -> None:
    """All of a stranger's tree is in the tar, below its root, or what cannot be read is named."""
    image = image_of(KINDS[kind][name], tmp_path)
    tree = tree_of_image(image, mounted(image, tmp_path))
    if _is_lost_in(tree):
        with pytest.raises(PathError, match=r"^/.*: hard link to a file that no layer holds"):
            exported(tree)
        return
    again = tree_of_layers([exported(tree)], tmp_path / "again")
    assert shape(again) == shape(tree)


def _is_lost_in(tree: Tree) -> bool:
    """Tell whether any file cannot be read, being a hard link to nothing."""
    for walked in tree.walk():
        for _, attr in walked.entries:
            try:
                tree.read(attr, 0, 1) if stat.S_ISREG(attr.mode) else None
            except OSError:
                return True
    return False


def shape(tree: Tree) -> list[tuple[bytes, int, int]]:
    return [
        (walked.path + b"/" + name, attr.mode, 0 if stat.S_ISDIR(attr.mode) else attr.size)
        for walked in tree.walk()
        for name, attr in walked.entries
    ]


@pytest.mark.parametrize(("program", "package"), [("tar", "tar"), ("bsdtar", "libarchive-tools")])
def test_other_programs_extract_the_same(program: str, package: str, tmp_path: Path) -> None:
    """GNU tar and bsdtar make of it what was in the image."""
    tool = need_tool(program, package)
    tree = tree_of_layers([BASE, TOP, sparse(1 << 30, (1 << 29, 10))], tmp_path / "a")
    (tmp_path / "out").mkdir()
    attributes = ["--xattrs", "--xattrs-include=*"] if program == "tar" else ["--xattrs"]
    subprocess.run(
        [tool, "-x", "-p", *attributes, "-C", tmp_path / "out", "-f", "-"],
        input=exported(tree),
        check=True,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    assert (tmp_path / "out/etc/same").stat().st_nlink == 3
    assert (tmp_path / "out/sparse").stat().st_blocks * 512 < 1 << 20
    assert os.getxattr(tmp_path / "out/etc/motd", "user.a") == b"\0="
    assert names_on_disk(tmp_path / "out") == names_in(tree)
