"""What layers must look like, worked out the obvious way: unpack each, then lay one on the other.

Eager and slow on purpose, and written from the rules alone; it shares no code with imagefs.
"""

import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from imagefs.filesystem import Attr, FileSystem
from tests.support.tars import Dir, Node, paths, resolve

OPAQUE = ".wh..wh..opq"
Pairs: TypeAlias = Iterable[tuple[str, Node]]


@dataclass(eq=False)
class Inode:
    """Anything but a directory, as a member of layer `layer` describes it.

    A hard link whose target was not there when it came has the `paths` at which lower layers may
    have it, and what of its own layer stands `behind` these.
    """

    node: Node
    layer: int
    lost: bool = False
    paths: tuple[str, ...] = ()
    behind: "Inode | None" = None


@dataclass(eq=False)
class Tree:
    """A directory; `node` is None while only its content says that it is there."""

    layer: int
    node: Node | None = None
    entries: "dict[str, Tree | Inode]" = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """All that can be seen of one path; `names` are the paths of the same inode."""

    mode: int
    uid: int
    gid: int
    mtime: float
    content: object
    xattrs: tuple[tuple[str, bytes], ...]
    layer: int
    nlink: int
    names: frozenset[str]


# One layer


def unpack(members: Pairs, layer: int) -> Tree:
    """Return what a layer holds by itself; hard links without a target in it stay links."""
    root = Tree(layer)
    for name, node in members:
        parts = clean(name)
        if not parts:
            if node.type == tarfile.DIRTYPE:
                root.node = node
            continue
        parent = enter(root, parts[:-1])
        there = parent.entries.get(parts[-1])
        if node.type == tarfile.DIRTYPE:
            if isinstance(there, Tree):
                there.node = node
            else:
                parent.entries[parts[-1]] = Tree(layer, node)
        else:
            parent.entries[parts[-1]] = leaf(root, node)
    bind_late(root)
    return root


def leaf(root: Tree, node: Node) -> Inode:
    """Return the inode that a member is a name of."""
    if node.type != tarfile.LNKTYPE:
        return Inode(node, root.layer)
    target = find(root, node.target)
    if not isinstance(target, Inode):
        return Inode(node, root.layer, paths=(spelled([root], clean(node.target)),))
    if target.node.type == tarfile.LNKTYPE:
        return Inode(target.node, root.layer, paths=target.paths)
    return target


def spelled(trail: "list[Tree | None]", parts: list[str]) -> str:
    """Return a path without the links that a layer has among its parents."""
    names: list[str] = []
    links = 0
    while parts:
        part, *parts = parts
        if part == "..":
            names, trail = names[:-1], trail[:-1] or trail
        elif part not in ("", "."):
            here = trail[-1]
            child = here.entries.get(part) if here else None
            if parts and isinstance(child, Inode) and child.node.type == tarfile.SYMTYPE:
                links += 1
                if links > 40:
                    return ""
                target = child.node.target
                if target.startswith("/"):
                    names, trail = [], trail[:1]
                parts = [*target.split("/"), *parts]
                continue
            names, trail = [*names, part], [*trail, child if isinstance(child, Tree) else None]
    return "/".join(names)


def clean(path: str) -> list[str]:
    """Return a path's components; nothing leads out of the root."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts = [*parts, part]
    return parts


def enter(root: Tree, parts: list[str]) -> Tree:
    """Return the directory of a member's parents, through links of its layer, made if need be."""
    trail = [root]
    for part in parts:
        child = trail[-1].entries.get(part)
        if isinstance(child, Inode) and child.node.type == tarfile.SYMTYPE:
            led = follow(trail, child.node.target, 40, make=True)
            if led:
                trail = led
                continue
        if not isinstance(child, Tree):
            child = trail[-1].entries[part] = Tree(root.layer)
        trail.append(child)
    return trail[-1]


def follow(trail: list[Tree], target: str, links: int, *, make: bool = False) -> list[Tree] | None:
    """Return the way to the directory that a symbolic link in trail[-1] means, or None."""
    if not target or not links:
        return None
    trail = trail[:1] if target.startswith("/") else trail
    for part in target.split("/"):
        if part == "..":
            trail = trail[:-1] or trail
        elif part not in ("", "."):
            child = trail[-1].entries.get(part)
            if isinstance(child, Tree):
                trail = [*trail, child]
            elif child is not None and child.node.type == tarfile.SYMTYPE:
                led = follow(trail, child.node.target, links - 1, make=make)
                if led is None:
                    return None
                trail = led
            elif make:
                made = trail[-1].entries[part] = Tree(trail[-1].layer)
                trail = [*trail, made]
            else:
                return None
    return trail


def find(root: Tree, path: str) -> Tree | Inode | None:
    """Return what a hard link's target path leads to in its own layer."""
    parts = clean(path)
    if not parts:
        return root
    led = follow([root], "/".join(["", *parts[:-1], ""]), 40)
    return led[-1].entries.get(parts[-1]) if led else None


def bind_late(root: Tree) -> None:
    """Find what hard links lead to that came after them, through other such links if need be."""
    all_links = [link for _, links in list(links_in(root)) for link in links.values()]
    ends: dict[int, tuple[tuple[str, ...], Inode | None]] = {}
    for link in all_links:
        seen: list[Inode] = []
        found: Tree | Inode | None = link
        while isinstance(found, Inode) and found.node.type == tarfile.LNKTYPE:
            if any(found is one for one in seen):
                found = None
                break
            seen.append(found)
            found = find(root, found.paths[0])
        paths = tuple(path for one in seen for path in one.paths[:1])
        ends[id(link)] = paths, found if isinstance(found, Inode) else None
    for link in all_links:
        link.paths, link.behind = ends[id(link)]


def links_in(tree: Tree) -> Iterator[tuple[Tree, dict[str, Inode]]]:
    yield (
        tree,
        {
            name: child
            for name, child in tree.entries.items()
            if isinstance(child, Inode) and child.node.type == tarfile.LNKTYPE
        },
    )
    for child in tree.entries.values():
        if isinstance(child, Tree):
            yield from links_in(child)


# Layers on each other


def stack(layers: Iterable[Tree]) -> Iterator[Tree]:
    """Yield the merged root after each layer."""
    below = Tree(0)
    for number, above in enumerate(layers):
        reach_down(above, below)
        below = merge(below if number else None, above)
        yield below


def reach_down(tree: Tree, below: Tree) -> None:
    """Bind the hard links that a layer left open to the files of the layers below it."""
    for directory, links in list(links_in(tree)):
        for name, link in links.items():
            found = [find(below, path) for path in link.paths]
            target = next((one for one in found if isinstance(one, Inode)), link.behind)
            target = link.behind if target is None or target.lost else target
            if target is not None:
                directory.entries[name] = target
            else:
                link.lost = True


def merge(below: Tree | None, above: Tree) -> Tree:
    """Lay one directory on another."""
    merged = Tree(above.layer, above.node)
    if above.node is None and below is not None and below.node is not None:
        merged.layer, merged.node = below.layer, below.node
    if below is not None and OPAQUE not in above.entries:
        merged.entries = dict(below.entries)
    deleted = {name[4:] for name, child in above.entries.items() if is_whiteout(name, child)}
    for name in deleted:
        merged.entries.pop(name, None)
    for name, child in above.entries.items():
        if is_hidden(name, child):
            continue
        if isinstance(child, Inode):
            merged.entries[name] = child
        elif name not in deleted or not is_bare(child):
            there = merged.entries.get(name)
            merged.entries[name] = merge(there if isinstance(there, Tree) else None, child)
    return merged


def is_whiteout(name: str, child: Tree | Inode) -> bool:
    if name.startswith(".wh..wh.") or name in (".wh.", ".wh..", ".wh..."):
        return False
    return name.startswith(".wh.") and (isinstance(child, Inode) or child.node is not None)


def is_hidden(name: str, child: Tree | Inode) -> bool:
    if name.startswith(".wh..wh."):
        return True
    return name.startswith(".wh.") and (
        isinstance(child, Inode) or (child.node is not None and not child.entries)
    )


def is_bare(tree: Tree) -> bool:
    """Tell whether a directory is there for the sake of markers only."""
    return tree.node is None and all(
        is_bare(child) if isinstance(child, Tree) and child.node is None else name[:4] == ".wh."
        for name, child in tree.entries.items()
    )


# What is to be seen


def expected(tree: Tree) -> dict[str, Seen]:
    """Return all that must be seen below a root, by path."""
    flat = dict(flatten(tree, ""))
    names: dict[int, set[str]] = {}
    for path, child in flat.items():
        names.setdefault(id(child), set()).add(path)
    return {path: describe(child, frozenset(names[id(child)])) for path, child in flat.items()}


def flatten(tree: Tree, prefix: str) -> Iterator[tuple[str, Tree | Inode]]:
    for name, child in tree.entries.items():
        yield prefix + name, (isinstance(child, Inode) and child.behind) or child
        if isinstance(child, Tree):
            yield from flatten(child, f"{prefix}{name}/")


KINDS = {
    tarfile.LNKTYPE: stat.S_IFREG,
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.DIRTYPE: stat.S_IFDIR,
}


def describe(child: Tree | Inode, names: frozenset[str]) -> Seen:
    node = child.node or Dir(0o755)
    content: object = None
    if node.type == tarfile.LNKTYPE:
        content = "lost"
    elif node.type == tarfile.REGTYPE:
        content = node.content
    elif node.type == tarfile.SYMTYPE:
        content = node.target
    elif node.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        content = node.device
    return Seen(
        KINDS[node.type] | node.mode,
        node.uid,
        node.gid,
        node.mtime,
        content,
        tuple(sorted(node.xattrs.items())),
        child.layer,
        1 if isinstance(child, Tree) else len(names),
        names,
    )


def shown(fs: FileSystem, top: str, layer_names: list[str]) -> dict[str, Seen]:
    """Return all that a file system shows below a directory, by path."""
    listed_only = walk(fs, top)
    found = paths(fs, top)
    assert listed_only == found
    names: dict[int, set[str]] = {}
    for path, attr in found.items():
        names.setdefault(attr.node, set()).add(path)
    seen = {}
    for path, attr in found.items():
        listed = [(n, fs.getxattr(attr.node, n) or b"") for n in fs.listxattr(attr.node)]
        origin = (fs.getxattr(attr.node, b"user.imagefs.layer") or b"").decode()
        seen[path] = Seen(
            attr.mode,
            attr.uid,
            attr.gid,
            attr.mtime + attr.mtimensec / 1e9,
            content_of(fs, path, top),
            tuple(sorted((name.decode(), value) for name, value in listed)),
            layer_names.index(origin),
            attr.nlink,
            frozenset(names[attr.node]),
        )
    return seen


def walk(fs: FileSystem, top: str) -> dict[str, Attr]:
    """Return all that lies below a directory as listings give it, with no lookup in between."""
    start = resolve(fs, top)
    assert start is not None
    found: dict[str, Attr] = {}
    queue = [("", start)]
    for prefix, directory in queue:
        for entry in fs.listdir(directory.node):
            path = prefix + entry.name.decode("utf-8", "surrogateescape")
            found[path] = entry.attr
            if stat.S_ISDIR(entry.attr.mode):
                queue.append((path + "/", entry.attr))
    return found


def content_of(fs: FileSystem, path: str, top: str) -> object:
    attr = resolve(fs, f"{top}/{path}")
    assert attr is not None
    kind = stat.S_IFMT(attr.mode)
    if kind == stat.S_IFREG:
        try:
            return fs.read(attr.node, 0, attr.size + 1)
        except OSError:
            return "lost"
    if kind == stat.S_IFLNK:
        return fs.readlink(attr.node).decode()
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        return attr.rdev >> 8 & 0xFFF, attr.rdev & 0xFF
    return None
