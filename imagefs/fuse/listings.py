"""Directories as the kernel reads them: records packed once, and cut to the room of each request.

Owns the packed records, by directory and bounded in all. Where nothing changes they are good for
whoever asks next, who waits for them if they are just being packed; else each reading of a
directory has one `FileSystem.listdir` of its own, also where names come and go meanwhile. Offsets
count `.` and `..`, which are 0 and 1. `prepare` is for the thread that reads the device, the rest
may be used from any.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from imagefs.filesystem import Attr, Entry, FileSystem, check_asker
from imagefs.fuse import abi
from imagefs.fuse.replies import BLKSIZE, FOREVER

PART = 2048
"""Records that are packed at a time."""
_MOST_LONG = 4
"""Directories of more than a part whose entries are kept."""
_AHEAD, _WAITING = 8, 4096
"""Directories that are prepared after a request, and that may wait for it."""

_NO_ENTRY = (0,) * 18  # the fuse_entry_out of `.` and `..`: no node, so nothing to look up
# By the length of the name: what packs the record.
_DIRENT = [abi.DIRENT[(length + 7) // 8].pack for length in range(256)]
_DIRENTPLUS = [abi.DIRENTPLUS[(length + 7) // 8].pack for length in range(256)]

_LOOK = 0.05
"""Seconds between two looks whether a waiting asker has left."""

_Key: TypeAlias = tuple[int, bool]
"""A directory's node, and whether it is packed for READDIRPLUS."""


class Cut(NamedTuple):
    """A reply's records, and the nodes that they name (none where nobody counts them).

    `too_small` tells that there are records, and no room for one.
    """

    body: bytes
    nodes: Sequence[int]
    too_small: bool = False


class _Part(NamedTuple):
    """Records of a part of a directory, and the end of each.

    `nodes` are those that they name; `directories` among them, the last first.
    """

    body: bytes
    ends: Sequence[int]
    nodes: Sequence[int]
    directories: Sequence[int]

    def weight(self) -> int:
        """Return roughly how much memory it takes."""
        return len(self.body) + 40 * len(self.ends) + 400

    def cut(self, first: int, room: int) -> Cut:
        """Return the records from one on that fit."""
        ends = self.ends
        if first >= len(ends):
            return Cut(b"", ())
        start = ends[first - 1] if first else 0
        if len(self.body) - start <= room:
            return Cut(self.body[start:] if start else self.body, self.nodes[first:])
        last = bisect_right(ends, start + room)
        return Cut(self.body[start : ends[last - 1]], self.nodes[first:last], last == first)


_NO_PARTS: Mapping[int, _Part] = MappingProxyType({})


class Listings:
    """The directories of one file system; `valid` tells how long a node may be kept, in seconds.

    With `all_stable` nothing in it ever changes.
    """

    MOST_BYTES = 4 << 20
    """What is kept of packed parts; the tool that reads a directory needs each once."""

    def __init__(self, fs: FileSystem, valid: Callable[[int], int], *, all_stable: bool) -> None:
        self._fs = fs
        self._valid = valid
        self._all_stable = all_stable
        self._lock = threading.Lock()
        self._parts: OrderedDict[_Key, dict[int, _Part]] = OrderedDict()
        self._bytes = 0
        self._long: OrderedDict[int, Sequence[Entry]] = OrderedDict()
        self._packing: dict[tuple[_Key, int], threading.Lock] = {}
        self._ahead: list[int] = []
        self._budget = 0

    def cut(self, node: int, offset: int, room: int, *, plus: bool) -> Cut:
        """Return the records of a directory from `offset` on that fit into `room` bytes."""
        number, first = divmod(offset, PART)
        if not offset and not self._all_stable:
            self._forget(node)
        part = self._parts.get((node, plus), _NO_PARTS).get(number)
        if not offset and self._all_stable:
            self._look_ahead(node, part)
        if part is None:
            part = self._made(node, number, plus=plus)
        if not offset and part.directories:
            with self._lock:
                self._ahead = self._ahead[-_WAITING:] + list(part.directories)
        return part.cut(first, room)

    def _look_ahead(self, node: int, part: "_Part | None") -> None:
        """Have the next directories prepared if this one was to be expected: a tree is walked."""
        with self._lock:
            expected = part is not None
            if self._ahead and self._ahead[-1] == node:
                self._ahead.pop()
                expected = True
            self._budget = _AHEAD if expected else 0

    def can_prepare(self) -> bool:
        """Tell whether a directory is likely to be read soon, which may be packed already."""
        return bool(self._budget and self._ahead)

    def prepare(self) -> bool:
        """Pack a directory that is likely to be read soon; tell whether there was one."""
        while self.can_prepare():
            with self._lock:
                if not self._ahead:
                    break
                self._budget -= 1
                node = self._ahead.pop()
            key = node, True
            if 0 not in self._parts.get(key, _NO_PARTS) and (key, 0) not in self._packing:
                self._made(node, 0, plus=True)
                return True
        return False

    def _made(self, node: int, number: int, *, plus: bool) -> _Part:
        """Pack a part, or wait for who is at it where it is good for whoever asks next."""
        if not self._all_stable:
            return self._pack(node, number, plus=plus)
        key = node, plus
        part, other = self._claim(key, number)
        while part is None and other is not None:
            if other.acquire(timeout=_LOOK):
                other.release()
            check_asker()
            part, other = self._claim(key, number)
        if part is not None:
            return part
        try:
            return self._pack(node, number, plus=plus)
        finally:
            self._packing.pop((key, number)).release()

    def _claim(self, key: _Key, number: int) -> "tuple[_Part | None, threading.Lock | None]":
        """Return a part, or the lock of who is packing it; this thread is to where neither is."""
        with self._lock:
            part = self._parts.get(key, _NO_PARTS).get(number)
            other = self._packing.get((key, number))
            if part is None and other is None:
                mine = self._packing[key, number] = threading.Lock()
                mine.acquire()
            return part, other

    def _pack(self, node: int, number: int, *, plus: bool) -> _Part:
        entries = self._list(node, anew=number == 0)
        start = number * PART
        entries = entries[max(start - 2, 0) : start + PART - 2]
        records = [] if number else self._dots(node, plus=plus)
        dots = len(records)
        records += self._packed(node, entries, start + dots, plus=plus)
        nodes: Sequence[int] = ()
        if plus and not self._all_stable:
            nodes = [0] * dots + [entry.attr.node for entry in entries]
        directories: Sequence[int] = ()
        if plus and self._all_stable:
            directories = [attr.node for _, attr in reversed(entries) if attr.mode >> 12 == 4]
        part = _Part(b"".join(records), list(accumulate(map(len, records))), nodes, directories)
        self._keep((node, plus), number, part)
        return part

    def _dots(self, node: int, *, plus: bool) -> list[bytes]:
        own = self._fs.getattr(node)
        both = ((b".", own), (b"..", self._fs.lookup(node, b"..") or own))
        if plus:
            return [
                _DIRENTPLUS[2](*_NO_ENTRY, attr.ino, at, len(name), attr.mode >> 12, name)
                for at, (name, attr) in enumerate(both, 1)
            ]
        return _plain(both, 0)

    def _packed(
        self, node: int, entries: Sequence[Entry], offset: int, *, plus: bool
    ) -> list[bytes]:
        if not plus:
            return _plain(entries, offset)
        valid = self._valid(node)
        short = None if valid == FOREVER else self._valid
        records = []
        for name, attr in entries:
            place, ino, mode, nlink, uid, gid, rdev, size, blocks, mtime, nsec = attr
            offset += 1
            length = len(name)
            # In the order of the kernel's structs. A call without a star in it is a fifth faster.
            records.append(_DIRENTPLUS[length](
                place, valid, short(place) if short else valid,
                ino, size, blocks, mtime, mtime, mtime, nsec, nsec, nsec,
                mode, nlink, uid, gid, rdev, BLKSIZE,
                ino, offset, length, mode >> 12, name,
            ))  # fmt: skip
        return records

    def _list(self, node: int, *, anew: bool) -> Sequence[Entry]:
        """List a directory; a long one is kept until all its parts have been packed."""
        entries = None if anew else self._long.get(node)
        if entries is None:
            entries = self._fs.listdir(node)
            # Not by its length, which some find out only at the end.
            if entries[PART - 2 : PART - 1]:
                with self._lock:
                    self._long[node] = entries
                    while len(self._long) > _MOST_LONG:
                        self._long.popitem(last=False)
        return entries

    def _keep(self, key: _Key, number: int, part: _Part) -> None:
        with self._lock:
            self._drop(key, number)
            self._parts.setdefault(key, {})[number] = part
            self._parts.move_to_end(key)
            self._bytes += part.weight()
            while self._bytes > self.MOST_BYTES:
                oldest = next(iter(self._parts))
                at = next(iter(self._parts[oldest]))
                if (oldest, at) == (key, number):
                    break
                self._drop(oldest, at)

    def _drop(self, key: _Key, number: int) -> None:
        parts = self._parts.get(key, {})
        part = parts.pop(number, None)
        if part is not None:
            self._bytes -= part.weight()
            if not parts:
                del self._parts[key]

    def _forget(self, node: int) -> None:
        """Drop what is known of a directory that may have changed."""
        with self._lock:
            for plus in (True, False):
                for part in self._parts.pop((node, plus), _NO_PARTS).values():
                    self._bytes -= part.weight()


def nodes_in(body: bytes) -> Iterator[int]:
    """Yield the nodes that the records of a READDIRPLUS refer to."""
    at = 0
    while at < len(body):
        node, length = abi.DIRENTPLUS_HEAD.unpack_from(body, at)
        if node:
            yield node
        at += abi.DIRENTPLUS[(length + 7) // 8].size


def _plain(entries: Iterable[tuple[bytes, Attr]], offset: int) -> list[bytes]:
    return [
        _DIRENT[len(name)](attr.ino, at, len(name), attr.mode >> 12, name)
        for at, (name, attr) in enumerate(entries, offset + 1)
    ]
