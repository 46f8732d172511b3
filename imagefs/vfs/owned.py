"""A file system shown as if all of it were owned by one user, or one group.

For those who may not be the image's owners: modes stay as they are, and so does all else. Stands
between a file system and its driver; keeps nothing. May be used by many threads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from imagefs.filesystem import Attr, Entry, FileSystem, ReadaheadCandidates, Statfs


class OwnedFs:
    """`fs`, with other owners; where `uid` or `gid` is None, those that it has."""

    def __init__(self, fs: FileSystem, uid: int | None, gid: int | None) -> None:
        self._fs = fs
        self._owner = {
            name: number for name, number in (("uid", uid), ("gid", gid)) if number is not None
        }

    def _owned(self, attr: Attr) -> Attr:
        return attr._replace(**self._owner)

    def _entry(self, entry: Entry) -> Entry:
        return Entry(entry.name, self._owned(entry.attr))

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """See FileSystem."""
        found = self._fs.lookup(parent, name)
        return None if found is None else self._owned(found)

    def getattr(self, node: int) -> Attr:
        """See FileSystem."""
        return self._owned(self._fs.getattr(node))

    def listdir(self, node: int) -> Sequence[Entry]:
        """See FileSystem."""
        return _Listing(self._fs.listdir(node), self._entry)

    def readlink(self, node: int) -> bytes:
        """See FileSystem."""
        return self._fs.readlink(node)

    def read(self, node: int, offset: int, size: int) -> bytes:
        """See FileSystem."""
        return self._fs.read(node, offset, size)

    def with_extent(
        self, node: int, offset: int, size: int, take: Callable[[int, int, int], None]
    ) -> bool:
        """See FileSystem."""
        return self._fs.with_extent(node, offset, size, take)

    def readahead_candidates(self, node: int, most: int) -> ReadaheadCandidates:
        """See FileSystem."""
        return self._fs.readahead_candidates(node, most)

    def seek(self, node: int, offset: int, whence: int) -> int:
        """See FileSystem."""
        return self._fs.seek(node, offset, whence)

    def getxattr(self, node: int, name: bytes) -> bytes | None:
        """See FileSystem."""
        return self._fs.getxattr(node, name)

    def listxattr(self, node: int) -> Sequence[bytes]:
        """See FileSystem."""
        return self._fs.listxattr(node)

    def statfs(self) -> Statfs:
        """See FileSystem."""
        return self._fs.statfs()

    def is_stable(self, node: int) -> bool:
        """See FileSystem."""
        return self._fs.is_stable(node)

    def adjust_lookups(self, nodes: Iterable[int], count: int) -> None:
        """See FileSystem."""
        self._fs.adjust_lookups(nodes, count)

    def watch(self, tell_gone: Callable[[int, bytes], None]) -> None:
        """See FileSystem."""
        self._fs.watch(tell_gone)


class _Listing(Sequence[Entry]):
    """Entries that are changed when somebody asks for them: a wide directory's are made then."""

    def __init__(self, entries: Sequence[Entry], change: Callable[[Entry], Entry]) -> None:
        self._entries = entries
        self._change = change

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, wanted: int) -> Entry: ...

    @overload
    def __getitem__(self, wanted: slice) -> Sequence[Entry]: ...

    def __getitem__(self, wanted: int | slice) -> Entry | Sequence[Entry]:
        found = self._entries[wanted]
        return self._change(found) if isinstance(found, Entry) else list(map(self._change, found))

    def __iter__(self) -> Iterator[Entry]:
        return map(self._change, self._entries)


def owned(fs: FileSystem, uid: int | None, gid: int | None) -> FileSystem:
    """Return a file system with these owners, or as it is where neither is given."""
    return fs if uid is None and gid is None else OwnedFs(fs, uid, gid)
