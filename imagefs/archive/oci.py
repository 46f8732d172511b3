"""Manifests as registries know them: OCI image layouts and the `dir:` transport.

An index lists manifests and further indexes, a manifest names a configuration and its layers, all
by the digest of their bytes (OCI image-spec: image-layout.md, image-index.md, manifest.md;
Docker's schema 2 has the same shape). What is no image, such as an attestation, is passed over.
Takes an archive's files, returns values. Any thread may call it.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from imagefs.archive import descriptors, members
from imagefs.archive.descriptors import Descriptor, Json, is_image, kind_of
from imagefs.archive.members import KEEP_GOING, Files, shown
from imagefs.archive.model import ArchivedImage, ArchivedLayer, ArchiveFile, lost_id
from imagefs.errors import CorruptArchive
from imagefs.image import config as image_config

INDEX = "index.json"
MANIFEST = "manifest.json"
_MAX_DEPTH = 8
_KINDS_LISTED = 5


def read_layout(files: Files, index: bytes) -> tuple[ArchivedImage, ...]:
    """Return the images of an OCI layout, whose index.json is given."""
    return _Reader(files, _layout_path).entries(_json_object(files, INDEX, index))


def read_dir(files: Files, manifest: bytes) -> tuple[ArchivedImage, ...]:
    """Return the images of a `dir:` directory, whose manifest.json is given.

    Raises CorruptArchive if it is damaged, or is no image's.
    """
    said = _json_object(files, MANIFEST, manifest)
    if said.get("schemaVersion") == 1:
        raise CorruptArchive(
            f"{files.place}: {MANIFEST} is of Docker's schema 1, which nothing writes any more"
        )
    reader = _Reader(files, _flat_path)
    if "manifests" in said:
        return reader.entries(said)
    return (reader.image(said, manifest, Descriptor("", "", {}, "")),)


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


class _ConfigError(CorruptArchive):
    """An image's configuration does not say what its layers are."""


class _Reader:
    """Follows descriptors; `paths` tells where content of a digest may lie."""

    def __init__(self, files: Files, paths: Callable[[str], tuple[str, ...]]) -> None:
        self._files = files
        self._paths = paths
        self._left = members.MAX_IMAGES
        self._passed_over: list[str] = []

    def entries(self, index: Json) -> tuple[ArchivedImage, ...]:
        """Return the images of the top index, each knowing the entry that it belongs to."""
        named: dict[str, tuple[str, ...]] = {}
        descriptors: dict[str, Descriptor] = {}
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

    def _images(self, descriptor: Descriptor, inside: tuple[str, ...]) -> Iterator[ArchivedImage]:
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
        data, damage = self._checked(descriptor.digest, *found)
        said = _json_object(self._files, name, data)
        if "manifests" in said:
            for child in self._descriptors(said, "manifests", name):
                for image in self._images(child, (*inside, descriptor.digest)):
                    names = image.names or descriptor.names()
                    yield replace(image, names=names, damage=(*damage, *image.damage))
        elif is_image(said):
            image = self.image(said, data, descriptor)
            yield replace(image, damage=(*damage, *image.damage))
        else:
            self._passed_over.append(kind_of(said))

    def image(self, said: Json, written: bytes, descriptor: Descriptor) -> ArchivedImage:
        """Return the image that a manifest describes, or one with a problem."""
        try:
            return self._image(said, written, descriptor)
        except _ConfigError as error:
            problem = str(error)
            if self._files.keep_going:
                with suppress(CorruptArchive):
                    return self._without_config(said, written, descriptor, problem)
        except CorruptArchive as error:
            problem = str(error)
        return replace(_absent(descriptor, problem), manifest=written)

    def _without_config(
        self, said: Json, written: bytes, descriptor: Descriptor, damage: str
    ) -> ArchivedImage:
        """Return the image of what layers there are; nobody knows what their diff ids are."""
        layers = list(self._descriptors(said, "layers", "the manifest"))
        if not 0 < len(layers) <= image_config.MAX_LAYERS:
            raise CorruptArchive(damage)
        return ArchivedImage(
            f"sha256:{hashlib.sha256(written).hexdigest()}",
            descriptor.names(),
            b"",
            written,
            tuple(
                self._layer(layer, lost_id(number, layer.digest), "")
                for number, layer in enumerate(layers)
            ),
            descriptor.platform,
            damage=(damage,),
        )

    def _image(self, said: Json, written: bytes, descriptor: Descriptor) -> ArchivedImage:
        config_descriptor = self._descriptor(said.get("config"), "config")
        found = self._blob(config_descriptor.digest)
        if found is None:
            raise _ConfigError(
                f"{self._files.place}: image configuration {config_descriptor.digest} is missing"
                f"{KEEP_GOING}"
            )
        config, damage = self._checked(config_descriptor.digest, *found)
        try:
            facts = image_config.parse(config)
        except CorruptArchive as error:
            raise _ConfigError(
                f"{self._files.place}: {shown(found[0])}: {error}{KEEP_GOING}"
            ) from error
        layers = list(self._descriptors(said, "layers", "the manifest"))
        if len(layers) != len(facts.diff_ids):
            raise _ConfigError(
                f"{self._files.place}: the manifest has {len(layers)} layers, but its"
                f" configuration {config_descriptor.digest} has {len(facts.diff_ids)} diff ids"
                f"{KEEP_GOING}"
            )
        return ArchivedImage(
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
            damage=damage,
        )

    def _layer(self, layer: Descriptor, diff_id: str, created_by: str) -> ArchivedLayer:
        if layer.media_type.endswith("+encrypted"):
            raise CorruptArchive(f"{self._files.place}: layer {layer.digest} is encrypted")
        found = self._blob(layer.digest)
        name = found[0] if found else self._paths(layer.digest)[0]
        return ArchivedLayer(diff_id, name, found[1] if found else None, layer.digest, created_by)

    def _blob(self, digest: str) -> tuple[str, ArchiveFile] | None:
        for path in self._paths(digest):
            file = self._files.find(path)
            if file is not None:
                return path, file
        return None

    def _checked(self, digest: str, name: str, file: ArchiveFile) -> tuple[bytes, tuple[str, ...]]:
        """Return a small blob's content, and what is wrong with it, unless that is an error."""
        data = members.content(self._files, name, file)
        algorithm = digest.partition(":")[0]
        found = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if found != digest:
            damage = (
                f"{self._files.place}: {shown(name)} is damaged: its digest should be {digest},"
                f" and is {found}"
            )
            if not self._files.keep_going:
                raise CorruptArchive(f"{damage}{KEEP_GOING}")
            return data, (damage,)
        return data, ()

    def _descriptors(self, said: Json, key: str, where: str) -> Iterator[Descriptor]:
        items = said.get(key)
        if items is None:
            return
        if not isinstance(items, list):
            raise CorruptArchive(f"{self._files.place}: {key!r} of {where} is not a list")
        for item in items:
            yield self._descriptor(item, where)

    def _descriptor(self, item: Any, where: str) -> Descriptor:
        return descriptors.read(item, self._files.place, where)


def _absent(descriptor: Descriptor, problem: str) -> ArchivedImage:
    return ArchivedImage(
        descriptor.digest,
        descriptor.names(),
        b"",
        b"",
        (),
        descriptor.platform,
        problem=problem,
    )


def _joined(found: list[list[ArchivedImage]]) -> list[list[ArchivedImage]]:
    """Join the images that lie side by side under one name, or none, for different platforms."""
    by_names: dict[tuple[str, ...], list[list[ArchivedImage]]] = {}
    for images in found:
        by_names.setdefault(images[0].names, []).append(images)
    entries = []
    for group in by_names.values():
        together = [image for images in group for image in images]
        platforms = {image.platform for image in together}
        entries += [together] if len(platforms) == len(together) else group
    return entries
