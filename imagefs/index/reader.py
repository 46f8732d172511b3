"""One layer's index, read; `rows.py` says what lies where.

Owns the trust in an index file: it must be this user's, of this layer, and as it was written.
Every block is read and compared with its checksum when it is first looked at; one that fails has
the whole index made anew. Nothing is mapped, since a file that its owner cuts would end whoever has
it mapped (SIGBUS): blocks are copied to where they would be mapped, and forgotten when those of all
indexes come to more than a process should keep. Knows nothing of tars, of other layers, or of how
an index is made. An `Index` may be used by many threads.
"""

import errno
import json
import mmap
import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from struct import unpack
from threading import Lock
from typing import NamedTuple
from weakref import WeakSet
from zlib import crc32

from imagefs.errors import HostError, ImagefsError
from imagefs.host.files import NO_MORE_FILES, host_errors
from imagefs.index import rows
from imagefs.index.rows import Row

_STREAMED = 128
# Half of what a call of Row._make takes.
_new = tuple.__new__
_MOST_LOADED = 32 << 20
"""Bytes of blocks that a process keeps of all its indexes: what 350,000 files take."""


class Child(NamedTuple):
    """A directory's entry: its name, its row's number, and its row."""

    name: bytes
    number: int
    row: Row


class _NoIndexError(Exception):
    """The file is no index of this layer, or not as it was written."""


class _File:
    """An index file that is open, and what its header says."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.fd = -1
        try:
            self.fd = _opened(path)
        except OSError as error:
            if error.errno in NO_MORE_FILES:
                raise
            raise _NoIndexError from error
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise _NoIndexError
        fields = _header(self.fd, key)
        self.count, links, foreign, names, extras, notes = fields[3:9]
        self.whiteouts, self.content_bytes = fields[9:11]
        sizes = (
            rows.ROW_BYTES * self.count,
            names,
            extras,
            rows.LINK.size * links,
            rows.LINK_ROW.size * foreign,
            notes,
        )
        self.starts = [rows.HEADER_BYTES]
        for size in sizes:
            self.starts.append(self.starts[-1] + size)
        self.blocks = -(-(self.starts[-1] - rows.HEADER_BYTES) // rows.BLOCK_BYTES)
        if status.st_size != self.starts[-1] + 4 * self.blocks or not self.count:
            raise _NoIndexError
        table = os.pread(self.fd, 4 * self.blocks, self.starts[-1])
        if len(table) != 4 * self.blocks or crc32(table) != fields[12]:
            raise _NoIndexError
        self._checksums = unpack(f"<{self.blocks}I", table)

    def __del__(self) -> None:
        # Not before: a thread may be reading.
        if self.fd >= 0:
            os.close(self.fd)

    def extent(self, number: int) -> tuple[int, int]:
        """Return where a block begins, and its length; the last one may be short."""
        start = rows.HEADER_BYTES + (number << rows.BLOCK_SHIFT)
        return start, min(rows.BLOCK_BYTES, self.starts[-1] - start)

    def block(self, number: int) -> bytes | None:
        """Return a block, or None where it is not as it was written."""
        start, length = self.extent(number)
        try:
            content = os.pread(self.fd, length, start)
        except OSError:
            return None
        right = len(content) == length and crc32(content) == self._checksums[number]
        return content if right else None


def _opened(path: Path) -> int:
    """Open what should be an index; not to wait for a writer, should it be a fifo."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def _header(fd: int, key: bytes) -> tuple[int, ...]:
    """Return the fields of the header of an index of that key."""
    head = os.pread(fd, rows.HEADER_BYTES, 0)
    if len(head) < rows.HEADER_BYTES:
        raise _NoIndexError
    fields = rows.HEADER.unpack_from(head)
    (checksum,) = rows.HEADER_CHECKSUM.unpack_from(head, rows.HEADER.size)
    if fields[:3] != (rows.MAGIC, rows.VERSION, key) or checksum != crc32(head[: rows.HEADER.size]):
        raise _NoIndexError
    return fields


class _Content:
    """The blocks of an index file that have been looked at, at the offsets of the file."""

    __slots__ = ("file", "unread", "view")

    def __init__(self, file: _File) -> None:
        self.file = file
        # Memory is taken by what is written into it, a page at a time.
        self.view = mmap.mmap(-1, file.starts[-1], mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.unread = bytearray(b"\1") * file.blocks

    def load(self, number: int) -> bool:
        """Have a block ready; False where it is not as it was written."""
        content = self.file.block(number)
        if content is None:
            return False
        start = rows.HEADER_BYTES + (number << rows.BLOCK_SHIFT)
        self.view[start : start + len(content)] = content
        self.unread[number] = 0
        return True


class _Loaded:
    """What all indexes of the process keep in memory, and the bound on it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bytes = self._turn = 0
        self._indexes: WeakSet[Index] = WeakSet()

    def add(self, index: "Index", length: int) -> None:
        """Note that an index has loaded a block; have some forget theirs if that is too much.

        Which ones, is left to chance: a walk through many layers asks all of them in turn, again
        and again, and would find nothing of what the oldest ones had to give up.
        """
        with self._lock:
            if not index.loaded:
                self._indexes.add(index)
            index.loaded += length
            self._bytes += length
            if self._bytes <= _MOST_LOADED:
                return
            self._turn += 1
            some = sorted(self._indexes, key=lambda one: hash((id(one), self._turn)))
            for one in some[: len(some) // 8 + 1]:
                self._indexes.discard(one)
                one.forget()
            # Of those that have gone, nothing is left to forget.
            self._bytes = sum(one.loaded for one in self._indexes)


_loaded = _Loaded()


def layer_bytes(path: Path, key: bytes) -> int | None:
    """Return the length of the layer that an index was made of; None where there is no index."""
    try:
        fd = _opened(path)
    except OSError:
        return None
    try:
        return _header(fd, key)[11]
    except (_NoIndexError, OSError):
        return None
    finally:
        os.close(fd)


class Index:
    """The index of one layer.

    `rebuild` is called when the file turns out to be damaged; it must write the file anew. Once the
    index is open, damage that cannot be made good is an OSError EIO.
    """

    def __init__(self, path: Path, key: bytes, rebuild: Callable[[], None]) -> None:
        self.key = key
        self._path = path
        self._rebuild = rebuild
        self._lock = Lock()
        self.loaded = 0
        """Bytes of blocks that it keeps; whoever counts them sets it."""
        self._links: bytes | None = None
        try:
            with host_errors(path):
                self._open()
        except _NoIndexError:
            self._renew()

    def _open(self) -> None:
        file = _File(self._path, self.key)
        self.count: int = file.count
        self.whiteouts: int = file.whiteouts
        self.content_bytes: int = file.content_bytes
        self._starts = file.starts
        self._content = _Content(file)

    def _renew(self) -> None:
        self._rebuild()
        try:
            self._open()
            file = self._content.file
            if any(file.block(number) is None for number in range(file.blocks)):
                raise _NoIndexError
        except _NoIndexError as error:
            raise HostError(
                f"{self._path}: the index is not what was written; is the disk failing, or the"
                " archive still being written?"
            ) from error

    def forget(self) -> None:
        """Give up the memory of what was read, as soon as nobody is reading there any more."""
        self._content = _Content(self._content.file)
        self.loaded = 0

    def _load(self, content: _Content, block: int) -> _Content:
        """Have a block ready, and return where: in `content`, or in what has replaced it."""
        if not content.load(block):
            with self._lock:
                # Whoever waited for the lock may find the index renewed.
                content = self._content
                if not content.load(block):
                    try:
                        self._renew()
                    except (ImagefsError, OSError) as error:
                        raise OSError(errno.EIO, f"{self._path} is damaged: {error}") from error
                    content = self._content
                    if not content.load(block):
                        raise OSError(errno.EIO, f"{self._path} is damaged")
        _loaded.add(self, content.file.extent(block)[1])
        return content

    def _bytes(self, start: int, end: int) -> bytes:
        """Return bytes of the file, checked; both ends lie in the payload."""
        first = start - rows.HEADER_BYTES >> rows.BLOCK_SHIFT
        last = end - 1 - rows.HEADER_BYTES >> rows.BLOCK_SHIFT
        content = self._content
        if first == last:
            if content.unread[first]:
                content = self._load(content, first)
        else:
            for block in range(first, last + 1):
                if content.unread[block] and self._load(content, block) is not content:
                    return self._bytes(start, end)
        return content.view[start:end]

    def row(self, number: int) -> Row:
        """Return a row by its number; IndexError if there is none of that number."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        # Rows are a power of two long, so that none lies across two blocks.
        at = number * rows.ROW_BYTES
        content = self._content
        if content.unread[at >> rows.BLOCK_SHIFT]:
            content = self._load(content, at >> rows.BLOCK_SHIFT)
        return _new(Row, rows.ROW.unpack_from(content.view, rows.HEADER_BYTES + at))

    def name(self, row: Row) -> bytes:
        """Return a row's name; the root's is empty."""
        start = self._starts[1] + row.name_at
        return self._bytes(start, start + row.name_len)

    def children(self, directory: Row) -> list[Child]:
        """Return a directory's entries, sorted by name."""
        names, table = self.table(directory)
        return [
            Child(name, number, Row._make(row))
            for number, (name, row) in enumerate(zip(names, table, strict=True), directory.data)
        ]

    def table(
        self, directory: Row, begin: int = 0, end: int | None = None
    ) -> tuple[list[bytes], list[tuple[int, ...]]]:
        """Return a directory's names, sorted, and their rows as plain tuples.

        The first is the row of number `directory.data`, the others follow. With `begin` and
        `end`, those between the two are returned alone.
        """
        count, first = (directory.size if end is None else end) - begin, directory.data + begin
        if count <= 0:
            return [], []
        if first + count > self.count:
            raise IndexError(first)
        found = self.rows(first, first + count)
        names_at, (last_at, last_len) = found[0][0], found[-1][:2]
        start = self._starts[1] + names_at
        names = self._bytes(start, start + last_at + last_len - names_at)
        return [names[row[0] - names_at : row[0] - names_at + row[1]] for row in found], found

    def stream(
        self, directory: Row, begin: int = 0
    ) -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
        """Yield a directory's names from one on, sorted, with their rows' numbers and those.

        The rows are plain tuples, of which few are in memory at a time.
        """
        for at in range(begin, directory.size, _STREAMED):
            names, table = self.table(directory, at, min(at + _STREAMED, directory.size))
            yield from zip(names, count(directory.data + at), table, strict=False)

    def rows(self, first: int, end: int) -> list[tuple[int, ...]]:
        """Return rows from one number up to another, as plain tuples; both lie in the index."""
        if first >= end:
            return []
        start = rows.HEADER_BYTES + first * rows.ROW_BYTES
        found = self._bytes(start, start + (end - first) * rows.ROW_BYTES)
        return list(rows.ROW.iter_unpack(found))

    def flags(self, first: int, end: int) -> bytes:
        """Return the flags of rows from one number up to another, a byte each: no more are used."""
        start = rows.HEADER_BYTES + first * rows.ROW_BYTES
        found = self._bytes(start, start + (end - first) * rows.ROW_BYTES)
        return found[rows.FLAGS_AT :: rows.ROW_BYTES]

    def find(self, directory: Row, name: bytes) -> Child | None:
        """Return a directory's entry of that name, or None."""
        low, high = directory.data, directory.data + directory.size
        if high > self.count:
            raise IndexError(high)
        place_of = rows.NAME_PLACE.unpack_from
        names = self._starts[1]
        while low < high:
            middle = low + high >> 1
            at = middle * rows.ROW_BYTES
            content = self._content
            if content.unread[at >> rows.BLOCK_SHIFT]:
                content = self._load(content, at >> rows.BLOCK_SHIFT)
            name_at, length = place_of(content.view, rows.HEADER_BYTES + at)
            there = self._bytes(names + name_at, names + name_at + length)
            if there == name:
                return Child(name, middle, self.row(middle))
            if there < name:
                low = middle + 1
            else:
                high = middle
        return None

    def place(self, directory: Row, name: bytes, low: int, high: int) -> int:
        """Return how many of a directory's entries sort before a name; it is low to high of them.

        Only the entries between the two are looked at.
        """
        while low < high:
            middle = low + high >> 1
            if self.name(self.row(directory.data + middle)) < name:
                low = middle + 1
            else:
                high = middle
        return low

    def _extra(self, row: Row) -> tuple[int, int, int, int]:
        """Return where a row's extra content begins, and its three counts; needs `row.extra`."""
        at = self._starts[2] + row.extra * rows.EXTRA_UNIT
        head = self._bytes(at, at + rows.EXTRA_HEADER.size)
        return at + rows.EXTRA_HEADER.size, *rows.EXTRA_HEADER.unpack(head)

    def target(self, row: Row) -> bytes:
        """Return the target of a symbolic link, or of a hard link to another layer's file."""
        if not row.extra:
            return b""
        at, length, _, _ = self._extra(row)
        return self._bytes(at, at + length)

    def xattrs(self, row: Row) -> dict[bytes, bytes]:
        """Return a row's extended attributes."""
        found: dict[bytes, bytes] = {}
        if row.flags & rows.XATTRS:
            at, length, count, _ = self._extra(row)
            at += length
            for _ in range(count):
                head = self._bytes(at, at + rows.XATTR_HEADER.size)
                name_len, value_len = rows.XATTR_HEADER.unpack(head)
                at += len(head)
                both = self._bytes(at, at + name_len + value_len)
                found[both[:name_len]] = both[name_len:]
                at += len(both)
        return found

    def runs(self, row: Row, first: int = 0, end: int | None = None) -> list[tuple[int, int]]:
        """Return a sparse file's runs of data as (offset, length), ascending: all, or some."""
        if not row.extra:
            return []
        at, length, xattrs, count = self._extra(row)
        at += length
        for _ in range(xattrs):
            head = self._bytes(at, at + rows.XATTR_HEADER.size)
            at += len(head) + sum(rows.XATTR_HEADER.unpack(head))
        last = count if end is None else min(end, count)
        if first >= last:
            return []
        table = self._bytes(at + first * rows.RUN.size, at + last * rows.RUN.size)
        return list(rows.RUN.iter_unpack(table))

    def same_inode(self, inode: int) -> list[int]:
        """Return the rows of all names of an inode that has several."""
        pairs = self._links
        if pairs is None:
            start, end = self._starts[3], self._starts[4]
            if start == end:
                return [inode]
            # Kept, as it is asked for each link.
            pairs = self._links = self._bytes(start, end)
        size, pair = rows.LINK.size, rows.LINK.unpack_from
        count = len(pairs) // size
        at = bisect_left(range(count), inode, key=lambda at: pair(pairs, at * size)[0])
        found = []
        while at < count and (link := pair(pairs, at * size))[0] == inode:
            found.append(link[1])
            at += 1
        return found or [inode]

    def foreign(self) -> Iterator[Child]:
        """Yield the hard links whose target the layer does not hold."""
        start, end = self._starts[4], self._starts[5]
        for (number,) in rows.LINK_ROW.iter_unpack(self._bytes(start, end) if end > start else b""):
            row = self.row(number)
            yield Child(self.name(row), number, row)

    def notes(self) -> list[str]:
        """Return what was odd or damaged in the layer, a line each."""
        found: list[str] = json.loads(self._bytes(self._starts[5], self._starts[6]))
        return found
