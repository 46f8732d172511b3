"""An image as values: where its bytes lie, and in which order its layers stack.

Readers of formats make these, the store makes compressed layers plain, and everything to the
right only reads them. Nothing here opens a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from imagefs.image.short_id import short_id, short_ids

MAX_LAYER_BYTES = 64 * 1000**3
"""What one layer may come to in the cache unless the user says otherwise."""
_NAME_MAX = 255
"""Bytes of a file's name, by Linux (limits.h); the kernel takes a longer one for damage."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A run of bytes in a file of this host: `length` bytes from `offset` on.

    `identity` is what the file was when it was found, by `files.identity_of`, where its name may
    come to mean another one: such a blob is only ever opened by `files.open_blob`. `digest` is the
    whole file's where it is the store's, which nobody writes to, so that it is the same for good.
    """

    path: Path
    offset: int
    length: int
    identity: tuple[int, int, int] | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image, as its format describes it.

    `diff_id` is the digest of the uncompressed tar, `sha256:<hex>` or `sha512:<hex>` (OCI
    image-spec, config.md), `v1:<hex>` in an archive older than diff ids, `lost:<hex>` in one
    whose configuration is damaged, or `flat:<hex>` for a root file system that is no image.
    `blob` holds the tar, or what it was compressed to; None where the archive names the layer but
    lacks it. `stored` says that the blob lies in the store, so that its digest has been checked
    and its diff id alone identifies it; an unstored blob is read in place, and may change under
    us. `keep_going` asks for what can be read of a layer that turns out to be damaged, and
    `damage` says what is known to be wrong with it.
    """

    diff_id: str
    blob: Blob | None
    stored: bool = False
    created_by: str = ""
    keep_going: bool = False
    damage: str = ""

    @property
    def short_id(self) -> str:
        """The first 12 hex digits of the diff id: for people, as only the number beside it tells
        layers apart.
        """
        return short_id(self.diff_id)


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its configuration, its manifest and its layers, bottom to top.

    `id` is `sha256:<hex>` of the configuration, or `v1:<hex>` where it is older than such ids;
    `config` and `manifest` are byte for byte what the archive holds (for a docker-archive,
    `manifest` is the image's entry of manifest.json).
    """

    id: str
    names: tuple[str, ...]
    config: bytes
    manifest: bytes
    layers: tuple[Layer, ...]

    def layer_names(self) -> tuple[str, ...]:
        """Return the layers' directory names, `NN-<12 hex>`, bottom to top."""
        width = max(2, len(str(len(self.layers) - 1)))
        return tuple(f"{n:0{width}}-{layer.short_id}" for n, layer in enumerate(self.layers))


def directory_names(images: Sequence[Image]) -> tuple[bytes, ...]:
    """Return a directory name for each image: its first tag, without slashes, or its short id.

    Where tags are alike or too long, the id follows, and where that is not enough, a number.
    """
    short = short_ids(image.id for image in images)
    taken: dict[bytes, None] = {}
    for image in images:
        name = image.names[0].replace("/", "_") if image.names else short[image.id]
        fits = len(name.encode()) <= _NAME_MAX
        numbers = (f"-{short[image.id]}-{number}" for number in count(2))
        for mark in chain([""] * fits, [f"-{short[image.id]}"], numbers):
            cut = name.encode()[: _NAME_MAX - len(mark)].decode("utf-8", "ignore")
            made = f"{cut}{mark}".encode()
            if made not in taken:
                taken[made] = None
                break
    return tuple(taken)
