"""Descriptors and manifests of registries: what one refers to, and whether that is an image.

Signatures, charts and attestations are stored in the shape of images (OCI image-spec,
descriptor.md, manifest.md): here they are told apart. Pure: parsed JSON in, values out. Any thread
may call it.
"""

import re
from dataclasses import dataclass
from typing import Any

from imagefs.archive.model import usable_names
from imagefs.errors import CorruptArchive
from imagefs.image import config as image_config
from imagefs.image.platform import joined

_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_REFERENCE_TYPE = "vnd.docker.reference.type"
_CONFIG_TYPES = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
_LAYER_TYPE = re.compile(r"(.*[.+/](layer|rootfs|tar)([.+].*)?)?", re.DOTALL)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content (OCI image-spec, descriptor.md); `platform` is "" if unknown.

    `artifact` says what it is of if that is no image.
    """

    digest: str
    media_type: str
    annotations: dict[str, str]
    platform: str
    artifact: str = ""

    def names(self) -> tuple[str, ...]:
        """Return what the image is called, if that can be shown: by containerd or else by OCI."""
        given = (self.annotations.get(key) for key in _NAME_ANNOTATIONS)
        return usable_names(name for name in given if name)[:1]


def read(item: Any, place: str, where: str) -> Descriptor:
    """Return the descriptor that `where`, a file of the archive at `place`, has.

    Raises CorruptArchive if it has none.
    """
    digest = item.get("digest") if isinstance(item, dict) else None
    if not isinstance(digest, str):
        raise CorruptArchive(f"{place}: {where} refers to something without a digest")
    image_config.check_digest(digest, f"{place}: what {where} refers to")
    annotations = item.get("annotations")
    platform = item.get("platform")
    platform = platform if isinstance(platform, dict) else {}
    return Descriptor(
        digest,
        str(item.get("mediaType") or ""),
        {key: str(value) for key, value in annotations.items()}
        if isinstance(annotations, dict)
        else {},
        joined(*(platform.get(key) for key in ("os", "architecture", "variant"))),
        _artifact(item, platform),
    )


def _artifact(item: Json, platform: Json) -> str:
    """Return what a descriptor is of, if that is something about an image: an attestation, say."""
    annotations = item.get("annotations")
    if isinstance(annotations, dict) and _REFERENCE_TYPE in annotations:
        return str(annotations[_REFERENCE_TYPE])
    if platform.get("os") == "unknown" and platform.get("architecture") == "unknown":
        return "attestation"
    return _artifact_type(item)


def is_image(manifest: Json) -> bool:
    """Tell an image's manifest from one that uses the same shape for something else.

    A signature of cosign's has an image's configuration, and only its layers give it away.
    """
    config = manifest.get("config")
    if _artifact_type(manifest) or not isinstance(config, dict):
        return False
    if not _is_config_type(config.get("mediaType")):
        return False
    layers = manifest.get("layers")
    if not layers or not isinstance(layers, list):
        return True
    # What is no descriptor at all is left to the reader of layers, which says so.
    types = (layer.get("mediaType") if isinstance(layer, dict) else "" for layer in layers)
    return any(_LAYER_TYPE.fullmatch(str(kind or "")) for kind in types)


def _artifact_type(item: Json) -> str:
    """Return what kind of artifact a manifest or its descriptor says that it is; "" for an image.

    An image's artifactType is the media type of its configuration (image-spec, manifest.md), which
    go-containerregistry writes into every descriptor.
    """
    kind = item.get("artifactType")
    return "" if _is_config_type(kind) else str(kind)


def _is_config_type(media_type: Any) -> bool:
    """Tell whether a media type, which some leave out, is that of an image's configuration."""
    return not media_type or str(media_type).partition(";")[0].strip().lower() in _CONFIG_TYPES


def kind_of(manifest: Json) -> str:
    """Return what a manifest that is no image's is of, in as good a word as it has."""
    config = manifest.get("config")
    named = _artifact_type(manifest) or (
        config.get("mediaType") if isinstance(config, dict) else ""
    )
    if named and not _is_config_type(named):
        return str(named)
    layers = manifest.get("layers")
    first = layers[0] if isinstance(layers, list) and layers else None
    return str(first.get("mediaType") or "") if isinstance(first, dict) else ""
