"""All images of an engine as one file system, each fetched when somebody first looks into it.

    <repository path>/<name>:<tag>     a symbolic link to the image, so that tags share one tree
    by-id/<12 hex or more>/            the image, as a mount of it alone would show it

Owns the directories above the images: which names there are, asked of the engine at most once a
second and only while somebody looks, and which images have been loaded. Used from any thread;
whoever waits for the engine may leave meanwhile (`errand.py`).
"""

import errno
import functools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from imagefs.errors import ImagefsError
from imagefs.filesystem import NAME_MAX, ROOT_ID, Attr, Entry
from imagefs.image.model import Image
from imagefs.image.short_id import short_id, short_ids
from imagefs.vfs import nodeid
from imagefs.vfs.errand import Errand
from imagefs.vfs.image_fs import ImageFs

BY_ID = b"by-id"
FRESH = 0.5
"""Seconds for which a list of names is good; the kernel keeps what it learnt for one more."""
MAX_DEPTH = 128
"""Most directories above each other of an image's name; the names that engines take have fewer."""
MAX_DIRECTORIES = 16_384
"""Most directories that the names of images make up, about; beyond them images show by id alone."""
_IMAGE_NAMES = frozenset(
    {b"rootfs", b"layers", b"snapshots", b"layers.txt", b"config.json", b"manifest.json"}
)

_log = logging.getLogger(__name__)


class Listed(Protocol):
    """What is known of an image that has not been loaded."""

    @property
    def id(self) -> str:
        """Its id, `sha256:<hex>`."""

    @property
    def names(self) -> Sequence[str]:
        """Its names, `<repository>:<tag>`."""

    @property
    def created(self) -> int:
        """When it was made, in nanoseconds since the epoch; 0 where nobody says."""


Names = Iterable[Listed]


class Catalog(ImageFs):
    """The images that `names` lists; `load` fetches one by its id and indexes it.

    Both may take their time, raise ImagefsError, and are called from threads of the driver;
    `names` by one at a time, `load` by one at a time for each image. `unload` is told of an image
    that has been let go, or could not be shown.
    """

    def __init__(
        self,
        names: Callable[[], Names],
        load: Callable[[str], Image],
        index_dir: Path,
        unload: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._names = names
        self._load = load
        self._unload = unload
        self._index_dir = index_dir
        self._asking = Errand(self._ask)
        self._listed: float | None = None
        self._complaint = ""
        self._tell_gone: Callable[[int, bytes], None] = lambda parent, name: None
        self._counting = threading.Lock()
        self._held: Counter[int] = Counter()
        self._held_views: Counter[int] = Counter()
        self._leaving: set[int] = set()
        self._removed: set[int] = set()
        self._images: dict[int, _Entered] = {}
        self._by_id: dict[str, int] = {}
        self._directories: dict[tuple[bytes, ...], int] = {(): ROOT_ID}
        self._links: dict[tuple[bytes, ...], tuple[bytes, int]] = {}
        self.synthetic.get(ROOT_ID).fixed = False
        self._enter_names([])

    # FileSystem, where it differs

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """See FileSystem. Only a name that an image does have fetches it."""
        if not parent & _IN_LAYER and parent in self._images:
            if name in _IMAGE_NAMES:
                self._enter(parent)
        elif not self.is_stable(parent):
            self._refresh()
        return super().lookup(parent, name)

    def getattr(self, node: int) -> Attr:
        """See FileSystem."""
        if not self.is_stable(node) and node not in self._images:
            self._refresh()
        return super().getattr(node)

    def listdir(self, node: int) -> Sequence[Entry]:
        """See FileSystem."""
        if not node & _IN_LAYER and node in self._images:
            self._enter(node)
        elif not self.is_stable(node):
            self._refresh()
            made = self.synthetic.get(node)
            # Not by way of getattr, which would ask for the names again.
            children = sorted((made.children or {}).items())
            return [Entry(name, self.synthetic.get(child).attr()) for name, child in children]
        return super().listdir(node)

    def is_stable(self, node: int) -> bool:
        """See FileSystem; names come and go, an image that is loaded never changes."""
        return bool(node & _IN_LAYER) or self.synthetic.get(node).fixed

    def adjust_lookups(self, nodes: Iterable[int], count: int) -> None:
        """See FileSystem. What the kernel has of a removed image keeps its layers open."""
        with self._counting:
            for node in nodes:
                self._held[node >> nodeid.LAYER_SHIFT & nodeid.LAYER_MASK] += count
                # Of a leaf, these bits are no view's; then a number waits longer than it must.
                self._held_views[node >> nodeid.VIEW_SHIFT] += count
        if count < 0:
            if self._removed:
                self._release()
            if self._leaving:
                self._free_forgotten()

    def _free_forgotten(self) -> None:
        """Give the numbers of views that went to others, once the kernel has nothing of them.

        A directory is known by its view and a layer, and the layer may live on in other images.
        """
        with self._counting:
            gone = {view for view in self._leaving if self._held_views[view] <= 0}
            self._leaving -= gone
            for view in gone:
                del self._held_views[view]
        with self._lock:
            for view in gone:
                self.free_views.give_back(view)

    def watch(self, tell_gone: Callable[[int, bytes], None]) -> None:
        """See FileSystem."""
        self._tell_gone = tell_gone

    # Images

    def _release(self) -> None:
        """Close the layers of removed images of which the kernel has nothing any more."""
        for node in list(self._removed):
            entered = self._images.get(node)
            if entered is None or not entered.lock.acquire(blocking=False):
                continue
            try:
                if node not in self._images:
                    continue
                if not any(self._held[layer] for layer in self.layers_of(node)):
                    self._removed.discard(node)
                    del self._images[node]
                    del self._by_id[entered.id]
                    self._leaving.update(self.remove_image(node))
                    self._unload(entered.id)
            finally:
                entered.lock.release()

    def _enter(self, node: int) -> None:
        """Have the image of a by-id directory loaded, unless it is there."""
        image = self._images.get(node)
        if image is not None and not self.synthetic.get(node).fixed:
            image.loading.wait()

    def _load_into(self, node: int) -> None:
        image, directory = self._images[node], self.synthetic.get(node)
        with image.lock:
            if directory.fixed:
                return
            try:
                self.add_image(self._load(image.id), self._index_dir, node)
            except (ImagefsError, OSError) as error:
                _log.error("cannot show image %s: %s", short_id(image.id), error)
                self._unload(image.id)
                raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
            directory.fixed = True

    # Names

    def _is_fresh(self) -> bool:
        return self._listed is not None and time.monotonic() - self._listed < FRESH

    def _refresh(self) -> None:
        """Ask for the names, if that was not just done; an engine that is down changes none."""
        if not self._is_fresh():
            self._asking.wait()

    def _ask(self) -> None:
        try:
            self._enter_names(self._names())
        except ImagefsError as error:
            if str(error) != self._complaint:
                _log.warning("%s; showing the names as they were", error)
            self._complaint = str(error)
        else:
            self._complaint = ""
        self._listed = time.monotonic()

    def _enter_names(self, names: Names) -> None:
        """Make the directories say what images there are."""
        now = time.time_ns()
        wanted: dict[tuple[bytes, ...], dict[bytes, int]] = {(): {}, (BY_ID,): {}}
        links: list[tuple[tuple[bytes, ...], bytes, int]] = []
        listed = list(names)
        # One that went may be held open and come back: its name is taken until it is forgotten.
        shorts = short_ids([*(image.id for image in listed), *self._by_id])
        for image in listed:
            node = self._image_node(image, shorts[image.id].encode())
            short = self._images[node].name
            for name in image.names:
                path = tuple(name.encode("utf-8", "surrogatepass").split(b"/", MAX_DEPTH))
                if len(wanted) <= MAX_DIRECTORIES and _can_be_shown(path):
                    target = b"../" * (len(path) - 1) + BY_ID + b"/" + short
                    links.append((path, target, image.created))
                    for depth in range(1, len(path)):
                        wanted.setdefault(path[:depth], {})
            wanted[BY_ID,][short] = node
        for path in sorted(wanted, key=len):
            node = self._directory_node(path)
            if path:
                wanted[path[:-1]][path[-1]] = node
        kept = {}
        for path, target, created in links:
            if path not in wanted:
                kept[path] = target, self._link_node(path, target, created)
                wanted[path[:-1]][path[-1]] = kept[path][1]
        for path, children in wanted.items():
            directory = self.synthetic.get(self._directories[path])
            if directory.children != children:
                directory.children = children
                directory.mtime = now
        self._drop(kept, wanted.keys())
        self._find_removed(set(wanted[BY_ID,].values()))

    def _find_removed(self, alive: set[int]) -> None:
        """Have the kernel let go of the images that are no more; they go when it has.

        Of what it had nothing of when they were found removed, it will give nothing back.
        """
        self._release()
        self._free_forgotten()
        parent = self._directories[BY_ID,]
        for node, entered in list(self._images.items()):
            if node in alive:
                self._removed.discard(node)
            elif node in self._removed:
                # What was open when the image went is let go only when asked for again.
                for name in _IMAGE_NAMES:
                    self._tell_gone(node, name)
            elif self.synthetic.get(node).fixed:
                self._removed.add(node)
                self._tell_gone(parent, entered.name)
            else:
                self._forget_unloaded(node, entered)

    def _forget_unloaded(self, node: int, entered: "_Entered") -> None:
        # One that is being loaded just now is seen to when the names are next asked for.
        if entered.lock.acquire(blocking=False):
            try:
                if not self.synthetic.get(node).fixed:
                    del self._images[node]
                    del self._by_id[entered.id]
                    self.synthetic.drop(node)
            finally:
                entered.lock.release()

    def _image_node(self, image: Listed, name: bytes) -> int:
        """Return an image's directory; one that is there keeps the name that it was given."""
        node = self._by_id.get(image.id)
        if node is None:
            made = self.synthetic.directory(self._directory_node((BY_ID,)), fixed=False)
            made.mtime, node = image.created, made.node
            loading = Errand(functools.partial(self._load_into, node))
            self._images[node] = _Entered(image.id, name, loading)
            self._by_id[image.id] = node
        return node

    def _directory_node(self, path: tuple[bytes, ...]) -> int:
        node = self._directories.get(path)
        if node is None:
            parent = self._directory_node(path[:-1])
            made = self.synthetic.directory(parent, fixed=False)
            made.mtime, node = time.time_ns(), made.node
            self._directories[path] = node
        return node

    def _link_node(self, path: tuple[bytes, ...], target: bytes, created: int) -> int:
        """Return a link's node: another one when the tag has moved, since targets are cached."""
        known = self._links.get(path)
        if known is not None and known[0] == target:
            return known[1]
        made = self.synthetic.symlink(self._directories[path[:-1]], target)
        made.mtime = created
        return made.node

    def _drop(
        self,
        links: dict[tuple[bytes, ...], tuple[bytes, int]],
        directories: Iterable[tuple[bytes, ...]],
    ) -> None:
        """Forget the links and directories that are no more; images stay, for who is in them."""
        alive = {node for _, node in links.values()}
        for _, node in self._links.values():
            if node not in alive:
                self.synthetic.drop(node)
        self._links = links
        for path in self._directories.keys() - set(directories):
            self.synthetic.drop(self._directories.pop(path))


class _Entered:
    """An image's directory below by-id; its `lock` is held while the image comes or goes."""

    def __init__(self, image_id: str, name: bytes, loading: Errand) -> None:
        self.id = image_id
        self.name = name
        self.loading = loading
        self.lock = threading.Lock()


def _can_be_shown(path: Sequence[bytes]) -> bool:
    """Tell whether the parts of an image's name, which may be longer, can name files."""
    return len(path) <= MAX_DEPTH and all(
        part not in (b"", b".", b"..") and b"\0" not in part and len(part) <= NAME_MAX
        for part in path
    )


_IN_LAYER = nodeid.LAYER_MASK << nodeid.LAYER_SHIFT
