"""Where the bytes of files lie: in other files, which the kernel reads, or in the image itself.

Owns how a file becomes chunks: one piece of the archive, or a sparse map with its holes. What the
kernel cannot reach where it lies, since it begins or ends within a block, is copied.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from imagefs.erofs import format as fmt
from imagefs.erofs.inodes import Body
from imagefs.errors import CorruptArchive, HostError
from imagefs.index import rows
from imagefs.index.cache import blob_of
from imagefs.index.rows import Row
from imagefs.vfs.layers_txt import path_of
from imagefs.vfs.open_layer import OpenLayer

MAX_CHUNKS = 1 << 22
"""Most chunks of one file: a map of 32 MiB, which is enough for 16 GiB of pages."""
MAX_FILLING = 512 << 20
"""Most bytes of maps and zeros of all sparse files of an image, besides as many as their data has.

A kilobyte of an archive can ask for gigabytes of either.
"""


class Copy(NamedTuple):
    """Content to put into the image: so much of a file, from an offset on.

    `chunk` is which of the body's is to lead there; None where the inode itself does.
    """

    chunk: int | None
    offset: int
    length: int


class _Filling:
    """What the sparse files of an image take besides their data, all together."""

    def __init__(self) -> None:
        self._taken = 0

    def take(self, layer: OpenLayer, row: Row, size: int) -> None:
        """Count bytes for a file; HostError where all are too many."""
        self._taken += max(0, size)
        if self._taken > MAX_FILLING:
            raise HostError(
                f"the data of {_named(layer, row)}, or of sparse files before it, is too scattered"
                " for EROFS; --driver native can show it"
            )


Placed = tuple[Body, Sequence[Copy]]
_EMPTY: Placed = Body(), ()


class Content(Protocol):
    """How the bytes of regular files get into an image, or are found from there."""

    devices: Sequence[Path]
    """The files of bytes, numbered from 1."""
    loses: bool
    """Whether anything led to the device of what is lost, which comes behind the others."""

    def place(self, layer: OpenLayer, row: Row, room: int) -> Placed:
        """Return where a file's content is to lie; `room` is what an inode leaves of a block."""


class Elsewhere:
    """Content that stays where it is: in the archive, or in the layers of the store."""

    def __init__(self, devices: Sequence[Path], bits: int) -> None:
        self.devices = devices
        self.loses = False
        self._numbers = {path: number for number, path in enumerate(devices, 1)}
        self._bits, self._rest = bits, (1 << bits) - 1
        self._filling = _Filling()
        self._layer: OpenLayer | None = None
        self._of_layer = 0, 0, 0
        self._whole = fmt.CHUNK_INDEXES | fmt.MAX_CHUNK_BITS
        self._most = 1 << bits + fmt.MAX_CHUNK_BITS

    def place(self, layer: OpenLayer, row: Row, room: int) -> Placed:
        """See Content."""
        del room
        if layer is not self._layer:
            # One after the other, files are mostly of one layer.
            blob = blob_of(layer.layer)
            self._layer, self._of_layer = (
                layer,
                (self._numbers[blob.path], blob.offset, blob.length),
            )
        device, offset, length = self._of_layer
        flags, size, data = row.flags, row.size, row.data
        if flags & rows.FOREIGN:
            return self._lost(), ()
        if not size:
            return _EMPTY
        start = offset + data
        if flags & rows.SPARSE:
            return self._sparse(layer, row, device, start)
        if data + size > length:
            return self._lost(), ()
        address, rest = start >> self._bits, start & self._rest
        if rest or size > self._most or address > fmt.MAX_ADDRESS:
            return self._sparse(layer, row, device, start)
        chunk = fmt.CHUNK_INDEX.pack(0, device, address)
        return Body(fmt.CHUNK_BASED, self._whole, chunk), ()

    def _lost(self) -> Body:
        """Return a body whose content cannot be read: it lies far beyond the end of a device."""
        self.loses = True
        chunk = fmt.CHUNK_INDEX.pack(0, len(self.devices) + 1, fmt.MAX_ADDRESS)
        return Body(fmt.CHUNK_BASED, self._whole, chunk)

    def _sparse(self, layer: OpenLayer, row: Row, device: int, start: int) -> Placed:
        runs = list(_runs(layer, row))
        blob = blob_of(layer.layer)
        if any(row.data + place + length > blob.length for _, length, place in runs):
            return self._lost(), ()
        bits = _chunk_bits(row.size, [(at, at + length) for at, length, _ in runs], self._bits)
        aligned = all(
            not (start + place) % (1 << self._bits)
            and not at % (1 << bits)
            and (at + length == row.size or not (at + length) % (1 << bits))
            for at, length, place in runs
        )
        chunks = _holes(layer, row, bits, self._filling)
        if aligned:
            size = fmt.CHUNK_INDEX.size
            for at, length, place in runs:
                address = start + place >> self._bits
                if address + (length >> self._bits) >= fmt.MAX_ADDRESS:
                    raise HostError(f"{blob.path}: is too long for the kernel's driver")
                for number in range(at >> bits, -(-(at + length) >> bits)):
                    step = (number << bits) - at >> self._bits
                    fmt.CHUNK_INDEX.pack_into(chunks, size * number, 0, device, address + step)
            return _chunked(chunks, bits - self._bits), ()
        copies = _copies(layer, row, runs, bits, self._filling)
        return _chunked(chunks, bits - self._bits), copies


class Included:
    """Content that is copied into the image: behind its inode, or in blocks of its own."""

    devices: Sequence[Path] = ()
    loses = False

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._filling = _Filling()

    def place(self, layer: OpenLayer, row: Row, room: int) -> Placed:
        """See Content; CorruptArchive where the content is lost."""
        lost = row.flags & rows.FOREIGN
        if lost or (row.data + row.size > blob_of(layer.layer).length and not _is_sparse(row)):
            raise CorruptArchive(
                f"the content of {_named(layer, row)} is lost; an image cannot say so"
            )
        if not row.size:
            return Body(), ()
        if _is_sparse(row):
            runs = list(_runs(layer, row))
            bits = _chunk_bits(row.size, [(at, at + length) for at, length, _ in runs], self._bits)
            chunks = _holes(layer, row, bits, self._filling)
            copies = _copies(layer, row, runs, bits, self._filling)
            return _chunked(chunks, bits - self._bits), copies
        if row.size <= room:
            return Body(fmt.FLAT_INLINE, 0, layer.read(row, 0, row.size)), ()
        return Body(), (Copy(None, 0, row.size),)


def _is_sparse(row: Row) -> bool:
    return bool(row.flags & rows.SPARSE)


def _named(layer: OpenLayer, row: Row) -> str:
    return repr(path_of(layer.index, row.inode).decode("utf-8", "backslashreplace"))


def _runs(layer: OpenLayer, row: Row) -> Iterator[tuple[int, int, int]]:
    """Yield a file's runs of data: offset, length, and place in what is stored of it."""
    if not row.flags & rows.SPARSE:
        yield 0, row.size, 0
        return
    place = 0
    for at, length in layer.index.runs(row):
        if length:
            yield at, length, place
        place += length


def _chunk_bits(size: int, runs: Sequence[tuple[int, int]], least: int) -> int:
    """Return the bits of the largest chunks that no run begins or ends within, if they are few.

    Else those of the smallest of which a file has no more than MAX_CHUNKS.
    """
    enough = max(least, (-(-size // MAX_CHUNKS) - 1).bit_length())
    edges = 0
    for start, end in runs:
        edges |= start | (0 if end == size else end)
    whole = max(least, (size - 1).bit_length())
    largest = min(whole, (edges & -edges).bit_length() - 1) if edges else whole
    return min(max(enough, largest), least + fmt.MAX_CHUNK_BITS)


def _holes(layer: OpenLayer, row: Row, bits: int, filling: _Filling) -> bytearray:
    """Return the map of chunks of a file without data; HostError where they are too many."""
    count = -(-row.size >> bits)
    if count > MAX_CHUNKS:
        raise HostError(f"{_named(layer, row)} is too long for EROFS; --driver native can show it")
    filling.take(layer, row, count * fmt.CHUNK_INDEX.size)
    return bytearray(fmt.CHUNK_INDEX.pack(0, 0, fmt.NULL_ADDRESS)) * count


def _chunked(chunks: bytearray, bits: int) -> Body:
    return Body(fmt.CHUNK_BASED, fmt.CHUNK_INDEXES | bits, bytes(chunks))


def _copies(
    layer: OpenLayer, row: Row, runs: Sequence[tuple[int, int, int]], bits: int, filling: _Filling
) -> Sequence[Copy]:
    """Return the chunks that hold data, to be copied; HostError where they are too much."""
    numbers: dict[int, None] = {}
    reached = 0
    for at, length, _ in runs:
        first, last = max(reached, at >> bits), -(-(at + length) >> bits)
        filling.take(layer, row, min(last << bits, row.size) - (first << bits) - 2 * length)
        numbers.update(dict.fromkeys(range(first, last)))
        reached = last
    return [
        Copy(number, number << bits, min(1 << bits, row.size - (number << bits)))
        for number in numbers
    ]
