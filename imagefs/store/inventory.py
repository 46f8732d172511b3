"""What is in the store, how large it is, and who uses it.

Reads the store's layout, which `store` describes. Any thread may call it.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imagefs.errors import CorruptArchive
from imagefs.host import memory
from imagefs.host.files import host_errors, is_locked
from imagefs.image import config as image_config
from imagefs.store.store import Store


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image of the store; `size` counts its layers, also those that others share.

    `diff_ids` are those by which the store has the layers.
    """

    id: str
    names: tuple[str, ...]
    diff_ids: tuple[str, ...]
    size: int
    whole: bool
    in_use: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """A layer of the store; `images` is how many of the store's images have it."""

    diff_id: str
    size: int
    images: int
    in_use: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class Contents:
    """All that is in the store, what was used last coming first.

    `archive_bytes` is what archives take that were taken apart, without their layers.
    """

    images: tuple[CachedImage, ...]
    layers: tuple[CachedLayer, ...]
    archive_bytes: int
    index_bytes: int
    erofs_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of layers, archives, indexes and metadata for the kernel, each counted once."""
        layers = sum(layer.size for layer in self.layers)
        return self.archive_bytes + self.index_bytes + self.erofs_bytes + layers


def contents(store: Store, mounted: Collection[str] = ()) -> Contents:
    """Return what is in the store; `mounted` are ids that no process claims, but the kernel."""
    with host_errors(store.root), store.guard(shared=True):
        used = claimed_ids(store).union(mounted)
        sizes = layer_stats(store)
        images = cached_images(store, sizes, used)
        archive_bytes = sum(status.st_size for status in archive_stats(store).values())
        index_bytes = sum(status.st_size for status in index_stats(store).values())
        erofs_bytes = sum(status.st_size for status in erofs_stats(store).values())
    counts = Counter(diff_id for image in images for diff_id in set(image.diff_ids))
    layers = [
        CachedLayer(name, status.st_size, counts[name], name in used, status.st_atime)
        for name, status in sizes.items()
    ]
    return Contents(
        tuple(sorted(images, key=lambda image: -image.last_used)),
        tuple(sorted(layers, key=lambda layer: -layer.last_used)),
        archive_bytes,
        index_bytes,
        erofs_bytes,
    )


def cached_images(
    store: Store, sizes: dict[str, os.stat_result], used: set[str]
) -> list[CachedImage]:
    """Return the store's images; `sizes` are the layers' by diff id, `used` the ids in use."""
    names = store.refs.names()
    return [_cached_image(store, one, names.get(one, ()), sizes, used) for one in store.ids()]


def _cached_image(
    store: Store,
    image_id: str,
    names: tuple[str, ...],
    sizes: dict[str, os.stat_result],
    used: set[str],
) -> CachedImage:
    directory = store.image_path(image_id)
    diff_ids: tuple[str, ...] = ()
    with suppress(OSError, CorruptArchive):
        facts = image_config.parse((directory / "config.json").read_bytes())
        diff_ids = tuple(store.name_of(one) or one for one in facts.diff_ids)
    return CachedImage(
        id=image_id,
        names=names,
        diff_ids=diff_ids,
        size=sum(sizes[name].st_size for name in diff_ids if name in sizes),
        whole=store.peek(image_id) is not None,
        in_use=image_id in used,
        last_used=directory.stat().st_atime,
    )


def layer_stats(store: Store) -> dict[str, os.stat_result]:
    """Return what stat says of each layer's file, by diff id."""
    stats = _stats(map(store.layer_path, store.layer_ids()))
    return {f"sha256:{path.stem}": status for path, status in stats.items()}


def archive_stats(store: Store) -> dict[str, os.stat_result]:
    """Return what stat says of each archive's record, by the record's digest."""
    stats = _stats(map(store.archive_path, store.archive_ids()))
    return {f"sha256:{path.name}": status for path, status in stats.items()}


def index_stats(store: Store) -> dict[Path, os.stat_result]:
    """Return what stat says of each index's file; those just being written come and go."""
    return _stats(path for path in store.index_dir.iterdir() if path.name != memory.FILE)


def erofs_stats(store: Store) -> dict[Path, os.stat_result]:
    """Return what stat says of each file of metadata for the kernel."""
    return _stats(store.erofs_dir.iterdir())


def _stats(paths: Iterable[Path]) -> dict[Path, os.stat_result]:
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):
            found[path] = path.stat()
    return found


def claimed_ids(store: Store) -> set[str]:
    """Return the ids that living processes have claimed; the guard must be held."""
    used: set[str] = set()
    for path in store.uses_dir.iterdir():
        with suppress(FileNotFoundError):
            if is_locked(path):
                used.update(path.read_text().split())
    return used
