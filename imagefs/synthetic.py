"""The nodes that a mount makes up itself: the directories above the views, and a few small files.

Node ids of theirs are small numbers, the root's is 1. One writer at a time; readers need no lock.
"""

import errno
import os
import stat

from imagefs.filesystem import ROOT_ID, Attr


class Synthetic:
    """A made-up node: a directory has `children` (name to node id), a file `content`, a symbolic
    link a `target`; of these three, one is not None.
    """

    __slots__ = ("children", "content", "mtime", "node", "parent", "target")

    def __init__(self, node: int, parent: int, mtime: int = 0) -> None:
        self.node = node
        self.parent = parent
        self.mtime = mtime
        self.children: dict[bytes, int] | None = None
        self.content: bytes | None = None
        self.target: bytes | None = None

    def attr(self) -> Attr:
        """Return the node's attributes."""
        if self.children is not None:
            mode, size = stat.S_IFDIR | 0o555, 4096
        elif self.target is not None:
            mode, size = stat.S_IFLNK | 0o777, len(self.target)
        else:
            mode, size = stat.S_IFREG | 0o444, len(self.content or b"")
        blocks = 0 if self.target is not None else (size + 4095 >> 12) << 3
        return Attr(self.node, mode, 1, 0, 0, 0, size, blocks, self.mtime, 0)


class SyntheticTree:
    """All made-up nodes of a mount, by node id; there is always a root directory."""

    def __init__(self) -> None:
        root = Synthetic(ROOT_ID, ROOT_ID)
        root.children = {}
        self._nodes = {ROOT_ID: root}
        self._next = ROOT_ID + 1

    def get(self, node: int) -> Synthetic:
        """Return a node; OSError ENOENT if there is none."""
        try:
            return self._nodes[node]
        except KeyError:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None

    def link(self, parent: int, name: bytes, node: int) -> None:
        """Give a node of any kind a name in a directory."""
        children = self.get(parent).children
        if children is None:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        children[name] = node

    def _make(self, parent: int, name: bytes) -> Synthetic:
        made = Synthetic(self._next, parent, self.get(parent).mtime)
        self._next += 1
        self._nodes[made.node] = made
        self.link(parent, name, made.node)
        return made

    def directory(self, parent: int, name: bytes) -> int:
        """Make a directory; return its node id."""
        made = self._make(parent, name)
        made.children = {}
        return made.node

    def file(self, parent: int, name: bytes, content: bytes) -> int:
        """Make a file; return its node id."""
        made = self._make(parent, name)
        made.content = content
        return made.node

    def symlink(self, parent: int, name: bytes, target: bytes) -> int:
        """Make a symbolic link; return its node id."""
        made = self._make(parent, name)
        made.target = target
        return made.node
