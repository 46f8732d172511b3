"""The bytes of files in an image's layers, compared and told apart by digest.

Owns when two files hold the same: what is a hole in the one may be zeros in the other. Reads no
more of a file than the archive holds of it, and holds a piece of it at a time.
"""

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import zip_longest

from imagefs.image.model import Layer
from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.vfs.memory import Memory
from imagefs.vfs.merge import Place
from imagefs.vfs.open_layer import Maps, OpenLayer

_PIECE = 1 << 16
_ZEROS = bytes(_PIECE)


class Contents:
    """The files of an image's layers, told by the layer's position and the inode's row."""

    def __init__(self, layers: Sequence[Layer], indexes: Sequence[Index]) -> None:
        self._layers, self._indexes = layers, indexes
        self._maps = Maps(Memory())
        self._open: dict[int, OpenLayer] = {}

    def _layer(self, number: int) -> OpenLayer:
        found = self._open.get(number)
        if found is None:
            found = OpenLayer(self._layers[number], self._indexes[number], self._maps)
            self._open[number] = found
        return found

    def row(self, place: Place) -> Row:
        """Return an inode's row."""
        return self._indexes[place[0]].row(place[1])

    def read(self, place: Place, size: int) -> bytes:
        """Return up to so many bytes of a file from its beginning. OSError."""
        return self._layer(place[0]).read(self.row(place), 0, size)

    def is_same(self, one: Place, other: Place) -> bool:
        """Tell whether two regular files hold the same; what cannot be read is like nothing."""
        first, second = self.row(one), self.row(other)
        if first.size != second.size:
            return False
        if self._layers[one[0]].blob == self._layers[other[0]].blob and one[1] == other[1]:
            return True
        try:
            return all(a == b for a, b in zip_longest(self.pieces(one), self.pieces(other)))
        except OSError:
            return False

    def digest(self, place: Place) -> bytes | None:
        """Return what is the same for files of one size that hold the same; None if unreadable."""
        state = blake2b(digest_size=20)
        try:
            for offset, piece in self.pieces(place):
                state.update(offset.to_bytes(8, "little"))
                state.update(piece)
        except OSError:
            return None
        return state.digest()

    def pieces(self, place: Place) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces of a file that are not all zeros, each with its offset. OSError."""
        layer, row = self._layer(place[0]), self.row(place)
        offset = 0
        while offset < row.size:
            if row.flags & rows.SPARSE:
                try:
                    offset = layer.seek(row, offset, os.SEEK_DATA) // _PIECE * _PIECE
                except OSError:
                    # There is no data from here on.
                    return
            piece = layer.read(row, offset, _PIECE)
            if piece != _ZEROS[: len(piece)]:
                yield offset, piece
            offset += _PIECE


def stored(index: Index, row: Row) -> int:
    """Return how many bytes a layer holds of a regular file: of a sparse one, its data."""
    if row.flags & rows.SPARSE:
        return sum(length for _, length in index.runs(row))
    return row.size
