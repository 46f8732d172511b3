"""Directories summed up for a page: of each, what lies in it by kind, in bytes and in names.

Owns what is left out where there is too much to show: the largest come first, level by level, until
a budget is used up, and the rest is told as a sum. Knows nothing of images; pure.
"""

import heapq
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

from imagefs.text import printable

WIDEST = 40
"""Most entries of one directory that are shown."""
_NAME_WEIGHT = 1000
"""Bytes that a name counts for where it is asked what is worth showing."""


def words(name: bytes) -> str:
    """Return a name or path of an image's in letters that nothing obeys."""
    return printable(os.fsdecode(name))


class Leaf(NamedTuple):
    """A name that is no directory, or one that stands for all that was in it (`names` of them)."""

    name: bytes
    kind: int
    size: int
    names: int = 1

    @property
    def weight(self) -> int:
        """How much it is worth showing."""
        return self.size + _NAME_WEIGHT * self.names


class Summed(ABC):
    """A directory with sums by kind, of all that is below it."""

    __slots__ = ()
    name: bytes

    @property
    @abstractmethod
    def kind(self) -> int | None:
        """What happened to the directory itself."""

    @property
    @abstractmethod
    def sizes(self) -> Mapping[int, int]:
        """The bytes of all below, by kind."""

    @property
    @abstractmethod
    def names(self) -> Mapping[int, int]:
        """The names of all below, by kind."""

    @abstractmethod
    def entries(self) -> "Iterator[Summed | Leaf]":
        """Yield the directories in it, and those of all else in it that may be the heaviest."""

    @property
    def total(self) -> int:
        """The bytes of all below."""
        return sum(self.sizes.values())

    @property
    def count(self) -> int:
        """The names of all below."""
        return sum(self.names.values())

    @property
    def weight(self) -> int:
        """How much it is worth showing."""
        return self.total + _NAME_WEIGHT * self.count


class Folder(Summed):
    """A directory of a tree that is made by and by: its sums are right once it is settled."""

    __slots__ = ("_folders", "_leaves", "_names", "_sizes", "kind", "name", "parent")

    def __init__(self, name: bytes = b"", parent: "Folder | None" = None) -> None:
        self.name, self.parent = name, parent
        self.kind: int | None = None
        # Most directories of a tree that is made to be large have none of these.
        self._folders: dict[bytes, Folder] | None = None
        self._leaves: list[Leaf] | None = None
        self._sizes: dict[int, int] | None = None
        self._names: dict[int, int] | None = None

    @property
    def sizes(self) -> Mapping[int, int]:
        """The bytes of all below, by kind."""
        return self._sizes or {}

    @property
    def names(self) -> Mapping[int, int]:
        """The names of all below, by kind."""
        names = self._names or {}
        return names if self.kind is None else names | {self.kind: names.get(self.kind, 0) + 1}

    def entries(self) -> Iterator[Summed | Leaf]:
        """Yield the directories in it, and the heaviest of all else."""
        return chain((self._folders or {}).values(), self._leaves or ())

    def enter(self, name: bytes) -> "Folder":
        """Return the directory of a name in this one, made if need be."""
        if self._folders is None:
            self._folders = {}
        found = self._folders.get(name)
        if found is None:
            found = self._folders[name] = Folder(name, self)
        return found

    def at(self, path: bytes) -> "Folder":
        """Return the directory of a path below this one, made if need be."""
        here = self
        for name in filter(None, path.split(b"/")):
            here = here.enter(name)
        return here

    def count_name(self, kind: int, names: int = 1) -> None:
        """Count names in it of a kind."""
        if self._names is None:
            self._names = {}
        self._names[kind] = self._names.get(kind, 0) + names

    def add(self, name: bytes, kind: int, size: int, names: int = 1) -> None:
        """Enter a leaf of a kind, whose names have been counted."""
        self._count_bytes(kind, size)
        if self._leaves is None:
            self._leaves = []
        self._leaves.append(Leaf(name, kind, size, names))
        thin(self._leaves)

    def mark(self, kind: int) -> None:
        """Say that something happened to the directory itself, which counts as a name."""
        self.kind = kind

    def _count_bytes(self, kind: int, size: int) -> None:
        if self._sizes is None:
            self._sizes = {}
        self._sizes[kind] = self._sizes.get(kind, 0) + size

    def settle(self) -> "Folder":
        """Add to the sums of each directory those of all below it."""
        order = [self]
        for folder in order:
            order += (folder._folders or {}).values()
        for folder in reversed(order):
            if folder.parent is not None:
                folder.parent._take(folder)
        return self

    def _take(self, other: "Folder") -> None:
        for kind, size in other.sizes.items():
            self._count_bytes(kind, size)
        for kind, names in other.names.items():
            self.count_name(kind, names)


def thin(leaves: list[Leaf]) -> None:
    """Leave out, where a directory's leaves have become many, those that are never shown."""
    if len(leaves) > 8 * WIDEST:
        leaves[:] = heapq.nsmallest(WIDEST, leaves, key=_order)


def _order(one: Summed | Leaf) -> tuple[int, bytes]:
    return -one.weight, one.name


@dataclass(slots=True)
class Node:
    """An entry of the page's tree, with what is shown of it; `rest` sums up what is not."""

    name: str
    kind: int | None
    size: int
    count: int
    sizes: Mapping[int, int]
    names: Mapping[int, int]
    is_folder: bool
    children: "list[Node]" = field(default_factory=list)
    rest_size: int = 0
    rest_count: int = 0

    @property
    def main_kind(self) -> int:
        """The kind that most of its bytes are of, or, without bytes, most of its names."""
        by = self.sizes if self.size else self.names
        return max(by, key=lambda kind: (by[kind], -kind), default=0)

    def all(self) -> "Iterator[Node]":
        """Yield the node and all below it."""
        yield self
        for child in self.children:
            yield from child.all()


def pruned(root: Summed, budget: int) -> Node:
    """Return the heaviest part of a tree whose sums are right, of at most so many nodes."""
    top = _folder_node(root, "/")
    waiting = [(-root.weight, 0, root, top)]
    made = 0
    while waiting:
        _, _, folder, node = heapq.heappop(waiting)
        room = max(0, min(WIDEST, budget - made))
        there = (one for one in folder.entries() if isinstance(one, Leaf) or one.count)
        for entry in heapq.nsmallest(room, there, key=_order):
            made += 1
            if isinstance(entry, Leaf):
                node.children.append(_leaf_node(entry))
                continue
            inner, name = _through(entry)
            child = _folder_node(inner, name)
            node.children.append(child)
            heapq.heappush(waiting, (-inner.weight, made, inner, child))
        node.rest_size = node.size - sum(child.size for child in node.children)
        own = node.names.get(node.kind, 0) and 1 if node.kind is not None else 0
        node.rest_count = node.count - own - sum(child.count for child in node.children)
    return top


def _through(folder: Summed) -> tuple[Summed, str]:
    """Pass through directories that hold nothing but one other; return that, and the path."""
    names = [folder.name]
    while folder.kind is None:
        inside = list(islice(folder.entries(), 2))
        if len(inside) != 1 or isinstance(inside[0], Leaf):
            break
        folder = inside[0]
        names.append(folder.name)
    return folder, "/".join(map(words, names))


def _folder_node(folder: Summed, name: str) -> Node:
    sizes, names = folder.sizes, folder.names
    return Node(name, folder.kind, folder.total, folder.count, sizes, names, is_folder=True)


def _leaf_node(leaf: Leaf) -> Node:
    sizes, names = {leaf.kind: leaf.size}, {leaf.kind: leaf.names}
    name = words(leaf.name)
    return Node(name, leaf.kind, leaf.size, leaf.names, sizes, names, is_folder=False)
