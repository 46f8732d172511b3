"""What differs between two images, gathered for a page: paths, layers and configurations.

Times of files are passed over: two builds of the same differ in all of them. What cannot be read
counts as changed.
"""

import stat
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain

from imagefs.filesystem import Attr
from imagefs.report.facts import facts
from imagefs.report.folders import Folder
from imagefs.report.sums import ADDED, CHANGED, DELETED
from imagefs.tree import compare
from imagefs.tree.tree import Tree

IGNORED = ("mtime",)
_KINDS = {compare.ADDED: ADDED, compare.CHANGED: CHANGED, compare.DELETED: DELETED}


@dataclass(slots=True)
class Differences:
    """How a new image differs from an old one.

    `paths` has the sizes of what was added and deleted, and of what changed as it is now; `grown`
    is by how many bytes files that changed grew. `shared` layers are the same from the bottom on.
    `facts` are names of the configuration with what each image says, None for nothing.
    """

    shared: int
    paths: Folder
    names: Counter[int] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    grown: int = 0
    facts: list[tuple[str, str | None, str | None]] = field(default_factory=list)


def differences(old: Tree, new: Tree) -> Differences:
    """Return how one image differs from another."""
    found = Differences(_shared(old, new), Folder(), facts=_facts(old, new))
    for change in compare.changes(old, new, IGNORED, keep_going=True):
        kind = _KINDS[change.kind]
        parent, _, name = change.path.rpartition(b"/")
        size, names = _size(change.new), 1
        if change.new is not None and stat.S_ISDIR(change.new.mode):
            found.paths.at(change.path).mark(kind)
        else:
            if change.new is None:
                size, names = _gone(old, change)
            folder = found.paths.at(parent)
            folder.count_name(kind, names)
            folder.add(name, kind, size, names)
        found.names[kind] += names
        found.sizes[kind] += size
        if kind == CHANGED:
            found.grown += size - _size(change.old)
    found.paths.settle()
    return found


def _shared(old: Tree, new: Tree) -> int:
    pairs = zip(old.image.layers, new.image.layers, strict=False)
    count = 0
    for one, other in pairs:
        if one.diff_id != other.diff_id:
            break
        count += 1
    return count


def _size(attr: Attr | None) -> int:
    """Return a file's bytes, holes not among them."""
    if attr is None or not stat.S_ISREG(attr.mode):
        return 0
    return min(attr.size, 512 * attr.blocks)


def _gone(old: Tree, change: compare.Change) -> tuple[int, int]:
    """Return the bytes and the names of what was deleted, with all that was in a directory."""
    assert change.old is not None
    if not stat.S_ISDIR(change.old.mode):
        return _size(change.old), 1
    size, names = 0, 1
    for walked in old.walk(b"/" + change.path):
        names += len(walked.entries)
        size += sum(_size(entry.attr) for entry in walked.entries)
    return size, names


def _facts(old: Tree, new: Tree) -> list[tuple[str, str | None, str | None]]:
    """Return what the two configurations say otherwise, in the order of the page."""
    sides = []
    for tree in (old, new):
        said = facts(tree.image.config)
        sides.append(
            {
                **dict(said.plain),
                **{f"{name} (environment)": value for name, value in said.environment},
                **{f"{name} (label)": value for name, value in said.labels},
            }
        )
    before, after = sides
    return [
        (name, before.get(name), after.get(name))
        for name in dict.fromkeys(chain(before, after))
        if before.get(name) != after.get(name)
    ]
