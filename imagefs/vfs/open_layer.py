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
from itertools import accumulate

from imagefs.errors import CorruptArchive
from imagefs.host.files import host_errors, open_blob
from imagefs.host.lease import Lease
from imagefs.image.model import Layer
from imagefs.index import rows
from imagefs.index.cache import blob_of, key_of
from imagefs.index.reader import Index
from imagefs.index.rows import Row

_BLOCK = 4096
_MAPS = 16


class OpenLayer:
    """A layer whose names and content can be read; `name` is its directory's, `NN-<12 hex>`.

    It is closed when nobody holds it any more.
    """

    def __init__(self, layer: Layer, name: str, index: Index) -> None:
        self._fd = -1
        blob = blob_of(layer)
        self.layer = layer
        self.name = name
        self.index = index
        self._base = blob.offset
        self._length = blob.length
        self._watched = not layer.stored
        self._lease: Lease | None = None
        self._maps: dict[int, _SparseMap] = {}
        with host_errors(blob.path):
            self._fd = open_blob(blob)
        self._stamp = self._look()
        # Looked at after the stamp was taken: this file, as it is now, is what was indexed.
        if key_of(layer, self._fd) != index.key:
            raise CorruptArchive(f"{blob.path} was changed while it was opened")

    def __del__(self) -> None:
        # Not before: were the descriptor closed while a thread reads, its number might by then
        # stand for another file.
        if self._fd >= 0:
            os.close(self._fd)

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns

    def read(self, row: Row, offset: int, size: int) -> bytes:
        """Return up to `size` bytes of a file from `offset`, fewer only at its end.

        OSError EIO where the bytes are lost: the archive was changed or cut since it was indexed,
        or the file is a hard link to nothing.
        """
        size = min(size, row.size - offset)
        if row.flags & (rows.SPARSE | rows.FOREIGN):
            if row.flags & rows.FOREIGN:
                raise OSError(errno.EIO, "hard link to a file that no layer holds")
            return self._read_sparse(row, offset, size)
        if size <= 0:
            return b""
        return self._pread(size, row.data + offset)

    def lend(self, row: Row, offset: int, size: int, take: Callable[[int, int, int], None]) -> bool:
        """Call `take` with the descriptor, offset and length of up to `size` bytes of a file.

        Return False, and call nothing, where the bytes do not lie in one piece or might change.
        """
        size = min(size, row.size - offset)
        place = row.data + offset
        if size <= 0 or row.flags & (rows.SPARSE | rows.FOREIGN) or place + size > self._length:
            return False
        if not self._watched:
            take(self._fd, self._base + place, size)
            return True
        with self._leased().holding() as held:
            if held:
                take(self._fd, self._base + place, size)
            return held

    def _leased(self) -> Lease:
        """Return the lease on the archive, which is no longer held if the archive has changed."""
        if self._lease is None:
            lease = Lease(self._fd)
            if self._look() != self._stamp:
                lease.give_back()
            self._lease = lease
        return self._lease

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
        if len(content) < size or (self._watched and self._look() != self._stamp):
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

    def _map_of(self, row: Row) -> "_SparseMap":
        """Return a sparse file's map; those asked for last are kept."""
        maps = self._maps
        found = maps.get(row.extra)
        if found is None:
            found = _SparseMap(self.index.runs(row))
            if len(maps) >= _MAPS:
                maps.clear()
            maps[row.extra] = found
        return found

    def seek(self, row: Row, offset: int, whence: int) -> int:
        """Return the next offset of data or of a hole (lseek(2)); the end of a file is a hole."""
        if not 0 <= offset < row.size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        if row.flags & rows.SPARSE:
            found = self._map_of(row).seek(offset, whence == os.SEEK_DATA)
        else:
            found = offset if whence == os.SEEK_DATA else row.size
        if found is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return min(found, row.size)

    def blocks(self, row: Row) -> int:
        """Return how many 512-byte blocks the node would take on a disk of 4 KiB blocks."""
        if stat.S_IFMT(row.mode) != stat.S_IFREG:
            return 0
        if row.flags & rows.SPARSE:
            return self._map_of(row).blocks * (_BLOCK // 512)
        return (row.size + _BLOCK - 1) // _BLOCK * (_BLOCK // 512)


class _SparseMap:
    """Where the data of a sparse file lies: runs in ascending order, and holes between them."""

    def __init__(self, runs: Sequence[tuple[int, int]]) -> None:
        self._starts = array("Q", (start for start, _ in runs))
        self._ends = array("Q", (start + length for start, length in runs))
        self._places = array("Q", accumulate((length for _, length in runs), initial=0))
        total = reached = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            first = max(start // _BLOCK, reached)
            reached = -(-end // _BLOCK)
            total += reached - first
        self.blocks = total
        """Blocks of 4 KiB that hold data."""

    def within(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """Yield the parts of runs between two offsets: offset, length, and place in the data."""
        for at in range(bisect_right(self._ends, low), len(self._starts)):
            start, end = max(self._starts[at], low), min(self._ends[at], high)
            if start >= high:
                return
            yield start, end - start, self._places[at] + start - self._starts[at]

    def seek(self, offset: int, data: bool) -> int | None:
        """Return the next offset of data, or of a hole, from an offset on; None if there is none.

        Behind the last run all is a hole.
        """
        at = bisect_right(self._ends, offset)
        if data:
            return max(self._starts[at], offset) if at < len(self._starts) else None
        # Runs may touch each other.
        while at < len(self._starts) and self._starts[at] <= offset:
            offset = self._ends[at]
            at += 1
        return offset
