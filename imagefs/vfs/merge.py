"""A stack of layers as one tree, directory by directory, on demand.

Owns what whiteouts and opaque markers do (OCI image-spec, layer.md, "Whiteouts"): a marker hides
what lower layers hold, never its own layer's, wherever in the layer it stands. A directory is
given as a stack: the directories of the same path that show through each other, topmost first.
Pure functions over indexes; nothing is kept.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.tar import header as tar_header

Place: TypeAlias = tuple[int, int]
"""A layer's number and a row of it."""
Stack: TypeAlias = tuple[Place, ...]
Visible: TypeAlias = tuple[bytes, int, int, tuple[int, ...]]
"""An entry of a directory: its name, its place, and its row (a plain tuple, as many are made)."""
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
    marker = index.find(directory, tar_header.WHITEOUT_PREFIX + name)
    return marker is not None and bool(marker.row.flags & rows.WHITEOUT)


def listing(indexes: Indexes, stack: Stack) -> tuple[list[Visible], dict[bytes, list[Place]]]:
    """Return a directory's visible entries, sorted by name, and the stacks of its directories."""
    found: dict[bytes, Visible] = {}
    stacks: dict[bytes, list[Place]] = {}
    closed: set[bytes] = set()
    for layer, number in stack:
        deleted = []
        for visible in entries_of(indexes[layer], layer, number):
            name, _, at, row = visible
            flags = row[2]
            if flags & rows.WHITEOUT:
                deleted.append(name[len(tar_header.WHITEOUT_PREFIX) :])
            if flags & rows.HIDDEN:
                continue
            if row[3] >> 12 == _S_IFDIR:
                if name not in closed:
                    if name not in found:
                        found[name] = visible
                        stacks[name] = [(layer, at)]
                    elif name in stacks:
                        stacks[name].append((layer, at))
                    if flags & rows.OPAQUE:
                        closed.add(name)
            elif name in stacks:
                closed.add(name)
            elif name not in found and name not in closed:
                found[name] = visible
        closed.update(deleted)
    return [found[name] for name in sorted(found)], stacks


def entries_of(
    index: Index, layer: int, number: int, first: int = 0, end: int | None = None
) -> list[Visible]:
    """Return the entries of one layer's directory, sorted by name: all, or some by their place."""
    directory = index.row(number)
    names, table = index.table(directory, first, end)
    numbers = itertools.count(directory.data + first)
    return list(zip(names, itertools.repeat(layer), numbers, table, strict=False))


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
