"""Which layer of an image took away what once stood at a path.

A path shows from a layer that has it on, until a layer above that hides it, which is found by
halving. Most were hidden by the last layer, so that is asked first; most others no layer ever
had, as they are another image's, which one look at the layers' own names tells.
"""

import stat
from collections.abc import Iterator, Sequence

from imagefs.filesystem import Attr
from imagefs.tree.tree import Origin, Tree
from imagefs.vfs.image_fs import ImageFs

_FEW = 16
"""Names of one directory that are looked for in each layer by itself."""


class Deletions:
    """The deletions of one image, asked for one after the other; best in the order of a walk."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._layers = tree.snapshots()
        self._roots: dict[str, int] = {}
        self._folder: bytes | None = None
        self._shown: dict[int, int | None] = {}
        # From the root on, each in the one before.
        self._way: list[tuple[bytes, _Directories]] = []

    def origin(self, path: bytes) -> Origin | None:
        """Return the layer that took a path away, which the tree does not show.

        None if no layer of the image had it.
        """
        folder, _, name = path.rpartition(b"/")
        if folder != self._folder:
            self._folder, self._shown = folder, {}
        last = len(self._layers) - 1
        if last < 1:
            return None
        if self._shows(last - 1, name):
            return self._tree.layer(self._layers[last])
        for layer in self._having(folder, name):
            if self._shows(layer, name):
                return self._tree.layer(self._layers[self._end(layer, last - 1, name)])
        return None

    def _end(self, shown: int, hidden: int, name: bytes) -> int:
        """Return the first snapshot between the two that does not show a name."""
        while hidden - shown > 1:
            middle = shown + hidden >> 1
            if self._shows(middle, name):
                shown = middle
            else:
                hidden = middle
        return hidden

    def _shows(self, snapshot: int, name: bytes) -> bool:
        """Tell whether a snapshot shows a name in the folder that is asked about."""
        if snapshot not in self._shown:
            self._shown[snapshot] = self._directory(snapshot)
        folder = self._shown[snapshot]
        return folder is not None and self._tree.fs.lookup(folder, name) is not None

    def _directory(self, snapshot: int) -> int | None:
        """Return the node of the folder that is asked about; no link leads there."""
        node = self._root("snapshots", snapshot)
        for part in filter(None, (self._folder or b"").split(b"/")):
            found = self._tree.fs.lookup(node, part)
            if found is None or not stat.S_ISDIR(found.mode):
                return None
            node = found.node
        return node

    def _root(self, kind: str, layer: int) -> int:
        view = f"{kind}/{self._layers[layer]}"
        if view not in self._roots:
            self._roots[view] = self._tree.at(view).root
        return self._roots[view]

    def _having(self, folder: bytes, name: bytes) -> Iterator[int]:
        """Yield the layers that have a name in a folder themselves, topmost first."""
        if not self._way:
            roots = [(at, self._root("layers", at)) for at in reversed(range(len(self._layers)))]
            self._way.append((b"", _Directories(self._tree.fs, roots)))
        path = [part for part in folder.split(b"/") if part]
        common = 0
        while common < min(len(path), len(self._way) - 1) and (
            path[common] == self._way[common + 1][0]
        ):
            common += 1
        del self._way[common + 1 :]
        for part in path[common:]:
            places = [(layer, node) for layer, node in self._way[-1][1].find(part) if node]
            self._way.append((part, _Directories(self._tree.fs, places)))
        return (layer for layer, _ in self._way[-1][1].find(name))


class _Directories:
    """One directory, of each layer that has it: their numbers, topmost first, and its nodes."""

    def __init__(self, fs: ImageFs, places: Sequence[tuple[int, int]]) -> None:
        self._fs, self._places = fs, places
        self._asked = 0
        self._names: dict[bytes, list[tuple[int, int]]] | None = None

    def find(self, name: bytes) -> Sequence[tuple[int, int]]:
        """Return the layers that have a name, topmost first, and its node; 0 for no directory."""
        self._asked += 1
        if self._names is None and self._asked > _FEW:
            self._names = {}
            for layer, folder in self._places:
                for entry in self._fs.listdir(folder):
                    self._names.setdefault(entry.name, []).append((layer, _inner(entry.attr)))
        if self._names is not None:
            return self._names.get(name, ())
        found = ((layer, self._fs.lookup(folder, name)) for layer, folder in self._places)
        return [(layer, _inner(attr)) for layer, attr in found if attr is not None]


def _inner(attr: Attr) -> int:
    return attr.node if stat.S_ISDIR(attr.mode) else 0
