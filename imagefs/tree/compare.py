"""What differs between two trees, path by path.

Owns what counts as a difference. Of two trees of one file system, what is the same directory or
the same file of the same layer is passed over without a look; content is compared by bytes. A hard
link to nothing has none: it is like another such, and unlike any file.
"""

import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imagefs.errors import PathError
from imagefs.filesystem import Attr, Entry
from imagefs.tree.deletions import Deletions
from imagefs.tree.export import AT_ONCE, AT_ONCE_SPARSE, read, runs_of
from imagefs.tree.tree import Origin, Tree

ADDED, CHANGED, DELETED = "A", "C", "D"
ASPECTS = ("type", "content", "target", "device", "mode", "owner", "mtime", "xattr")
"""What two things of one path may differ in. How many names a file has is none of it."""


class Change(NamedTuple):
    """A path that differs, without a slash before it; the root's is empty.

    `what` are the aspects of something that changed, `old` and `new` its attributes on both sides,
    `origin` the layer that did it: None where something is missing that the new image never had.
    A directory that was deleted stands for all that was in it.
    """

    kind: str
    path: bytes
    what: tuple[str, ...]
    old: Attr | None
    new: Attr | None
    origin: Origin | None


def changes(
    old: Tree | None, new: Tree, ignored: Sequence[str] = (), *, keep_going: bool = False
) -> Iterator[Change]:
    """Yield what differs, each directory before what is in it, names sorted by their bytes.

    Without an old tree, everything was added. Raises PathError where content cannot be read; to
    who keeps going, that is like nothing else.
    """
    return _Comparison(old, new, ignored, keep_going=keep_going).run()


class _Pair(NamedTuple):
    """What two trees have at one path; at least one has something."""

    path: bytes
    old: Attr | None
    new: Attr | None


class _Comparison:
    def __init__(
        self, old: Tree | None, new: Tree, ignored: Sequence[str], *, keep_going: bool
    ) -> None:
        self._old, self._new, self._keep_going = old, new, keep_going
        self._shared = old is not None and old.fs is new.fs
        self._aspects = [one for one in ASPECTS if one not in ignored]
        self._deletions = Deletions(new)

    def run(self) -> Iterator[Change]:
        """Yield the changes; no deeper on the stack for a deeper tree."""
        old, new = self._old, self._new
        root = _Pair(b"", None if old is None else old.stat("/"), new.stat("/"))
        waiting = [iter((root,))]
        while waiting:
            pair = next(waiting[-1], None)
            if pair is None:
                waiting.pop()
                continue
            change = self._change(pair)
            if change is not None:
                yield change
            if pair.new is not None and stat.S_ISDIR(pair.new.mode) and not self._same(pair):
                waiting.append(self._below(pair))

    def _same(self, pair: _Pair) -> bool:
        """Tell whether both sides are known to be the same, be it a file or a whole directory."""
        old, new = pair.old, pair.new
        if not self._shared or old is None or new is None:
            return False
        if stat.S_ISDIR(new.mode):
            return stat.S_ISDIR(old.mode) and self._new.fs.same_tree(old.node, new.node)
        return self._new.fs.same_inode(old.node, new.node)

    def _below(self, pair: _Pair) -> Iterator[_Pair]:
        """Yield the pairs of a directory; only the new one's where the old one was none."""
        assert pair.new is not None
        before: Sequence[Entry] = ()
        if self._old is not None and pair.old is not None and stat.S_ISDIR(pair.old.mode):
            before = self._old.fs.listdir(pair.old.node)
        base = pair.path + b"/" if pair.path else b""
        for name, old, new in _joined(before, self._new.fs.listdir(pair.new.node)):
            yield _Pair(base + name, old, new)

    def _change(self, pair: _Pair) -> Change | None:
        path, old, new = pair
        if new is None:
            return Change(DELETED, path, (), old, None, self._deletions.origin(path))
        if old is None:
            return Change(ADDED, path, (), None, new, self._new.node_origin(new.node))
        if self._same(pair):
            return None
        what = tuple(self._differing(path, old, new))
        if not what:
            return None
        return Change(CHANGED, path, what, old, new, self._new.node_origin(new.node))

    def _differing(self, path: bytes, old: Attr, new: Attr) -> Iterator[str]:
        kind = stat.S_IFMT(new.mode)
        same_kind = stat.S_IFMT(old.mode) == kind
        is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        for aspect in self._aspects:
            match aspect:
                case "type":
                    differs = not same_kind
                case "content":
                    differs = same_kind and kind == stat.S_IFREG and self._content(path, old, new)
                case "target":
                    differs = same_kind and kind == stat.S_IFLNK and self._targets(old, new)
                case "device":
                    differs = same_kind and is_device and old.rdev != new.rdev
                case "mode":
                    # A link's mode means nothing, and is not the same everywhere.
                    linked = stat.S_ISLNK(old.mode) or stat.S_ISLNK(new.mode)
                    differs = not linked and stat.S_IMODE(old.mode) != stat.S_IMODE(new.mode)
                case "owner":
                    differs = (old.uid, old.gid) != (new.uid, new.gid)
                case "mtime":
                    differs = (old.mtime, old.mtimensec) != (new.mtime, new.mtimensec)
                case _:
                    differs = self._xattrs(old, new)
            if differs:
                yield aspect

    def _targets(self, old: Attr, new: Attr) -> bool:
        assert self._old is not None
        return self._old.fs.readlink(old.node) != self._new.fs.readlink(new.node)

    def _xattrs(self, old: Attr, new: Attr) -> bool:
        assert self._old is not None
        return self._old.node_xattrs(old.node) != self._new.node_xattrs(new.node)

    def _content(self, path: bytes, old: Attr, new: Attr) -> bool:
        """Tell whether two files differ in a byte; where both have holes, nothing is read."""
        assert self._old is not None
        lost = self._old.fs.is_lost(old.node)
        if old.size != new.size or lost != self._new.fs.is_lost(new.node):
            return True
        if lost:
            return False
        try:
            return self._bytes_differ(path, old, new)
        except PathError:
            if self._keep_going:
                return True
            raise

    def _bytes_differ(self, path: bytes, old: Attr, new: Attr) -> bool:
        assert self._old is not None
        runs = [runs_of(self._old, old, path), runs_of(self._new, new, path)]
        size = AT_ONCE if max(map(len, runs)) < 2 else AT_ONCE_SPARSE
        reached = 0
        for start, end in _overlaid(*map(iter, runs)):
            for at in range(max(start, reached), end, size):
                if read(self._old, old, at, size, path) != read(self._new, new, at, size, path):
                    return True
                reached = at + size
        return False


def _joined(
    old: Sequence[Entry], new: Sequence[Entry]
) -> Iterator[tuple[bytes, Attr | None, Attr | None]]:
    """Yield names of two sorted listings with what either has under them."""
    left, right = iter(old), iter(new)
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.name < other.name):
            assert one is not None
            yield one.name, one.attr, None
            one = next(left, None)
        elif one is None or other.name < one.name:
            yield other.name, None, other.attr
            other = next(right, None)
        else:
            yield one.name, one.attr, other.attr
            one, other = next(left, None), next(right, None)


def _overlaid(
    one: Iterator[tuple[int, int]], other: Iterator[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield where either of two files has data: beginnings and ends, ascending, none twice."""
    left, right = next(one, None), next(other, None)
    reached = 0
    while left is not None or right is not None:
        if right is None or (left is not None and left <= right):
            assert left is not None
            (start, end), left = left, next(one, None)
        else:
            (start, end), right = right, next(other, None)
        if end > reached:
            yield max(start, reached), end
            reached = end
