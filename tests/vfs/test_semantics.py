"""What the merged root shows, row by row: the decisions that imagefs/vfs/README.md lists.

A row gives the layers, bottom first, and the whole merged root that must come of them.
"""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tars import (
    Block,
    Char,
    Dir,
    Fifo,
    File,
    Hard,
    Members,
    Sym,
    fs_of,
    layer,
    paths,
    read,
    resolve,
    shown,
)

LOST = f"!{errno.EIO}"

ROWS: dict[str, tuple[list[Members], dict[str, str]]] = {
    "a file outlives its own layer's whiteout": (
        [{"f": "old"}, {".wh.f": "", "f": "new"}],
        {"f": "new"},
    ),
    "the whiteout may come last": ([{"f": "old"}, {"f": "new", ".wh.f": ""}], {"f": "new"}),
    "whiteout and directory anew": (
        [{"d/a": "a"}, {".wh.d": "", "d/": "", "d/b": "b"}],
        {"d/": "", "d/b": "b"},
    ),
    "whiteout and directory anew, marker last": (
        [{"d/a": "a"}, {"d/": "", "d/b": "b", ".wh.d": ""}],
        {"d/": "", "d/b": "b"},
    ),
    "whiteout and directories anew, two deep": (
        [{"d/e/a": "a"}, {".wh.d": "", "d/": "", "d/e/": "", "d/e/b": "b"}],
        {"d/": "", "d/e/": "", "d/e/b": "b"},
    ),
    "whiteout and an implied directory": (
        [{"d/a": "a"}, {".wh.d": "", "d/b": "b"}],
        {"d/": "", "d/b": "b"},
    ),
    "opaque first": (
        [{"d/a": "a"}, {"d/": "", "d/.wh..wh..opq": "", "d/b": "b"}],
        {"d/": "", "d/b": "b"},
    ),
    "opaque last": (
        [{"d/a": "a"}, {"d/": "", "d/b": "b", "d/.wh..wh..opq": ""}],
        {"d/": "", "d/b": "b"},
    ),
    "opaque before the directory's entry": (
        [{"d/a": "a"}, {"d/.wh..wh..opq": "", "d/": "", "d/b": "b"}],
        {"d/": "", "d/b": "b"},
    ),
    "opaque without a directory's entry": (
        [{"d/a": "a"}, {"d/.wh..wh..opq": "", "d/b": "b"}],
        {"d/": "", "d/b": "b"},
    ),
    "opaque hides below directories that are made again": (
        [{"d/s/a": "a"}, {"d/": "", "d/.wh..wh..opq": "", "d/s/": "", "d/s/b": "b"}],
        {"d/": "", "d/s/": "", "d/s/b": "b"},
    ),
    "opaque last keeps its own layer's implied directories": (
        [{"d/s/a": "a"}, {"d/": "", "d/s/b": "b", "d/.wh..wh..opq": ""}],
        {"d/": "", "d/s/": "", "d/s/b": "b"},
    ),
    "an opaque marker is one by its whole name": (
        [{"d/a": "a"}, {"d/.wh..wh..opqX": "", "d/.wh..wh..op": "", "d/.wh.wh..opq": ""}],
        {"d/": "", "d/a": "a"},
    ),
    "markers in the lowest layer": (
        [{".wh.f": "", "f": "f", "d/.wh..wh..opq": "", "d/a": "a", "d/.wh.b": ""}],
        {"f": "f", "d/": "", "d/a": "a"},
    ),
    "whiteouts of nothing": (
        [{"a": "a"}, {".wh.x": "", "no/.wh.pe": ""}],
        {"a": "a", "no/": ""},
    ),
    "whiteout in the middle, directory back on top": (
        [{"d/a": "a", "d/s/b": "b"}, {".wh.d": ""}, {"d/c": "c"}],
        {"d/": "", "d/c": "c"},
    ),
    "opaque root": ([{"a": "a", "d/b": "b"}, {".wh..wh..opq": "", "c": "c"}], {"c": "c"}),
    "opaque in a directory that nobody has": (
        [{"a": "a"}, {"d/.wh..wh..opq": ""}],
        {"a": "a", "d/": ""},
    ),
    "whiteout in an opaque directory": (
        [{"d/a": "a"}, {"d/": "", "d/.wh..wh..opq": "", "d/.wh.a": ""}],
        {"d/": ""},
    ),
    "whiteout in a brand-new directory": (
        [{"a": "a"}, {"d/": "", "d/.wh.x": ""}],
        {"a": "a", "d/": ""},
    ),
    "whiteout of a directory and of what is in it": (
        [{"d/a": "a", "b": "b"}, {".wh.d": "", "d/.wh.a": ""}],
        {"b": "b"},
    ),
    "whiteout below a lower symlink": (
        [{"real/a": "a", "real/b": "b", "link": Sym("real")}, {"link/.wh.a": ""}],
        {"real/": "", "real/a": "a", "real/b": "b", "link/": ""},
    ),
    "file below a lower symlink": (
        [{"real/a": "a", "link": Sym("real")}, {"link/f": "f"}],
        {"real/": "", "real/a": "a", "link/": "", "link/f": "f"},
    ),
    "directory entry over a lower symlink": (
        [{"real/a": "a", "link": Sym("real")}, {"link/": "", "link/f": "f"}],
        {"real/": "", "real/a": "a", "link/": "", "link/f": "f"},
    ),
    "file below a symlink of the same layer": (
        [{"real/": "", "link": Sym("real"), "link/f": "f"}],
        {"real/": "", "real/f": "f", "link": "-> real"},
    ),
    "file below an absolute symlink of the same layer": (
        [{"d/real/": "", "link": Sym("/d/real"), "link/f": "f"}],
        {"d/": "", "d/real/": "", "d/real/f": "f", "link": "-> /d/real"},
    ),
    "file below a symlink out of the root, same layer": (
        [{"real/": "", "link": Sym("../../real"), "link/f": "f"}],
        {"real/": "", "real/f": "f", "link": "-> ../../real"},
    ),
    "file below a dangling symlink, same layer": (
        [{"link": Sym("nowhere"), "link/f": "f"}],
        {"link": "-> nowhere", "nowhere/": "", "nowhere/f": "f"},
    ),
    "file below a symlink to a lower layer's directory": (
        [{"usr/lib/": Dir(0o700)}, {"lib": Sym("usr/lib"), "lib/m": "m", "lib/d/n": "n"}],
        {"usr/": "", "usr/lib/": "", "usr/lib/m": "m", "usr/lib/d/": "", "usr/lib/d/n": "n"}
        | {"lib": "-> usr/lib"},
    ),
    "whiteout below a symlink to a lower layer's directory": (
        [{"b/gone": "x", "b/kept": "k"}, {"a": Sym("/b"), "a/.wh.gone": ""}],
        {"b/": "", "b/kept": "k", "a": "-> /b"},
    ),
    "opaque marker below a symlink to a lower layer's directory": (
        [{"b/gone": "x"}, {"a": Sym("/b"), "a/.wh..wh..opq": "", "a/new": "n"}],
        {"b/": "", "b/new": "n", "a": "-> /b"},
    ),
    "file below a symlink over a file of the same layer": (
        [{"f": "f", "link": Sym("f"), "link/x": "x"}],
        {"f/": "", "f/x": "x", "link": "-> f"},
    ),
    "file below two symlinks to a lower layer's directory": (
        [{"d/e/f": "f"}, [("l", Sym("m/e")), ("m", Sym("d")), ("l/g", "g")]],
        {"d/": "", "d/e/": "", "d/e/f": "f", "d/e/g": "g", "l": "-> m/e", "m": "-> d"},
    ),
    "file below a symlink to itself, same layer": (
        [{"link": Sym("link"), "link/f": "f"}],
        {"link/": "", "link/f": "f"},
    ),
    "opaque directory over a lower symlink": (
        [
            {"target/keep": "k", "link": Sym("/target")},
            {"link/": "", "link/.wh..wh..opq": "", "link/new": "n"},
        ],
        {"target/": "", "target/keep": "k", "link/": "", "link/new": "n"},
    ),
    "opaque marker over a lower symlink, no directory entry": (
        [{"target/keep": "k", "link": Sym("/target")}, {"link/.wh..wh..opq": "", "link/new": "n"}],
        {"target/": "", "target/keep": "k", "link/": "", "link/new": "n"},
    ),
    "file over directory": ([{"d/a": "a"}, {"d": "file"}], {"d": "file"}),
    "directory over file": ([{"f": "file"}, {"f/": "", "f/a": "a"}], {"f/": "", "f/a": "a"}),
    "whiteout of a directory and a file of its name": (
        [{"d/a": "a"}, {".wh.d": "", "d": "file"}],
        {"d": "file"},
    ),
    "symlink over directory": ([{"d/a": "a"}, {"d": Sym("x")}], {"d": "-> x"}),
    "directory over file over directory": (
        [{"d/a": "a"}, {"d": "file"}, {"d/b": "b"}],
        {"d/": "", "d/b": "b"},
    ),
    "file as a parent": ([{"f": "file"}, {"f/x": "x"}], {"f/": "", "f/x": "x"}),
    "directory entry alone keeps the children": (
        [{"d/a": "a"}, {"d/": Dir(0o700)}],
        {"d/": "", "d/a": "a"},
    ),
    "hard link to a lower layer's file": (
        [{"a": "AAA"}, {"b": Hard("a")}],
        {"a": "AAA", "b": "AAA"},
    ),
    "hard link through two layers": (
        [{"a": "AAA"}, {"b": Hard("a")}, {"c": Hard("b")}],
        {"a": "AAA", "b": "AAA", "c": "AAA"},
    ),
    "hard link's first name deleted": ([{"a": "AAA", "b": Hard("a")}, {".wh.a": ""}], {"b": "AAA"}),
    "hard link's first name overwritten": (
        [{"a": "old", "b": Hard("a")}, {"a": "new"}],
        {"a": "new", "b": "old"},
    ),
    "hard link's first name becomes a symlink": (
        [{"a": "old", "b": Hard("a")}, {"a": Sym("x")}],
        {"a": "-> x", "b": "old"},
    ),
    "both names of a hard link anew": (
        [{"a": "1", "b": "1"}, {"a": "2", "b": Hard("a")}],
        {"a": "2", "b": "2"},
    ),
    "forward hard link": ([[("b", Hard("a")), ("a", "AAA")]], {"a": "AAA", "b": "AAA"}),
    "forward hard link through another": (
        [[("c", Hard("b")), ("b", Hard("a")), ("a", "A")]],
        {"a": "A", "b": "A", "c": "A"},
    ),
    "hard link before its target is written anew": (
        [{"a": "old"}, [("b", Hard("a")), ("a", "new")]],
        {"a": "new", "b": "old"},
    ),
    "hard link before its target is written anew, in the other order of names": (
        [{"b": "old"}, [("a", Hard("b")), ("b", "new"), ("c", Hard("b"))]],
        {"a": "old", "b": "new", "c": "new"},
    ),
    "hard link before its target becomes a symlink": (
        [{"a": "old"}, [("b", Hard("a")), ("a", Sym("x"))]],
        {"a": "-> x", "b": "old"},
    ),
    "hard link before its target becomes a directory": (
        [{"a": "old"}, [("b", Hard("a")), ("a/", Dir())]],
        {"a/": "", "b": "old"},
    ),
    "hard link before a symlink, and no lower layer": (
        [[("b", Hard("a")), ("a", Sym("x"))]],
        {"a": "-> x", "b": "-> x"},
    ),
    "hard link to a hard link before its target is written anew": (
        [{"a": "old"}, [("b", Hard("a")), ("c", Hard("b")), ("a", "new")]],
        {"a": "new", "b": "old", "c": "old"},
    ),
    "forward hard links, one of which a lower layer has": (
        [{"b": "B"}, [("c", Hard("b")), ("b", Hard("a")), ("a", "A")]],
        {"a": "A", "b": "A", "c": "B"},
    ),
    "hard links that reach a lower file through each other": (
        [{"a": "A"}, [("b", Hard("a")), ("a", Hard("b"))]],
        {"a": "A", "b": "A"},
    ),
    "hard links that reach nothing through each other": (
        [[("b", Hard("a")), ("a", Hard("b"))]],
        {"a": LOST, "b": LOST},
    ),
    "hard link through a symlink of a lower layer": (
        [{"usr/bin/x": "X", "bin": Sym("usr/bin")}, {"y": Hard("bin/x")}],
        {"usr/": "", "usr/bin/": "", "usr/bin/x": "X", "bin": "-> usr/bin", "y": "X"},
    ),
    "hard link through symlinks of two lower layers": (
        [{"d/e/x": "X"}, {"m": Sym("d/")}, {"l": Sym("../m/./e")}, {"y": Hard("/l/x")}],
        {"d/": "", "d/e/": "", "d/e/x": "X", "l": "-> ../m/./e", "m": "-> d/", "y": "X"},
    ),
    "hard link through a symlink of its own layer to a lower directory": (
        [{"usr/lib/m": "M"}, [("lib", Sym("usr/lib")), ("y", Hard("lib/m"))]],
        {"usr/": "", "usr/lib/": "", "usr/lib/m": "M", "lib": "-> usr/lib", "y": "M"},
    ),
    "hard link through a circle of symlinks": (
        [{"l": Sym("m"), "m": Sym("l")}, {"y": Hard("l/x")}],
        {"l": "-> m", "m": "-> l", "y": LOST},
    ),
    "names of eStargz": (
        [{"a": "a", "stargz.index.json": "{}", ".prefetch.landmark": "\x0f"}],
        {"a": "a", "stargz.index.json": "{}", ".prefetch.landmark": "\x0f"},
    ),
    "dangling hard link": ([{"b": Hard("a")}], {"b": LOST}),
    "hard link to a directory": ([{"d/": "", "b": Hard("d")}], {"d/": "", "b": LOST}),
    "the same path twice": ([[("f", "first"), ("f", "last")]], {"f": "last"}),
    "a hard link keeps the first of two": (
        [[("f", "first"), ("l", Hard("f")), ("f", "last")]],
        {"f": "last", "l": "first"},
    ),
    "hard link to a symlink": ([{"s": Sym("x"), "t": Hard("s")}], {"s": "-> x", "t": "-> x"}),
    "whiteout as a symlink": ([{"a": "a", "b": "b"}, {".wh.a": Sym("b")}], {"b": "b"}),
    "whiteout as a hard link": ([{"a": "a"}, {"b": "b", ".wh.a": Hard("b")}], {"b": "b"}),
    "whiteout with content": ([{"a": "a", "b": "b"}, {".wh.a": "content"}], {"b": "b"}),
    "whiteout as a directory": (
        [{"dd/a": "a"}, {".wh.dd/": "", ".wh.dd/z": "z"}],
        {".wh.dd/": "", ".wh.dd/z": "z"},
    ),
    "whiteout as an empty directory": ([{"dd/a": "a", "b": "b"}, {".wh.dd/": ""}], {"b": "b"}),
    "aufs leftovers": (
        [
            {
                ".wh..wh.plnk/": "",
                ".wh..wh.plnk/1.2": "linked",
                "f": Hard(".wh..wh.plnk/1.2"),
                ".wh..wh.aufs": "",
                ".wh..wh.orph/": "",
                "d/.wh..wh.x": "",
            }
        ],
        {"f": "linked", "d/": ""},
    ),
    "character device 0:0": ([{"f": "f"}, {"f": Char(0, 0)}], {"f": "c"}),
    "whiteouts that name nothing": (
        [{"a": "a", "x/b": "b"}, {".wh.": "", "x/.wh..": "", "x/.wh...": ""}],
        {"a": "a", "x/": "", "x/b": "b"},
    ),
    "names are cleaned and never leave the root": (
        [[("./x", "x"), ("/y", "y"), ("a//b", "b"), ("q/../z", "z"), ("../../esc", "e")]],
        {"x": "x", "y": "y", "a/": "", "a/b": "b", "z": "z", "esc": "e"},
    ),
    "deleted in the middle, back on top": (
        [
            {"f": "1", "d/a": "a"},
            {".wh.f": "", "d/": "", "d/.wh..wh..opq": ""},
            {"f": "3", "d/c": "c"},
        ],
        {"f": "3", "d/": "", "d/c": "c"},
    ),
    "kinds": (
        [{"fifo": Fifo(), "null": Char(1, 3), "sda": Block(8, 0)}],
        {"fifo": "p", "null": "c", "sda": "b"},
    ),
    "names that are not UTF-8": (
        [{"n\udcff": "x", "l": Sym("t\udcfe")}],
        {"n\udcff": "x", "l": "-> t\udcfe"},
    ),
    "a file whose name ends in a slash": ([[("f/", File("x"))]], {"f": "x"}),
    "an image's empty layer": ([{"a": "a"}, {}], {"a": "a"}),
}


@pytest.mark.parametrize("name", ROWS)
def test_merged_root(name: str, tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """The merged root, and the top snapshot, hold exactly what the row says."""
    layers, expected = ROWS[name]
    fs = fs_of(map(layer, layers), tmp_path)
    assert shown(fs) == expected
    top = fs.listdir(resolve_ino(fs, "snapshots"))[-1].name.decode()
    assert shown(fs, f"snapshots/{top}") == expected
    count("layer semantics: rows", 1)


def resolve_ino(fs: object, path: str) -> int:
    attr = resolve(fs, path)  # type: ignore[arg-type]
    assert attr is not None
    return attr.node


def test_layers_are_shown_as_they_are(tmp_path: Path) -> None:
    """A layer's own directory holds its markers, literally, and nothing of other layers."""
    fs = fs_of(
        [layer({"d/a": "a"}), layer({".wh.d": "", "d/.wh..wh..opq": "", "b": "b"})], tmp_path
    )
    names = [entry.name.decode() for entry in fs.listdir(resolve_ino(fs, "layers"))]
    assert shown(fs, f"layers/{names[0]}") == {"d/": "", "d/a": "a"}
    assert shown(fs, f"layers/{names[1]}") == {
        ".wh.d": "",
        "d/": "",
        "d/.wh..wh..opq": "",
        "b": "b",
    }


def test_directory_metadata_is_replaced_and_children_kept(tmp_path: Path) -> None:
    """A directory's entry alone changes mode, owner, mtime and xattrs."""
    fs = fs_of(
        [
            layer({"d/": Dir(0o755, uid=1), "d/a": "a"}),
            layer({"d/": Dir(0o2710, uid=7, gid=8, mtime=5, xattrs={"user.k": b"v"})}),
        ],
        tmp_path,
    )
    attr = resolve(fs, "rootfs/d")
    assert attr is not None
    assert (attr.mode, attr.uid, attr.gid, attr.mtime) == (stat.S_IFDIR | 0o2710, 7, 8, 5)
    assert fs.getxattr(attr.node, b"user.k") == b"v"


@pytest.mark.parametrize("upper", ["d/x", "d/.wh.a"])
def test_implied_directory_inherits(upper: str, tmp_path: Path) -> None:
    """A directory that the upper layer only implies keeps the lower one's attributes."""
    fs = fs_of(
        [layer({"d/": Dir(0o700, uid=7, gid=8, mtime=9), "d/a": "a"}), layer({upper: ""})], tmp_path
    )
    attr = resolve(fs, "rootfs/d")
    assert attr is not None
    assert (attr.mode & 0o7777, attr.uid, attr.gid, attr.mtime) == (0o700, 7, 8, 9)
    listed = paths(fs, "rootfs")["d"]
    assert listed == attr


def test_implied_directory_without_lower(tmp_path: Path) -> None:
    """A directory that no layer describes is root's, 0755, of the epoch."""
    fs = fs_of([layer({"d/x": ""})], tmp_path)
    attr = resolve(fs, "rootfs/d")
    assert attr is not None
    assert (attr.mode & 0o7777, attr.uid, attr.gid, attr.mtime) == (0o755, 0, 0, 0)


def test_root_entry_describes_the_root(tmp_path: Path) -> None:
    """A member `./` gives the view's root its mode and owner; the top-most one counts."""
    fs = fs_of([layer([("./", Dir(0o700, uid=3))]), layer({"a": ""})], tmp_path)
    attr = resolve(fs, "rootfs")
    assert attr is not None
    assert (attr.mode & 0o7777, attr.uid) == (0o700, 3)


def test_hard_link_shares_the_lower_inode_and_its_attributes(tmp_path: Path) -> None:
    """A link to a lower layer's file is that inode; the link's own header changes nothing."""
    fs = fs_of(
        [layer({"a": File("A", 0o600, uid=5)}), layer({"b": Hard("a", mode=0o777, uid=9)})],
        tmp_path,
    )
    a, b = resolve(fs, "rootfs/a"), resolve(fs, "rootfs/b")
    assert a == b
    assert a is not None
    assert (a.mode & 0o7777, a.uid, a.nlink) == (0o600, 5, 2)


def test_link_count_is_of_visible_names(tmp_path: Path) -> None:
    """Deleting a name lowers the count in that snapshot, not in the one below it."""
    fs = fs_of([layer({"a": "A", "b": Hard("a"), "c": Hard("a")}), layer({".wh.a": ""})], tmp_path)
    below, above = (
        f"snapshots/{e.name.decode()}" for e in fs.listdir(resolve_ino(fs, "snapshots"))
    )
    counts = {path: resolve(fs, path) for path in (f"{below}/b", f"{above}/b", f"{above}/c")}
    assert [attr.nlink for attr in counts.values() if attr] == [3, 2, 2]
    assert counts[f"{above}/b"] == counts[f"{above}/c"]


def test_link_in_an_unchanged_snapshot_is_one_inode(tmp_path: Path) -> None:
    """A file that the upper layer did not touch has the same inode in both snapshots."""
    fs = fs_of([layer({"a": "A", "b": Hard("a"), "d/c": "c"}), layer({"x": ""})], tmp_path)
    below, above = (
        f"snapshots/{e.name.decode()}" for e in fs.listdir(resolve_ino(fs, "snapshots"))
    )
    low, high = paths(fs, below), paths(fs, above)
    assert low["d/c"].node == high["d/c"].node
    assert low["a"].node == high["b"].node
    assert low["d"].node != high["d"].node


def test_a_directory_has_one_inode_number_where_it_shows_the_same(tmp_path: Path) -> None:
    """What a layer does not touch has the number that it had below; what it touches, another."""
    fs = fs_of(
        [
            layer({"same/sub/f": "1", "touched/sub/f": "1", "other/f": "1"}),
            layer({"touched/new": "2", "other/.wh.f": ""}),
            layer({"x": ""}),
        ],
        tmp_path,
    )
    names = [entry.name.decode() for entry in fs.listdir(resolve_ino(fs, "snapshots"))]
    seen = [paths(fs, view) for view in (*(f"snapshots/{name}" for name in names), "rootfs")]
    for path, same in (
        ("same", (0, 0, 0, 0)),
        ("same/sub", (0, 0, 0, 0)),
        ("touched", (0, 1, 1, 1)),
        ("touched/sub", (0, 0, 0, 0)),
        ("other", (0, 1, 1, 1)),
    ):
        attrs = [view[path] for view in seen]
        assert [attr.ino for attr in attrs] == [attrs[number].ino for number in same], path
        assert len({attr.ino for attr in attrs}) == len(set(same)), path
        assert len({attr.node for attr in attrs}) == len(seen), path
        for view, attr in zip(seen, attrs, strict=True):
            assert fs.getattr(attr.node) == view[path], path
    roots = {fs.getattr(resolve_ino(fs, f"snapshots/{name}")).ino for name in names}
    assert len(roots | {fs.getattr(resolve_ino(fs, "rootfs")).ino}) == 4


def test_modes_survive(tmp_path: Path) -> None:
    """setuid, sticky and mode 0 are kept, devices keep their numbers."""
    fs = fs_of(
        [layer({"su": File("x", 0o4755), "t/": Dir(0o1777), "no": File("x", 0), "n": Char(1, 3)})],
        tmp_path,
    )
    found = paths(fs, "rootfs")
    assert found["su"].mode == stat.S_IFREG | 0o4755
    assert found["t"].mode == stat.S_IFDIR | 0o1777
    assert found["no"].mode == stat.S_IFREG
    assert found["n"].rdev == os.makedev(1, 3)


def test_overlay_xattrs_have_no_meaning(tmp_path: Path) -> None:
    """trusted.overlay.opaque in a tar hides nothing, and a merged root does not show it."""
    opaque = Dir(xattrs={"trusted.overlay.opaque": b"y"})
    fs = fs_of([layer({"d/a": "a"}), layer({"d/": opaque, "d/b": "b"})], tmp_path)
    assert shown(fs) == {"d/": "", "d/a": "a", "d/b": "b"}
    merged = resolve_ino(fs, "rootfs/d")
    assert fs.listxattr(merged) == []
    assert fs.getxattr(merged, b"trusted.overlay.opaque") is None


def test_each_file_tells_its_layer(tmp_path: Path) -> None:
    """user.imagefs.layer names the layer directory that a file or directory comes from."""
    fs = fs_of([layer({"a": "a", "d/x": ""}), layer({"b": "b", "d/y": ""})], tmp_path)
    names = [entry.name for entry in fs.listdir(resolve_ino(fs, "layers"))]
    for path, number in {"a": 0, "b": 1, "d/x": 0, "d/y": 1}.items():
        assert (
            fs.getxattr(resolve_ino(fs, f"rootfs/{path}"), b"user.imagefs.layer") == names[number]
        )


def test_odd_whiteouts_are_noted(tmp_path: Path) -> None:
    """A whiteout that names nothing is ignored, and layers.txt says so."""
    fs = fs_of([layer({".wh.": ""})], tmp_path)
    assert b"ignored whiteout" in read(fs, "layers.txt")


def test_devices_that_some_engines_take_for_whiteouts_are_noted(tmp_path: Path) -> None:
    """A character device 0:0 is a device, as the specification has it; layers.txt says so."""
    fs = fs_of([layer({"f": "f"}), layer({"f": Char(0, 0), "g": Char(0, 0)})], tmp_path)
    assert shown(fs) == {"f": "c", "g": "c"}
    assert b"2 character devices 0:0 are no whiteouts" in read(fs, "layers.txt")
    assert b"0:0" not in read(fs_of([layer({"f": Char(1, 3)})], tmp_path), "layers.txt")
