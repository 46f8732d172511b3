"""The members of one layer, in order, to the directory tree that they leave behind.

Owns what a path inside a layer means: lexical cleaning, directories that are only implied,
symbolic links as parents, names that come twice, hard links to anything in any order. Whiteouts
are kept as the plain entries that they are; what they do to other layers is `merge.py`'s. Nothing
here touches the host's file system. One `Fold` belongs to one scan.
"""

from collections.abc import Iterable
from typing import TypeAlias

from imagefs import tarfmt
from imagefs.errors import CorruptArchive
from imagefs.tarscan import Member

NAME_MAX = 255
"""Longest name of one path component, in bytes, that Linux can use (<linux/limits.h>)."""
_MAX_FOLLOWED = 40
"""As many symbolic links as the kernel follows in one path (path_resolution(7))."""


class Directory:
    """A directory of the layer; `member` is None while nothing but its content speaks for it."""

    __slots__ = ("children", "member")

    def __init__(self, member: Member | None = None) -> None:
        self.member = member
        self.children: dict[bytes, Directory | Member] = {}


Node: TypeAlias = Directory | Member


class Fold:
    """A layer's tree, grown member by member.

    `root` is the tree. A hard link is the very Member that it links to, under another name; the
    ids of such members are in `linked`. A Member of type LNKTYPE that is left in the finished
    tree found no target in the layer. `last` is the name of the last member.
    """

    def __init__(self) -> None:
        self.root = Directory()
        self.linked: set[int] = set()
        self.last = b""
        self._directories: dict[bytes, Directory] = {b"": self.root}
        self._pending: list[tuple[Directory, bytes, Member]] = []

    def add(self, members: Iterable[Member]) -> None:
        """Take in members, then bind the hard links that came before their targets."""
        known = self._directories
        name = b""
        for member in members:
            name = member.name
            head, _, base = name.rpartition(b"/")
            directory = known.get(head)
            # A name that ends in a slash, or holds dots or empty parts, goes the long way.
            if directory is None or base in _SPECIAL:
                directory, base = self._place(name)
                if not base:
                    self._describe_root(member)
                    continue
                if not name.endswith(b"/"):
                    known[head] = directory
            if len(base) > NAME_MAX:
                _refuse_long(base)
            if member.typeflag == b"0" and base not in directory.children:
                directory.children[base] = member
            else:
                self._put(directory, base, member)
        self.last = name

    def finish(self) -> None:
        """Bind the hard links whose targets came after them, as far as the layer holds them."""
        waiting = self._pending
        while waiting:
            left = [item for item in waiting if not self._bind(*item)]
            if len(left) == len(waiting):
                break
            waiting = left
        self._pending = []

    def _describe_root(self, member: Member) -> None:
        if member.typeflag == tarfmt.DIRTYPE:
            self.root.member = member

    def _put(self, directory: Directory, name: bytes, member: Member) -> None:
        """Enter a member under its name; what stood there gives way, the last one wins."""
        children = directory.children
        there = children.get(name)
        if member.typeflag == tarfmt.DIRTYPE:
            if isinstance(there, Directory):
                there.member = member
                return
            if there is not None:
                self._forget_paths()
            children[name] = Directory(member)
            return
        if isinstance(there, Directory) or (there and there.typeflag == tarfmt.SYMTYPE):
            self._forget_paths()
        if member.typeflag == tarfmt.LNKTYPE:
            target = self._find(member.linkname)
            if target is None or isinstance(target, Directory) or _is_link(target):
                self._pending.append((directory, name, member))
            else:
                self.linked.add(id(target))
                member = target
        children[name] = member

    def _bind(self, directory: Directory, name: bytes, member: Member) -> bool:
        """Bind a waiting hard link; tell whether it is settled."""
        if directory.children.get(name) is not member:
            return True
        target = self._find(member.linkname)
        if target is None or isinstance(target, Directory) or _is_link(target):
            return False
        self.linked.add(id(target))
        directory.children[name] = target
        return True

    def _place(self, path: bytes) -> tuple[Directory, bytes]:
        """Return the directory that a path leads to, made if need be, and the last component.

        The component is empty for the root itself.
        """
        *parents, base = clean(path) or [b""]
        head = b"/".join(parents)
        directory = self._directories.get(head)
        if directory is None:
            directory = self._directories[head] = self._make(parents)
        return directory, base

    def _make(self, parents: list[bytes]) -> Directory:
        trail = [self.root]
        for name in parents:
            children = trail[-1].children
            child = children.get(name)
            if isinstance(child, Member) and child.typeflag == tarfmt.SYMTYPE:
                followed = self._follow(trail, child.linkname)
                if followed is not None:
                    trail = followed
                    continue
            if not isinstance(child, Directory):
                if len(name) > NAME_MAX:
                    _refuse_long(name)
                if child is not None:
                    self._forget_paths()
                child = children[name] = Directory()
            trail.append(child)
        return trail[-1]

    def _follow(self, trail: list[Directory], target: bytes) -> list[Directory] | None:
        """Return the way from the layer's root to the directory that a symbolic link means.

        None where the layer has no such directory, or links go in a circle. Like chroot(2), the
        layer's root is the root of absolute targets and the parent of itself.
        """
        followed = 0
        trail = [self.root] if target.startswith(b"/") else list(trail)
        waiting = target.split(b"/")[::-1]
        while waiting:
            name = waiting.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del trail[max(1, len(trail) - 1) :]
                continue
            child = trail[-1].children.get(name)
            if isinstance(child, Directory):
                trail.append(child)
            elif child is not None and child.typeflag == tarfmt.SYMTYPE:
                followed += 1
                if followed > _MAX_FOLLOWED:
                    return None
                if child.linkname.startswith(b"/"):
                    del trail[1:]
                waiting += child.linkname.split(b"/")[::-1]
            else:
                return None
        return trail

    def _find(self, path: bytes) -> Node | None:
        """Return what a path leads to; symbolic links count as parents only."""
        *parents, base = clean(path) or [b""]
        if not base:
            return self.root
        directory = self._directories.get(b"/".join(parents))
        if directory is None:
            followed = self._follow([self.root], b"/".join(parents))
            if followed is None:
                return None
            directory = followed[-1]
        return directory.children.get(base)

    def _forget_paths(self) -> None:
        self._directories.clear()
        self._directories[b""] = self.root


_SPECIAL = frozenset({b"", b".", b".."})


def clean(path: bytes) -> list[bytes]:
    """Return a path's components, cleaned by name alone: nothing leads out of the root."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in _SPECIAL:
            parts.append(part)
    return parts


def _is_link(node: Member) -> bool:
    return node.typeflag == tarfmt.LNKTYPE


def _refuse_long(name: bytes) -> None:
    """Raise CorruptArchive, unless a whiteout's prefix alone makes the name too long."""
    if len(name.removeprefix(tarfmt.WHITEOUT_PREFIX)) > NAME_MAX:
        shown = name[:40].decode("utf-8", "backslashreplace")
        raise CorruptArchive(
            f"member name {shown!r}... of {len(name)} bytes;"
            f" Linux allows {NAME_MAX} between slashes"
        )
