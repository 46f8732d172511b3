"""Looking after the store: what is in it, and whether it is still what it should be.

Reads the store's layout, which `store` describes. What `verify` finds damaged goes at once: a
mount that has it open keeps it, and the next one gets it anew. Any thread may call it.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from imagefs.errors import CorruptArchive
from imagefs.host.files import host_errors, is_locked, remove_unlocked
from imagefs.image import config as image_config
from imagefs.progress import Progress, Silent
from imagefs.store.store import Store

_CHUNK = 1 << 20
_WORKERS = 2
_GONE = ""


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image of the store; `size` counts its layers, also those that others share."""

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
    """All that is in the store, what was used last coming first."""

    images: tuple[CachedImage, ...]
    layers: tuple[CachedLayer, ...]
    index_bytes: int
    erofs_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of layers, indexes and metadata for the kernel, each counted once."""
        layers = sum(layer.size for layer in self.layers)
        return self.index_bytes + self.erofs_bytes + layers


@dataclass(frozen=True, slots=True)
class Damage:
    """Something whose bytes are not what its name says; it has been removed."""

    name: str
    found: str


def contents(store: Store, mounted: Collection[str] = ()) -> Contents:
    """Return what is in the store; `mounted` are ids that no process claims, but the kernel."""
    with host_errors(store.root), store.guard(shared=True):
        used = claimed_ids(store).union(mounted)
        sizes = layer_stats(store)
        images = cached_images(store, sizes, used)
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
        diff_ids = image_config.parse((directory / "config.json").read_bytes()).diff_ids
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


def index_stats(store: Store) -> dict[Path, os.stat_result]:
    """Return what stat says of each index's file; those just being written come and go."""
    return _stats(store.index_dir.iterdir())


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


def verify(
    store: Store, progress: Progress, is_whole: Callable[[Path], bool] | None = None
) -> tuple[Damage, ...]:
    """Hash everything that the store holds, and remove what is not what its name says.

    `is_whole` tells of a file of metadata for the kernel whether it is as it was written. What is
    removed is fetched, decompressed or written anew when it is next wanted.
    """
    layers = layer_stats(store)
    total = sum(status.st_size for status in layers.values())
    progress.phase(f"verifying {len(layers)} layers", total)
    suspects = [(name, store.layer_path(name), store.layer_path(name)) for name in sorted(layers)]
    for name in store.ids():
        directory = store.image_path(name)
        suspects.append((name, directory, directory / "config.json"))
    with host_errors(store.root), ThreadPoolExecutor(_WORKERS) as pool:
        digests = pool.map(lambda suspect: _digest(suspect[2], progress), suspects)
        damaged = [
            suspect
            for suspect, digest in zip(suspects, digests, strict=True)
            if digest not in {suspect[0], _GONE}
        ]
        torn = [path for path in erofs_stats(store) if is_whole and not is_whole(path)]
        with store.guard():
            return (*_removed(damaged), *_without(torn))


def _removed(suspects: Iterable[tuple[str, Path, Path]]) -> Iterator[Damage]:
    """Remove what is damaged; the guard must be held, so that it is not replaced just now.

    It is hashed again, since another process may have put a whole one in its place.
    """
    for name, path, content in suspects:
        digest = _digest(content, Silent())
        if digest not in {name, _GONE}:
            _remove(path)
            yield Damage(name, digest)


def _without(torn: Iterable[Path]) -> Iterator[Damage]:
    """Remove metadata that is not as it was written; not what is just being written."""
    for path in torn:
        if remove_unlocked(path):
            yield Damage(path.name, "not as it was written")


def _digest(path: Path, progress: Progress) -> str:
    """Return the digest of a file, _GONE, or why it cannot be read."""
    digest = sha256()
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                progress.advance(len(chunk))
            # Being verified is no use.
            os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    except FileNotFoundError:
        return _GONE
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"sha256:{digest.hexdigest()}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
