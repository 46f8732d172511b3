"""From paths, in which libfuse speaks, to what they name.

Where nothing changes, by way of the directories that were used last; then one thread alone may
call. Elsewhere a node that is remembered may have gone, and its number may be another's.
"""

import errno

from imagefs.filesystem import NAME_MAX, ROOT_ID, Attr, FileSystem

_MOST_PATHS = 10_000


class Paths:
    """The paths of one `FileSystem`; with `all_stable` nothing in it changes."""

    def __init__(self, fs: FileSystem, all_stable: bool) -> None:
        self._fs = fs
        self._lookup = fs.lookup
        self._all_stable = all_stable
        self._known: dict[bytes, int] = {}

    def find(self, path: bytes) -> Attr:
        """Return the attributes of what a path names; OSError where there is no such thing."""
        head, _, name = path.rpartition(b"/")
        if not name:
            return self._fs.getattr(ROOT_ID)
        node = self._known.get(head)
        return self._child(self._directory(head) if node is None else node, name)

    def _directory(self, path: bytes) -> int:
        missing: list[bytes] = []
        node = self._recall(path)
        while node is None:
            path, _, name = path.rpartition(b"/")
            missing.append(name)
            node = self._recall(path)
        for name in reversed(missing):
            node = self._child(node, name).node
            path = b"%b/%b" % (path, name)
            if self._all_stable:
                if len(self._known) == _MOST_PATHS:
                    self._known.clear()
                self._known[path] = node
        return node

    def _recall(self, path: bytes) -> int | None:
        return self._known.get(path) if path else ROOT_ID

    def _child(self, parent: int, name: bytes) -> Attr:
        if len(name) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "longer than any name")
        attr = self._lookup(parent, name)
        if attr is None:
            raise OSError(errno.ENOENT, "no such name")
        return attr
