"""One layer's index, mapped and read; `rows.py` says what lies where.

Owns the trust in an index file: it must be this user's, of this layer, and as it was written.
Every block is checked against its checksum when it is first looked at; one that fails has the
whole index made anew. Knows nothing of tars, of other layers, or of how an index is made. An
`Index` may be used by many threads.
"""

import errno
import json
import mmap
import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from zlib import crc32

from imagefs.errors import HostError, ImagefsError
from imagefs.host.files import NO_MORE_FILES, host_errors
from imagefs.index import rows
from imagefs.index.rows import Row


class Child(NamedTuple):
    """A directory's entry: its name, its row's number, and its row."""

    name: bytes
    number: int
    row: Row


class _NoIndexError(Exception):
    """The file is no index of this layer, or not as it was written."""


class Index:
    """The mapped index of one layer.

    `rebuild` is called when the file turns out to be damaged; it must write the file anew. Once the
    index is open, damage that cannot be made good is an OSError EIO.
    """

    def __init__(self, path: Path, key: bytes, rebuild: Callable[[], None]) -> None:
        self.key = key
        self._path = path
        self._rebuild = rebuild
        self._lock = Lock()
        try:
            with host_errors(path):
                self._map()
        except _NoIndexError:
            self._renew()

    def _renew(self) -> None:
        self._rebuild()
        try:
            self._map()
            for block in range(len(self._unchecked)):
                if not self._is_right(block):
                    raise _NoIndexError
        except _NoIndexError as error:
            raise HostError(
                f"{self._path}: the index is not what was written; is the disk failing, or the"
                " archive still being written?"
            ) from error

    def _map(self) -> None:
        try:
            # Not to wait for a writer, should this be a fifo.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(self._path, flags)
        except OSError as error:
            if error.errno in NO_MORE_FILES:
                raise
            raise _NoIndexError from error
        try:
            status = os.fstat(fd)
            if (
                not stat.S_ISREG(status.st_mode)
                or status.st_uid != os.geteuid()
                or status.st_size < rows.HEADER_BYTES
            ):
                raise _NoIndexError
            view = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        fields = rows.HEADER.unpack_from(view)
        (checksum,) = rows.HEADER_CHECKSUM.unpack_from(view, rows.HEADER.size)
        if fields[:3] != (rows.MAGIC, rows.VERSION, self.key) or checksum != crc32(
            view[: rows.HEADER.size]
        ):
            raise _NoIndexError
        count, links, foreign, names, extras, notes = fields[3:9]
        self.count: int = count
        self.whiteouts: int = fields[9]
        self.content_bytes: int = fields[10]
        sizes = (
            rows.ROW_BYTES * count,
            names,
            extras,
            rows.LINK.size * links,
            rows.LINK_ROW.size * foreign,
            notes,
        )
        starts = [rows.HEADER_BYTES]
        for size in sizes:
            starts.append(starts[-1] + size)
        payload = starts[-1] - rows.HEADER_BYTES
        blocks = -(-payload // rows.BLOCK_BYTES)
        if len(view) != starts[-1] + 4 * blocks or not count:
            raise _NoIndexError
        table = view[starts[-1] :]
        if crc32(table) != fields[11]:
            raise _NoIndexError
        self._checksums = memoryview(table).cast("I")
        self._unchecked = bytearray(b"\1") * blocks
        self._links: memoryview[int] | None = None
        self._starts = starts
        self._view = view

    def _bytes(self, start: int, end: int) -> bytes:
        """Return bytes of the file, checked; both ends lie in the payload."""
        first = start - rows.HEADER_BYTES >> rows.BLOCK_SHIFT
        last = end - 1 - rows.HEADER_BYTES >> rows.BLOCK_SHIFT
        unchecked = self._unchecked
        if first == last:
            if unchecked[first]:
                self._check(first)
        else:
            for block in range(first, last + 1):
                if unchecked[block]:
                    self._check(block)
        return self._view[start:end]

    def _check(self, block: int) -> None:
        if self._is_right(block):
            return
        with self._lock:
            # Whoever waited for the lock may find the index renewed.
            if self._is_right(block):
                return
            try:
                self._renew()
            except (ImagefsError, OSError) as error:
                raise OSError(errno.EIO, f"{self._path} is damaged: {error}") from error

    def _is_right(self, block: int) -> bool:
        """Compare a block with its checksum; note that it need not be done again."""
        start = rows.HEADER_BYTES + (block << rows.BLOCK_SHIFT)
        end = min(start + rows.BLOCK_BYTES, self._starts[-1])
        if crc32(self._view[start:end]) != self._checksums[block]:
            return False
        self._unchecked[block] = 0
        return True

    def row(self, number: int) -> Row:
        """Return a row by its number; IndexError if there is none of that number."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        # Rows are a power of two long, so that none lies across two blocks.
        at = number * rows.ROW_BYTES
        if self._unchecked[at >> rows.BLOCK_SHIFT]:
            self._check(at >> rows.BLOCK_SHIFT)
        return Row._make(rows.ROW.unpack_from(self._view, rows.HEADER_BYTES + at))

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

    def rows(self, first: int, end: int) -> list[tuple[int, ...]]:
        """Return rows from one number up to another, as plain tuples; both lie in the index."""
        if first >= end:
            return []
        start = rows.HEADER_BYTES + first * rows.ROW_BYTES
        found = self._bytes(start, start + (end - first) * rows.ROW_BYTES)
        return list(rows.ROW.iter_unpack(found))

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
            if self._unchecked[at >> rows.BLOCK_SHIFT]:
                self._check(at >> rows.BLOCK_SHIFT)
            name_at, length = place_of(self._view, rows.HEADER_BYTES + at)
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
            # Checked once, then used in place: it may be long, and is asked for each link.
            self._bytes(start, end)
            pairs = self._links = memoryview(self._view)[start:end].cast("I")
        inodes = pairs[::2]
        at = bisect_left(inodes, inode)
        found = []
        while at < len(inodes) and inodes[at] == inode:
            found.append(pairs[2 * at + 1])
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
