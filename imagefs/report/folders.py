"""Directories summed up for a page: of each, what lies in it by kind, in bytes and in names.

Owns what is left out where there is too much to show: the largest come first, level by level, until
a budget is used up, and the rest is told as a sum. Knows nothing of images; pure.
"""

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagefs.text import printable

WIDEST = 40
"""Most entries of one directory that are shown."""
_NAME_WEIGHT = 1000
"""Bytes that a name counts for where it is asked what is worth showing."""


def words(name: bytes) -> str:
    """Return a name or path of an image's in letters that nothing obeys."""
    return printable(os.fsdecode(name))


@dataclass(frozen=True, slots=True, order=True)
class Leaf:
    """A name that is no directory, or one that stands for all that was in it (`names` of them)."""

    weight: int
    name: bytes
    kind: int
    size: int
    names: int


class Folder:
    """A directory of a tree: `folders` in it, the heaviest of its `leaves`, and sums by kind."""

    __slots__ = ("folders", "kind", "leaves", "name", "names", "parent", "size", "sizes")

    def __init__(self, name: bytes = b"", parent: "Folder | None" = None) -> None:
        self.name, self.parent = name, parent
        self.kind: int | None = None
        self.folders: dict[bytes, Folder] = {}
        self.leaves: list[Leaf] = []
        self.sizes: dict[int, int] = {}
        self.names: dict[int, int] = {}

    def enter(self, name: bytes) -> "Folder":
        """Return the directory of a name in this one, made if need be."""
        found = self.folders.get(name)
        if found is None:
            found = self.folders[name] = Folder(name, self)
        return found

    def at(self, path: bytes) -> "Folder":
        """Return the directory of a path below this one, made if need be."""
        here = self
        for name in filter(None, path.split(b"/")):
            here = here.enter(name)
        return here

    def count_name(self, kind: int, names: int = 1) -> None:
        """Count names in it of a kind."""
        self.names[kind] = self.names.get(kind, 0) + names

    def add(self, name: bytes, kind: int, size: int, names: int = 1) -> None:
        """Enter a leaf of a kind, whose names have been counted."""
        self.sizes[kind] = self.sizes.get(kind, 0) + size
        self.leaves.append(Leaf(size + _NAME_WEIGHT * names, name, kind, size, names))
        if len(self.leaves) > 8 * WIDEST:
            self.leaves = heapq.nlargest(WIDEST, self.leaves)

    def mark(self, kind: int) -> None:
        """Say that something happened to the directory itself."""
        self.kind = kind
        self.count_name(kind)

    def settle(self) -> "Folder":
        """Add to the sums of each directory those of all below it."""
        order = [self]
        for folder in order:
            order += folder.folders.values()
        for folder in reversed(order):
            if folder.parent is not None:
                for mine, theirs in (
                    (folder.sizes, folder.parent.sizes),
                    (folder.names, folder.parent.names),
                ):
                    for kind, count in mine.items():
                        theirs[kind] = theirs.get(kind, 0) + count
            folder.leaves.sort(reverse=True)
        return self

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


@dataclass(slots=True)
class Node:
    """An entry of the page's tree, with what is shown of it; `rest` sums up what is not."""

    name: str
    kind: int | None
    size: int
    count: int
    sizes: dict[int, int]
    names: dict[int, int]
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


def pruned(root: Folder, budget: int) -> Node:
    """Return a settled tree's heaviest part, of at most so many nodes."""
    top = _folder_node(root, "/")
    waiting = [(-root.weight, 0, root, top)]
    made = 0
    while waiting:
        _, _, folder, node = heapq.heappop(waiting)
        room = max(0, min(WIDEST, budget - made))
        entries: list[tuple[int, bytes, Folder | Leaf]] = [
            (-one.weight, one.name, one) for one in folder.folders.values() if one.names
        ]
        entries += [(-one.weight, one.name, one) for one in folder.leaves]
        for _, _, entry in heapq.nsmallest(room, entries, key=lambda one: one[:2]):
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


def _through(folder: Folder) -> tuple[Folder, str]:
    """Pass through directories that hold nothing but one other; return that, and the path."""
    names = [folder.name]
    while len(folder.folders) == 1 and not folder.leaves and folder.kind is None:
        (folder,) = folder.folders.values()
        names.append(folder.name)
    return folder, "/".join(map(words, names))


def _folder_node(folder: Folder, name: str) -> Node:
    sizes, names = folder.sizes, folder.names
    return Node(name, folder.kind, folder.total, folder.count, sizes, names, is_folder=True)


def _leaf_node(leaf: Leaf) -> Node:
    sizes, names = {leaf.kind: leaf.size}, {leaf.kind: leaf.names}
    name = words(leaf.name)
    return Node(name, leaf.kind, leaf.size, leaf.names, sizes, names, is_folder=False)
