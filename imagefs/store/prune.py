"""Making room in the store: what nobody uses goes, what was used longest ago first.

Works under the store's guard, so that what it finds unclaimed stays unclaimed until it is gone.
Any thread may call it.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imagefs.host.files import host_errors, remove_unlocked
from imagefs.image.model import Blob, Layer
from imagefs.store.inventory import (
    CachedImage,
    archive_stats,
    cached_images,
    claimed_ids,
    erofs_stats,
    index_stats,
    layer_stats,
)
from imagefs.store.store import Store


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` removed."""

    images: tuple[str, ...]
    layers: tuple[str, ...]
    bytes: int


def prune(
    store: Store,
    *,
    keep_bytes: int | None = None,
    unused_for: float | None = None,
    index_path: Callable[[Layer], Path] | None = None,
    mounted: Collection[str] = (),
) -> Pruned:
    """Remove what no living process uses, what was used longest ago first.

    With `unused_for`, only what nobody has used for so many seconds goes; with `keep_bytes`, only
    as much as must go for the store to hold no more than that; with both, what either asks for.
    `index_path` tells where a layer's index is, so that it goes with the layer. `mounted` are the
    ids of what the kernel has mounted, and the names of its metadata: no process claims these.
    """
    with host_errors(store.root), store.guard():
        pruning = _Pruning(store, index_path, mounted)
        oldest = None if unused_for is None else time.time() - unused_for
        everything = oldest is None and keep_bytes is None
        for last_used, remove in pruning.candidates():
            aged = oldest is not None and last_used < oldest
            if everything or aged or (keep_bytes is not None and pruning.total > keep_bytes):
                remove()
        store.refs.keep({*store.ids(), *store.layer_ids(), *store.archive_ids()})
        pruning.clear_locks()
    return Pruned(tuple(pruning.images), tuple(pruning.layers), pruning.freed)


_Candidate = tuple[float, Callable[[], None]]


class _Pruning:
    """One run of `prune`: what is left, what refers to what, and what has gone so far."""

    def __init__(
        self,
        store: Store,
        index_path: Callable[[Layer], Path] | None,
        mounted: Collection[str],
    ) -> None:
        self._store = store
        self._index_path = index_path
        self._used = claimed_ids(store).union(mounted)
        self._sizes = layer_stats(store)
        self._archives = archive_stats(store)
        self._indexes = index_stats(store) | erofs_stats(store)
        self._images = cached_images(store, self._sizes, self._used)
        self._references = Counter(name for image in self._images for name in set(image.diff_ids))
        self.total = sum(
            status.st_size
            for group in (self._sizes, self._archives, self._indexes)
            for status in group.values()
        )
        self.freed = 0
        self.images: list[str] = []
        self.layers: list[str] = []

    def candidates(self) -> list[_Candidate]:
        """Return what may go and how to make it go, what was used longest ago coming first."""
        found: list[_Candidate] = [
            (image.last_used, partial(self._drop_image, image))
            for image in self._images
            if not image.in_use
        ]
        found += [
            (status.st_atime, partial(self._drop_layer, name))
            for name, status in self._sizes.items()
            if not self._references[name]
        ]
        found += [
            (status.st_atime, partial(self._drop_archive, name))
            for name, status in self._archives.items()
        ]
        of_layers = {self._index_of(name) for name in self._sizes}
        found += [
            (max(status.st_atime, status.st_mtime), partial(self._drop_index, path))
            for path, status in self._indexes.items()
            if path not in of_layers and path.name not in self._used
        ]
        return sorted(found, key=lambda candidate: candidate[0])

    def _index_of(self, diff_id: str) -> Path | None:
        if self._index_path is None:
            return None
        blob = Blob(self._store.layer_path(diff_id), 0, self._sizes[diff_id].st_size)
        return self._index_path(Layer(diff_id, blob, stored=True))

    def _drop_image(self, image: CachedImage) -> None:
        shutil.rmtree(self._store.image_path(image.id), ignore_errors=True)
        self.images.append(image.id)
        for name in set(image.diff_ids):
            self._references[name] -= 1
            if not self._references[name]:
                self._drop_layer(name)

    def _drop_layer(self, diff_id: str) -> None:
        if diff_id in self._used or diff_id not in self._sizes:
            return
        self._store.layer_path(diff_id).unlink(missing_ok=True)
        index = self._index_of(diff_id)
        if index is not None:
            self._drop_index(index)
        self._count(self._sizes.pop(diff_id).st_size)
        self.layers.append(diff_id)

    def _drop_archive(self, digest: str) -> None:
        if digest not in self._used:
            self._store.archive_path(digest).unlink(missing_ok=True)
            self._count(self._archives.pop(digest).st_size)

    def _drop_index(self, path: Path) -> None:
        status = self._indexes.pop(path, None)
        # One that is locked is just being written.
        if status is not None and remove_unlocked(path):
            self._count(status.st_size)

    def _count(self, size: int) -> None:
        self.total -= size
        self.freed += size

    def clear_locks(self) -> None:
        """Remove the lock files that nobody holds."""
        for path in self._store.locks_dir.iterdir():
            if path.name != "store":
                remove_unlocked(path)
