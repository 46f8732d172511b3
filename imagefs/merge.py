"""A stack of layers as one tree, directory by directory, on demand.

Owns what whiteouts and opaque markers do (OCI image-spec, layer.md, "Whiteouts"): a marker hides
what lower layers hold, never its own layer's, wherever in the layer it stands. A directory is
given as a stack: the directories of the same path that show through each other, topmost first.
Pure functions over indexes; nothing is kept.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from imagefs import rows, tarfmt
from imagefs.indexfile import Child, Index
from imagefs.rows import Row

Place: TypeAlias = tuple[int, int]
"""A layer's number and a row of it."""
Stack: TypeAlias = tuple[Place, ...]
Indexes: TypeAlias = Mapping[int, Index]

_S_IFDIR = 4
"""A directory's mode, without its low 12 bits."""


def root(indexes: Indexes, layers: Sequence[int]) -> Stack:
    """Return the stack of the root directory of layers, topmost first."""
    stack = []
    for layer in layers:
        stack.append((layer, 0))
        if indexes[layer].row(0).flags & rows.OPAQUE:
            break
    return tuple(stack)


def lookup(indexes: Indexes, stack: Stack, name: bytes, *, through: bool = False) -> Stack:
    """Return what a directory has under a name: a directory's stack, a leaf's place, or nothing.

    With `through`, a directory's stack goes on below its opaque marker, which hides what it holds
    but not what it is.
    """
    found: list[Place] = []
    for layer, number in stack:
        index = indexes[layer]
        directory = index.row(number)
        child = index.find(directory, name)
        if child is not None and not child.row.flags & rows.HIDDEN:
            if child.row.mode >> 12 != _S_IFDIR:
                if not found:
                    found.append((layer, child.number))
                break
            found.append((layer, child.number))
            if child.row.flags & rows.OPAQUE and not through:
                break
        if directory.flags & rows.WHITEOUTS_WITHIN and _deletes(index, directory, name):
            break
    return tuple(found)


def _deletes(index: Index, directory: Row, name: bytes) -> bool:
    marker = index.find(directory, tarfmt.WHITEOUT_PREFIX + name)
    return marker is not None and bool(marker.row.flags & rows.WHITEOUT)


def listing(indexes: Indexes, stack: Stack) -> list[tuple[Child, Stack]]:
    """Return a directory's visible entries, sorted by name, each with its stack or place.

    The Child is the topmost layer's.
    """
    found: dict[bytes, tuple[Child, list[Place]]] = {}
    closed: set[bytes] = set()
    for layer, number in stack:
        index = indexes[layer]
        deleted = []
        for child in index.children(index.row(number)):
            name, child_number, row = child
            flags = row.flags
            if flags & rows.WHITEOUT:
                deleted.append(name[len(tarfmt.WHITEOUT_PREFIX) :])
            if flags & rows.HIDDEN or name in closed:
                continue
            there = found.get(name)
            is_directory = row.mode >> 12 == _S_IFDIR
            if there is None:
                found[name] = child, [(layer, child_number)]
            elif is_directory:
                there[1].append((layer, child_number))
            if not is_directory or flags & rows.OPAQUE:
                closed.add(name)
        closed.update(deleted)
    return [(child, tuple(places)) for _, (child, places) in sorted(found.items())]


def walk(indexes: Indexes, stack: Stack, path: Sequence[bytes]) -> Stack:
    """Return what a path leads to from a directory, as `lookup` does; links are not followed."""
    for name in path:
        if not stack:
            break
        layer, number = stack[0]
        if indexes[layer].row(number).mode >> 12 != _S_IFDIR:
            return ()
        stack = lookup(indexes, stack, name)
    return stack


def described(indexes: Indexes, stack: Stack) -> tuple[int, Row]:
    """Return the layer and the row that give a directory its attributes.

    A directory that its layer only implies takes the next lower one's.
    """
    for layer, number in stack:
        row = indexes[layer].row(number)
        if not row.flags & rows.IMPLIED:
            return layer, row
    layer, number = stack[0]
    return layer, indexes[layer].row(number)
