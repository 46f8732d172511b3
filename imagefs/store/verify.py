"""Whether what is in the store is still what its name says.

What is damaged goes at once: a mount that has it open keeps it, and the next one gets it anew. Any
thread may call it.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imagefs.host.files import host_errors, remove_unlocked
from imagefs.progress import Progress, Silent
from imagefs.store.hashed_file import digest_of
from imagefs.store.inventory import archive_stats, erofs_stats, layer_stats
from imagefs.store.store import Store
from imagefs.text import counted

_WORKERS = 2
_GONE = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something whose bytes are not what its name says; it has been removed."""

    name: str
    found: str


def verify(
    store: Store, progress: Progress, is_whole: Callable[[Path], bool] | None = None
) -> tuple[Damage, ...]:
    """Hash everything that the store holds, and remove what is not what its name says.

    `is_whole` tells of a file of metadata for the kernel whether it is as it was written. What is
    removed is fetched, decompressed or written anew when it is next wanted.
    """
    layers, archives = layer_stats(store), archive_stats(store)
    total = sum(status.st_size for group in (layers, archives) for status in group.values())
    progress.phase(f"verifying {counted(len(layers), 'layer')}", total)
    suspects = [(name, store.layer_path(name), store.layer_path(name)) for name in sorted(layers)]
    suspects += [(name, store.archive_path(name), store.archive_path(name)) for name in archives]
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
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            digest = digest_of(file.read, "sha256", progress.advance)
            # Being verified is no use.
            os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    except FileNotFoundError:
        return _GONE
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return digest


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
