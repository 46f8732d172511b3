"""One layer, opened: its index and its bytes.

Owns the descriptor that a layer's content is read through, and notices when an archive that is
read in place is no longer the one that was indexed. Whiteouts are entries like any other here.
May be used by many threads.
"""

import errno
import os
import stat
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import TypeAlias

from imagefs.errors import CorruptArchive
from imagefs.filesystem import check_asker
from imagefs.host import mountinfo
from imagefs.host.files import host_errors, open_blob
from imagefs.image.model import Layer
from imagefs.index import rows
from imagefs.index.cache import blob_of, key_of
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.vfs.memory import Shelf

BLOCK = 4096
"""Bytes of a block on the disk that files are said to lie on."""
_STRIDE = 128
"""Runs of a sparse file that are read at a time."""
_ENDLESS = 1 << 64
_serials = count()


class OpenLayer:
    """A layer whose names and content can be read; `maps` holds the maps of its sparse files.

    It is closed when nobody holds it any more.
    """

    def __init__(self, layer: Layer, index: Index, maps: "Maps") -> None:
        self._fd = -1
        blob = blob_of(layer)
        self.layer = layer
        self.index = index
        self._base = blob.offset
        self._length = blob.length
        self._watched = not (layer.stored or blob.digest)
        self._maps = maps
        self._serial = next(_serials)
        with host_errors(blob.path):
            self._fd = open_blob(blob)
        self._stamp, self._known = self._look()
        # Looked at after the stamp was taken: this file, as it is now, is what was indexed.
        if key_of(layer, self._fd) != index.key:
            raise CorruptArchive(f"{blob.path} was changed while it was opened")

    def __del__(self) -> None:
        # Not before: were the descriptor closed while a thread reads, its number might by then
        # stand for another file.
        if self._fd >= 0:
            os.close(self._fd)

    def _look(self) -> tuple[tuple[int, int, int], tuple[object, ...]]:
        """Return what writing to the archive changes, and what else its change time stands for."""
        status = os.fstat(self._fd)
        known = status.st_nlink, status.st_mode, status.st_uid, status.st_gid
        return (status.st_size, status.st_mtime_ns, status.st_ctime_ns), (*known, self._place())

    def _place(self) -> str:
        """Return what the archive is called, where the system says."""
        try:
            return mountinfo.place_of(self._fd)
        except OSError:
            return ""

    def _is_changed(self) -> bool:
        """Tell whether the archive is another than was indexed.

        Who writes to it can set back its time, but not that of its last change, which comes from
        another name, mode or owner, too: those are no other bytes.
        """
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns, status.st_ctime_ns) == self._stamp:
            return False
        stamp, known = self._look()
        if stamp[:2] != self._stamp[:2] or known == self._known:
            return True
        self._stamp, self._known = stamp, known
        return False

    def read(self, row: Row, offset: int, size: int) -> bytes:
        """Return up to `size` bytes of a file from `offset`, fewer only at its end.

        OSError EIO where the bytes are lost: the archive was changed or cut since it was indexed,
        or the file is a hard link to nothing.
        """
        size = min(size, row.size - offset)
        if row.flags & (rows.SPARSE | rows.FOREIGN):
            _check_held(row)
            return self._read_sparse(row, offset, size)
        if size <= 0:
            return b""
        return self._pread(size, row.data + offset)

    def with_extent(
        self, row: Row, offset: int, size: int, take: Callable[[int, int, int], None]
    ) -> bool:
        """Call `take` with the descriptor, offset and length of up to `size` bytes of a file.

        Return False, and call nothing, where the bytes do not lie in one piece or might change: of
        what is lent, nobody can tell afterwards whether it was the right bytes, so archives that
        are read in place lend nothing.
        """
        size = min(size, row.size - offset)
        place = row.data + offset
        if self._watched or size <= 0 or row.flags & (rows.SPARSE | rows.FOREIGN):
            return False
        if place + size > self._length:
            return False
        take(self._fd, self._base + place, size)
        return True

    def read_all(self, places: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the content at some places (offset and length), which lie near each other.

        What lies between them is read as well, so that it takes a single call. Errors as of `read`.
        """
        start = min(offset for offset, _ in places)
        end = max(offset + length for offset, length in places)
        content = memoryview(self._pread(end - start, start))
        return [content[offset - start : offset - start + length] for offset, length in places]

    def _pread(self, size: int, offset: int) -> bytes:
        if offset + size > self._length:
            # Only what is left of a damaged layer has such files; what follows is not theirs.
            raise OSError(errno.EIO, "the archive lacks this content")
        content = os.pread(self._fd, size, self._base + offset)
        # Looked at after the bytes were taken, so that they are the indexed archive's.
        if len(content) < size or (self._watched and self._is_changed()):
            raise OSError(errno.EIO, "the archive was changed while it is mounted")
        return content

    def _read_sparse(self, row: Row, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        content = bytearray(size)
        for start, length, place in self._map_of(row).within(offset, offset + size):
            at = start - offset
            content[at : at + length] = self._pread(length, row.data + place)
        return bytes(content)

    def _map_of(self, row: Row) -> "SparseMap":
        """Return a sparse file's map; those asked for last are kept."""
        key = self._serial, row.extra
        found = self._maps.known.get(key)
        if found is None:
            found = SparseMap(partial(self.index.runs, row))
            self._maps.keep(key, found, found.weight)
        return found

    def seek(self, row: Row, offset: int, whence: int) -> int:
        """Return the next offset of data or of a hole (lseek(2)); the end of a file is a hole.

        OSError as of `read`: who asks where data is must not take what is lost for a hole.
        """
        _check_held(row)
        if not 0 <= offset < row.size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        if row.flags & rows.SPARSE:
            found = self._map_of(row).seek(offset, whence == os.SEEK_DATA)
        else:
            found = offset if whence == os.SEEK_DATA else row.size
        if found is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return min(found, row.size)

    def runs(self, row: Row) -> Iterator[tuple[int, int]]:
        """Yield where a file's data begins and ends, ascending; all else of it is holes.

        OSError as of `read`.
        """
        _check_held(row)
        if not row.flags & rows.SPARSE:
            if row.size:
                yield 0, row.size
            return
        first = end = 0
        for start, length, _ in self._map_of(row).within(0, row.size):
            if start != end:
                if end > first:
                    yield first, end
                first = start
            end = start + length
        if end > first:
            yield first, end

    def blocks(self, row: Row) -> int:
        """Return how many 512-byte blocks the node would take on a disk of 4 KiB blocks."""
        if stat.S_IFMT(row.mode) != stat.S_IFREG:
            return 0
        if row.flags & rows.SPARSE:
            return self._map_of(row).blocks * (BLOCK // 512)
        return blocks_of(row.size) * (BLOCK // 512)


def blocks_of(size: int) -> int:
    """Return how many blocks so many bytes take."""
    return -(-size // BLOCK)


def _check_held(row: Row) -> None:
    """Raise OSError EIO for a hard link to nothing."""
    if row.flags & rows.FOREIGN:
        raise OSError(errno.EIO, "hard link to a file that no layer holds")


class SparseMap:
    """Where the data of a sparse file lies: runs in ascending order, and holes between them.

    The runs are not kept but read anew, some at a time, by `read`, which takes where to begin and
    end among them; only where every _STRIDE-th lies is known.
    """

    def __init__(self, read: Callable[[int, int], list[tuple[int, int]]]) -> None:
        self._read = read
        self._starts, self._places = array("Q"), array("Q")
        total = reached = place = 0
        while runs := read(len(self._starts) * _STRIDE, (len(self._starts) + 1) * _STRIDE):
            check_asker()
            self._starts.append(runs[0][0])
            self._places.append(place)
            for start, length in runs:
                first, last = start // BLOCK, blocks_of(start + length)
                total += last - (first if first > reached else reached)
                reached = last
                place += length
        self.blocks = total
        """Blocks of 4 KiB that hold data."""

    @property
    def weight(self) -> int:
        """Roughly the bytes of memory that it takes."""
        return 16 * len(self._starts) + 600

    def _from(self, offset: int) -> Iterator[tuple[int, int, int]]:
        """Yield the runs from the last one that begins at an offset or before it, if there is one.

        Of each: where it begins and ends, and its place in the data.
        """
        part = max(bisect_right(self._starts, offset) - 1, 0)
        while part < len(self._starts):
            place = self._places[part]
            runs = self._read(part * _STRIDE, (part + 1) * _STRIDE)
            skipped = max(bisect_right(runs, (offset, _ENDLESS)) - 1, 0)
            for at, (start, length) in enumerate(runs):
                if at >= skipped:
                    yield start, start + length, place
                place += length
            part += 1

    def within(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """Yield the parts of runs between two offsets: offset, length, and place in the data."""
        for start, end, place in self._from(low):
            if start >= high:
                return
            first, last = max(start, low), min(end, high)
            if first < last:
                yield first, last - first, place + first - start

    def seek(self, offset: int, data: bool) -> int | None:
        """Return the next offset of data, or of a hole, from an offset on; None if there is none.

        Behind the last run all is a hole.
        """
        for start, end, _ in self._from(offset):
            if end <= offset:
                continue
            if data:
                return max(start, offset)
            if start > offset:
                break
            # Runs may touch each other.
            offset = end
        return None if data else offset


Maps: TypeAlias = Shelf[tuple[int, int], SparseMap]
"""The maps of sparse files that were asked for last, by layer and place in its index."""
