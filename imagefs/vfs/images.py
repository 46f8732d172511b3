"""Which images, layers and views a mount has, by the numbers that node ids hold.

Owns the open layers and the numbers of layers, views and inodes: layers are opened when an image is
added and closed when the last image that has them is removed. Used from any thread.
"""

import errno
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from imagefs.filesystem import ROOT_ID
from imagefs.image import config as image_config
from imagefs.image.model import Image, Layer
from imagefs.index import cache as index_cache
from imagefs.index.reader import Index
from imagefs.vfs import layers_txt, nodeid
from imagefs.vfs.links import Links
from imagefs.vfs.memory import Memory
from imagefs.vfs.open_layer import Maps, OpenLayer
from imagefs.vfs.pile import Pile, Piles
from imagefs.vfs.synthetic import Synthetic, SyntheticTree
from imagefs.vfs.view import MergedView, View


class _Tree(NamedTuple):
    """The layers and views, by number, of an image that has been added; its inode numbers."""

    layers: tuple[int, ...]
    views: list[int]
    inos: list[range]


class Images:
    """The images of a mount; there are none to begin with."""

    def __init__(self) -> None:
        self._layers: dict[int, OpenLayer] = {}
        self._indexes: dict[int, Index] = {}
        self._layer_names: dict[int, bytes] = {}
        self._inos: dict[int, range] = {}
        self._views: dict[int, View] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._open: WeakValueDictionary[Any, OpenLayer] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._trees: dict[int, _Tree] = {}
        self._free_layers = nodeid.Numbers(nodeid.MAX_LAYERS)
        self.free_views = nodeid.Numbers(nodeid.MAX_VIEWS)
        self._free_inos = nodeid.InodeNumbers()
        self._memory = Memory()
        self._piles, self._maps = Piles(self._memory), Maps(self._memory)
        self._root = ROOT_ID
        self.synthetic = SyntheticTree()

    @property
    def root(self) -> int:
        """The node that the root directory stands for: itself, or the root of the one view."""
        return self._root

    @property
    def layers(self) -> Mapping[int, OpenLayer]:
        """The open layers by the numbers that node ids have, in the order of the images."""
        return self._layers

    @property
    def layer_names(self) -> Mapping[int, bytes]:
        """What LAYER_XATTR says of each layer, by its number."""
        return self._layer_names

    def add_image(self, image: Image, index_dir: Path, parent: int = ROOT_ID) -> None:
        """Put an image's tree into the synthetic directory `parent`; its layers get indexed."""
        index_cache.ensure(image.layers, index_dir, image.packed)
        with self._lock:
            if self.free_views.left() < 2 * len(image.layers) + 1:
                raise OSError(errno.ENFILE, "too many views under one mount")
            tree = _Tree(tuple(self._open_layers(image, index_dir)), [], [])
            self._trees[parent] = tree
            links = Links(Pile(tree.layers, self._indexes, self._piles))
            try:
                lines = layers_txt.text(image, links)
            except OSError:
                self._close(self.layers_of(parent))
                del self._trees[parent]
                raise
            made, directory = self.synthetic, self.synthetic.get(parent)
            # What is made below takes its time from here.
            directory.mtime = image_config.created(image.config) or directory.mtime
            layers, snapshots = made.directory(parent), made.directory(parent)
            rootfs = self._add_views(image, parent, links, layers, snapshots)
            # All at once: whoever looks meanwhile sees nothing of the image, or all of it.
            directory.children = {
                b"rootfs": rootfs or made.directory(parent).node,
                b"layers": layers.node,
                b"snapshots": snapshots.node,
                b"layers.txt": made.file(parent, lines).node,
                b"config.json": made.file(parent, image.config).node,
                b"manifest.json": made.file(parent, image.manifest).node,
            }

    def _add_views(
        self, image: Image, parent: int, links: Links, layers: Synthetic, snapshots: Synthetic
    ) -> int | None:
        """Make an image's views; return the node of the whole one's root, if there are layers."""
        tree = self._trees[parent]
        inos: dict[int, int] = {}
        layers.children, snapshots.children = {}, {}
        for number, name in zip(tree.layers, image.layer_names(), strict=True):
            seen, own = self._indexes[number], {number: self._inos[number].start}
            alone = View(self.free_views.take(), number, seen, layers.node, own)
            layers.children[name.encode()] = self._show(alone, tree)
            inos[number] = self._take(seen.count, tree)
            upto = MergedView(self.free_views.take(), number, snapshots.node, inos, links)
            snapshots.children[name.encode()] = self._show(upto, tree)
        if not tree.layers:
            return None
        whole = MergedView(self.free_views.take(), tree.layers[-1], parent, inos, links)
        return self._show(whole, tree)

    def _show(self, view: View, tree: _Tree) -> int:
        """Add a view to the mount and to its image; return its root's node."""
        view.root_ino = self._take(1, tree)
        self._views[view.number] = view
        tree.views.append(view.number)
        return view.root_node

    def _take(self, count: int, tree: _Tree) -> int:
        """Return the first of so many inode numbers that are an image's."""
        tree.inos.append(self._free_inos.take(count))
        return tree.inos[-1].start

    def layers_of(self, parent: int) -> set[int]:
        """Return the numbers of the layers that only the image in `parent` has."""
        others = (tree.layers for node, tree in list(self._trees.items()) if node != parent)
        return set(self._trees[parent].layers).difference(*others)

    def remove_image(self, parent: int) -> list[int]:
        """Take an image's tree out of the synthetic directory `parent`, and the directory away.

        Nothing may refer to the layers that only it has. Returns the numbers of its views, for
        `free_views` to take back when nothing refers to these either.
        """
        with self._lock:
            own = self.layers_of(parent)
            tree = self._trees.pop(parent)
            for view in tree.views:
                del self._views[view]
            self._close(own)
            for numbers in tree.inos:
                self._free_inos.give_back(numbers)
            self.synthetic.drop_below(parent)
            return tree.views

    def _close(self, layers: set[int]) -> None:
        """Let go of layers that no image has any more."""
        for key in [key for key, number in self._numbers.items() if number in layers]:
            del self._numbers[key]
        for number in layers:
            del self._layers[number], self._indexes[number], self._layer_names[number]
            self._free_inos.give_back(self._inos.pop(number))
            self._free_layers.give_back(number)

    def _open_layers(self, image: Image, index_dir: Path) -> list[int]:
        opened: dict[tuple[str, str], OpenLayer] = {}
        keys = [
            # The same layer at the same place has one number, and so one set of inodes, in
            # every image; only then can its files say which layer directory they come from.
            (name, layer.diff_id)
            for layer, name in zip(image.layers, image.layer_names(), strict=True)
        ]
        for key, layer in zip(keys, image.layers, strict=True):
            if key not in self._numbers:
                opened[key] = self._opened(layer, index_dir)
        if self._free_layers.left() < len(opened):
            raise OSError(errno.ENFILE, "too many layers under one mount")
        # All or none: a layer that no image has would never be closed.
        for key, one in opened.items():
            number = self._numbers[key] = self._free_layers.take()
            self._layers[number], self._indexes[number] = one, one.index
            self._layer_names[number] = key[0].encode()
            self._inos[number] = self._free_inos.take(one.index.count)
        return [self._numbers[key] for key in keys]

    def _opened(self, layer: Layer, index_dir: Path) -> OpenLayer:
        """Return a layer, opened; one that lies in several places is open once."""
        key = layer.diff_id, layer.blob, layer.stored, layer.keep_going
        found = self._open.get(key)
        if found is None:
            found = OpenLayer(layer, index_cache.open_index(layer, index_dir), self._maps)
            self._open[key] = found
        return found
