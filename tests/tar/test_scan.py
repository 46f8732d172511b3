"""The header parser, held against the disk, Python's tarfile, GNU tar and bsdtar."""

import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from imagefs.errors import CorruptArchive
from imagefs.tar import header as tar_header
from imagefs.tar.scan import Member, scan
from tests.support.headers import END, GNU, USTAR, V7, content, file, header, long_name, pax
from tests.support.needs import need_tool
from tests.support.sparsetars import SPARSE_WRITERS

ENV = os.environ | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
GIB = 1 << 30


def members(tar: bytes) -> list[Member]:
    """Return all members of a tar that is in memory."""

    def read_at(length: int, offset: int) -> bytes:
        return tar[offset : offset + length]

    return list(scan(read_at, 0, len(tar)))


def only(tar: bytes) -> Member:
    """Return the one member of a tar."""
    (member,) = members(tar + END)
    return member


def scanned(path: Path) -> list[Member]:
    """Return all members of a tar on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(scan(partial(os.pread, fd), 0, os.fstat(fd).st_size))
    finally:
        os.close(fd)


# Archives of real trees, by real programs


@dataclass(frozen=True)
class Writer:
    """A program that writes tars, and what its format cannot hold."""

    command: tuple[str, ...]
    long_names: bool = True
    odd_names: bool = True
    devices: bool = True
    nanoseconds: bool = False
    xattrs: bool = False


PACKAGES = {"tar": "tar", "bsdtar": "libarchive-tools"}
WRITERS = {
    "GNU tar, v7": Writer(("tar", "--format=v7", "-cf"), long_names=False, devices=False),
    "GNU tar, oldgnu": Writer(("tar", "--format=oldgnu", "-cf")),
    "GNU tar, gnu": Writer(("tar", "--format=gnu", "-cf")),
    "GNU tar, ustar": Writer(("tar", "--format=ustar", "-cf"), long_names=False),
    "GNU tar, posix": Writer(
        ("tar", "--format=posix", "--xattrs", "--xattrs-include=*", "-cf"),
        odd_names=False,
        nanoseconds=True,
        xattrs=True,
    ),
    "GNU tar, posix, odd names": Writer(("tar", "--format=posix", "-cf"), nanoseconds=True),
    "bsdtar, v7": Writer(("bsdtar", "--format=v7tar", "-cf"), long_names=False, devices=False),
    "bsdtar, ustar": Writer(("bsdtar", "--format=ustar", "-cf"), long_names=False),
    "bsdtar, gnutar": Writer(("bsdtar", "--format=gnutar", "-cf")),
    "bsdtar, pax": Writer(
        ("bsdtar", "--format=pax", "--xattrs", "-cf"),
        odd_names=False,
        nanoseconds=True,
        xattrs=True,
    ),
}


def make_tree(top: Path, writer: Writer) -> None:
    """Make a tree of all kinds of files, within what the writer can hold."""
    top.mkdir()
    (top / "dir").mkdir(0o1777)
    (top / "empty").write_bytes(b"")
    (top / "dir/block").write_bytes(b"b" * 512)
    (top / "dir/more").write_bytes(b"m" * 513)
    (top / ("z" * 50)).mkdir()
    (top / ("z" * 50) / ("y" * 40)).write_bytes(b"prefix")
    os.chmod(top / "dir/more", 0o4751)
    os.chown(top / "dir/more", 1000, 65534)
    os.link(top / "dir/more", top / "hard")
    (top / "sym").symlink_to("dir/more")
    if writer.devices:
        os.mkfifo(top / "fifo")
        os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    if writer.odd_names:
        Path(os.fsdecode(os.fsencode(top) + b"/odd \xff\\name")).write_bytes(b"odd")
    if writer.long_names:
        deep = top
        for letter in "abcdefgh":
            deep = deep / (letter * 60)
            deep.mkdir()
        (deep / "file").write_bytes(b"deep")
        (top / "far").symlink_to("t" * 300)
    if writer.nanoseconds:
        os.utime(top / "empty", ns=(0, 1_234_567_890_123_456_789))
        # libarchive writes fractions before 1970 as if they pointed away from it.
        fraction = 123_456_789 if writer.command[0] == "tar" else 0
        os.utime(top / "dir/block", ns=(0, -315_619_200 * 10**9 + fraction))
    if writer.nanoseconds or (writer.command[0] == "tar" and "gnu" in writer.command[1]):
        os.utime(top / "dir", (0, -86400))
        os.utime(top / "fifo", (0, 1 << 32))
    if writer.xattrs:
        os.setxattr(top / "empty", "user.binary", bytes(range(256)))
        os.setxattr(top / "empty", "user.key=%2", b"equals")


@pytest.fixture(params=WRITERS)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Writer]:
    """A tree on the disk, a tar of it, and the tar's writer."""
    writer = WRITERS[request.param]
    need_tool(writer.command[0], PACKAGES[writer.command[0]])
    if os.geteuid():
        pytest.skip("only root can make device nodes and give files away")
    tree, tar = tmp_path / "tree", tmp_path / "a.tar"
    make_tree(tree, writer)
    subprocess.run([*writer.command, tar, "."], cwd=tree, env=ENV, check=True)
    return tree, tar, writer


def test_members_are_what_the_disk_has(archive: tuple[Path, Path, Writer]) -> None:
    """Each member of a real program's tar says what lstat, readlink and the xattrs say."""
    tree, tar, writer = archive
    found = scanned(tar)
    assert len(found) == 1 + sum(len(names) + len(files) for _, names, files in os.walk(tree))
    for member in found:
        check_member(tree, tar, member, writer)


def check_member(tree: Path, tar: Path, member: Member, writer: Writer) -> None:
    path = Path(os.fsdecode(os.fsencode(tree) + b"/" + member.name))
    status = path.lstat()
    assert (member.uid, member.gid) == (status.st_uid, status.st_gid), path
    nanoseconds = status.st_mtime_ns
    if not writer.nanoseconds:
        nanoseconds -= nanoseconds % 10**9
    assert member.mtime * 10**9 + member.mtimensec == nanoseconds, path
    if member.typeflag == tar_header.LNKTYPE:
        assert path.samefile(os.fsdecode(os.fsencode(tree) + b"/" + member.linkname))
        return
    assert member.typeflag == TYPES[stat.S_IFMT(status.st_mode)], path
    if not path.is_symlink():
        assert member.mode == stat.S_IMODE(status.st_mode), path
    assert member.rdev == kernel_device(status.st_rdev), path
    if path.is_symlink():
        assert member.linkname == os.fsencode(os.readlink(path))
    elif path.is_file():
        assert read_member(tar, member) == path.read_bytes()
        if writer.xattrs:
            names = os.listxattr(path)
            assert dict(member.xattrs) == {n.encode(): os.getxattr(path, n) for n in names}


TYPES = {
    stat.S_IFREG: tar_header.REGTYPE,
    stat.S_IFDIR: tar_header.DIRTYPE,
    stat.S_IFLNK: tar_header.SYMTYPE,
    stat.S_IFIFO: tar_header.FIFOTYPE,
    stat.S_IFCHR: tar_header.CHRTYPE,
    stat.S_IFBLK: tar_header.BLKTYPE,
}


def kernel_device(device: int) -> int:
    """Return a device's number in the kernel's 32 bits, which FUSE uses."""
    major, minor = os.major(device), os.minor(device)
    return major << 8 | minor & 0xFF | (minor & ~0xFF) << 12


def read_member(tar: Path, member: Member) -> bytes:
    """Return a small file's content, with its holes."""
    with tar.open("rb") as file:
        file.seek(member.offset)
        stored = file.read(member.stored)
    if member.sparse is None:
        return stored
    whole, at = bytearray(member.size), 0
    for offset, length in member.sparse:
        whole[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(whole)


def test_members_are_what_tarfile_reads(archive: tuple[Path, Path, Writer]) -> None:
    """Python's tarfile reads the same members, in the same order, at the same places."""
    _, tar, _ = archive
    with tarfile.open(tar) as peer:
        theirs = [
            (
                os.fsencode(info.name).rstrip(b"/"),
                info.type if info.type != tarfile.AREGTYPE else tarfile.REGTYPE,
                info.mode & 0o7777,
                info.uid,
                info.gid,
                info.size,
                os.fsencode(info.linkname),
                info.offset_data,
            )
            for info in peer
        ]
    ours = [
        (m.name.rstrip(b"/"), m.typeflag, m.mode, m.uid, m.gid, m.size, m.linkname, m.offset)
        for m in scanned(tar)
    ]
    assert ours == theirs


LINE = re.compile(rb"(.)(.{9}) +(\d+)/(\d+) +([\d,]+) (-?\d+-\d\d-\d\d) (\d\d:\d\d:\d\d)\S* +(.*)")


def test_members_are_what_gnu_tar_lists(archive: tuple[Path, Path, Writer]) -> None:
    """GNU tar lists the same names, kinds, owners, sizes, device numbers and link targets."""
    _, tar, _ = archive
    listing = subprocess.run(
        ["tar", "-tv", "--full-time", "--numeric-owner", "--quoting-style=literal", "-f", tar],
        env=ENV,
        capture_output=True,
        check=True,
    ).stdout
    theirs = []
    for line in listing.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        kind, _, uid, gid, size, _, _, name = match.groups()
        theirs.append((kind, int(uid), int(gid), size, name))
    assert [as_listed(member) for member in scanned(tar)] == theirs


def as_listed(member: Member) -> tuple[bytes, int, int, bytes, bytes]:
    kind = {b"0": b"-", b"1": b"h", b"2": b"l", b"3": b"c", b"4": b"b", b"5": b"d", b"6": b"p"}
    size = b"%d" % member.size
    if member.rdev:
        minor = member.rdev & 0xFF | member.rdev >> 12 & ~0xFF
        size = b"%d,%d" % (member.rdev >> 8 & 0xFFF, minor)
    arrow = {b"1": b" link to ", b"2": b" -> "}.get(member.typeflag)
    name = member.name + (arrow + member.linkname if arrow else b"")
    return kind[member.typeflag], member.uid, member.gid, size, name


# libarchive wants UTF-8 in pax headers.
@pytest.mark.parametrize(
    "archive", sorted(WRITERS.keys() - {"GNU tar, posix, odd names"}), indirect=True
)
def test_members_are_what_bsdtar_lists(archive: tuple[Path, Path, Writer]) -> None:
    """bsdtar, asked for an mtree listing, gives the same kinds, modes, owners, sizes, times."""
    need_tool("bsdtar", PACKAGES["bsdtar"])
    _, tar, _ = archive
    keywords = "!all,type,mode,uid,gid,size,time,link"
    listing = subprocess.run(
        ["bsdtar", "-cf", "-", "--format=mtree", f"--options={keywords}", f"@{tar}"],
        env=ENV,
        capture_output=True,
        check=True,
    ).stdout
    theirs = {}
    for line in listing.splitlines()[1:]:
        name, *words = line.split(b" ")
        theirs[unescape(name)] = dict(word.split(b"=", 1) for word in words)
    ours = {b"./" + m.name.removeprefix(b"./").rstrip(b"/"): m for m in scanned(tar)}
    ours[b"/."] = ours.pop(b"./" if b"./" in ours else b"./.")
    assert ours.keys() == theirs.keys()
    for name, member in ours.items():
        if member.typeflag != tar_header.LNKTYPE:
            check_mtree(member, theirs[name])


def unescape(name: bytes) -> bytes:
    return re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1], 8)]), name)


def check_mtree(member: Member, words: dict[bytes, bytes]) -> None:
    kinds = {b"file": b"0", b"link": b"2", b"char": b"3", b"block": b"4", b"dir": b"5"}
    assert member.typeflag == kinds.get(words[b"type"], b"6")
    assert member.mode == int(words[b"mode"], 8)
    assert (b"%d" % member.uid, b"%d" % member.gid) == (words[b"uid"], words[b"gid"])
    assert int(words.get(b"size", b"0")) == member.size
    if member.mtime >= 0:
        assert words[b"time"] == b"%d.%d" % (member.mtime, member.mtimensec)


def test_every_cut_of_a_tar_is_noticed(tmp_path: Path) -> None:
    """A tar that is cut anywhere before its end marker's first block is corrupt, if not whole."""
    tar = pax([(b"mtime", b"1.5")]) + file(b"a", b"x" * 600) + long_name(b"n" * 200) + file(b"s")
    whole = members(tar + END)
    assert [member.name for member in whole] == [b"a", b"n" * 200]
    for length in range(len(tar) + BLOCK_OF_ZEROS + 1):
        cut = (tar + END)[:length]
        try:
            found = members_of_marked(cut)
        except CorruptArchive:
            assert length < len(tar) + BLOCK_OF_ZEROS
        else:
            assert found == whole, length


BLOCK_OF_ZEROS = tar_header.BLOCK


def members_of_marked(tar: bytes) -> list[Member]:
    """Return the members of a tar that must have its end-of-archive marker."""
    return list(scan(lambda n, at: tar[at : at + n], 0, len(tar), marked=True))


# Sparse files


@pytest.fixture(params=SPARSE_WRITERS)
def sparse_archive(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A tree of sparse files, one over 8 GiB, and a tar of it."""
    command = SPARSE_WRITERS[request.param]
    need_tool(command[0], PACKAGES[command[0]])
    tree = tmp_path / "tree"
    tree.mkdir()
    sizes = {"holes": 1 << 20, "hole-at-the-end": 1 << 20, "huge": 9 * GIB, "only-a-hole": 1 << 16}
    for name, size in sizes.items():
        with (tree / name).open("wb") as out:
            out.truncate(size)
    with (tree / "holes").open("r+b") as out:
        for at in range(0, 1 << 20, 1 << 15):
            out.seek(at)
            out.write(b"%07d" % at)
        out.seek(-5, os.SEEK_END)
        out.write(b"enden")
    with (tree / "hole-at-the-end").open("r+b") as out:
        out.write(b"start")
    with (tree / "huge").open("r+b") as out:
        out.seek(8 * GIB + 4096)
        out.write(b"far")
    tar = tmp_path / "sparse.tar"
    names = sorted(sizes)
    subprocess.run([*command, "-cf", tar, *names], cwd=tree, env=ENV, check=True)
    assert tar.stat().st_size < 1 << 21, "the file system has no holes"
    return tree, tar


def test_sparse_members_hold_what_the_disk_has(sparse_archive: tuple[Path, Path]) -> None:
    """All data of a sparse file lies in its runs, all else is a hole, also beyond 8 GiB."""
    tree, tar = sparse_archive
    found = {member.name.decode(): member for member in scanned(tar)}
    assert found.keys() == set(os.listdir(tree))
    for name, member in found.items():
        assert member.size == (tree / name).stat().st_size
        assert member.sparse is not None
        assert sum(length for _, length in member.sparse) <= member.stored
        for start, end in data_ranges(tree / name):
            check_run(tar, tree / name, member, start, end)
    small = found["holes"]
    assert read_member(tar, small) == (tree / "holes").read_bytes()


def data_ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that the disk holds data for."""
    with path.open("rb") as file:
        end = 0
        size = path.stat().st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, end


def check_run(tar: Path, path: Path, member: Member, start: int, end: int) -> None:
    """Check that what the disk holds between two offsets is in the member's runs, or zero."""
    with path.open("rb") as file, tar.open("rb") as archive:
        file.seek(start)
        theirs = file.read(end - start)
        ours = bytearray(end - start)
        at = member.offset
        for offset, length in member.sparse or ():
            low, high = max(offset, start), min(offset + length, end)
            if low < high:
                archive.seek(at + low - offset)
                ours[low - start : high - start] = archive.read(high - low)
            at += length
    assert ours == theirs


def test_tarfile_sees_the_same_sparse_files(sparse_archive: tuple[Path, Path]) -> None:
    """Python's tarfile reads the same sizes and the same runs of data."""
    _, tar = sparse_archive
    with tarfile.open(tar) as peer:
        theirs = {info.name.encode(): (info.size, runs_of(info)) for info in peer}
    ours = {m.name: (m.size, list(m.sparse or ())) for m in scanned(tar)}
    assert ours == theirs


def runs_of(info: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Return the runs of data that tarfile found, which it keeps as pairs in `sparse`."""
    pairs: list[tuple[int, int]] = getattr(info, "sparse", None) or []
    return [run for run in pairs if run[1]]


# Single fields

NUMBERS = {
    "octal": (b"0000644\0", 0o644),
    "octal to the brim": (b"07777777", 0o7777777),
    "blanks in front": (b"   644 \0", 0o644),
    "NULs in front": (b"\0\0\0" + b"644\0", 0o644),
    "blank behind": (b"644     ", 0o644),
    "nothing": (b"\0" * 8, 0),
    "blanks": (b" " * 8, 0),
    "base 256": (b"\x80\0\0\0\0\x20\0\0", 2097152),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    """Numbers are octal digits between blanks and NULs, or base 256."""
    raw, value = NUMBERS[name]
    assert only(header(uid=raw)).uid == value


BAD_NUMBERS = {
    "letters": b"0000abc\0",
    "digits that are not octal": b"0000888\0",
    "a gap": b"64 4\0\0\0\0",
    "an underscore": b"1_000\0\0\0",
    "Python's octal": b"0o644\0\0\0",
}


@pytest.mark.parametrize("name", BAD_NUMBERS)
def test_what_is_no_number(name: str) -> None:
    """A field that is no number makes the tar corrupt."""
    with pytest.raises(CorruptArchive, match="not a number"):
        only(header(uid=BAD_NUMBERS[name]))


TIMES = {
    "the epoch": (header(mtime=0), 0, 0),
    "before 1970, base 256": (header(mtime=-1), -1, 0),
    "before 1901, base 256": (header(mtime=-(1 << 33)), -(1 << 33), 0),
    "after 2038": (header(mtime=1 << 32), 1 << 32, 0),
    "after 2242": (header(mtime=1 << 34), 1 << 34, 0),
    "pax, nanoseconds": (pax([(b"mtime", b"1.000000001")]) + header(), 1, 1),
    "pax, more digits than there are nanoseconds": (
        pax([(b"mtime", b"1.1234567899")]) + header(),
        1,
        123456789,
    ),
    "pax, few digits": (pax([(b"mtime", b"1.5")]) + header(), 1, 500_000_000),
    "pax, no digits behind the point": (pax([(b"mtime", b"1.")]) + header(), 1, 0),
    "pax, before 1970": (pax([(b"mtime", b"-1.25")]) + header(), -2, 750_000_000),
    "pax, just before 1970": (pax([(b"mtime", b"-0.5")]) + header(), -1, 500_000_000),
    "pax, whole seconds before 1970": (pax([(b"mtime", b"-7")]) + header(), -7, 0),
}


@pytest.mark.parametrize("name", TIMES)
def test_times(name: str) -> None:
    """Times are kept to the nanosecond, on both sides of 1970 and 2038."""
    tar, seconds, nanoseconds = TIMES[name]
    member = only(tar)
    assert (member.mtime, member.mtimensec) == (seconds, nanoseconds)


XATTRS = {
    "star's keyword": ([(b"SCHILY.xattr.user.a", b"v")], {b"user.a": b"v"}),
    "binary": ([(b"SCHILY.xattr.user.a", b"\0\n=\xff")], {b"user.a": b"\0\n=\xff"}),
    "empty": ([(b"SCHILY.xattr.user.a", b"")], {b"user.a": b""}),
    "libarchive's keyword": ([(b"LIBARCHIVE.xattr.user.a%3Db", b"dg==")], {b"user.a=b": b"v"}),
    "without base64's padding": ([(b"LIBARCHIVE.xattr.user.a", b"dg")], {b"user.a": b"v"}),
    "both keywords": (
        [(b"LIBARCHIVE.xattr.user.a", b"eA=="), (b"SCHILY.xattr.user.a", b"v")],
        {b"user.a": b"v"},
    ),
    "a name that GNU tar encodes": (
        [(b"SCHILY.xattr.user.a%3Db%253D", b"v")],
        {b"user.a=b%3D": b"v"},
    ),
    "what Linux cannot hold": (
        [
            (b"SCHILY.xattr.", b"nameless"),
            (b"SCHILY.xattr.user.a\0b", b"v"),
            (b"SCHILY.xattr.user." + b"n" * 300, b"v"),
            (b"SCHILY.xattr.user.a", b"v" * 65537),
            (b"LIBARCHIVE.xattr.user.%00", b"dg=="),
        ],
        {},
    ),
    "the last of two": (
        [(b"SCHILY.xattr.user.a", b"1"), (b"SCHILY.xattr.user.a", b"2")],
        {b"user.a": b"2"},
    ),
    "namespaces that Linux lacks": (
        [
            (b"SCHILY.xattr.com.apple.quarantine", b"v"),
            (b"LIBARCHIVE.xattr.com.apple.FinderInfo", b"dg=="),
            (b"SCHILY.xattr.user", b"v"),
            (b"SCHILY.xattr.user.", b"v"),
            (b"SCHILY.xattr.User.a", b"v"),
            (b"SCHILY.xattr.user.a", b"1"),
            (b"SCHILY.xattr.trusted.a", b"2"),
            (b"SCHILY.xattr.security.capability", b"3"),
            (b"LIBARCHIVE.xattr.system.a", b"NA=="),
        ],
        {b"user.a": b"1", b"trusted.a": b"2", b"security.capability": b"3", b"system.a": b"4"},
    ),
    "ACLs are no xattrs": ([(b"SCHILY.acl.access", b"user::rwx")], {}),
}


@pytest.mark.parametrize("name", XATTRS)
def test_xattrs(name: str) -> None:
    """Extended attributes are read from star's and libarchive's keywords, as binary values."""
    records, expected = XATTRS[name]
    assert dict(only(pax(records) + header()).xattrs) == expected


LEGAL: dict[str, tuple[bytes, list[bytes]]] = {
    "an empty archive": (END, []),
    "padding of bazel's": (bytes(10240), []),
    "nothing at all": (b"", []),
    "no end marker": (file(b"a"), [b"a"]),
    "half an end marker": (file(b"a") + bytes(tar_header.BLOCK), [b"a"]),
    "many blocks of zeros": (file(b"a") + bytes(20 * tar_header.BLOCK), [b"a"]),
    "a tar behind the end marker": (file(b"a") + END + file(b"b") + END, [b"a"]),
    "rubbish behind the end marker": (file(b"a") + END + b"rubbish" * 99, [b"a"]),
    "v7": (header(b"a", b"\0", magic=V7) + END, [b"a"]),
    "v7 directory": (header(b"a/", b"\0", magic=V7) + END, [b"a/"]),
    "v7, rubbish where ustar has its fields": (
        header(b"a", b"\0", magic=b"rubbish!", tail=b"r" * 155) + END,
        [b"a"],
    ),
    "prefix": (header(b"a", tail=b"pre/fix") + END, [b"pre/fix/a"]),
    "name and prefix to the brim": (
        header(b"n" * 100, tail=b"p" * 155) + END,
        [b"p" * 155 + b"/" + b"n" * 100],
    ),
    "star, with times behind its prefix": (
        header(b"a", tail=b"p" * 131 + b"00000000001 00000000001 " + b"xxxxxxxxtar\0") + END,
        [b"p" * 131 + b"/a"],
    ),
    "GNU, times where ustar has its prefix": (
        header(b"a", magic=GNU, tail=b"00000000001\0" * 2) + END,
        [b"a"],
    ),
    "GNU long name": (long_name(b"l" * 300) + header(b"short", magic=GNU) + END, [b"l" * 300]),
    "GNU long name over a pax path": (
        long_name(b"l" * 300) + pax([(b"path", b"p")]) + file(b"a") + END,
        [b"l" * 300],
    ),
    "pax path over a GNU long name's end": (
        pax([(b"path", b"p")]) + long_name(b"l") + file(b"a") + END,
        [b"l"],
    ),
    "of two extended headers the last": (
        pax([(b"path", b"p")]) + pax([(b"comment", b"c")]) + file(b"a") + END,
        [b"a"],
    ),
    "a global header behind an extended one": (
        pax([(b"path", b"p")])
        + long_name(b"l")
        + pax([(b"comment", b"c")], b"g")
        + file(b"a")
        + END,
        [b"a"],
    ),
    "a v7 directory with a size": (
        header(b"d/", b"\0", size=1, magic=V7) + file(b"f") + END,
        [b"d/", b"f"],
    ),
    "a v7 directory by its long name": (
        long_name(b"d/") + header(b"x", b"\0", size=600, magic=GNU) + file(b"f") + END,
        [b"d/", b"f"],
    ),
    "a prefix that old Go wrote into a GNU header": (
        header(b"f", magic=GNU, tail=b"pre/fix") + END,
        [b"pre/fix/f"],
    ),
    "times in a GNU header": (
        header(b"f", magic=GNU, tail=b"00000000001\0" + b"00000000002\0") + END,
        [b"f"],
    ),
    "a sparse file's name without a map": (
        pax([(b"GNU.sparse.name", b"s"), (b"GNU.sparse.size", b"9")]) + file(b"a") + END,
        [b"a"],
    ),
    "a sparse file's name of a version that nobody knows": (
        pax([(b"GNU.sparse.name", b"s"), (b"GNU.sparse.major", b"1")]) + file(b"a") + END,
        [b"a"],
    ),
    "Solaris extended header": (pax([(b"path", b"p")], b"X") + file(b"a") + END, [b"p"]),
    "an empty pax record takes nothing": (pax([(b"path", b"")]) + file(b"a") + END, [b"a"]),
    "pax records of a name in a charset": (
        pax([(b"hdrcharset", b"BINARY"), (b"path", b"\xff\xfe")]) + file(b"a") + END,
        [b"\xff\xfe"],
    ),
    "pax header that NULs pad": (
        header(b"x", b"x", size=100) + content(b"10 path=p\n".ljust(100, b"\0")) + file(b"a") + END,
        [b"p"],
    ),
    "global records rename nothing": (
        pax([(b"path", b"p"), (b"linkpath", b"p"), (b"size", b"9")], b"g")
        + file(b"a")
        + file(b"b", b"x")
        + END,
        [b"a", b"b"],
    ),
    "git's comment": (pax([(b"comment", b"c0ffee")], b"g") + file(b"a") + END, [b"a"]),
    "a volume's label": (header(b"label", b"V", magic=GNU) + file(b"a") + END, [b"a"]),
    "a continued volume": (
        header(b"rest", b"M", size=3, magic=GNU) + content(b"xyz") + file(b"a") + END,
        [b"a"],
    ),
    "a type that nobody knows": (header(b"a", b"Z", size=3) + content(b"xyz") + END, [b"a"]),
    "contiguous file": (header(b"a", b"7", size=3) + content(b"xyz") + END, [b"a"]),
    "a directory with a size": (
        header(b"d/", b"5", size=1 << 30) + file(b"a") + END,
        [b"d/", b"a"],
    ),
    "a hard link with a size": (
        header(b"l", b"1", size=5, linkname=b"a") + file(b"a") + END,
        [b"l", b"a"],
    ),
    "a dump directory's list of names": (
        header(b"d/", b"D", size=4, magic=GNU) + content(b"Ya\0\0") + file(b"a") + END,
        [b"d/", b"a"],
    ),
    "names with newlines and escapes": (file(b"a\n\x1b[2J") + END, [b"a\n\x1b[2J"]),
    "a name to the brim of a path": (
        long_name(b"x/" * 2048) + header(b"a", b"5") + END,
        [b"x/" * 2048],
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_tars(name: str) -> None:
    """What is odd but legal yields these members."""
    tar, names = LEGAL[name]
    assert [member.name for member in members(tar)] == names


# Rows that at least two of three peers read differently, and why this is no reason to follow.
ALONE = {
    "star, with times behind its prefix": "as Go; the others take times for names if they touch",
    "an empty pax record takes nothing": "as Go and bsdtar; an empty name helps nobody",
    "GNU long name over a pax path": "as Go, and so as engines",
    "pax path over a GNU long name's end": "as Go, and so as engines",
    "a global header behind an extended one": "as Go, and so as engines",
    "a v7 directory by its long name": "as Go, and so as engines",
    "a prefix that old Go wrote into a GNU header": "as Go, and so as engines",
    "a sparse file's name without a map": "as Go, and so as engines",
    "a sparse file's name of a version that nobody knows": "as Go, and so as engines",
    "global records rename nothing": "as engines; a layer where all files have one name is none",
    "a volume's label": "as bsdtar; no file was ever packed",
    "a continued volume": "half a file is none",
    "names with newlines and escapes": "their listings show them in other ways",
}


@pytest.mark.parametrize("name", sorted(LEGAL.keys() - ALONE))
def test_peers_read_odd_tars_alike(name: str, tmp_path: Path) -> None:
    """Of GNU tar, bsdtar and Python's tarfile, two or more list the same names."""
    tar, names = LEGAL[name]
    path = tmp_path / "a.tar"
    path.write_bytes(tar)
    ours = [member.rstrip(b"/") for member in names]
    peers = [listed("tar", path), listed("bsdtar", path), listed_by_python(path)]
    assert peers.count(ours) >= 2, peers


def listed(program: str, tar: Path) -> list[bytes]:
    """Return the names that a program lists, whether or not it also complains."""
    need_tool(program, PACKAGES[program])
    style = ["--quoting-style=literal"] if program == "tar" else []
    done = subprocess.run([program, *style, "-tPf", tar], env=ENV, capture_output=True, check=False)
    return [line.rstrip(b"/") for line in done.stdout.splitlines()]


def listed_by_python(tar: Path) -> list[bytes] | None:
    """Return the names that tarfile lists, or None where it refuses."""
    try:
        with tarfile.open(tar) as peer:
            return [os.fsencode(info.name).rstrip(b"/") for info in peer]
    except tarfile.TarError:
        return None


def test_types_of_unknown_kind_are_files() -> None:
    """What no standard knows, and contiguous files, read as regular files."""
    for typeflag in (b"\0", b"7", b"Z"):
        member = only(header(b"a", typeflag, size=3) + content(b"xyz"))
        assert (member.typeflag, member.size, member.stored) == (tar_header.REGTYPE, 3, 3)


def test_pax_size_moves_the_next_member() -> None:
    """A size in the pax header counts, for the member and for where the next one begins."""
    tar = pax([(b"size", b"600")]) + header(b"a", size=0) + content(b"x" * 600) + file(b"b") + END
    first, second = members(tar)
    assert (first.size, first.stored, second.name) == (600, 600, b"b")


def test_global_records_are_defaults() -> None:
    """A global record holds for all members that do not say otherwise."""
    tar = (
        pax([(b"mtime", b"5"), (b"uid", b"7")], b"g")
        + file(b"a")
        + pax([(b"uid", b"8")])
        + file(b"b")
        + file(b"c")
        + END
    )
    assert [(m.uid, m.mtime) for m in members(tar)] == [(7, 5), (8, 5), (7, 5)]


def test_local_records_end_with_their_member() -> None:
    """A local extended header says nothing of the member after next."""
    tar = pax([(b"SCHILY.xattr.user.a", b"v"), (b"uid", b"7")]) + file(b"a") + file(b"b") + END
    first, second = members(tar)
    assert (first.uid, second.uid) == (7, 0)
    assert (len(first.xattrs), len(second.xattrs)) == (1, 0)


def test_signed_checksums() -> None:
    """A checksum that sums bytes as signed, as some old tars did, is right as well."""
    block = header(b"\xff\xfe")
    signed = sum(
        byte - 256 if byte > 127 else byte for byte in header(b"\xff\xfe", chksum=b" " * 8)
    )
    again = block[:148] + b"%06o\0 " % signed + block[156:]
    assert only(again).name == b"\xff\xfe"


@pytest.mark.parametrize("at", range(0, tar_header.BLOCK, 7))
def test_a_flipped_bit_in_a_header_is_noticed(at: int) -> None:
    """A header of which one bit changed no longer has its checksum."""
    block = bytearray(header(b"name", b"0", magic=USTAR))
    block[at] ^= 0x10
    with pytest.raises(CorruptArchive):
        only(bytes(block))


def test_only_headers_are_read() -> None:
    """Scanning a tar of large files reads hardly more than a window for each header."""
    size = 64 << 20
    one = header(b"a", size=size)
    asked = 0

    def read_at(length: int, offset: int) -> bytes:
        nonlocal asked
        asked += length
        at = offset % (len(one) + size)
        return (one[at:] if at < len(one) else b"").ljust(length, b"\0")[:length]

    assert len(list(scan(read_at, 0, 20 * (len(one) + size)))) == 20
    assert asked <= 20 * 8192


def test_the_scan_begins_and_ends_where_it_is_told() -> None:
    """A tar inside another file is read between its ends, and its offsets count from the file's."""
    inner = file(b"a", b"content")
    whole = b"before" * 100 + inner + b"behind" * 100
    (member,) = scan(lambda n, at: whole[at : at + n], 600, 600 + len(inner))
    assert whole[member.offset : member.offset + member.size] == b"content"
