"""Node ids: 64-bit numbers that carry their own address.

    view | layer | row          19 + 16 + 28 bits: never negative as a signed number either

Layer 0 is no layer but the few nodes that the mount itself makes up; layers count from 1. A
directory's view is the one it is seen in, and its layer and row are those of the topmost layer
that has it. A leaf belongs to no view, so that one file is one inode wherever it is seen: its
view is 0, or, where not as many of its names are visible as its layer has, their count.

What people see as inode numbers are others: dense, so that 32-bit programs can read them wherever
a mount has few enough rows.
"""

from bisect import insort
from collections import deque

VIEW_BITS = 19
LAYER_BITS = 16
ROW_BITS = 28  # rows.MAX_ROWS

MAX_VIEWS = (1 << VIEW_BITS) - 1
MAX_LAYERS = (1 << LAYER_BITS) - 1
MAX_ROWS = 1 << ROW_BITS

VIEW_SHIFT = LAYER_BITS + ROW_BITS
LAYER_SHIFT = ROW_BITS
LAYER_MASK = MAX_LAYERS
ROW_MASK = MAX_ROWS - 1
PLACE_MASK = (1 << VIEW_SHIFT) - 1
"""The bits of layer and row, which are the same in all views."""


def pack(view: int, layer: int, row: int) -> int:
    """Return the node id of a row of a layer, seen in a view."""
    return view << VIEW_SHIFT | layer << LAYER_SHIFT | row


def unpack(node: int) -> tuple[int, int, int]:
    """Return a node id's view, layer and row."""
    return node >> VIEW_SHIFT, node >> LAYER_SHIFT & LAYER_MASK, node & ROW_MASK


class Numbers:
    """Numbers from 1 up to `most`, for layers or views; who takes and gives back holds a lock.

    What is given back is given again, but as late as can be, the longest forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._next = 1
        self._free: deque[int] = deque()

    def left(self) -> int:
        """Return how many can be taken."""
        return self._most - self._next + 1 + len(self._free)

    def take(self) -> int:
        """Return a number that is not in use; IndexError if there is none."""
        if self._next > self._most:
            return self._free.popleft()
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        """Say that a number is no longer in use."""
        self._free.append(number)


MADE_INOS = 1 << 20
"""Inode numbers below this are those of nodes that the mount makes up."""


class InodeNumbers:
    """Ranges of inode numbers, the lowest first; who takes and gives back holds a lock."""

    def __init__(self) -> None:
        # Where each free range begins and ends. The last has no end: 64 bits are never used up.
        self._free: list[tuple[int, int]] = [(MADE_INOS, 1 << 63)]

    def take(self, count: int) -> range:
        """Return so many numbers that nobody has."""
        for at, (first, end) in enumerate(self._free):
            if end - first >= count:
                self._free[at : at + 1] = [(first + count, end)] if end - first > count else []
                return range(first, first + count)
        raise AssertionError

    def give_back(self, numbers: range) -> None:
        """Say that numbers are no longer in use."""
        insort(self._free, (numbers.start, numbers.stop))
        merged: list[tuple[int, int]] = []
        for first, end in self._free:
            if merged and merged[-1][1] == first:
                first = merged.pop()[0]  # noqa: PLW2901
            merged.append((first, end))
        self._free = merged


def made_ino(node: int) -> int:
    """Return the inode number of a node that the mount makes up."""
    return node if node < MADE_INOS else node | 1 << 62
