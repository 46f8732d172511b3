"""Sparse members: the maps of old GNU tar and of pax 1.0, and what any map must fulfil.

The maps of pax 0.0 and 0.1 are records of the extended header; `pax.py` reads those.
"""

from collections.abc import Callable
from typing import NamedTuple

from imagefs.errors import CorruptArchive
from imagefs.tar import header as tar_header
from imagefs.tar.header import BLOCK
from imagefs.tar.numbers import decimal, number

MAX_RUNS = 1 << 20
"""The most runs that the sparse files of one tar may have, those that are empty among them."""


class Runs:
    """How many runs the maps of one tar have had so far."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def add(self, layout: "Sparse | None") -> None:
        """Count those of a map that has been read. CorruptArchive where they become too many."""
        if layout is not None and layout.pairs is not None:
            self._count += len(layout.pairs)
            if self._count > MAX_RUNS:
                raise CorruptArchive(f"sparse files of more than {MAX_RUNS} runs")


class Sparse(NamedTuple):
    """A sparse file's map: (offset, length) of each run of data, and the file's size in bytes.

    `pairs` is None where the map leads the member's data (pax 1.0).
    """

    pairs: list[tuple[int, int]] | None
    size: int

    def checked(self, stored: int, position: int) -> tuple[tuple[int, int], ...]:
        """Return the runs that hold data.

        Raises CorruptArchive unless they ascend, and fit the file and its data.
        """
        reached = total = 0
        runs = []
        for offset, length in self.pairs or ():
            if offset < reached or length < 0 or offset + length > self.size:
                raise CorruptArchive(f"wrong sparse map in the tar member at byte {position}")
            reached = offset + length
            total += length
            if length:
                runs.append((offset, length))
        if total > stored or not 0 <= self.size < 1 << 63:
            raise CorruptArchive(f"wrong sparse map in the tar member at byte {position}")
        return tuple(runs)


def oldgnu(
    read_at: Callable[[int, int], bytes], header: bytes, data: int, end: int
) -> tuple[Sparse, int]:
    """Return an old GNU sparse member's map, and where its data begins behind the map's blocks.

    `data` is where the header ends, and `end` where the tar does. Raises ValueError.
    """
    pairs = _structs(header[tar_header.OLDGNU_SPARSE])
    extended = header[tar_header.OLDGNU_ISEXTENDED]
    while extended:
        block = read_at(BLOCK, data) if data + BLOCK <= end else b""
        if len(block) < BLOCK:
            raise ValueError("the archive ends inside its sparse map")
        data += BLOCK
        found = _structs(block[tar_header.OLDGNU_EXTENSION_SPARSE])
        if not found:
            raise ValueError("a block of its sparse map is empty")
        pairs += found
        extended = block[tar_header.OLDGNU_EXTENSION_ISEXTENDED]
        _limit(len(pairs))
    return Sparse(pairs, number(header[tar_header.OLDGNU_REALSIZE])), data


def pax10(
    read_at: Callable[[int, int], bytes], offset: int, stored: int, size: int
) -> tuple[Sparse, int]:
    """Return the map that leads the data of a pax 1.0 sparse member, and the map's bytes.

    It is decimal numbers, one a line: the count of pairs, then offset and length of each, padded
    with NULs to a whole block (GNU tar manual, "PAX Format, Version 1.0"). Raises CorruptArchive.
    """
    try:
        return _pax10(read_at, offset, stored, size)
    except ValueError as error:
        raise CorruptArchive(f"wrong sparse map at byte {offset} of the tar: {error}") from error


def _pax10(
    read_at: Callable[[int, int], bytes], offset: int, stored: int, size: int
) -> tuple[Sparse, int]:
    lines: list[bytes] = []
    rest = b""
    used = 0
    wanted = 1
    while len(lines) < wanted:
        block = read_at(min(BLOCK, stored - used), offset + used)
        if len(block) < BLOCK:
            raise ValueError("it does not end")
        used += BLOCK
        *whole, rest = (rest + block).split(b"\n")
        lines += whole
        if wanted == 1 and lines:
            count = decimal(lines[0])
            _limit(count)
            wanted = 1 + 2 * count
        if len(rest) > BLOCK:
            raise ValueError("it is not a list of numbers")
    numbers = [decimal(line) for line in lines[1:wanted]]
    return Sparse(list(zip(numbers[::2], numbers[1::2], strict=True)), size), used


def _structs(table: bytes) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(table), tar_header.OLDGNU_SPARSE_PAIR):
        if not table[at]:
            break
        pairs.append((number(table[at : at + 12]), number(table[at + 12 : at + 24])))
    return pairs


def _limit(runs: int) -> None:
    if runs > MAX_RUNS:
        raise ValueError(f"a sparse map of {runs} runs; at most {MAX_RUNS} are read")
