"""A layer's tree as it comes out of its fold: sorted entries, and what lies where among them.

Owns the search in entries. Nothing changes any more but that they are let go of in the end. One
writer of an index uses it.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator

from imagefs.index import records as layer_records
from imagefs.index.records import DIRECTORY_BYTES, RECORD_BYTES, PackedMembers
from imagefs.tar import header as tar_header

NAME = slice(DIRECTORY_BYTES, -RECORD_BYTES)
"""Where an entry has its name."""
RECORD = slice(-RECORD_BYTES, None)
"""Where an entry has its record."""

# What sorts behind all names that begin with the prefix.
_BEHIND_WHITEOUTS = b".wh/"
# Most directories are smaller.
_SMALL = 64


class Folded:
    """A layer's tree; `entries` and what their records mean are as `records.py` describes.

    It is those entries that can be reached from the directory of number 0, the root, whose record
    is `root`. A hard link is an entry of the same shared inode as its target; one that is unbound
    found no target in the layer.
    """

    def __init__(
        self, members: PackedMembers, root: bytes, entries: list[bytes], directories: int
    ) -> None:
        self.members = members
        self.root = root
        self.entries = entries
        self._starts = _starts(entries, directories)
        self._bare: dict[int, bool] = {}

    def bounds(self, number: int) -> tuple[int, int]:
        """Return where a directory's entries begin and end."""
        return self._starts[number], self._starts[number + 1]

    def children(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield name and record of all that lies in a directory."""
        for at in range(*self.bounds(number)):
            yield self.entries[at][NAME], self.entries[at][RECORD]

    def find(self, number: int, name: bytes) -> bytes | None:
        """Return the record of a name in a directory, or None if there is none."""
        entry = self._first(number, name + b"\0")
        return None if entry is None else entry[RECORD]

    def has_markers(self, number: int) -> bool:
        """Tell whether a directory holds names that begin as whiteouts do."""
        return self._first(number, tar_header.WHITEOUT_PREFIX) is not None

    def _first(self, number: int, prefix: bytes) -> bytes | None:
        """Return the first entry of a directory whose name and record begin with a prefix."""
        first, end = self.bounds(number)
        key = layer_records.key_of(number) + prefix
        at = bisect_left(self.entries, key, first, end)
        return self.entries[at] if at < end and self.entries[at].startswith(key) else None

    def deleted(self, first: int, end: int) -> frozenset[bytes]:
        """Return the names that markers delete in the directory that has these entries."""
        key = self.entries[first][:DIRECTORY_BYTES]
        first = bisect_left(self.entries, key + tar_header.WHITEOUT_PREFIX, first, end)
        end = bisect_left(self.entries, key + _BEHIND_WHITEOUTS, first, end)
        return frozenset(
            entry[NAME][len(tar_header.WHITEOUT_PREFIX) :]
            for entry in self.entries[first:end]
            if not layer_records.is_implied(entry[RECORD])
        )

    def is_bare(self, record: bytes) -> bool:
        """Tell whether nothing but markers imply that a directory is there."""
        if not layer_records.is_implied(record):
            return False
        known, below = self._bare, [layer_records.number_of(record)]
        if below[0] not in known:
            for number in below:
                below += [
                    layer_records.number_of(child)
                    for _, child in self.children(number)
                    if layer_records.is_implied(child)
                ]
            for number in reversed(below):
                known[number] = all(
                    known[layer_records.number_of(child)]
                    if layer_records.is_implied(child)
                    else name.startswith(tar_header.WHITEOUT_PREFIX)
                    for name, child in self.children(number)
                )
        return known[below[0]]

    def name_counts(self) -> "array[int]":
        """Return how many names each shared inode has; those do not count that nothing leads to."""
        counts = array("I", bytes(4 * self.members.inodes))
        waiting = [0] if counts else []
        while waiting:
            for _, record in self.children(waiting.pop()):
                if layer_records.is_shared(record):
                    counts[layer_records.inode_of(record)] += 1
                elif layer_records.is_directory(record) and layer_records.number_of(record):
                    waiting.append(layer_records.number_of(record))
        return counts

    def first_rows(self) -> "array[int]":
        """Return the row of each shared inode's first name that is no late hard link.

        Rows count from the root, breadth first.
        """
        found = array("I", bytes(4 * self.members.inodes))
        row, waiting = 0, [0]
        for number in waiting:
            for _, record in self.children(number):
                row += 1
                if layer_records.is_directory(record):
                    below = layer_records.number_of(record)
                    waiting += [below] if below else []
                elif layer_records.is_shared(record) and not layer_records.is_late(record):
                    inode = layer_records.inode_of(record)
                    found[inode] = found[inode] or row
        return found


def _starts(entries: list[bytes], directories: int) -> "array[int]":
    """Return where the entries of each directory begin, by its number, and where the last end."""
    starts, at = array("I", [0]), 0
    for number in range(1, directories + 2):
        key = layer_records.key_of(number)
        near = min(at + _SMALL, len(entries))
        at = bisect_left(entries, key, at, near)
        if at == near:
            at = bisect_left(entries, key, at)
        starts.append(at)
    return starts
