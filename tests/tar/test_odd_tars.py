"""Odd but legal layers, through the whole stack: they look as they would after extraction."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagefs.image.model import Blob, Image, Layer
from imagefs.index import cache as index_cache
from imagefs.vfs.image_fs import ImageFs, image_fs
from imagefs.vfs.names import MAX_COUNTED
from tests.support.effort import at_most
from tests.support.headers import END, GNU, content, file, header, long_name, pax
from tests.support.needs import need_tool
from tests.support.sparsetars import SPARSE_WRITERS
from tests.support.tars import Dir, Hard, layer, read, resolve, shown

TIB = 1 << 40
GIB = 1 << 30


def fs_of(folder: Path, *layers: bytes) -> ImageFs:
    """Return the file system of layers, which are indexed in this process."""
    made = []
    for number, data in enumerate(layers):
        path = folder / f"{number}.tar"
        path.write_bytes(data)
        made.append(Layer(f"sha256:{number:064}", Blob(path, 0, len(data))))
        index_cache.build(made[-1], folder)
    return image_fs(Image("sha256:0", (), b"{}", b"{}", tuple(made)), folder)


ROWS: dict[str, tuple[bytes, dict[str, str]]] = {
    "names in all spellings": (
        b"".join(
            file(name, b"x")
            for name in (b"./a", b"/b", b"c//d", b"e/../f", b"../g", b"h/./i", b"j/.", b"./k/../l")
        )
        + END,
        {"a": "x", "b": "x", "c/": "", "c/d": "x", "f": "x", "g": "x", "h/": "", "h/i": "x"}
        | {"j": "x", "l": "x"},
    ),
    "what a dot at a name's end leaves alone": (
        header(b"d/.", b"5") + file(b"d/f", b"x") + header(b"e/f/..", b"5") + file(b"e/g") + END,
        {"d/": "", "d/f": "x", "e/": "", "e/g": ""},
    ),
    "files that end in a slash": (
        header(b"f/") + header(b"d/g/") + END,
        {"f": "", "d/": "", "d/g": ""},
    ),
    "v7 directories": (
        header(b"d/", b"\0", magic=bytes(8)) + header(b"d/f", b"\0", magic=bytes(8)) + END,
        {"d/": "", "d/f": ""},
    ),
    "padding of many blocks": (file(b"f", b"x") + bytes(64 * 512), {"f": "x"}),
    "tars behind the end marker": (
        file(b"f", b"x") + END + file(b"g", b"y") + END,
        {"f": "x"},
    ),
    "a name comes twice": (file(b"f", b"first") + file(b"f", b"last") + END, {"f": "last"}),
    "a directory comes twice": (
        header(b"d", b"5") + file(b"d/f") + header(b"d", b"5", mode=0o700) + END,
        {"d/": "", "d/f": ""},
    ),
    "names that no charset has": (
        file(b"\xff\xfe")
        + pax([(b"path", b"\xc3\x28"), (b"hdrcharset", b"BINARY")])
        + file(b"x")
        + END,
        {"\udcff\udcfe": "", "\udcc3(": ""},
    ),
    "Solaris extended header": (pax([(b"path", b"p")], b"X") + file(b"f", b"x") + END, {"p": "x"}),
    "global header": (
        pax([(b"path", b"p"), (b"comment", b"c"), (b"mtime", b"5")], b"g") + file(b"f", b"x") + END,
        {"f": "x"},
    ),
    "contiguous, unknown and dumped": (
        header(b"7", b"7", size=1)
        + content(b"x")
        + header(b"Z", b"Z", size=1)
        + content(b"y")
        + header(b"D/", b"D", size=5, magic=GNU)
        + content(b"Y7\0\0\0")
        + END,
        {"7": "x", "Z": "y", "D/": ""},
    ),
    "a size in the pax header": (
        pax([(b"size", b"5")]) + header(b"f") + content(b"right") + file(b"g", b"y") + END,
        {"f": "right", "g": "y"},
    ),
    "hard links in any order": (
        header(b"a", b"1", linkname=b"b")
        + header(b"b", b"1", linkname=b"./c")
        + file(b"c", b"x")
        + header(b"d", b"1", linkname=b"/c")
        + header(b"e/f", b"1", linkname=b"q/../../c")
        + END,
        {"a": "x", "b": "x", "c": "x", "d": "x", "e/": "", "e/f": "x"},
    ),
    "hard links to what is no file": (
        header(b"s", b"2", linkname=b"x")
        + header(b"t", b"1", linkname=b"s")
        + header(b"p", b"6")
        + header(b"q", b"1", linkname=b"p")
        + header(b"c", b"3", device=(1, 3))
        + header(b"e", b"1", linkname=b"c")
        + END,
        {"s": "-> x", "t": "-> x", "p": "p", "q": "p", "c": "c", "e": "c"},
    ),
    "a long name on a long link": (
        long_name(b"t" * 200, b"K") + long_name(b"n" * 200) + header(b"n", b"2", magic=GNU) + END,
        {"n" * 200: "-> " + "t" * 200},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_odd_but_legal(name: str, tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """The root shows what the row says."""
    tar, expected = ROWS[name]
    assert shown(fs_of(tmp_path, tar)) == expected
    count("odd but legal layers: rows", 1)


TIMES = {-(1 << 40): 0, -1: 999_999_999, 0: 0, 1 << 31: 1, 1 << 33: 5, 1 << 40: 123_456_789}


def test_times_of_all_ages(tmp_path: Path) -> None:
    """Times before 1970 and after 2038, 2106 and 2242 come back to the nanosecond."""
    tar = b"".join(
        pax([(b"mtime", pax_time(seconds, nanoseconds))]) + file(b"%d" % seconds)
        for seconds, nanoseconds in TIMES.items()
    )
    fs = fs_of(tmp_path, tar + END)
    for seconds, nanoseconds in TIMES.items():
        attr = resolve(fs, f"rootfs/{seconds}")
        assert attr is not None
        assert (attr.mtime, attr.mtimensec) == (seconds, nanoseconds)


def pax_time(seconds: int, nanoseconds: int) -> bytes:
    """Return a time as pax writes it: the fraction points away from 1970."""
    if seconds < 0 and nanoseconds:
        return b"-%d.%09d" % (-seconds - 1, 10**9 - nanoseconds)
    return b"%d.%09d" % (seconds, nanoseconds)


def test_plain_files_at_the_limits_of_their_packing(tmp_path: Path) -> None:
    """What 32 bits do not hold of a file is kept all the same, and so are many owners."""
    tars = [
        pax([(b"mtime", b"%d" % mtime)]) + header(b"t%d" % mtime)
        for mtime in (-1, 0, (1 << 32) - 1, 1 << 32)
    ]
    tars += [header(b"o%d" % n, uid=n % 300, gid=n // 300, mode=n % 0o7777) for n in range(70_000)]
    fs = fs_of(tmp_path, b"".join(tars) + END)
    attr = {entry.name: entry.attr for entry in fs.listdir(ino(fs, "rootfs"))}
    assert [attr[b"t%d" % t].mtime for t in (-1, 0, (1 << 32) - 1, 1 << 32)] == [
        -1,
        0,
        (1 << 32) - 1,
        1 << 32,
    ]
    for n in (0, 65_535, 65_536, 69_999):
        one = attr[b"o%d" % n]
        assert (one.uid, one.gid, one.mode & 0o7777) == (n % 300, n // 300, n % 0o7777)


def ino(fs: ImageFs, path: str) -> int:
    attr = resolve(fs, path)
    assert attr is not None, path
    return attr.node


# Sparse files


@pytest.mark.parametrize("name", SPARSE_WRITERS)
def test_sparse_files(name: str, tmp_path: Path) -> None:
    """A sparse file of 12 GiB has its size, its data, its holes and hardly any blocks."""
    command = SPARSE_WRITERS[name]
    need_tool(command[0], "tar libarchive-tools")
    path = tmp_path / "f"
    with path.open("wb") as out:
        out.truncate(12 * GIB + 5)
        for at in (0, GIB, 9 * GIB + 4096):
            out.seek(at)
            out.write(b"data at %12d" % at)
    # tarfile, bsdtar and most engines would write such holes out: nothing here extracts.
    subprocess.run([*command, "-cf", "s.tar", "f"], cwd=tmp_path, check=True)
    fs = fs_of(tmp_path, (tmp_path / "s.tar").read_bytes())
    attr = resolve(fs, "rootfs/f")
    assert attr is not None
    assert attr.size == 12 * GIB + 5
    assert attr.blocks <= 3 * 2 * 8
    for at in (0, GIB, 9 * GIB + 4096):
        assert fs.read(attr.node, at, 20) == b"data at %12d" % at
    assert fs.read(attr.node, 5 * GIB, 65536) == bytes(65536)
    assert fs.read(attr.node, attr.size - 3, 65536) == bytes(3)
    assert fs.read(attr.node, GIB - 100, 200) == bytes(100) + (b"data at %12d" % GIB).ljust(
        100, b"\0"
    )
    check_seeking(fs, attr.node, path)


def check_seeking(fs: ImageFs, node: int, path: Path) -> None:
    """Data is found where the disk has it, or what of it is not zero; holes where it has none."""
    with path.open("rb") as file:
        for at in (0, 1, 8192, GIB, GIB + 100, 5 * GIB, 9 * GIB + 4096):
            data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            assert fs.seek(node, at, os.SEEK_DATA) == data
            assert at < fs.seek(node, data, os.SEEK_HOLE) <= data + (1 << 20)
    with pytest.raises(OSError, match="No such device"):
        fs.seek(node, 10 * GIB, os.SEEK_DATA)
    assert fs.seek(node, 10 * GIB, os.SEEK_HOLE) == 10 * GIB


def test_a_tebibyte_of_hole(tmp_path: Path) -> None:
    """A file of 1 TiB without data, and an empty one beside it, read as what they are."""
    hole = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
    tar = (
        pax([*hole, (b"GNU.sparse.realsize", b"%d" % TIB), (b"GNU.sparse.name", b"hole")])
        + header(b"GNUSparseFile.0/hole", size=512)
        + content(b"0\n".ljust(512, b"\0"))
        + pax([(b"SCHILY.xattr.user.k", b"v")])
        + file(b"empty")
        + END
    )
    fs = fs_of(tmp_path, tar)
    hole_attr, empty = resolve(fs, "rootfs/hole"), resolve(fs, "rootfs/empty")
    assert hole_attr is not None
    assert empty is not None
    assert (hole_attr.size, hole_attr.blocks, empty.size, empty.blocks) == (TIB, 0, 0, 0)
    assert fs.read(hole_attr.node, TIB - 10, 100) == bytes(10)
    assert fs.read(hole_attr.node, TIB, 100) == b""
    assert fs.seek(hole_attr.node, 7, os.SEEK_HOLE) == 7
    assert fs.read(empty.node, 0, 100) == b""


# Many of everything


def test_a_hundred_thousand_entries(tmp_path: Path) -> None:
    """A directory of 100,000 entries is listed in order and whole, and each of them is found."""
    tar = b"".join(file(b"%06d" % (n * 7919 % 100_000)) for n in range(100_000)) + END
    fs = fs_of(tmp_path, tar)
    top = ino(fs, "rootfs")
    entries = fs.listdir(top)
    assert [entry.name for entry in entries] == [b"%06d" % n for n in range(100_000)]
    for number in range(0, 100_000, 997):
        assert fs.lookup(top, b"%06d" % number) == entries[number].attr
    assert fs.lookup(top, b"100000") is None


@pytest.mark.parametrize("top", ["", "w/"])
def test_parts_of_wide_directories_are_those_of_the_whole(top: str, tmp_path: Path) -> None:
    """However a wide directory comes about, each part of its listing is what lookups say."""
    below = {f"{top}{n:04}": "" for n in range(5000)}
    above = {f"{top}d/{n}": "" for n in range(3)} | {
        f"{top}.wh.{n:04}": "" for n in range(0, 50, 2)
    }
    fs = fs_of(tmp_path, layer({**below, f"{top}.wh.x": "", f"{top}d/old": ""}), layer(above))
    layers = [entry.name.decode() for entry in fs.listdir(ino(fs, "layers"))]
    views = {"rootfs": 4976, f"layers/{layers[0]}": 5002, f"snapshots/{layers[0]}": 5001}
    for place, count in views.items():
        node = ino(fs, f"{place}/{top}")
        entries = fs.listdir(node)
        whole = list(entries)
        assert len(whole) == len(entries) == count, place
        assert whole == sorted(whole)
        assert [fs.lookup(node, name) for name, _ in whole] == [attr for _, attr in whole]
        for first, last in ((0, 7), (4000, 4999), (4970, 9999), (6000, 7000)):
            assert list(entries[first:last]) == whole[first:last]
        assert list(entries[::700]) == whole[::700]
        assert entries[-1] == whole[-1]


def test_a_thousand_directories_deep(tmp_path: Path) -> None:
    """Directories 1,000 deep, changed by an upper layer at the bottom, lead down and up again."""
    deep = "d/" * 1000
    fs = fs_of(
        tmp_path,
        layer({deep + "f": "below", deep + "g": "kept"}),
        layer({deep: Dir(0o700), deep + "f": "above", deep + ".wh.h": ""}),
    )
    node = ino(fs, "rootfs")
    top = fs.getattr(node)
    for _ in range(1000):
        attr = fs.lookup(node, b"d")
        assert attr is not None
        node = attr.node
    assert fs.getattr(node).mode & 0o777 == 0o700
    assert [entry.name for entry in fs.listdir(node)] == [b"f", b"g"]
    assert read(fs, f"rootfs/{deep}f") == b"above"
    for _ in range(1000):
        up = fs.lookup(node, b"..")
        assert up is not None
        node = up.node
    assert fs.getattr(node) == top


@contextmanager
def descriptors() -> Iterator[None]:
    """Check that what is done in it leaves no descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def test_five_hundred_layers(tmp_path: Path) -> None:
    """500 layers are merged; each snapshot shows what had come by then, each layer its own."""
    layers = [
        layer({"counter": f"{n}", f"own/{n:03}": "", "own/last": Hard("counter")} if n % 50 else {})
        for n in range(1, 501)
    ]
    with descriptors():
        fs = fs_of(tmp_path, *layers)
        assert read(fs, "rootfs/counter") == b"499"
        assert len(fs.listdir(ino(fs, "rootfs/own"))) == 490 + 1
        snapshots = [entry.name.decode() for entry in fs.listdir(ino(fs, "snapshots"))]
        assert len(snapshots) == 500
        for number in (0, 48, 49, 250, 499):
            has = len(fs.listdir(ino(fs, f"snapshots/{snapshots[number]}/own")))
            assert has == number + 1 - (number + 1) // 50 + 1
        assert stat.S_ISREG(fs.getattr(ino(fs, f"snapshots/{snapshots[9]}/own/last")).mode)
        assert len(shown(fs, f"layers/{snapshots[400]}")) == 4
        del fs


def test_links_beyond_counting(tmp_path: Path) -> None:
    """A snapshot counts the names of a file that show, unless there are more than a disk takes."""
    many = MAX_COUNTED
    names = [b"d/%d" % n for n in range(many)]
    tar = b"".join(header(name, b"1", linkname=b"f") for name in names)
    below = file(b"g", b"y") + header(b"h", b"1", linkname=b"g") + file(b"f", b"x") + tar + END
    fs = fs_of(tmp_path, below, layer({"d/.wh.7": "", ".wh.h": ""}))
    with at_most(10_000):
        found = {path: resolve(fs, f"rootfs/{path}") for path in ("f", "d/8", "g")}
    counts = {path: attr.nlink for path, attr in found.items() if attr}
    assert counts == {"f": many + 1, "d/8": many + 1, "g": 1}
    assert resolve(fs, "rootfs/d/7") is None


def test_links_into_lower_layers_without_end(tmp_path: Path) -> None:
    """Opening an image does not resolve every layer's links anew in each of its snapshots."""
    layers = [
        layer({f"f{n}": "x", **{f"l{n}/{at}": Hard("f0") for at in range(40 if n else 0)}})
        for n in range(150)
    ]
    with at_most(3_000_000):
        fs = fs_of(tmp_path, *layers)
    attr = resolve(fs, "rootfs/l149/0")
    assert attr == resolve(fs, "rootfs/f0")
    assert attr is not None
    assert attr.nlink == 1 + 149 * 40
