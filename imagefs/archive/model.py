"""What the readers of formats say: images as their archive packs them, before anything is plain.

Frozen values; nothing here opens a file. A layer that is packed may be compressed, damaged or
missing; `uncompress.py` makes `image.Layer`s of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from imagefs.image import safe_json
from imagefs.image.model import Blob, Layer
from imagefs.image.options import SourceOptions
from imagefs.progress import Progress
from imagefs.store.store import Store

_MAX_NAME = 512


class Indexer(Protocol):
    """Somebody who indexes new layers while others are still coming in: `index.Indexer`."""

    def begin(self) -> None:
        """Make ready; this comes before any thread is started."""

    def add(self, layer: Layer, packed: int) -> Callable[[], object]:
        """Begin with a layer of the store, of which nothing is missing but its name there.

        `packed` is how many bytes of the archive it came from. What is returned waits until the
        layer's file is no longer read.
        """


@dataclass(frozen=True, slots=True)
class IngestContext:
    """What it takes to bring archives in: room for what comes, somebody to tell, and options."""

    store: Store
    progress: Progress
    options: SourceOptions
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file of an archive: its bytes, and what is known of them already.

    `damage` says what keeps the blob from being all that the archive should hold. `plain` is the
    digest of the blob's bytes if they lie in the store, decompressed if they had to be.
    """

    blob: Blob
    damage: str = ""
    plain: str = ""


@dataclass(frozen=True, slots=True)
class ArchivedLayer:
    """A layer: `name` is what the archive calls it, `file` None where the archive lacks it.

    `digest` is that of the bytes as archived, or "" where the archive does not say.
    """

    diff_id: str
    name: str
    file: ArchiveFile | None
    digest: str = ""
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image of an archive; `entry` is its position among those that one can choose from.

    Images of one entry differ in their platform, `os/architecture[/variant]` or "". `problem`
    says why the image cannot be used, where the archive names it without holding it; `damage`,
    what is wrong with one that is made do with.
    """

    id: str
    names: tuple[str, ...]
    config: bytes
    manifest: bytes
    layers: tuple[ArchivedLayer, ...]
    platform: str = ""
    entry: int = 0
    problem: str = ""
    damage: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the archive has the image, and did not leave it out with all its layers."""
        present = not self.layers or any(layer.file is not None for layer in self.layers)
        return present and not self.problem


@dataclass(frozen=True, slots=True)
class ArchiveContents:
    """What the archive at `place` holds: the name of its format, and at least one image.

    `packed` is how many bytes it has come from as a whole, None where its files are as they were.
    """

    place: str
    format: str
    images: tuple[ArchivedImage, ...]
    packed: int | None = None


def lost_id(number: int, name: str) -> str:
    """Return an id for an image's layer of that number and name whose diff id nobody knows."""
    return f"lost:{sha256(f'{number} {name}'.encode('utf-8', 'surrogatepass')).hexdigest()}"


def usable_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of an archive's names for an image that can be shown and typed."""
    return tuple(
        name
        for name in dict.fromkeys(names)
        if name.isprintable() and name.strip("./ ") and len(name) <= _MAX_NAME
    )


def labels_of(config: bytes) -> dict[str, str]:
    """Return the labels that an image's configuration holds."""
    try:
        said = safe_json.loads(config or b"{}")
    except safe_json.BadJsonError:
        return {}
    inner = said.get("config") if isinstance(said, dict) else None
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    if not isinstance(labels, dict):
        return {}
    return {key: value for key, value in labels.items() if isinstance(value, str)}
