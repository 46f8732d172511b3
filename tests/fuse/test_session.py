"""The protocol without a kernel: bytes in, bytes out.

The literals are what a kernel on a little-endian machine sends, field by field in the order of
<linux/fuse.h>; they share nothing with the structs of `imagefs.fuse.abi`.
"""

import errno
import logging
import os
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagefs.filesystem import Attr, Entry, FileSystem, asker
from imagefs.fuse import abi
from imagefs.fuse.listings import Listings
from imagefs.fuse.replies import BRIEFLY, FOREVER
from imagefs.fuse.session import Session
from tests.fuzz.targets import unexpected
from tests.support.memfs import MemFs
from tests.support.silence import nothing_logged
from tests.support.tars import Dir, File, Sym, fs_of, layer

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="literals are little-endian")

TREE = {
    "./": Dir(0o755, mtime=1.5),
    "file": File("content", 0o640, uid=1000, gid=100, mtime=-1, xattrs={"user.x": b"value"}),
    "link": Sym("file"),
    "dir/": "",
    "dir/a": File("a"),
}
FILE, LINK, DIR, A = 2, 3, 4, 5

INIT = (
    b"\x68\x00\x00\x00"  # len 104
    b"\x1a\x00\x00\x00"  # opcode FUSE_INIT
    b"\x02\x00\x00\x00\x00\x00\x00\x00"  # unique
    b"\x00\x00\x00\x00\x00\x00\x00\x00"  # nodeid
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"  # uid, gid, pid
    b"\x00\x00\x00\x00"  # total_extlen, padding
    b"\x07\x00\x00\x00"  # major
    b"\x2d\x00\x00\x00"  # minor 45
    b"\x00\x00\x02\x00"  # max_readahead
    b"\xff\xff\xff\x7f"  # flags
    b"\xff\x07\x00\x00" + bytes(44)  # flags2  # unused
)
INIT_REPLY = (
    b"\x50\x00\x00\x00"  # len 80
    b"\x00\x00\x00\x00"  # error
    b"\x02\x00\x00\x00\x00\x00\x00\x00"  # unique
    b"\x07\x00\x00\x00"  # major
    b"\x2d\x00\x00\x00"  # minor
    b"\x00\x00\x02\x00"  # max_readahead
    # flags: ASYNC_READ, EXPORT_SUPPORT; AUTO_INVAL_DATA, DO_READDIRPLUS; NO_OPEN_SUPPORT,
    # PARALLEL_DIROPS, MAX_PAGES, CACHE_SYMLINKS; NO_OPENDIR_SUPPORT
    b"\x11\x30\xc6\x01"
    b"\x40\x00"  # max_background
    b"\x30\x00"  # congestion_threshold
    b"\x00\x10\x00\x00"  # max_write
    b"\x01\x00\x00\x00"  # time_gran
    b"\x80\x00"  # max_pages
    b"\x00\x00"  # map_alignment
    b"\x00\x00\x00\x00" + bytes(28)  # flags2  # max_stack_depth, request_timeout, unused
)
LOOKUP = (
    b"\x2d\x00\x00\x00"  # len 45
    b"\x01\x00\x00\x00"  # opcode FUSE_LOOKUP
    b"\x04\x00\x00\x00\x00\x00\x00\x00"  # unique
    b"\x01\x00\x00\x00\x00\x00\x00\x00"  # nodeid
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00"  # uid, gid, pid
    b"\x00\x00\x00\x00"  # total_extlen, padding
    b"file\0"
)
FILE_ATTR = (
    b"\x02\x00\x00\x00\x00\x00\x00\x00"  # ino
    b"\x07\x00\x00\x00\x00\x00\x00\x00"  # size
    b"\x01\x00\x00\x00\x00\x00\x00\x00"  # blocks
    b"\xff\xff\xff\xff\xff\xff\xff\xff"  # atime
    b"\xff\xff\xff\xff\xff\xff\xff\xff"  # mtime
    b"\xff\xff\xff\xff\xff\xff\xff\xff"  # ctime
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"  # atimensec, mtimensec, ctimensec
    b"\xa0\x81\x00\x00"  # mode 0100640
    b"\x01\x00\x00\x00"  # nlink
    b"\xe8\x03\x00\x00"  # uid
    b"\x64\x00\x00\x00"  # gid
    b"\x00\x00\x00\x00"  # rdev
    b"\x00\x10\x00\x00"  # blksize
    b"\x00\x00\x00\x00"  # flags
)
FOR_EVER = b"\xff\xff\xff\xff\xff\xff\xff\x7f"
LOOKUP_REPLY = (
    b"\x90\x00\x00\x00"  # len 144
    b"\x00\x00\x00\x00"  # error
    b"\x04\x00\x00\x00\x00\x00\x00\x00"  # unique
    b"\x02\x00\x00\x00\x00\x00\x00\x00"  # nodeid
    b"\x00\x00\x00\x00\x00\x00\x00\x00"  # generation
    + FOR_EVER  # entry_valid
    + FOR_EVER  # attr_valid
    + bytes(8)  # entry_valid_nsec, attr_valid_nsec
    + FILE_ATTR
)
GETATTR_REPLY = (
    b"\x78\x00\x00\x00"  # len 120
    b"\x00\x00\x00\x00"  # error
    b"\x07\x00\x00\x00\x00\x00\x00\x00"  # unique
    + FOR_EVER  # attr_valid
    + bytes(8)  # attr_valid_nsec, dummy
    + FILE_ATTR
)
DIRENTS = (
    b"\x04\x00\x00\x00\x00\x00\x00\x00"  # ino
    b"\x01\x00\x00\x00\x00\x00\x00\x00"  # off
    b"\x01\x00\x00\x00"  # namelen
    b"\x04\x00\x00\x00"  # type DT_DIR
    b".\0\0\0\0\0\0\0"
    b"\x01\x00\x00\x00\x00\x00\x00\x00"  # ino
    b"\x02\x00\x00\x00\x00\x00\x00\x00"  # off
    b"\x02\x00\x00\x00"  # namelen
    b"\x04\x00\x00\x00"  # type DT_DIR
    b"..\0\0\0\0\0\0"
    b"\x05\x00\x00\x00\x00\x00\x00\x00"  # ino
    b"\x03\x00\x00\x00\x00\x00\x00\x00"  # off
    b"\x01\x00\x00\x00"  # namelen
    b"\x08\x00\x00\x00"  # type DT_REG
    b"a\0\0\0\0\0\0\0"
)


def request(opcode: int, node: int, body: bytes = b"", unique: int = 7) -> bytes:
    """Return a request with its header."""
    return struct.pack("<IIQQIIIHH", 40 + len(body), opcode, unique, node, 0, 0, 1, 0, 0) + body


def read_body(offset: int, size: int) -> bytes:
    """Return struct fuse_read_in, which the directory requests have as well."""
    return struct.pack("<QQIIQII", 0, offset, size, 0, 0, 0, 0)


def answer(session: Session, opcode: int, node: int, body: bytes = b"") -> tuple[int, bytes]:
    """Return a request's errno and what follows the header of its reply."""
    reply = b"".join(session.handle(request(opcode, node, body)))
    length, error, unique = struct.unpack_from("<IiQ", reply)
    assert length == len(reply)
    assert unique == 7
    return -error, reply[16:]


@pytest.fixture
def session() -> Session:
    """A session that has answered INIT."""
    made = Session(MemFs(TREE))
    made.handle(INIT)
    return made


class Changing(MemFs):
    """The root changes, `dir` does not."""

    def is_stable(self, node: int) -> bool:
        return node in (DIR, A)


def test_init_agrees_on_what_makes_reading_fast() -> None:
    """INIT takes from what is offered just what is wanted."""
    session = Session(MemFs(TREE))
    assert session.minor is None
    assert b"".join(session.handle(INIT)) == INIT_REPLY
    assert session.minor == 45


def test_init_speaks_an_older_kernels_version() -> None:
    """The lower minor version holds; flags that were not offered are not asked for."""
    session = Session(MemFs(TREE))
    error, body = answer(session, abi.FUSE_INIT, 0, struct.pack("<IIII", 7, 31, 4096, 1))
    assert error == 0
    assert struct.unpack_from("<IIII", body) == (7, 31, 4096, 1)
    assert session.minor == 31


def test_init_refuses_what_is_too_old_and_bargains_with_what_is_new() -> None:
    """Below 7.31 is refused; a later major gets our version and is to ask again."""
    session = Session(MemFs(TREE))
    assert answer(session, abi.FUSE_INIT, 0, struct.pack("<IIII", 7, 30, 0, 0)) == (71, b"")
    assert answer(session, abi.FUSE_INIT, 0, struct.pack("<IIII", 6, 99, 0, 0)) == (71, b"")
    error, body = answer(session, abi.FUSE_INIT, 0, struct.pack("<IIII", 8, 0, 0, 0))
    assert (error, struct.unpack_from("<II", body)) == (0, (7, 45))
    assert session.minor is None
    assert answer(session, abi.FUSE_INIT, 0, struct.pack("<IIII", 7, 45, 0, 0))[0] == 0
    assert session.minor == 45


def test_lookup(session: Session) -> None:
    """A name gives its node and attributes, for ever."""
    assert b"".join(session.handle(LOOKUP)) == LOOKUP_REPLY


def test_lookup_of_nothing_is_remembered(session: Session) -> None:
    """A name that is not there is node 0, for ever, and no error."""
    error, body = answer(session, abi.FUSE_LOOKUP, 1, b"none\0")
    assert error == 0
    assert body == bytes(16) + FOR_EVER + bytes(104)


def test_lookup_of_what_is_too_long_for_a_name(session: Session) -> None:
    """Names end at 255 bytes, though the kernel would pass on longer ones."""
    assert answer(session, abi.FUSE_LOOKUP, 1, b"n" * 255 + b"\0")[0] == 0
    assert answer(session, abi.FUSE_LOOKUP, 1, b"n" * 256 + b"\0")[0] == errno.ENAMETOOLONG


@pytest.mark.parametrize(
    ("node", "name", "found"), [(DIR, b".", DIR), (DIR, b"..", 1), (1, b"..", 1), (1, b".", 1)]
)
def test_lookup_of_dots(session: Session, node: int, name: bytes, found: int) -> None:
    """The kernel asks for `.` and `..` to turn a file handle back into a path."""
    error, body = answer(session, abi.FUSE_LOOKUP, node, name + b"\0")
    assert (error, struct.unpack_from("<Q", body)) == (0, (found,))


def test_getattr(session: Session) -> None:
    """A node gives its attributes, for ever."""
    assert b"".join(session.handle(request(abi.FUSE_GETATTR, FILE, bytes(16)))) == GETATTR_REPLY


def test_what_changes_is_kept_briefly() -> None:
    """In a changing directory names and absent names last a second, stable nodes for ever."""
    session = Session(Changing(TREE))
    for name, entry_valid, attr_valid in (
        (b"file", BRIEFLY, BRIEFLY),
        (b"dir", BRIEFLY, FOREVER),
        (b"none", BRIEFLY, 0),
    ):
        _, body = answer(session, abi.FUSE_LOOKUP, 1, name + b"\0")
        assert struct.unpack_from("<QQ", body, 16) == (entry_valid, attr_valid), name
    _, body = answer(session, abi.FUSE_LOOKUP, DIR, b"a\0")
    assert struct.unpack_from("<QQ", body, 16) == (FOREVER, FOREVER)
    for node, valid in ((1, BRIEFLY), (FILE, BRIEFLY), (DIR, FOREVER)):
        _, body = answer(session, abi.FUSE_GETATTR, node, bytes(16))
        assert struct.unpack_from("<Q", body) == (valid,)
    _, body = answer(session, abi.FUSE_READDIRPLUS, 1, read_body(2, 4096))
    found = {name: valid for name, valid, _ in plus_records(body)}
    brief = (BRIEFLY, BRIEFLY)
    assert found == {b"file": brief, b"link": brief, b"dir": (BRIEFLY, FOREVER)}


def plus_records(body: bytes) -> Iterator[tuple[bytes, tuple[int, int], bytes]]:
    """Return the name, the two timeouts and the bytes of each struct fuse_direntplus."""
    while body:
        entry_valid, attr_valid = struct.unpack_from("<QQ", body, 16)
        (namelen,) = struct.unpack_from("<I", body, 128 + 16)
        size = (152 + namelen + 7) & ~7
        yield body[152 : 152 + namelen], (entry_valid, attr_valid), body[:size]
        body = body[size:]


def test_readdir(session: Session) -> None:
    """A listing has `.`, `..` and the entries, each with the offset of the next."""
    assert answer(session, abi.FUSE_READDIR, DIR, read_body(0, 4096)) == (0, DIRENTS)
    assert answer(session, abi.FUSE_READDIR, DIR, read_body(1, 4096)) == (0, DIRENTS[32:])
    assert answer(session, abi.FUSE_READDIR, DIR, read_body(2, 4096)) == (0, DIRENTS[64:])
    for beyond in (3, 4, 2**40, 2**63):
        assert answer(session, abi.FUSE_READDIR, DIR, read_body(beyond, 4096)) == (0, b"")


def test_readdirplus_is_readdir_with_lookups(session: Session) -> None:
    """Each entry is what LOOKUP replies and then its dirent; for `.` and `..` there is no node."""
    _, body = answer(session, abi.FUSE_READDIRPLUS, DIR, read_body(0, 4096))
    records = list(plus_records(body))
    assert [name for name, *_ in records] == [b".", b"..", b"a"]
    assert b"".join(record[128:] for *_, record in records) == DIRENTS
    assert records[0][2][:128] == records[1][2][:128] == bytes(128)
    assert records[2][2][:128] == answer(session, abi.FUSE_LOOKUP, DIR, b"a\0")[1]


@pytest.mark.parametrize("opcode", [abi.FUSE_READDIR, abi.FUSE_READDIRPLUS])
def test_listings_fit_any_room(opcode: int) -> None:
    """However small its parts are, a listing is whole; too small for one entry is EINVAL."""
    names = [b"n" * length for length in range(1, 256)]
    session = Session(MemFs({os.fsdecode(name): "" for name in names}))
    head = 24 if opcode == abi.FUSE_READDIR else 152
    for room in (head + 256, head + 300, 1000, 4096, 2**20):
        found, offset = [], 0
        while True:
            error, body = answer(session, opcode, 1, read_body(offset, room))
            assert error == 0
            assert len(body) <= room
            if not body:
                break
            while body:
                _, offset, namelen, _ = struct.unpack_from("<QQII", body, head - 24)
                found.append(body[head : head + namelen])
                body = body[(head + namelen + 7) & ~7 :]
        assert found == [b".", b"..", *names], room
    for offset in (0, 1, 2):
        assert answer(session, opcode, 1, read_body(offset, head + 7)) == (errno.EINVAL, b"")


def test_a_wide_directory_is_listed_once() -> None:
    """Going on at an offset takes from the listing that is there, wherever there is one."""

    class Counting(MemFs):
        listed = 0

        def listdir(self, node: int) -> Sequence[Entry]:
            self.listed += 1
            return super().listdir(node)

    fs = Counting({f"{number:05}": "" for number in range(5000)})
    session, offset, parts = Session(fs), 0, 0
    while body := answer(session, abi.FUSE_READDIRPLUS, 1, read_body(offset, 4096))[1]:
        offset += len(body) // 160
        parts += 1
    assert offset == 5002
    assert parts > 200
    assert fs.listed == 1


def test_kept_listings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that have been read do not pile up."""
    monkeypatch.setattr(Listings, "MOST_BYTES", 5000)
    session = Session(MemFs({f"d{n}/{f}": "" for n in range(9) for f in (["", *"abcd"])}))
    listings = session._listings
    for node in [2 + 5 * number for number in range(9)]:
        assert answer(session, abi.FUSE_READDIRPLUS, node, read_body(0, 4096))[1]
        assert 0 < listings._bytes <= 5000
        kept = [part for parts in listings._parts.values() for part in parts.values()]
        assert sum(part.weight() for part in kept) == listings._bytes


def names_listed(session: Session, opcode: int, node: int) -> int:
    """Read a directory from its beginning to its end; return how many names it has."""
    offset = 0
    head = 152 if opcode == abi.FUSE_READDIRPLUS else 24
    while body := answer(session, opcode, node, read_body(offset, 1 << 20))[1]:
        at = 0
        while at < len(body):
            _, offset, namelen, _ = struct.unpack_from("<QQII", body, at + head - 24)
            at += (head + namelen + 7) & ~7
    return offset - 2


@pytest.mark.parametrize("opcode", [abi.FUSE_READDIR, abi.FUSE_READDIRPLUS])
def test_a_directory_that_shrinks_keeps_no_part_of_what_it_was(
    opcode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its parts have been dropped for others meanwhile."""

    class Shrinking(Changing):
        names: Sequence[str] = [f"{number:0200}" for number in range(3000)]

        def listdir(self, node: int) -> Sequence[Entry]:
            if node != 1:
                return super().listdir(node)
            return [Entry(name.encode(), self.getattr(FILE)) for name in self.names]

    fs = Shrinking(TREE)
    session = Session(fs)
    assert names_listed(session, opcode, 1) == 3000
    monkeypatch.setattr(Listings, "MOST_BYTES", session._listings._bytes)
    assert names_listed(session, opcode, DIR) == 1
    fs.names = [str(number) for number in range(2100)]
    assert names_listed(session, opcode, 1) == 2100
    assert names_listed(session, opcode, DIR) == 1


class Counted(MemFs):
    """Counts how often each directory is listed."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        super().__init__(tree)
        self.listed: Counter[int] = Counter()

    def listdir(self, node: int) -> Sequence[Entry]:
        self.listed[node] += 1
        return super().listdir(node)


def test_a_walk_finds_its_directories_prepared() -> None:
    """Once a tool goes down a tree, the directories that it has yet to read are packed ahead."""
    fs = Counted({f"d{n}/{f}": "" for n in range(9) for f in (["", "a"])})
    session = Session(fs)
    nodes = {name: fs.lookup(1, name) for name in (b"d0", b"d1", b"d8")}
    first, second, last = (attr.node for attr in nodes.values() if attr)
    answer(session, abi.FUSE_READDIRPLUS, 1, read_body(0, 4096))
    assert not session.prepare()
    assert fs.listed == {1: 1}
    expected = answer(Session(fs), abi.FUSE_READDIRPLUS, second, read_body(0, 4096))
    fs.listed.clear()
    answer(session, abi.FUSE_READDIRPLUS, first, read_body(0, 4096))
    while session.prepare():
        pass
    assert fs.listed[second] == fs.listed[last] == 1
    assert answer(session, abi.FUSE_READDIRPLUS, second, read_body(0, 4096)) == expected
    assert fs.listed[second] == 1


class Slow(Counted):
    """Lists a directory when it is told to go on, and may fail then."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(TREE)
        self.fails = fails
        self.begun, self.go_on = threading.Event(), threading.Event()

    def listdir(self, node: int) -> Sequence[Entry]:
        entries = super().listdir(node)
        self.begun.set()
        assert self.go_on.wait(60)
        if self.fails:
            raise OSError(errno.EIO, "lost")
        return entries


def read_dir(session: Session) -> tuple[int, bytes]:
    return answer(session, abi.FUSE_READDIRPLUS, DIR, read_body(0, 4096))


@pytest.mark.parametrize("fails", [False, True])
def test_a_directory_is_packed_once_for_all_who_wait(fails: bool) -> None:
    """What one thread is at, or prepares, another does not do again, unless that one failed."""
    fs = Slow(fails=fails)
    session = Session(fs)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read_dir, session)
        assert fs.begun.wait(60)
        second = pool.submit(read_dir, session)
        with pytest.raises(TimeoutError):
            second.result(0.3)
        assert fs.listed == {DIR: 1}
        fs.go_on.set()
        assert first.result(60) == second.result(60)
    assert (first.result()[0] == errno.EIO) == fails
    assert fs.listed == {DIR: 1 + fails}
    assert not session._listings._packing


def test_who_waits_for_a_directory_may_leave() -> None:
    """The thread that is at it goes on."""
    fs = Slow()
    session = Session(fs)

    def leave() -> tuple[int, bytes]:
        asker.has_left = lambda: True  # of this thread alone
        return read_dir(session)

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first = one.submit(read_dir, session)
        assert fs.begun.wait(60)
        assert other.submit(leave).result(60)[0] == errno.EINTR
        assert not first.done()
        fs.go_on.set()
        assert first.result(60)[0] == 0
    assert fs.listed == {DIR: 1}


def test_what_cannot_be_prepared_is_told_when_it_is_asked_for() -> None:
    """An error while looking ahead does no harm; the request itself gets it."""

    class Damaged(Counted):
        def listdir(self, node: int) -> Sequence[Entry]:
            entries = super().listdir(node)
            if node not in (1, 2):
                raise OSError(errno.EIO, "lost")
            return entries

    fs = Damaged({"d0/": "", "d1/": ""})
    session = Session(fs)
    for node in (1, 2):
        assert answer(session, abi.FUSE_READDIRPLUS, node, read_body(0, 4096))[0] == 0
    while session.prepare():
        pass
    assert fs.listed[3] == 1
    assert answer(session, abi.FUSE_READDIRPLUS, 3, read_body(0, 4096)) == (errno.EIO, b"")


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("size", range(9))
def test_read(session: Session, offset: int, size: int) -> None:
    """READ gives the bytes that are there, and fewer at the end."""
    expected = b"content"[offset : offset + size]
    assert answer(session, abi.FUSE_READ, FILE, read_body(offset, size)) == (0, expected)


def test_readlink(session: Session) -> None:
    """READLINK gives the target, with no NUL behind it."""
    assert answer(session, abi.FUSE_READLINK, LINK) == (0, b"file")
    assert answer(session, abi.FUSE_READLINK, FILE) == (errno.EINVAL, b"")


def test_attributes_by_size(session: Session) -> None:
    """Size 0 asks for the size, too small is ERANGE, absent is ENODATA and never ENOSYS."""
    for opcode, name, value in (
        (abi.FUSE_GETXATTR, b"user.x\0", b"value"),
        (abi.FUSE_LISTXATTR, b"", b"user.x\0"),
    ):
        ask = [struct.pack("<II", size, 0) + name for size in (0, len(value) - 1, len(value), 99)]
        replies = [answer(session, opcode, FILE, body) for body in ask]
        size = struct.pack("<II", len(value), 0)
        assert replies == [(0, size), (errno.ERANGE, b""), (0, value), (0, value)]
    absent = answer(session, abi.FUSE_GETXATTR, FILE, bytes(8) + b"security.capability\0")
    assert absent == (errno.ENODATA, b"")
    assert answer(session, abi.FUSE_LISTXATTR, DIR, bytes(8)) == (0, bytes(8))


def test_lseek(session: Session) -> None:
    """LSEEK finds data and holes; beyond the end there is neither."""

    def seek(offset: int, whence: int) -> tuple[int, bytes]:
        return answer(session, abi.FUSE_LSEEK, FILE, struct.pack("<QQII", 0, offset, whence, 0))

    assert seek(2, os.SEEK_DATA) == (0, struct.pack("<Q", 2))
    assert seek(2, os.SEEK_HOLE) == (0, struct.pack("<Q", 7))
    assert seek(7, os.SEEK_DATA) == (errno.ENXIO, b"")


def test_statfs(session: Session) -> None:
    """STATFS gives the totals, and nothing free."""
    error, body = answer(session, abi.FUSE_STATFS, 1)
    assert error == 0
    assert struct.unpack("<QQQQQIIII24x", body) == (2, 0, 0, 5, 0, 4096, 255, 4096, 0)


@pytest.mark.parametrize(
    ("node", "mask", "error"),
    [
        (FILE, os.R_OK, 0),
        (FILE, os.W_OK, errno.EROFS),
        (FILE, os.X_OK, errno.EACCES),
        (DIR, os.R_OK | os.X_OK, 0),
        (DIR, os.W_OK, errno.EROFS),
    ],
)
def test_access(session: Session, node: int, mask: int, error: int) -> None:
    """The owner may read all, write nothing, and execute what is executable."""
    assert answer(session, abi.FUSE_ACCESS, node, struct.pack("<II", mask, 0)) == (error, b"")


def test_opening_is_left_to_the_kernel_that_can(session: Session) -> None:
    """A kernel that opens by itself is told so; another gets flags that make it keep its cache."""
    for opcode in (abi.FUSE_OPEN, abi.FUSE_OPENDIR):
        assert answer(session, opcode, FILE, bytes(8)) == (errno.ENOSYS, b"")
    older = Session(MemFs(TREE))
    answer(older, abi.FUSE_INIT, 0, struct.pack("<IIII", 7, 31, 0, 0))
    for opcode in (abi.FUSE_OPEN, abi.FUSE_OPENDIR):
        assert answer(older, opcode, FILE, bytes(8)) == (0, struct.pack("<QII", 0, 0b1010, 0))
    for opcode in (abi.FUSE_RELEASE, abi.FUSE_RELEASEDIR):
        assert answer(older, opcode, FILE, bytes(24)) == (0, b"")


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
def test_opening_to_write_is_refused(session: Session, flags: int) -> None:
    """Whether or not the kernel opens by itself, nothing is opened to be written to."""
    assert answer(session, abi.FUSE_OPEN, FILE, struct.pack("<II", flags, 0))[0] == errno.EROFS


@pytest.mark.parametrize(
    ("opcodes", "error"),
    [
        ("SETATTR SYMLINK MKNOD MKDIR UNLINK RMDIR RENAME RENAME2 LINK WRITE", errno.EROFS),
        ("SETXATTR REMOVEXATTR CREATE FALLOCATE COPY_FILE_RANGE TMPFILE", errno.EROFS),
        ("COPY_FILE_RANGE_64", errno.EROFS),
        ("IOCTL", errno.ENOTTY),
        ("STATX FLUSH FSYNC FSYNCDIR POLL GETLK SETLK SETLKW BMAP SYNCFS", errno.ENOSYS),
        ("SETUPMAPPING REMOVEMAPPING", errno.ENOSYS),
        ("DESTROY", 0),
    ],
)
def test_what_is_answered_out_of_hand(session: Session, opcodes: str, error: int) -> None:
    """Writing is EROFS; what the kernel can do without is ENOSYS, so that it does."""
    for name in opcodes.split():
        reply = answer(session, getattr(abi, f"FUSE_{name}"), FILE, bytes(64))
        assert reply == (error, b""), name


def test_what_awaits_no_reply_gets_none(session: Session) -> None:
    """An answer nobody waits for would be an error to the kernel."""
    for name in ("FORGET", "BATCH_FORGET", "INTERRUPT", "NOTIFY_REPLY"):
        assert session.handle(request(getattr(abi, f"FUSE_{name}"), FILE, bytes(16))) == ()


def test_nodes_that_are_not_there(session: Session) -> None:
    """Any operation on an unknown node is the file system's error."""
    for opcode, body in EVERY_BODY.items():
        if opcode not in (abi.FUSE_INIT, abi.FUSE_STATFS, abi.FUSE_OPEN, abi.FUSE_OPENDIR):
            assert answer(session, opcode, 999, body) == (errno.ENOENT, b""), opcode


EVERY_BODY = {
    abi.FUSE_INIT: INIT[40:],
    abi.FUSE_LOOKUP: b"file\0",
    abi.FUSE_GETATTR: bytes(16),
    abi.FUSE_READLINK: b"",
    abi.FUSE_OPEN: bytes(8),
    abi.FUSE_READ: read_body(0, 100),
    abi.FUSE_STATFS: b"",
    abi.FUSE_GETXATTR: bytes(8) + b"user.x\0",
    abi.FUSE_LISTXATTR: bytes(8),
    abi.FUSE_OPENDIR: bytes(8),
    abi.FUSE_READDIR: read_body(0, 4096),
    abi.FUSE_READDIRPLUS: read_body(0, 4096),
    abi.FUSE_ACCESS: bytes(8),
    abi.FUSE_LSEEK: struct.pack("<QQII", 0, 0, os.SEEK_DATA, 0),
}


@pytest.mark.parametrize("opcode", EVERY_BODY)
def test_requests_cut_anywhere_fail(
    session: Session, opcode: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A request cut short is an error, whether or not its header's length is cut as well."""
    caplog.set_level(logging.CRITICAL)
    whole = request(opcode, FILE, EVERY_BODY[opcode])
    for length in range(len(whole)):
        reply = b"".join(session.handle(whole[:length]))
        if length < 40:
            assert reply == b""
            continue
        assert struct.unpack_from("<Ii", reply) == (16, -errno.EINVAL)
        cut = struct.pack("<I", length) + whole[4:length]
        error = -struct.unpack_from("<Ii", b"".join(session.handle(cut)))[1]
        needed = {abi.FUSE_GETATTR: 0, abi.FUSE_OPENDIR: 0, abi.FUSE_INIT: 16}
        if length - 40 < needed.get(opcode, len(whole) - 40):
            assert error in (errno.EINVAL, errno.EIO), length


@given(
    opcode=st.integers(0, 60) | st.integers(0, 2**32 - 1),
    node=st.integers(0, 6) | st.integers(0, 2**64 - 1),
    body=st.binary(max_size=80),
    wrong=st.just(0) | st.integers(-50, 50),
)
def test_no_request_ends_the_session(opcode: int, node: int, body: bytes, wrong: int) -> None:
    """Whatever comes gets no reply or one of proper form, and the next request is answered."""
    session = Session(MemFs(TREE))
    length = max(0, 40 + len(body) + wrong)
    head = struct.pack("<IIQQIIIHH", length, opcode, 9, node, 0, 0, 0, 0, 0)
    with nothing_logged():
        reply = b"".join(session.handle(head + body))
    if reply:
        size, error, unique = struct.unpack_from("<IiQ", reply)
        assert (size, unique) == (len(reply), 9)
        assert -512 < error <= 0
    assert b"".join(session.handle(LOOKUP)) == LOOKUP_REPLY


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (OSError(errno.EIO, "lost"), errno.EIO),
        (PermissionError(errno.EACCES, "no"), errno.EACCES),
        (OSError(errno.ENOSYS, "which would switch reading off"), errno.EIO),
        (OSError("no errno"), errno.EIO),
        (OSError(-3, "nonsense"), errno.EIO),
        (OSError(512, "nonsense"), errno.EIO),
        (ValueError("a bug"), errno.EIO),
        (MemoryError(), errno.EIO),
        (RecursionError(), errno.EIO),
    ],
)
def test_failures_become_errnos(
    failure: Exception, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What the file system raises is the asker's errno; a bug is EIO and in the log."""

    class Failing(MemFs):
        def getattr(self, node: int) -> Attr:
            raise failure

    session = Session(Failing(TREE))
    assert answer(session, abi.FUSE_GETATTR, FILE, bytes(16)) == (error, b"")
    assert bool(caplog.records) == (not isinstance(failure, OSError))


def test_values_out_of_range_become_errors() -> None:
    """An attribute that does not fit the kernel's struct is EIO, not a wrong number."""

    class Huge(MemFs):
        def getattr(self, node: int) -> Attr:
            return super().getattr(node)._replace(uid=2**32)

    assert answer(Session(Huge(TREE)), abi.FUSE_GETATTR, FILE, bytes(16)) == (errno.EIO, b"")


@pytest.mark.parametrize("length", [47, 48, 49])
def test_interrupts_are_passed_on(length: int) -> None:
    """INTERRUPT holds the number of the request that is meant, and gets no reply itself."""
    session = Session(MemFs(TREE))
    meant: list[int] = []
    session.on_interrupt = meant.append
    whole = request(abi.FUSE_INTERRUPT, 0, struct.pack("<Q", 42) + b"\0")
    assert session.handle(struct.pack("<I", length) + whole[4:length]) == ()
    assert meant == [42] * (length >= 48)


def test_replies_that_the_kernel_refuses_give_back_what_they_gave() -> None:
    """LOOKUP and READDIRPLUS are the ones that count references; the others have none."""

    class Counting(Changing):
        held: Counter[int]

        def adjust_lookups(self, nodes: Iterable[int], count: int) -> None:
            for node in nodes:
                self.held[node] += count

    fs = Counting({**TREE, **{"x" * length: "" for length in range(8, 256)}})
    fs.held = Counter()
    session = Session(fs)
    for opcode, body in EVERY_BODY.items():
        for name in (b"file\0", b"nothing\0"):
            whole = request(opcode, 1, name if opcode == abi.FUSE_LOOKUP else body)
            reply = session.handle(whole)
            taken = Counter(fs.held)
            assert bool(taken) == (
                opcode == abi.FUSE_READDIRPLUS or (opcode, name) == (abi.FUSE_LOOKUP, b"file\0")
            ) or opcode in (abi.FUSE_FORGET, abi.FUSE_BATCH_FORGET)
            if reply:
                session.undelivered(whole, reply)
                assert not any(fs.held.values())
            fs.held.clear()


SYSTEMS: dict[str, Callable[[Path], FileSystem]] = {
    "in memory": lambda _: MemFs(TREE),
    "that changes": lambda _: Changing(TREE),
    "of an image": lambda folder: fs_of([layer({"d/f": "x", "l": Sym("d")}), layer({})], folder),
}
FILLINGS = (b"\0", b"\x01", b"\xff", b"file\0\0\0\0")


@pytest.mark.parametrize("kind", SYSTEMS)
def test_every_opcode_in_every_size_to_every_kind_of_node(
    kind: str, tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """Known or not, too short or too long, a request gets what it can and runs into no bug."""
    fs = SYSTEMS[kind](tmp_path)
    session = Session(fs)
    nodes = [0, 1, FILE, LINK, DIR, 999, 1 << 28, 1 << 44 | 1 << 28 | 1, 2**63, 2**64 - 1]
    nodes += [entry.attr.node for entry in fs.listdir(1)]
    asked = 0
    with unexpected() as bugs:
        for opcode in (*range(60), 4096, 2**32 - 1):
            for size in (0, 1, 4, 7, 8, 15, 16, 17, 24, 39, 40, 41, 48, 63, 64, 65, 104, 8000):
                for filling in FILLINGS:
                    body = (filling * size)[:size]
                    for node in nodes:
                        reply = b"".join(session.handle(request(opcode, node, body)))
                        if reply:
                            length, error, unique = struct.unpack_from("<IiQ", reply)
                            assert (length, unique) == (len(reply), 7)
                            assert -512 < error <= 0
                        asked += 1
    assert not bugs
    assert answer(session, abi.FUSE_GETATTR, 1, bytes(16))[0] == 0
    count(f"requests without a kernel: {kind}", asked)
