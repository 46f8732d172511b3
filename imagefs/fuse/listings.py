"""Directories that are being read: so that going on at an offset does not list them anew.

Offsets count `.` and `..`, which are 0 and 1. The parts of one listing come from one
`FileSystem.listdir`, also where the directory changes meanwhile. May be used from any thread.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from imagefs.filesystem import Entry, FileSystem

_LAZY = 64
"""A listing that is no list makes its entries when asked: so many take as much room as one."""


class Listings:
    """Prepared listings by node, bounded by entries: one directory may hold a million."""

    MOST_ENTRIES = 50_000

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Sequence[Entry]] = OrderedDict()
        self._entries = 0

    def part(self, node: int, offset: int, most: int) -> Sequence[Entry]:
        """Return up to `most` entries from `offset` on, without `.` and `..`; none at the end."""
        entries = self._kept.get(node) if offset else None
        if entries is None:
            entries = self._fs.listdir(node)
            self._keep(node, entries)
        start = max(offset - 2, 0)
        if start and start >= len(entries):
            self._forget(node)
        return entries[start : start + most]

    def dots(self, node: int, offset: int) -> list[Entry]:
        """Return what `offset` leaves of `.` and `..`."""
        own = self._fs.getattr(node)
        return [Entry(b".", own), Entry(b"..", self._fs.lookup(node, b"..") or own)][offset:]

    def _keep(self, node: int, entries: Sequence[Entry]) -> None:
        with self._lock:
            self._entries += _weight(entries) - _weight(self._kept.pop(node, []))
            self._kept[node] = entries
            while self._entries > self.MOST_ENTRIES and len(self._kept) > 1:
                self._entries -= _weight(self._kept.popitem(last=False)[1])

    def _forget(self, node: int) -> None:
        with self._lock:
            self._entries -= _weight(self._kept.pop(node, []))


def _weight(entries: Sequence[Entry]) -> int:
    return len(entries) if isinstance(entries, list) else 1 + len(entries) // _LAZY
