"""A folded layer to the bytes of its index.

The only writer of what `rows.py` describes. A `Folded` in, bytes into a file that is handed in.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from stat import S_ISCHR
from typing import BinaryIO
from zlib import crc32

from imagefs.errors import CorruptArchive
from imagefs.index import records as layer_records
from imagefs.index import rows
from imagefs.index.records import DIRECTORY, FILE, RECORD_BYTES
from imagefs.index.sorted_tree import NAME, RECORD, Folded
from imagefs.tar import header as tar_header

# Names after which nothing is left to delete: "", "." and "..".
_AIMLESS_WHITEOUTS = frozenset({b".wh.", b".wh..", b".wh..."})
# Entries that are laid out at once, and bytes that are written at once.
_BATCH = 4096
_PART = 1 << 20
# What a row can address, less the names of a batch; `fold.py` bounds all else.
_MAX_NAMES = (1 << 32) - (1 << 22)
_NO_NAMES: frozenset[bytes] = frozenset()


class IndexWriter:
    """The writer of one layer's index, from its tree.

    `key` is the SHA-256 digest of what identifies the layer.
    """

    def __init__(self, tree: Folded, key: bytes, length: int) -> None:
        self._tree = tree
        self._members = tree.members
        self._key = key
        self._length = length
        self._count = 0
        self._names_bytes = 0
        self._next_first = 1
        self._directories = _Directories()
        self._root_extra = b""
        # Which entries have an extra, in the order of their rows, and what all take.
        self._extras = array("I")
        self._extras_bytes = rows.EXTRA_UNIT
        self._foreign = array("I")
        self._inodes = _Inodes(tree.name_counts())
        # Names that cannot stand for their inode may come first in the table.
        self._first_rows = tree.first_rows() if tree.members.has_late else array("I")
        # The row of an inode above the row of one of its names.
        self._links = array("Q")
        # Rows of directories that hold markers.
        self._marked: set[int] = set()
        self._content_bytes = 0
        self._whiteouts = 0
        self._aimless: Counter[bytes] = Counter()
        self._zero_devices = 0

    def write(self, out: BinaryIO, damage: str = "") -> None:
        """Write the index to a new file; `damage` is for its notes.

        Neither the rows nor the names nor the extras are ever in memory as a whole.
        """
        out.seek(rows.HEADER_BYTES)
        checksums = _Checksums()
        for write_part in (self._rows, self._names, self._all_extras, self._all_links):
            for part in write_part():
                checksums.add(part)
                out.write(part)
        notes = json.dumps(self._notes(damage)).encode()
        checksums.add(notes)
        out.write(notes)
        out.write(checksums.all())
        # fmt: off
        header = rows.HEADER.pack(
            rows.MAGIC, rows.VERSION, self._key, self._count, len(self._links),
            len(self._foreign), self._names_bytes, self._extras_bytes, len(notes),
            self._whiteouts, self._content_bytes, self._length, crc32(checksums.all()),
        )
        # fmt: on
        header += rows.HEADER_CHECKSUM.pack(crc32(header))
        out.seek(0)
        out.write(header.ljust(rows.HEADER_BYTES, b"\0"))

    def _rows(self) -> Iterator[bytes | bytearray]:
        """Yield the rows: breadth first, so that a directory's children are neighbours."""
        yield self._directory_row(self._tree.root, b"", 0, 0, gone=False)
        self._count = 1
        part = bytearray()
        for first, end, parent in self._directories:
            deleted = self._tree.deleted(first, end) if parent in self._marked else _NO_NAMES
            for at in range(first, end, _BATCH):
                self._add(part, at, min(at + _BATCH, end), parent, deleted)
                if self._names_bytes > _MAX_NAMES:
                    raise CorruptArchive("the layer's names take more than 4 GiB")
                if len(part) >= _PART:
                    yield part
                    part = bytearray()
        yield part

    def _names(self) -> Iterator[bytes]:
        names: list[bytes] = []
        for first, end, _ in self._directories:
            for at in range(first, end, _BATCH):
                names += [one[NAME] for one in self._tree.entries[at : min(at + _BATCH, end)]]
                if len(names) >= _BATCH:
                    yield b"".join(names)
                    names.clear()
        yield b"".join(names)

    def _all_extras(self) -> Iterator[bytes]:
        yield bytes(rows.EXTRA_UNIT)
        yield self._root_extra
        entries, extra = self._tree.entries, self._members.extra
        for first in range(0, len(self._extras), _BATCH):
            batch = self._extras[first : first + _BATCH]
            yield b"".join([extra(entries[at][RECORD]) for at in batch])

    def _all_links(self) -> Iterator[bytes]:
        """Yield what the index knows of links, bound and foreign."""
        # The entries are done with, and sorting takes memory.
        self._tree.entries = []
        pack, pairs = rows.LINK.pack, sorted(self._links)
        for at in range(0, len(pairs), _BATCH):
            batch = pairs[at : at + _BATCH]
            yield b"".join([pack(pair >> 32, pair & 0xFFFFFFFF) for pair in batch])
        yield b"".join(map(rows.LINK_ROW.pack, self._foreign))

    def _add(
        self, out: bytearray, first: int, end: int, parent: int, deleted: frozenset[bytes]
    ) -> None:
        """Append the rows of some of a directory's entries."""
        pack, unpack = rows.ROW.pack, layer_records.RECORD.unpack_from
        row, name_at = self._count, self._names_bytes
        content = 0
        for entry in self._tree.entries[first:end]:
            name = entry[NAME]
            length = len(name)
            # fmt: off
            (offset, flags, mode, uid, gid, mtime, nanoseconds, size,
             extra) = unpack(entry, len(entry) - RECORD_BYTES)
            # fmt: on
            if mode >> 12 == FILE and not (flags or extra) and name[:4] != b".wh.":
                # fmt: off
                out += pack(
                    name_at, length, 0, mode, uid, gid, 1, row, parent, nanoseconds, mtime, size,
                    offset, 0,
                )
                # fmt: on
                content += size
            else:
                at = first + row - self._count
                self._count, first, self._names_bytes = row, at, name_at
                record = entry[RECORD]
                if mode >> 12 == DIRECTORY:
                    gone = name in deleted and self._tree.is_bare(record)
                    out += self._directory_row(record, name, at, parent, gone=gone)
                else:
                    out += self._leaf_row(record, name, at, parent)
            name_at += length
            row += 1
        self._count, self._names_bytes = row, name_at
        self._content_bytes += content

    def _directory_row(
        self, record: bytes, name: bytes, at: int, parent: int, *, gone: bool
    ) -> bytes:
        """Return a directory's row; the children of all before it are known to come first."""
        first, end = 0, 0
        number = layer_records.number_of(record)
        if number or record is self._tree.root:
            first, end = self._tree.bounds(number)
            if first < end:
                self._directories.add(first, end, self._count)
        detail = self._members.detail(record)
        flags = detail.flags | self._whiteouts_within(number, first, end)
        if not flags & rows.IMPLIED and name[:4] == tar_header.WHITEOUT_PREFIX:
            flags |= self._marker(name)
            # Only the entry's own name is a marker: what lies in it shows, and so does it.
            if first < end and not name.startswith(tar_header.WHITEOUT_META_PREFIX):
                flags &= ~rows.HIDDEN
        if gone or name.startswith(tar_header.WHITEOUT_META_PREFIX):
            flags |= rows.HIDDEN
        extra = self._extra(detail.extra_bytes, at)
        child, self._next_first = self._next_first, self._next_first + end - first
        # fmt: off
        return rows.ROW.pack(
            self._names_bytes, len(name), flags, detail.mode, detail.uid, detail.gid, 1,
            self._count, parent, detail.mtimensec, detail.mtime, end - first, child, extra,
        )
        # fmt: on

    def _whiteouts_within(self, number: int, first: int, end: int) -> int:
        """Return the flags that markers in a directory give it."""
        if first == end or not self._tree.has_markers(number):
            return 0
        self._marked.add(self._count)
        opaque = self._tree.find(number, tar_header.WHITEOUT_OPAQUE) is not None
        return rows.WHITEOUTS_WITHIN | (rows.OPAQUE if opaque else 0)

    def _leaf_row(self, record: bytes, name: bytes, at: int, parent: int) -> bytes:
        row = inode = self._count
        detail = self._members.detail(record)
        late = layer_records.is_late(record)
        flags = detail.flags | (rows.FOREIGN if late else 0)
        if name[:4] == tar_header.WHITEOUT_PREFIX:
            flags |= self._marker(name)
        if flags & rows.FOREIGN:
            self._foreign.append(row)
        self._zero_devices += S_ISCHR(detail.mode) and not detail.data
        count = 1
        if layer_records.is_shared(record):
            number = layer_records.inode_of(record)
            count, inode, extra = self._inodes.of(number)
            if late:
                inode = self._first_rows[number]
                extra = self._extra(len(self._members.extra(record)), at)
            elif not inode:
                extra = self._extra(detail.extra_bytes, at)
                self._inodes.enter(number, row, extra)
                inode = row
            if count > 1:
                self._links.append(inode << 32 | row)
        else:
            extra = self._extra(detail.extra_bytes, at)
        if inode == row:
            # What a sparse file takes, not what it claims: the sum has 64 bits.
            self._content_bytes += detail.stored
        # fmt: off
        return rows.ROW.pack(
            self._names_bytes, len(name), flags, detail.mode, detail.uid, detail.gid, count,
            inode, parent, detail.mtimensec, detail.mtime, detail.size, detail.data, extra,
        )
        # fmt: on

    def _marker(self, name: bytes) -> int:
        if name in _AIMLESS_WHITEOUTS:
            self._aimless[name] += 1
            return rows.HIDDEN
        if name == tar_header.WHITEOUT_OPAQUE:
            self._whiteouts += 1
            return rows.HIDDEN
        if name.startswith(tar_header.WHITEOUT_META_PREFIX):
            return rows.HIDDEN
        self._whiteouts += 1
        return rows.HIDDEN | rows.WHITEOUT

    def _extra(self, length: int, at: int) -> int:
        """Plan for the extra of an entry, or of the root; return where, in EXTRA_UNITs, or 0."""
        if not length:
            return 0
        place = self._extras_bytes
        self._extras_bytes += length
        if self._count:
            self._extras.append(at)
        else:
            self._root_extra = self._members.extra(self._tree.root)
        return place // rows.EXTRA_UNIT

    def _notes(self, damage: str) -> list[str]:
        notes = [damage] if damage else []
        for name, count in sorted(self._aimless.items()):
            times = f", {count} times" if count > 1 else ""
            notes.append(f"ignored whiteout {name.decode()!r}{times}: it names nothing")
        if self._zero_devices:
            notes.append(
                f"{self._zero_devices} character devices 0:0 are no whiteouts here, as they are to"
                " some engines"
            )
        return notes


class _Directories:
    """Where the entries of directories begin and end, and their rows; it grows while read."""

    def __init__(self) -> None:
        self._numbers = array("I")

    def add(self, first: int, end: int, row: int) -> None:
        """Append a directory."""
        self._numbers.extend((first, end, row))

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, numbers, strict=True)


class _Inodes:
    """What several names have in common: how many they are, and the first one's row and extra."""

    def __init__(self, counts: "array[int]") -> None:
        self._counts = counts
        self._rows = array("I", bytes(4 * len(counts)))
        self._extras = array("I", bytes(4 * len(counts)))

    def of(self, number: int) -> tuple[int, int, int]:
        """Return how many names an inode has, its row and its extra; no row is 0, the root's."""
        return self._counts[number], self._rows[number], self._extras[number]

    def enter(self, number: int, row: int, extra: int) -> None:
        """Take in the first name of an inode."""
        self._rows[number], self._extras[number] = row, extra


class _Checksums:
    """The CRC-32 of each block of what is added, part by part; blocks go across parts."""

    def __init__(self) -> None:
        self._found = bytearray()
        self._checksum = 0
        self._room = rows.BLOCK_BYTES

    def add(self, part: bytes | bytearray) -> None:
        at = 0
        with memoryview(part) as view:
            while at < len(view):
                piece = view[at : at + self._room]
                self._checksum = crc32(piece, self._checksum)
                at += len(piece)
                self._room -= len(piece)
                if not self._room:
                    self._found += self._checksum.to_bytes(4, "little")
                    self._checksum, self._room = 0, rows.BLOCK_BYTES

    def all(self) -> bytes:
        if self._room == rows.BLOCK_BYTES:
            return bytes(self._found)
        return bytes(self._found) + self._checksum.to_bytes(4, "little")
