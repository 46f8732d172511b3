"""One layer, opened: its index and its bytes.

Owns the descriptor that a layer's content is read through, and notices when an archive that is
read in place is no longer the one that was indexed. Whiteouts are entries like any other here.
May be used by many threads.
"""

import errno
import os
import stat

from imagefs import rows
from imagefs.image import Layer
from imagefs.index import Index, blob_of
from imagefs.rows import Row

_BLOCK = 4096


class OpenLayer:
    """A layer whose names and content can be read; `name` is its directory's, `NN-<12 hex>`."""

    def __init__(self, layer: Layer, name: str, index: Index) -> None:
        blob = blob_of(layer)
        self.layer = layer
        self.name = name
        self.index = index
        self._base = blob.offset
        self._watched = not layer.stored
        self._fd = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC)
        self._stamp = self._look()

    def close(self) -> None:
        """Give the descriptor back; nothing can be read any more."""
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

    def _pread(self, size: int, offset: int) -> bytes:
        content = os.pread(self._fd, size, self._base + offset)
        # Looked at after the bytes were taken, so that they are the indexed archive's.
        if len(content) < size or (self._watched and self._look() != self._stamp):
            raise OSError(errno.EIO, "the archive was changed while it is mounted")
        return content

    def _read_sparse(self, row: Row, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        content = bytearray(size)
        end = offset + size
        stored = row.data
        for start, length in self.index.runs(row):
            low, high = max(start, offset), min(start + length, end)
            if low < high:
                content[low - offset : high - offset] = self._pread(
                    high - low, stored + low - start
                )
            stored += length
        return bytes(content)

    def seek(self, row: Row, offset: int, whence: int) -> int:
        """Return the next offset of data or of a hole (lseek(2)); the end of a file is a hole."""
        if not 0 <= offset < row.size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        runs = self.index.runs(row) if row.flags & rows.SPARSE else [(0, row.size)]
        if whence == os.SEEK_DATA:
            for start, length in runs:
                if start + length > offset:
                    return max(start, offset)
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        for start, length in runs:
            if start > offset:
                break
            offset = max(offset, start + length)
        return min(offset, row.size)

    def blocks(self, row: Row) -> int:
        """Return how many 512-byte blocks the node would take on a disk of 4 KiB blocks."""
        kind = stat.S_IFMT(row.mode)
        if kind != stat.S_IFREG:
            return 0
        if row.flags & rows.SPARSE:
            total = reached = 0
            for start, length in self.index.runs(row):
                first = max(start // _BLOCK, reached)
                reached = -(-(start + length) // _BLOCK)
                total += reached - first
            return total * (_BLOCK // 512)
        return (row.size + _BLOCK - 1) // _BLOCK * (_BLOCK // 512)
