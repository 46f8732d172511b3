"""An image as values: where its bytes lie, and in which order its layers stack.

Readers of formats make these, the store makes compressed layers plain, and everything to the
right only reads them. Nothing here opens a file.
"""

from dataclasses import dataclass
from pathlib import Path

MAX_LAYER_BYTES = 64 * 1000**3
"""What one layer may come to in the cache unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A run of bytes in a file of this host: `length` bytes from `offset` on.

    `identity` is what the file was when it was found, by `files.identity_of`, where its name may
    come to mean another one: such a blob is only ever opened by `files.open_blob`.
    """

    path: Path
    offset: int
    length: int
    identity: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image, as its format describes it.

    `diff_id` is the digest of the uncompressed tar, `sha256:<hex>` or `sha512:<hex>` (OCI
    image-spec, config.md), `v1:<hex>` in an archive older than diff ids, or `flat:<hex>` for a
    root file system that is no image.
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
        """The first 12 hex digits of the diff id."""
        return self.diff_id.partition(":")[2][:12]


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
