"""What a stranger may put into a layer, and what may happen to an archive that is mounted.

Whatever the bytes are, there is a tree, all of which can be looked at, or one CorruptArchive; it
takes little time and memory either way; and no name leads out of the tree.
"""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagefs.errors import CorruptArchive
from imagefs.filesystem import ROOT_ID, FileSystem
from imagefs.image.model import Blob, Image, Layer
from imagefs.index import cache as index_cache
from imagefs.index import fold
from imagefs.index import records as layer_records
from imagefs.index.reader import Index
from imagefs.vfs import nodeid
from imagefs.vfs.image_fs import ImageFs, image_fs
from tests.support.effort import at_most
from tests.support.headers import END, GNU, content, file, header, long_name, pax, record
from tests.support.looking import walk
from tests.support.tars import File, Hard, Sym, layer, read, resolve, shown

GIB = 1 << 30
MIB = 1 << 20
MEMORY = 400 * MIB
SOME_WORK, WORK_A_BYTE, MOST_WORK = 100_000, 6, 40_000_000
"""Calls of functions for a layer of its length: what the costliest take, and a third more."""
SECONDS = 120.0
"""Many times what any takes: for what C functions do, whose work is not counted."""


@dataclass(frozen=True)
class Tar:
    """A layer's bytes, with `behind` bytes of hole behind them; `says` is what its refusal says.

    None stands for a layer that is shown.
    """

    data: bytes | Callable[[], bytes]
    says: str | None = None
    behind: int = 0
    below: bytes = b""


def shown_as(data: bytes | Callable[[], bytes], below: bytes = b"") -> Tar:
    return Tar(data, None, 0, below)


def refused(data: bytes | Callable[[], bytes], says: str, behind: int = 0) -> Tar:
    return Tar(data, says, behind)


def extended(data: bytes, typeflag: bytes = b"x") -> bytes:
    """Return an extended header of these very bytes, and a file behind it."""
    return header(b"pax", typeflag, size=len(data)) + content(data) + file(b"f") + END


def sparse_pax(records: dict[bytes, bytes], data: bytes = b"") -> bytes:
    """Return a file with these sparse records and these bytes stored."""
    given = [(b"GNU.sparse." + key, value) for key, value in records.items()]
    return pax(given) + file(b"f", data) + END


def sparse_1_0(head: bytes, size: bytes = b"100") -> bytes:
    """Return a file with a map of pax 1.0, as these bytes."""
    return sparse_pax({b"major": b"1", b"minor": b"0", b"realsize": size}, head)


def map_0_1(runs: int) -> bytes:
    """Return a file of so many runs of nothing, as pax 0.1 has them, and nothing behind it."""
    return sparse_pax({b"size": b"9", b"map": b",".join([b"0,0"] * runs)})[: -len(END)]


def old_gnu(*runs: tuple[int, int], size: int = 1024, real: int = 4096, more: int = 0) -> bytes:
    """Return an old GNU sparse header of up to four runs of data."""
    pairs = b"".join(b"%011o\0%011o\0" % run for run in runs).ljust(96, b"\0")
    tail = bytes(41) + pairs + bytes([more]) + b"%011o\0" % real
    return header(b"f", b"S", size=size, magic=GNU, tail=tail)


def symlinks(pairs: list[tuple[str, str]], *files: str) -> bytes:
    links = [(name, Sym(target)) for name, target in pairs]
    return layer([*links, *((name, File("x")) for name in files)])


def chain(length: int, first: str) -> list[tuple[str, str]]:
    """Return symbolic links each of which leads to the one before."""
    return [(f"l{n}", f"l{n - 1}" if n else first) for n in range(length)]


def plain(names: list[bytes]) -> bytes:
    """Return empty files of these names."""
    return b"".join(file(n) if len(n) <= 100 else long_name(n) + file(b"f") for n in names) + END


def links_backwards(number: int) -> bytes:
    """Return hard links each to the next, which comes later, the file itself last."""
    links = (header(b"%d" % n, b"1", linkname=b"%d" % (n + 1)) for n in range(number))
    return b"".join(links) + file(b"%d" % number, b"x") + END


def paths_without_end(number: int) -> bytes:
    """Return long names of which each implies two thousand directories of its own."""
    return b"".join(
        long_name(b"%d" % n + b"/d" * 2040) + header(b"f", magic=GNU) for n in range(number)
    )


def many_through_links(number: int) -> bytes:
    """Return files in ever new directories below forty links of two thousand components each."""
    dots = b"./" * 2000
    targets = [b"d", *(b"%sl%d" % (dots, n) for n in range(38))]
    links = (
        pax([(b"linkpath", target)]) + header(b"l%d" % n, b"2") for n, target in enumerate(targets)
    )
    files = (file(b"l38/%d/f" % n) for n in range(number))
    return header(b"d", b"5") + b"".join(links) + b"".join(files) + END


def deep_below_links(number: int) -> bytes:
    """Return a link that is put anew before each file of a deep directory."""
    turn = header(b"a", b"2", linkname=b"x") + long_name(b"d/" * 2000 + b"f") + header(magic=GNU)
    return turn * number + END


def flips(number: int) -> bytes:
    """Return a path that is in turn a file, a directory with content, and a symbolic link."""
    turn = file(b"a") + file(b"a/b/c") + header(b"a", b"2", linkname=b"a/b") + file(b"a/x")
    return turn * number + END


HEADERS = {
    "no tar at all": refused(b"\x7fELF" * 300, "no tar header"),
    "gzip": refused(b"\x1f\x8b\x08" + bytes(range(256)) * 8, "no tar header"),
    "ones": refused(b"\xff" * 2048, "no tar header"),
    "a wrong checksum": refused(header(chksum=1) + END, "checksum"),
    "no checksum": refused(header(chksum=bytes(8)) + END, "checksum"),
    "a checksum that is no number": refused(header(chksum=b"checksum") + END, "not a number"),
    "a checksum without end": refused(header(chksum=b"\x80" + b"\xff" * 7) + END, "checksum"),
    "a mode that is no number": refused(header(mode=b"rw-r--r-") + END, "not a number"),
    "a mode with bits that are none": shown_as(header(mode=0o7777777) + END),
    "an owner beyond 32 bits": shown_as(header(uid=1 << 40, gid=-1) + END),
    "a time beyond 64 bits": refused(header(mtime=b"\x80" + b"\x7f" * 11) + END, "a time of"),
    "a time far before all": refused(header(mtime=b"\xff" + b"\0" * 11) + END, "a time of"),
    "devices with numbers beyond all": shown_as(
        header(b"c", b"3", device=(1 << 50, -1)) + header(b"b", b"4", device=(-5, 1 << 55)) + END
    ),
    "a device number that is none": refused(
        header(b"c", b"3", device=(b"abc", 0)) + END, "not a number"
    ),
    "a header that is cut": refused(header()[:300], "ends inside a header"),
    "names that the fields do not end": shown_as(header(b"n" * 100, tail=b"p" * 155) + END),
    "each type that there is": shown_as(
        b"".join(header(b"t%d" % n, bytes([n])) for n in range(256) if bytes([n]) not in b"xgXLKS")
        + END
    ),
}

SIZES = {
    "beyond the end": refused(header(size=MIB) + END, "only 1024 are left"),
    "one byte beyond the end": refused(header(size=513) + bytes(512), "only 512 are left"),
    "eight EiB": refused(header(size=(1 << 63) - 1) + END, "are left"),
    "beyond 63 bits": refused(header(size=b"\x80" + b"\xff" * 11) + END, "a size of"),
    "negative": refused(header(size=-1) + END, "a size of"),
    "negative, of an extended header": refused(header(b"x", b"x", size=-512) + END, "a size of"),
    "a directory's": shown_as(header(b"d", b"5", size=1 << 40) + END),
    "pax, beyond the end": refused(pax([(b"size", b"9999999")]) + file(b"f") + END, "are left"),
    "pax, negative": refused(pax([(b"size", b"-1")]) + file(b"f") + END, "not a number"),
    "pax, beyond 63 bits": refused(
        pax([(b"size", b"9223372036854775808")]) + file(b"f") + END, "too large a number"
    ),
    "pax, without end": refused(pax([(b"size", b"9" * 5000)]) + file(b"f") + END, "not a number"),
    "pax, global": shown_as(pax([(b"size", b"99999999")], b"g") + file(b"f", b"x") + END),
}

PAX = {
    "a record of no length": refused(extended(b"0 a=b\n"), "malformed"),
    "a length that ends in the keyword": refused(extended(b"4 abc=d\n"), "malformed"),
    "a length beyond the header": refused(extended(b"99 a=b\n"), "malformed"),
    "a length without end": refused(extended(b"9" * 4000), "malformed"),
    "a length that is no number": refused(extended(b"six a=b\n"), "malformed"),
    "a negative length": refused(extended(b"-6 a=b\n"), "malformed"),
    "a length and nothing": refused(extended(b"6 "), "malformed"),
    "a record without =": refused(extended(b"6 abc\n"), "malformed"),
    "a record without a newline": refused(extended(b"6 a=bc"), "malformed"),
    "an empty keyword": shown_as(extended(record(b"", b"x"))),
    "a path with a NUL": refused(extended(record(b"path", b"a\0b")), "NUL"),
    "a link target with a NUL": refused(extended(record(b"linkpath", b"a\0b")), "NUL"),
    "a path beyond 4096 bytes": refused(extended(record(b"path", b"a/" * 2049)), "4098 bytes"),
    "a link target beyond 4096 bytes": refused(
        extended(record(b"linkpath", b"a/" * 2049)), "link target"
    ),
    "a time that is none": refused(extended(record(b"mtime", b"yesterday")), "not a number"),
    "a time in floats": refused(extended(record(b"mtime", b"1e9")), "not a number"),
    "a time that is not a number": refused(extended(record(b"mtime", b"nan")), "not a number"),
    "a time beyond 64 bits": refused(extended(record(b"mtime", b"9" * 30)), "not a number"),
    "letters in a fraction": refused(extended(record(b"mtime", b"1.5x")), "not a time"),
    "letters in a long fraction": refused(
        extended(record(b"mtime", b"1." + b"0" * 9 + b"x")), "not a time"
    ),
    "a fraction with a sign": refused(extended(record(b"mtime", b"1.-5")), "not a time"),
    "two fractions": refused(extended(record(b"mtime", b"1.0000000000.5")), "not a time"),
    "a fraction of a thousand digits": shown_as(extended(record(b"mtime", b"1." + b"9" * 1000))),
    "the earliest time": shown_as(extended(record(b"mtime", b"-9223372036854775807.999999999"))),
    "an owner that is none": refused(extended(record(b"uid", b"root")), "not a number"),
    "a charset that is none": shown_as(extended(record(b"hdrcharset", b"\xff\0"))),
    "an attribute that is no base64": refused(
        extended(record(b"LIBARCHIVE.xattr.user.a", b"%%%%x")), "extended attribute"
    ),
    "attributes by the thousands": shown_as(
        extended(b"".join(record(b"SCHILY.xattr.user.%d" % n, b"v") for n in range(30_000)))
    ),
    "attributes that Linux cannot hold": shown_as(
        extended(
            record(b"SCHILY.xattr.", b"x")
            + record(b"SCHILY.xattr." + b"n" * 70_000, b"x")
            + record(b"SCHILY.xattr.user.big", b"x" * 500_000)
        )
    ),
    "a GiB of extended header": refused(
        header(b"x", b"x", size=GIB), "at most 1048576", behind=GIB + 1024
    ),
    "a GiB of long name": refused(
        header(b"L", b"L", size=GIB, magic=GNU), "at most 1048576", behind=GIB + 1024
    ),
    "a GiB of long link target": refused(
        header(b"K", b"K", size=GIB, magic=GNU), "at most 1048576", behind=GIB + 1024
    ),
    "a long name beyond 4096 bytes": refused(
        long_name(b"a/" * 2049) + file(b"f") + END, "4098 bytes"
    ),
    "an empty long name": shown_as(long_name(b"") + file(b"f") + END),
    "tiny records by the millions": refused(
        lambda: extended(b"5 a=\n" * 200_000)[: -len(END)] * 6, "pax records beyond the ordinary"
    ),
    "extended headers without a member": refused(pax([(b"path", b"p")]) * 9 + END, "behind"),
    "extended headers without end": refused(
        pax([(b"k%d" % n, b"v" * 900) for n in range(500)]) * 3 + file(b"f") + END,
        "at most 1048576",
    ),
    "global headers without end": shown_as(
        b"".join(
            pax([(b"SCHILY.xattr.user.%d" % n, b"v" * 900)], b"g") + file(b"f%d" % n)
            for n in range(2000)
        )
        + END
    ),
    "an extended header that describes itself": shown_as(
        pax([(b"path", b"p"), (b"size", b"0")]) + pax([(b"size", b"0")]) + file(b"f") + END
    ),
}

SPARSE = {
    "runs that overlap": refused(old_gnu((0, 512), (256, 512)) + bytes(1024), "sparse map"),
    "runs that descend": refused(old_gnu((2048, 512), (0, 512)) + bytes(1024), "sparse map"),
    "a run beyond the file": refused(old_gnu((4000, 512)) + bytes(1024), "sparse map"),
    "more data than there is": refused(old_gnu((0, 2048)) + bytes(1024), "sparse map"),
    "a map that goes on behind the tar": refused(old_gnu(size=0, more=1), "ends inside"),
    "a map of empty blocks without end": refused(
        old_gnu((0, 512), more=1) + (bytes(504) + b"\1" + bytes(7)) * 4000, "is empty"
    ),
    "a file of 8 EiB": shown_as(old_gnu((0, 1), size=1, real=8**11 - 1) + bytes(512) + END),
    "sizes whose sum no 64 bits hold": shown_as(
        b"".join(
            pax([(b"GNU.sparse.size", b"9223372036854775807"), (b"GNU.sparse.numblocks", b"0")])
            + file(b"f%d" % n)
            for n in range(9)
        )
        + END
    ),
    "0.1, an odd list": refused(
        sparse_pax({b"size": b"9", b"map": b"0,1,2"}, b"x" * 9), "odd sparse map"
    ),
    "0.1, no numbers": refused(
        sparse_pax({b"size": b"9", b"map": b"zero,one"}, b"x" * 9), "not a number"
    ),
    "0.0, a size that is none": refused(sparse_pax({b"size": b"huge"}), "not a number"),
    "0.0, lengths without offsets": refused(
        pax(
            [
                (b"GNU.sparse.size", b"10"),
                (b"GNU.sparse.numbytes", b"5"),
                (b"GNU.sparse.numbytes", b"5"),
            ]
        )
        + file(b"f", b"x" * 10)
        + END,
        "sparse map",
    ),
    "1.0, no map": refused(sparse_1_0(b""), "does not end"),
    "1.0, a map that does not end": refused(sparse_1_0(b"9" + b"\n1" * 200), "does not end"),
    "1.0, a count without end": refused(sparse_1_0(b"9" * 512), "does not end"),
    "1.0, a number without end": refused(sparse_1_0(b"1\n" + b"9" * 2000), "list of numbers"),
    "1.0, no numbers": refused(sparse_1_0(b"rubbish\n".ljust(512, b"\0")), "not a number"),
    "1.0, more runs than anybody has": refused(
        sparse_1_0(b"99999999\n".ljust(512, b"\0")), "99999999 runs"
    ),
    "1.0, empty runs by the millions": refused(
        lambda: sparse_1_0(content(b"600000\n" + b"0\n0\n" * 600_000))[: -len(END)] * 2,
        "more than 1048576 runs",
    ),
    "0.1, empty runs by the millions": refused(
        lambda: map_0_1(200_000) * 6,
        "more than 1048576 runs",
    ),
    "0.0, empty runs beside others": refused(
        # Not so many as there may be records: it is as runs, with those before, that they count.
        lambda: (
            map_0_1(200_000) * 5
            + (
                pax([(b"GNU.sparse.size", b"9"), *[(b"GNU.sparse.numbytes", b"0")] * 25_000])
                + file(b"f")
            )
            * 2
        ),
        "more than 1048576 runs",
    ),
    "0.1, empty runs of directories": refused(
        lambda: (
            (
                pax(
                    [(b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b",".join([b"0,0"] * 200_000))]
                )
                + header(b"d", b"5")
            )
            * 6
        ),
        "more than 1048576 runs",
    ),
    "1.0, no size": shown_as(
        sparse_pax({b"major": b"1", b"minor": b"0"}, b"0\n".ljust(512, b"\0"))
    ),
    "1.0, no runs": shown_as(sparse_1_0(b"0\n".ljust(512, b"\0"), b"1099511627776")),
    "on what is no file": shown_as(
        pax([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,9")])
        + header(b"d", b"5")
        + pax([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,9")])
        + header(b"l", b"2", linkname=b"d")
        + END
    ),
    "runs by the hundred thousands": shown_as(
        lambda: sparse_1_0(
            b"\n".join([b"200000", *(b"%d\n1" % (n * 9000) for n in range(200_000)), b""]).ljust(
                3 * MIB, b"\0"
            ),
            b"%d" % (9000 * 200_000),
        )
    ),
}

NAMES = {
    "out of the root": shown_as(plain([b"../../../etc/passwd", b"/etc/shadow", b"a/../../b"])),
    "no name": shown_as(plain([b"", b".", b"..", b"/", b"//", b"./.", b"a/.."])),
    "a newline, escapes, a bell": shown_as(plain([b"a\nb", b"\x1b[2J\x1b]0;t\a", b"\x07", b" "])),
    "bytes that no charset has": shown_as(plain([b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80"])),
    "one name in several spellings": shown_as(plain([b"a/b", b"./a/b", b"a//b", b"/a/./b"])),
    "255 bytes": shown_as(long_name(b"n" * 255) + file(b"f") + END),
    "256 bytes": refused(long_name(b"n" * 256) + file(b"f") + END, "allows 255"),
    "256 bytes, a parent's": refused(long_name(b"n" * 256 + b"/f") + file(b"f") + END, "255"),
    "a whiteout of 255 bytes": shown_as(long_name(b".wh." + b"n" * 255) + file(b"f") + END),
    "a dot at the end": shown_as(file(b"d/.") + file(b"d/f") + file(b"e/g/..") + END),
    "devices named like files": shown_as(header(b"dev/null", b"3", device=(1, 3)) + END),
}

LINKS = {
    "to itself": shown_as(symlinks([("l", "l")], "l/f")),
    "in a circle": shown_as(symlinks([("a", "b"), ("b", "a")], "a/f", "b/f")),
    "in a circle through a directory": shown_as(symlinks([("d/l", "../d/l/x")], "d/l/y")),
    "to the root": shown_as(symlinks([("l", "/")], "l/f", "l/l/l/g")),
    "out of the root": shown_as(symlinks([("l", "../../.."), ("m", "/../..")], "l/f", "m/g")),
    "to nothing": shown_as(header(b"l", b"2") + file(b"l/f") + END),
    "to the host's files": shown_as(symlinks([("l", "/etc"), ("p", "/proc/self")], "l/passwd")),
    "forty in a row": shown_as(symlinks([("d/x", ""), *chain(40, "d")], "l39/f")),
    "a thousand in a row": shown_as(symlinks(chain(1000, "d"), "l999/f")),
    "each twice through the one before": shown_as(
        symlinks([(f"l{n}", f"l{n - 1}/l{n - 1}" if n else ".") for n in range(60)], "l59/f")
    ),
    "each path through thousands": refused(
        lambda: many_through_links(2000), "links and deep directories"
    ),
    "a hard link to itself": shown_as(layer({"a": Hard("a")})),
    "hard links in a circle": shown_as(layer({"a": Hard("b"), "b": Hard("c"), "c": Hard("a")})),
    "hard links to directories": shown_as(
        layer({"d/": "", "a": Hard("d"), "b": Hard("/"), "c": Hard(".."), "e": Hard("")})
    ),
    "hard links below what they replace": shown_as(layer({"a/b": "x", "a": Hard("a/b")})),
    "hard links that a link leads to": shown_as(layer({"s": Sym("."), "f": "x", "h": Hard("s/f")})),
    "hard links to nothing": shown_as(layer({"a": Hard("../../etc/passwd")})),
    "hard links backwards by the ten thousands": shown_as(lambda: links_backwards(10_000)),
    "hard links to a file with much to it": shown_as(
        lambda: (
            pax([(b"SCHILY.xattr.user.k", b"v" * 60_000)])
            + file(b"f")
            + b"".join(header(b"l%d" % n, b"1", linkname=b"f") for n in range(20_000))
            + END
        )
    ),
    "hard links to another layer's directory": shown_as(
        layer({"b": Hard("d")}), below=layer({"d/": ""})
    ),
}

WHITEOUTS = {
    "of nothing, the directory, its parent": shown_as(
        layer({".wh.": "", ".wh..": "", ".wh...": "", "d/.wh..": "", "d/.wh...": ""}),
        below=layer({"d/f": "f", "g": "g"}),
    ),
    "with slashes and dots": shown_as(
        layer([("d/../.wh./x", File("")), (".wh./", File("")), ("/.wh..", File(""))]),
        below=layer({"x": "x"}),
    ),
    "of whiteouts": shown_as(
        layer({".wh..wh.a": "", ".wh..wh..wh.a": ""}), below=layer({".wh.a": "", "a": ""})
    ),
    "opaque, of every type": shown_as(
        layer([("a/.wh..wh..opq/", ""), ("b/.wh..wh..opq", Sym("x")), ("c/.wh..wh..opq/x", "")]),
        below=layer({"a/f": "", "b/f": "", "c/f": ""}),
    ),
    "nested without end": shown_as(
        plain([b"d/" * n + b".wh.d" for n in range(200)] + [b"d/" * 200 + b".wh.f"]),
        below=plain([b"d/" * 200 + b"f"]),
    ),
    "by the ten thousands": shown_as(
        lambda: plain([b".wh.%d" % n for n in range(40_000)]),
        below=plain([b"%d" % n for n in range(1000)]),
    ),
}

TREES = {
    "directories that one name implies by the thousands": refused(
        lambda: paths_without_end(270), "implies more than"
    ),
    "a path that is all things in turn": shown_as(lambda: flips(5000)),
    "a file as its own parent": shown_as(plain([b"f", b"f/f", b"f/f/f", b"f"])),
    "replaced links above deep paths": refused(
        lambda: deep_below_links(3000), "links and deep directories"
    ),
    "the same name without end": shown_as(lambda: file(b"f", b"x") * 50_000 + END),
}

KINDS = {
    "headers": HEADERS,
    "sizes": SIZES,
    "pax": PAX,
    "sparse": SPARSE,
    "names": NAMES,
    "links": LINKS,
    "whiteouts": WHITEOUTS,
    "trees": TREES,
}
CASES = [(kind, name) for kind, cases in KINDS.items() for name in cases]


def resident(field: str) -> int:
    """Bytes of this process in memory: now, as VmRSS, or the most since they were reset, VmHWM."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if field in line) * 1024


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_tree_or_a_clear_error(
    kind: str, name: str, tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """A hostile layer is shown whole or refused in one line, for little work and memory."""
    case = KINDS[kind][name]
    image = image_of(case, tmp_path)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the most is counted anew
    memory = resident("VmRSS")
    length = sum(one.blob.length for one in image.layers if one.blob) - case.behind
    began = time.process_time()
    with at_most(min(MOST_WORK, SOME_WORK + WORK_A_BYTE * length)):
        if case.says is None:
            walk(mounted(image, tmp_path))
        else:
            with pytest.raises(CorruptArchive, match=case.says) as refusal:
                mounted(image, tmp_path)
    if case.says is not None:
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 400
    assert time.process_time() - began < SECONDS
    assert resident("VmHWM") - memory < MEMORY
    count(f"hostile layers: {kind}", 1)


@pytest.mark.parametrize(
    ("module", "limit"), [(fold, "MAX_MEMBERS"), (layer_records, "MAX_ATTRIBUTES")]
)
def test_a_layer_may_not_take_memory_without_end(
    module: ModuleType, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What members cost is bounded; here by less, as the limits are hundreds of megabytes."""
    links = b"".join(header(b"l%d" % n, b"2", linkname=b"target") for n in range(100))
    monkeypatch.setattr(module, limit, 100)
    with pytest.raises(CorruptArchive, match="more than 100 "):
        mounted(image_of(Tar(links * 2 + END), tmp_path), tmp_path)


def image_of(case: Tar, folder: Path) -> Image:
    """Return an image of the case's layer, on top of the one below it."""
    layers = []
    for name, data in (("below", case.below), ("layer", case.data)):
        path = folder / name
        with path.open("wb") as out:
            out.write(data if isinstance(data, bytes) else data())
            length = out.tell() + (case.behind if name == "layer" else 0)
            out.truncate(length)
        layers.append(Layer(f"sha256:{name}", Blob(path, 0, length)))
    return Image("sha256:0", (), b"{}", b"{}", tuple(layers))


def mounted(image: Image, folder: Path) -> ImageFs:
    """Return an image's file system, its layers indexed in this process."""
    for one in image.layers:
        index_cache.build(one, folder)
    return image_fs(image, folder)


def test_no_name_leaves_the_tree(tmp_path: Path) -> None:
    """Names with dots and links with absolute targets stay within the image's root."""
    names = [b"../../../etc/passwd", b"/etc/shadow", b"l/m/../../../../x"]
    tar = header(b"l", b"2", linkname=b"../../etc") + plain(names)
    fs = mounted(image_of(Tar(tar), tmp_path), tmp_path)
    assert shown(fs) == {
        "etc/": "",
        "etc/passwd": "",
        "etc/shadow": "",
        "l": "-> ../../etc",
        "x": "",
    }
    root = resolve(fs, "rootfs")
    assert root is not None
    assert fs.lookup(ROOT_ID, b"..") == fs.getattr(ROOT_ID)
    assert fs.lookup(root.node, b"etc/passwd") is None
    assert fs.lookup(root.node, b"") is None


def test_names_are_printable_in_layers_txt(tmp_path: Path) -> None:
    """What an image says of itself reaches a terminal without anything that it would obey."""
    image = image_of(Tar(plain([b".wh."])), tmp_path)
    said = "RUN \x1b[2J\n\t\u202e"
    layers = [Layer(one.diff_id, one.blob, created_by=said) for one in image.layers]
    fs = mounted(Image(image.id, (), b"{}", b"{}", tuple(layers)), tmp_path)
    text = read(fs, "layers.txt").decode()
    assert "RUN" in text
    assert all(line.replace("\t", "").isprintable() for line in text.splitlines())


# An archive that changes while it is mounted


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, ImageFs]:
    """A tar that is read in place, and its file system."""
    path = tmp_path / "a.tar"
    path.write_bytes(layer({"f": "content", "d/g": "more"}))
    image = Image(
        "sha256:0", (), b"{}", b"{}", (Layer("sha256:0", Blob(path, 0, path.stat().st_size)),)
    )
    return path, mounted(image, tmp_path)


def cut(path: Path) -> None:
    os.truncate(path, 600)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def rewrite(path: Path) -> None:
    path.write_bytes(layer({"f": "foreign", "d/g": "else"}))


def overwrite_a_byte(path: Path) -> None:
    with path.open("r+b") as out:
        out.seek(path.read_bytes().index(b"content"))
        out.write(b"C")


def append(path: Path) -> None:
    with path.open("ab") as out:
        out.write(b"more")


def overwrite_and_set_time_back(path: Path) -> None:
    before = path.stat()
    overwrite_a_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "cut": cut,
    "cut to nothing": cut_to_nothing,
    "rewritten": rewrite,
    "a byte overwritten": overwrite_a_byte,
    "appended to": append,
    "a byte overwritten, and the time set back": overwrite_and_set_time_back,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_archive_is_an_io_error(
    name: str, archive: tuple[Path, ImageFs], count: Callable[[str, int], None]
) -> None:
    """Once a mounted archive changes, reads are EIO: never foreign bytes, never a crash."""
    path, fs = archive
    before = os.stat(path).st_ctime_ns
    attr = resolve(fs, "rootfs/f")
    assert attr is not None
    assert fs.read(attr.node, 0, 100) == b"content"
    CHANGES[name](path)
    while os.stat(path).st_ctime_ns == before:
        os.utime(path)
    with pytest.raises(OSError, match="changed") as error:
        fs.read(attr.node, 0, 100)
    assert error.value.errno == errno.EIO
    assert shown(fs)["d/"] == ""
    count("archives changed while mounted: ways", 1)


def test_a_deleted_or_replaced_archive_stays_readable(archive: tuple[Path, ImageFs]) -> None:
    """The bytes that were mounted live as long as the mount, whatever takes their name."""
    path, fs = archive
    path.unlink()
    assert read(fs, "rootfs/f") == b"content"
    path.write_bytes(layer({"f": "foreign"}))
    assert read(fs, "rootfs/f") == b"content"


def test_an_archive_whose_bytes_stay_stays_readable(archive: tuple[Path, ImageFs]) -> None:
    """Another name, mode or place is no other content; a byte that changes later is noticed."""
    path, fs = archive
    moved = path.with_name("moved")
    for change in (
        lambda: path.with_name("link").hardlink_to(path),
        lambda: path.chmod(0o600),
        lambda: path.rename(moved),
        lambda: path.with_name("link").unlink(),
    ):
        change()
        assert read(fs, "rootfs/f") == b"content"
    overwrite_and_set_time_back(moved)
    with pytest.raises(OSError, match="changed"):
        read(fs, "rootfs/f")


def test_an_archive_that_changes_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is opened must be what was indexed, however short the time between."""
    path = tmp_path / "a.tar"
    path.write_bytes(layer({"f": "content"}))
    image = Image("sha256:0", (), b"", b"", (Layer("sha256:0", Blob(path, 0, 10240)),))
    index_cache.build(image.layers[0], tmp_path)
    real = index_cache.open_index

    def slow(one: Layer, folder: Path) -> Index:
        found = real(one, folder)
        path.write_bytes(layer({"f": "foreign"}))
        os.utime(path, (0, 0))
        return found

    monkeypatch.setattr(index_cache, "open_index", slow)
    with pytest.raises(CorruptArchive, match="changed"):
        image_fs(image, tmp_path)


# Node ids that nobody gave out


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> ImageFs:
    folder = tmp_path_factory.mktemp("stack")
    below = layer({"d/e/f": "f", "d/g": Hard("d/e/f"), "l": Sym("d"), "h/x": "x"})
    above = layer({"d/.wh.e": "", "d/k": Hard("d/e/f"), "h/.wh..wh..opq": "", "n/.wh.m": ""})
    return mounted(image_of(Tar(above, below=below), folder), folder)


NODES = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.builds(nodeid.pack, st.integers(0, 8), st.integers(0, 4), st.integers(0, 14)),
)
CALLS: dict[str, Callable[[FileSystem, int, bytes, int], object]] = {
    "lookup": lambda fs, node, name, _: fs.lookup(node, name),
    "getattr": lambda fs, node, _, __: fs.getattr(node),
    "listdir": lambda fs, node, _, __: fs.listdir(node),
    "readlink": lambda fs, node, _, __: fs.readlink(node),
    "read": lambda fs, node, _, number: fs.read(node, number, 4096),
    "seek": lambda fs, node, _, number: fs.seek(node, number, os.SEEK_HOLE),
    "getxattr": lambda fs, node, name, _: fs.getxattr(node, name),
    "listxattr": lambda fs, node, _, __: fs.listxattr(node),
    "stable": lambda fs, node, _, __: fs.is_stable(node),
}


@settings(max_examples=1500, deadline=None)
@given(
    call=st.sampled_from(sorted(CALLS)),
    node=NODES,
    name=st.sampled_from([b".", b"..", b"d", b"e", b"f", b".wh.e", b"user.imagefs.layer", b"\xff"]),
    number=st.integers(0, (1 << 63) - 1),
)
def test_any_node_id_gives_an_answer_or_an_errno(
    stack: ImageFs, call: str, node: int, name: bytes, number: int
) -> None:
    """Whatever number a request names, the file system answers or raises OSError."""
    try:
        CALLS[call](stack, node, name, number)
    except OSError as error:
        assert error.errno  # noqa: PT017
