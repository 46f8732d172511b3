"""Directories that show the same in several views, with all below them: written once, then copied.

Owns where they lie. A directory may have one parent only, or the kernel moves it, so that each view
has its own; but those below one lie behind it, and lead to each other. So a copy of all of them has
the same bytes, but for numbers that are all as much higher. Memory is taken for where these are, a
few bytes for each directory.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from imagefs.erofs.format import SLOT_BITS
from imagefs.erofs.output import Output
from imagefs.vfs import nodeid
from imagefs.vfs.image_fs import ImageFs
from imagefs.vfs.merge import Place

_PIECE = 1 << 20
_UNIT_BITS = 2
"""All that is noted lies at multiples of 4."""
_END = 1 << 32 + _UNIT_BITS
"""What does not lie before is not noted."""
_NID, _ADDRESS = Struct("<Q"), Struct("<I")


class _Open(NamedTuple):
    """A directory whose subdirectories are being written, as many others are waiting.

    `varied` is how much there was before that shows otherwise in other views.
    """

    waiting: int
    varied: int
    alike: Place
    layer: int
    start: int
    parent_at: int


class Subtrees:
    """The directories of an image that is being written, as far as they may be shown again."""

    def __init__(self, fs: ImageFs, out: Output) -> None:
        self._fs, self._out = fs, out
        self._open: list[_Open] = []
        self._unlike = 0
        # Where numbers of directories and of blocks lie in what may be copied, ascending.
        self._nids, self._addresses = array("I"), array("I")
        # Of what may be copied: where it begins and ends, and where it has its parent's number.
        self._kept = array("I"), array("I"), array("I")
        # By what is alike, a chain or layer and a row: 1 more than its place above.
        self._alike: dict[int, array[int]] = {}

    def open(self, node: int, start: int, parent_at: int, waiting: int, counted: int) -> None:
        """Note where a node's directory was just written, whose subdirectories come next.

        `parent_at` is where it has its parent's number, `waiting` and `counted` are as `close`
        takes them, before it was written.
        """
        alike = self._fs.alike(node)
        if alike:
            varied = counted + self._unlike
            _, layer, _ = nodeid.unpack(node)
            self._open.append(_Open(waiting, varied, alike[0], layer, start, parent_at))
        else:
            self._unlike += 1

    def note(self, nids: Iterable[int], addresses: Iterable[int]) -> None:
        """Note where the last directory has numbers of directories, itself, and of blocks."""
        if self._open and self._out.end < _END:
            self._nids.extend([place >> _UNIT_BITS for place in nids])
            self._addresses.extend([place >> _UNIT_BITS for place in addresses])

    def close(self, waiting: int, counted: int) -> None:
        """Keep those that are whole, since no more directories are waiting than before.

        `counted` is how many files there were of which each view may show another count of names.
        """
        while self._open and self._open[-1].waiting == waiting:
            done = self._open.pop()
            end = self._out.align(1 << _UNIT_BITS)
            if done.varied == counted + self._unlike and end < _END:
                self._keep(done, end)

    def _keep(self, done: _Open, end: int) -> None:
        group, row = done.alike
        if group not in self._alike:
            self._alike[group] = array("I", bytes(4 * self._fs.layers[done.layer].index.count))
        for column, place in zip(self._kept, (done.start, end, done.parent_at), strict=True):
            column.append(place >> _UNIT_BITS)
        self._alike[group][row] = len(self._kept[0])

    def copy(self, node: int, parent: int) -> tuple[int, int] | None:
        """Write again, below another parent, what shows the same as a node's directory.

        Returns its number, and how many directories there are; None where none was kept.
        """
        for group, row in self._fs.alike(node):
            known = self._alike[group][row] if group in self._alike else 0
            if known:
                return self._copy_kept(known - 1, parent)
        return None

    def _copy_kept(self, number: int, parent: int) -> tuple[int, int]:
        start, end, parent_at = (column[number] << _UNIT_BITS for column in self._kept)
        out = self._out
        # What must not lie across blocks does so nowhere if it lies alike in them.
        moved = out.pad((start - out.end) % out.block) - start
        nids = self._copy(start, end, moved)
        out.change(parent_at + moved, _NID.pack(parent))
        # Each directory has `.` and `..`, and all but the topmost are named.
        return start + moved >> SLOT_BITS, (nids + 1) // 3

    def _copy(self, start: int, end: int, moved: int) -> int:
        """Append what lies between two places, as it must be there; return how many nids it has."""
        count = 0
        while start < end:
            # Numbers do not lie across multiples of this.
            stop = min(end, (start // _PIECE + 1) * _PIECE)
            piece = bytearray(self._out.read(start, stop - start))
            nids = _within(self._nids, start, stop)
            addresses = _within(self._addresses, start, stop)
            _add(_NID, piece, [place - start for place in nids], moved >> SLOT_BITS)
            _add(_ADDRESS, piece, [place - start for place in addresses], moved >> self._out.bits)
            self._out.append(piece)
            self.note([place + moved for place in nids], [place + moved for place in addresses])
            count += len(nids)
            start = stop
        return count


def _within(noted: "array[int]", start: int, end: int) -> list[int]:
    """Return the places between two that are noted."""
    first = bisect_left(noted, start + 3 >> _UNIT_BITS)
    last = bisect_left(noted, end + 3 >> _UNIT_BITS, first)
    return [place << _UNIT_BITS for place in noted[first:last]]


def _add(form: Struct, content: bytearray, places: Sequence[int], more: int) -> None:
    """Make numbers higher."""
    get, put = form.unpack_from, form.pack_into
    for at in places:
        put(content, at, get(content, at)[0] + more)
