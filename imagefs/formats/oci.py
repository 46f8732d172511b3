"""Manifests as registries know them: OCI image layouts and the `dir:` transport.

An index lists manifests and further indexes, a manifest names a configuration and its layers, all
by the digest of their bytes (OCI image-spec: image-layout.md, image-index.md, manifest.md;
Docker's schema 2 has the same shape). What is no image, such as an attestation, is passed over.
Takes an archive's files, returns values. Any thread may call it.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from imagefs import imageconfig
from imagefs.errors import CorruptArchive
from imagefs.formats import members
from imagefs.formats.members import Files, shown
from imagefs.formats.values import PackedImage, PackedLayer, Piece, usable_names
from imagefs.platform import joined

INDEX = "index.json"
MANIFEST = "manifest.json"
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_REFERENCE_TYPE = "vnd.docker.reference.type"
_CONFIG_TYPES = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
_LAYER_TYPE = re.compile(r"(.*[.+/](layer|rootfs|tar)([.+].*)?)?", re.DOTALL)
_MAX_DEPTH = 8
_KINDS_LISTED = 5

Json = dict[str, Any]


def read_layout(files: Files, index: bytes) -> tuple[PackedImage, ...]:
    """Return the images of an OCI layout, whose index.json is given."""
    return _Reader(files, _layout_path).entries(_json_object(files, INDEX, index))


def read_dir(files: Files, manifest: bytes) -> tuple[PackedImage, ...]:
    """Return the images of a `dir:` directory, whose manifest.json is given."""
    said = _json_object(files, MANIFEST, manifest)
    if said.get("schemaVersion") == 1:
        raise CorruptArchive(
            f"{files.place}: {MANIFEST} is of Docker's schema 1, which nothing writes any more"
        )
    reader = _Reader(files, _flat_path)
    if "manifests" in said:
        return reader.entries(said)
    return (reader.image(said, manifest, _Descriptor("", "", {}, ""), 0),)


def _layout_path(digest: str) -> tuple[str, ...]:
    algorithm, _, digits = digest.partition(":")
    return (f"blobs/{algorithm}/{digits}",)


def _flat_path(digest: str) -> tuple[str, ...]:
    digits = digest.partition(":")[2]
    return digits, f"{digits}.manifest.json"


def _json_object(files: Files, name: str, data: bytes) -> Json:
    said = members.parse(files, name, data)
    if not isinstance(said, dict):
        raise CorruptArchive(f"{files.place}: {shown(name)} is not a JSON object")
    return said


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """A reference to content (OCI image-spec, descriptor.md); `platform` is "" if unknown.

    `artifact` says what it is of if that is no image.
    """

    digest: str
    media_type: str
    annotations: dict[str, str]
    platform: str
    artifact: str = ""

    def names(self) -> tuple[str, ...]:
        given = (self.annotations.get(key) for key in _NAME_ANNOTATIONS)
        return usable_names(name for name in given if name)[:1]


class _Reader:
    """Follows descriptors; `paths` tells where content of a digest may lie."""

    def __init__(self, files: Files, paths: Callable[[str], tuple[str, ...]]) -> None:
        self._files = files
        self._paths = paths
        self._left = members.MAX_IMAGES
        self._passed_over: list[str] = []

    def entries(self, index: Json) -> tuple[PackedImage, ...]:
        """Return the images of the top index, each knowing the entry that it belongs to."""
        named: dict[str, tuple[str, ...]] = {}
        descriptors: dict[str, _Descriptor] = {}
        for descriptor in self._descriptors(index, "manifests", INDEX):
            # Tags of one image are descriptors that differ in their annotations alone.
            names = dict.fromkeys((*named.get(descriptor.digest, ()), *descriptor.names()))
            named[descriptor.digest] = tuple(names)
            descriptors.setdefault(descriptor.digest, descriptor)
        found = [
            [
                replace(image, names=named[digest] or image.names)
                for image in self._images(descriptor, ())
            ]
            for digest, descriptor in descriptors.items()
        ]
        entries = _joined([images for images in found if images])
        if not entries:
            raise CorruptArchive(f"{self._files.place}: its index lists no image{self._instead()}")
        return tuple(
            replace(image, entry=entry) for entry, images in enumerate(entries) for image in images
        )

    def _instead(self) -> str:
        """Return what the index lists in place of images, for a message."""
        kinds = ", ".join([*dict.fromkeys(map(shown, self._passed_over))][:_KINDS_LISTED])
        return f", but artifacts: {kinds}" if kinds else ""

    def _images(self, descriptor: _Descriptor, inside: tuple[str, ...]) -> Iterator[PackedImage]:
        """Yield the images that a descriptor leads to; `inside` are the indexes around it."""
        if descriptor.artifact:
            self._passed_over.append(descriptor.artifact)
            return
        self._left -= 1
        if descriptor.digest in inside or len(inside) >= _MAX_DEPTH or self._left < 0:
            raise CorruptArchive(f"{self._files.place}: its indexes are nested without end")
        found = self._blob(descriptor.digest)
        name = f"manifest {descriptor.digest}"
        if found is None:
            # An exporter may list what it was told to leave out: other platforms, mostly.
            yield _absent(descriptor, f"{self._files.place}: {name} is missing")
            return
        data = self._checked(descriptor.digest, *found)
        said = _json_object(self._files, name, data)
        if "manifests" in said:
            for child in self._descriptors(said, "manifests", name):
                for image in self._images(child, (*inside, descriptor.digest)):
                    yield replace(image, names=image.names or descriptor.names())
        elif _is_image(said):
            yield self.image(said, data, descriptor, 0)
        else:
            self._passed_over.append(_kind(said))

    def image(self, said: Json, written: bytes, descriptor: _Descriptor, entry: int) -> PackedImage:
        """Return the image that a manifest describes, or one with a problem."""
        try:
            return self._image(said, written, descriptor, entry)
        except CorruptArchive as error:
            return replace(_absent(descriptor, str(error)), manifest=written)

    def _image(
        self, said: Json, written: bytes, descriptor: _Descriptor, entry: int
    ) -> PackedImage:
        config_descriptor = self._descriptor(said.get("config"), "config")
        found = self._blob(config_descriptor.digest)
        if found is None:
            raise CorruptArchive(
                f"{self._files.place}: image configuration {config_descriptor.digest} is missing"
            )
        config = self._checked(config_descriptor.digest, *found)
        try:
            facts = imageconfig.parse(config)
        except CorruptArchive as error:
            raise CorruptArchive(f"{self._files.place}: {shown(found[0])}: {error}") from error
        layers = list(self._descriptors(said, "layers", "the manifest"))
        if len(layers) != len(facts.diff_ids):
            raise CorruptArchive(
                f"{self._files.place}: the manifest has {len(layers)} layers, but its"
                f" configuration {config_descriptor.digest} has {len(facts.diff_ids)} diff ids"
            )
        return PackedImage(
            f"sha256:{hashlib.sha256(config).hexdigest()}",
            descriptor.names(),
            config,
            written,
            tuple(
                self._layer(layer, diff_id, created_by)
                for layer, diff_id, created_by in zip(
                    layers, facts.diff_ids, facts.created_by, strict=True
                )
            ),
            facts.platform or descriptor.platform,
            entry,
        )

    def _layer(self, layer: _Descriptor, diff_id: str, created_by: str) -> PackedLayer:
        if layer.media_type.endswith("+encrypted"):
            raise CorruptArchive(f"{self._files.place}: layer {layer.digest} is encrypted")
        found = self._blob(layer.digest)
        name = found[0] if found else self._paths(layer.digest)[0]
        return PackedLayer(diff_id, name, found[1] if found else None, layer.digest, created_by)

    def _blob(self, digest: str) -> tuple[str, Piece] | None:
        for path in self._paths(digest):
            piece = self._files.find(path)
            if piece is not None:
                return path, piece
        return None

    def _checked(self, digest: str, name: str, piece: Piece) -> bytes:
        """Return a small blob's content, which must be what its digest says."""
        data = members.content(self._files, name, piece)
        algorithm = digest.partition(":")[0]
        found = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if found != digest:
            raise CorruptArchive(
                f"{self._files.place}: {shown(name)} is damaged: its digest should be {digest},"
                f" and is {found}"
            )
        return data

    def _descriptors(self, said: Json, key: str, where: str) -> Iterator[_Descriptor]:
        items = said.get(key)
        if items is None:
            return
        if not isinstance(items, list):
            raise CorruptArchive(f"{self._files.place}: {key!r} of {where} is not a list")
        for item in items:
            yield self._descriptor(item, where)

    def _descriptor(self, item: Any, where: str) -> _Descriptor:
        digest = item.get("digest") if isinstance(item, dict) else None
        if not isinstance(digest, str):
            raise CorruptArchive(
                f"{self._files.place}: {where} refers to something without a digest"
            )
        imageconfig.check_digest(digest, f"{self._files.place}: what {where} refers to")
        annotations = item.get("annotations")
        platform = item.get("platform")
        platform = platform if isinstance(platform, dict) else {}
        return _Descriptor(
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


def _is_image(manifest: Json) -> bool:
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


def _kind(manifest: Json) -> str:
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


def _absent(descriptor: _Descriptor, problem: str) -> PackedImage:
    return PackedImage(
        descriptor.digest,
        descriptor.names(),
        b"",
        b"",
        (),
        descriptor.platform,
        problem=problem,
    )


def _joined(found: list[list[PackedImage]]) -> list[list[PackedImage]]:
    """Join the images that lie side by side under one name, or none, for different platforms."""
    by_names: dict[tuple[str, ...], list[list[PackedImage]]] = {}
    for images in found:
        by_names.setdefault(images[0].names, []).append(images)
    entries = []
    for group in by_names.values():
        together = [image for images in group for image in images]
        platforms = {image.platform for image in together}
        entries += [together] if len(platforms) == len(together) else group
    return entries
