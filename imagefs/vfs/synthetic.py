"""The nodes that a mount makes up itself: the directories above the views, and a few small files.

Node ids of theirs are small numbers, the root's is 1. One writer at a time; readers need no lock.
"""

import errno
import os
import stat

from imagefs.filesystem import ROOT_ID, Attr
from imagefs.vfs.nodeid import made_ino


class Synthetic:
    """A made-up node: a directory has `children` (name to node id), a file `content`, a symbolic
    link a `target`; of these three, one is not None.

    `mtime` is in nanoseconds. `fixed` tells that the node will never change.
    """

    __slots__ = ("children", "content", "fixed", "mtime", "node", "parent", "target")

    def __init__(self, node: int, parent: int, *, mtime: int = 0, fixed: bool = True) -> None:
        self.node = node
        self.parent = parent
        self.mtime = mtime
        self.fixed = fixed
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
        seconds, nanoseconds = divmod(self.mtime, 10**9)
        ino = made_ino(self.node)
        return Attr(self.node, ino, mode, 1, 0, 0, 0, size, blocks, seconds, nanoseconds)


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

    def drop(self, node: int) -> None:
        """Forget a node that no directory names any more."""
        self._nodes.pop(node, None)

    def drop_below(self, node: int) -> None:
        """Forget a directory and all nodes that were made below it."""
        below = [node]
        for parent in below:
            below += [one.node for one in self._nodes.values() if one.parent == parent]
        for one in below:
            self.drop(one)

    def link(self, parent: int, name: bytes, node: int) -> None:
        """Give a node of any kind a name in a directory."""
        directory = self.get(parent)
        if directory.children is None:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # A new dict, since a reader may be going through the old one.
        directory.children = directory.children | {name: node}

    def directory(self, parent: int, *, fixed: bool = True) -> Synthetic:
        """Make a directory that has no name yet."""
        made = self._make(parent, fixed=fixed)
        made.children = {}
        return made

    def file(self, parent: int, content: bytes) -> Synthetic:
        """Make a file that has no name yet."""
        made = self._make(parent, fixed=True)
        made.content = content
        return made

    def symlink(self, parent: int, target: bytes) -> Synthetic:
        """Make a symbolic link that has no name yet."""
        made = self._make(parent, fixed=True)
        made.target = target
        return made

    def _make(self, parent: int, *, fixed: bool) -> Synthetic:
        made = Synthetic(self._next, parent, mtime=self.get(parent).mtime, fixed=fixed)
        self._next += 1
        self._nodes[made.node] = made
        return made
