"""The members of one layer, in order, to the directory tree that they leave behind.

Owns what a path inside a layer means: lexical cleaning, directories that are only implied,
symbolic links as parents, names that come twice, hard links to anything in any order. Whiteouts
are kept as the plain entries that they are; what they do to other layers is `merge.py`'s. Nothing
here touches the host's file system. One `Fold` belongs to one scan.

What it costs is bounded: a plain file takes some 150 bytes, and what a few bytes of a tar could
blow up (implied directories, attributes, links through links) has a limit of its own.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import TypeAlias

from imagefs import tarfmt
from imagefs.errors import CorruptArchive
from imagefs.tarscan import Member

NAME_MAX = 255
"""Longest name of one path component, in bytes, that Linux can use (<linux/limits.h>)."""
MAX_MEMBERS = 1 << 24
"""Most members of one layer."""
MAX_SPECIAL = 1 << 22
"""Most members of one layer with more to them than PLAIN says; each takes some 500 bytes."""
MAX_IMPLIED = 1 << 19
"""Most directories of one layer that no member describes; one path can name two thousand."""
MAX_ATTRIBUTES = 1 << 28
"""Most bytes that link targets and extended attributes of one layer may take together."""
MAX_FOLLOWED = 20_000_000
"""Most path components that symbolic links may add to the paths of one layer."""

PLAIN = Struct("<HIII")
"""Number of the owner, mtime, size, place in tar blocks: all there is to say of most files."""
_MAX_OWNERS = 1 << 16

_MAX_LINKS = 40
"""As many symbolic links as the kernel follows in one path (path_resolution(7))."""
_MAX_KNOWN = 1 << 17
_MAX_KNOWN_LENGTH = 512

Leaf: TypeAlias = Member | bytes
"""Anything but a directory: a plain file, packed as PLAIN, or a member with more to it."""


class Directory:
    """A directory of the layer; `member` is None while nothing but its content speaks for it."""

    __slots__ = ("children", "member")

    def __init__(self, member: Member | None = None) -> None:
        self.member = member
        self.children: dict[bytes, Directory | Leaf] = {}


Node: TypeAlias = Directory | Leaf
_Waiting: TypeAlias = tuple[Directory, bytes, Member]


class Fold:
    """A layer's tree, grown member by member; `start` is the layer's first byte in its file.

    `root` is the tree; `owners` tells mode, uid and gid of plain files by their number. A hard
    link is the very Leaf that it links to, under another name; the ids of such leaves are in
    `linked`. A Member of type LNKTYPE that is left in the finished tree found no target in the
    layer. `last` is the name of the last member.
    """

    def __init__(self, start: int) -> None:
        self.root = Directory()
        self.owners: dict[tuple[int, int, int], int] = {}
        self.linked: set[int] = set()
        self.last = b""
        self._start = start
        self._directories: dict[bytes, Directory] = {b"": self.root}
        self._pending: list[_Waiting] = []
        self._implied = self._special = self._attributes = self._followed = 0

    def add(self, members: Iterable[Member]) -> None:
        """Take in members. CorruptArchive where they go beyond what one layer may have."""
        known, plain = self._directories, self._plain
        left = iter(members)
        name = b""
        for member in islice(left, MAX_MEMBERS):
            name = member[0]
            head, _, base = name.rpartition(b"/")
            directory = known.get(head)
            # A name that ends in a slash, or holds dots or empty parts, goes the long way.
            if directory is None or base in _SPECIAL:
                directory, last = self._place(name)
                if not last:
                    self._describe_root(member)
                    continue
                if last == base:
                    self._know(head, directory)
                base = last
            if len(base) > NAME_MAX:
                _refuse_long(base)
            node = plain(member)
            if type(node) is bytes and base not in directory.children:
                directory.children[base] = node
                continue
            self._put(directory, base, node)
        self.last = name
        if next(left, None) is not None:
            raise CorruptArchive(f"a layer of more than {MAX_MEMBERS} members")

    def _plain(self, member: Member) -> Leaf:
        """Return a member packed as PLAIN, or as it is if there is more to it."""
        # fmt: off
        (_, typeflag, mode, uid, gid, size, mtime, nanoseconds, _, _, offset, _, xattrs,
         sparse) = member
        # fmt: on
        if typeflag != b"0" or nanoseconds or xattrs or sparse is not None:
            return member
        owner = self.owners.get((mode, uid, gid))
        if owner is None:
            if len(self.owners) >= _MAX_OWNERS:
                return member
            owner = self.owners[mode, uid, gid] = len(self.owners)
        try:
            return PLAIN.pack(owner, mtime, size, offset - self._start >> tarfmt.BLOCK_SHIFT)
        except StructError:
            # A time before 1970 or after 2106, or a size or a place that 32 bits do not hold.
            return member

    def finish(self) -> None:
        """Bind the hard links whose targets came after them, as far as the layer holds them."""
        after: dict[int, list[_Waiting]] = defaultdict(list)
        ready = []
        for link in self._pending:
            target = self._find(link[2].linkname)
            if isinstance(target, Member) and target.typeflag == tarfmt.LNKTYPE:
                after[id(target)].append(link)
            elif target is not None and not isinstance(target, Directory):
                ready.append((link, target))
        self._bind(ready, after)
        # What is left goes to lower layers; who links to such a link goes there with it.
        ready = []
        for directory, name, member in self._pending:
            if directory.children.get(name) is member and id(member) in after:
                target = self._find(member.linkname)
                if target is None or isinstance(target, Directory):
                    ready += [(link, member) for link in after.pop(id(member))]
        self._bind(ready, after)
        self._pending = []
        # Else each directory would be held on to while `root` is taken apart.
        self._forget_paths()

    def _bind(self, ready: list[tuple[_Waiting, Leaf]], after: dict[int, list[_Waiting]]) -> None:
        """Bind waiting links to their targets, and those that wait for these in turn."""
        while ready:
            (directory, name, member), target = ready.pop()
            if directory.children.get(name) is member:
                self.linked.add(id(target))
                directory.children[name] = target
                ready += [(link, target) for link in after.pop(id(member), ())]

    def _describe_root(self, member: Member) -> None:
        if member.typeflag == tarfmt.DIRTYPE:
            self.root.member = member

    def _put(self, directory: Directory, name: bytes, node: Leaf) -> None:
        """Enter a leaf or a directory's member; what stood there gives way, the last one wins."""
        children = directory.children
        there = children.get(name)
        if isinstance(node, Member):
            self._account(node)
            if node.typeflag == tarfmt.DIRTYPE:
                if isinstance(there, Directory):
                    there.member = node
                    return
                if there is not None:
                    self._forget_paths()
                children[name] = Directory(node)
                return
        if isinstance(node, Member) and node.typeflag == tarfmt.LNKTYPE:
            target = self._find(node.linkname)
            if target is None or isinstance(target, Directory) or _is(tarfmt.LNKTYPE, target):
                self._pending.append((directory, name, node))
            else:
                self.linked.add(id(target))
                node = target
        if isinstance(there, Directory) or _is(tarfmt.SYMTYPE, there):
            self._forget_paths()
        children[name] = node

    def _account(self, member: Member) -> None:
        self._special += 1
        if self._special > MAX_SPECIAL:
            raise CorruptArchive(
                f"a layer of more than {MAX_SPECIAL} members that are no plain files"
            )
        self._attributes += len(member.linkname)
        for name, value in member.xattrs:
            self._attributes += len(name) + len(value)
        if self._attributes > MAX_ATTRIBUTES:
            raise CorruptArchive(
                f"link targets and attributes of more than {MAX_ATTRIBUTES} bytes in one layer"
            )

    def _place(self, path: bytes) -> tuple[Directory, bytes]:
        """Return the directory that a path leads to, made if need be, and the last component.

        The component is empty for the root itself.
        """
        *parents, base = clean(path) or [b""]
        head = b"/".join(parents)
        directory = self._directories.get(head)
        if directory is None:
            directory = self._make(parents)
            self._know(head, directory)
        return directory, base

    def _know(self, path: bytes, directory: Directory) -> None:
        if len(path) <= _MAX_KNOWN_LENGTH:
            if len(self._directories) >= _MAX_KNOWN:
                self._forget_paths()
            self._directories[path] = directory

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
                if child is not None:
                    self._forget_paths()
                child = children[name] = self._imply(name)
            trail.append(child)
        return trail[-1]

    def _imply(self, name: bytes) -> Directory:
        if len(name) > NAME_MAX:
            _refuse_long(name)
        self._implied += 1
        if self._implied > MAX_IMPLIED:
            raise CorruptArchive(f"a layer that implies more than {MAX_IMPLIED} directories")
        return Directory()

    def _follow(self, trail: list[Directory], target: bytes) -> list[Directory] | None:
        """Return the way from the layer's root to the directory that a symbolic link means.

        None where the layer has no such directory, or links go in a circle. Like chroot(2), the
        layer's root is the root of absolute targets and the parent of itself.
        """
        trail = list(trail)
        links = 0
        waiting = self._enter(trail, target)
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
            elif isinstance(child, Member) and child.typeflag == tarfmt.SYMTYPE:
                links += 1
                if links > _MAX_LINKS or not child.linkname:
                    return None
                waiting += self._enter(trail, child.linkname)
            else:
                return None
        return trail if target else None

    def _enter(self, trail: list[Directory], target: bytes) -> list[bytes]:
        """Return a link target's components, the last one first; an absolute one starts over."""
        if target.startswith(b"/"):
            del trail[1:]
        parts = target.split(b"/")[::-1]
        self._followed += len(parts)
        if self._followed > MAX_FOLLOWED:
            raise CorruptArchive("symbolic links lead through too many others in one layer")
        return parts

    def _find(self, path: bytes) -> Node | None:
        """Return what a path leads to; symbolic links count as parents only."""
        *parents, base = clean(path) or [b""]
        if not base:
            return self.root
        head = b"/".join(parents)
        directory = self._directories.get(head)
        if directory is None and head:
            followed = self._follow([self.root], head)
            if followed is None:
                return None
            directory = followed[-1]
            self._know(head, directory)
        return (directory or self.root).children.get(base)

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


def _is(typeflag: bytes, node: Node | None) -> bool:
    return isinstance(node, Member) and node.typeflag == typeflag


def _refuse_long(name: bytes) -> None:
    """Raise CorruptArchive, unless a whiteout's prefix alone makes the name too long."""
    if len(name.removeprefix(tarfmt.WHITEOUT_PREFIX)) > NAME_MAX:
        shown = name[:40].decode("utf-8", "backslashreplace")
        raise CorruptArchive(
            f"member name {shown!r}... of {len(name)} bytes;"
            f" Linux allows {NAME_MAX} between slashes"
        )
