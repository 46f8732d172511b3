"""From a reference to one image of a registry: through indexes, by platform, to its configuration.

Owns what may be believed of manifests: that they are of images, that their layers and the
configuration's are the same number. Knows nothing of HTTP and of the store. A Finder belongs to one
thread.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from imagefs.archive import choice, descriptors
from imagefs.archive.descriptors import Descriptor, Json
from imagefs.archive.members import MAX_IMAGES, MAX_JSON_READ, shown
from imagefs.archive.model import ArchiveContents, ArchivedImage
from imagefs.errors import CorruptArchive, UsageError
from imagefs.image import config as image_config
from imagefs.image import reference as references
from imagefs.image import safe_json
from imagefs.image.config import ImageConfig
from imagefs.registry.api import Blob, Registry

FORMAT = "registry"
MAX_DEPTH = 4
"""How deep indexes may lie in each other; one that lies in another is rare already."""
MAX_ASKED = 64
"""Manifests that are asked for to learn which platforms an index does not say."""
_KINDS_LISTED = 5


@dataclass(frozen=True, slots=True)
class RemoteLayer:
    """A layer as a registry has it: the digest of its tar, and the blob that it is packed in."""

    diff_id: str
    blob: Blob
    created_by: str
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image of a registry; `id` is `sha256:<hex>` of its configuration."""

    id: str
    digest: str
    config: bytes
    manifest: bytes
    facts: ImageConfig
    layers: tuple[RemoteLayer, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """What an index lists: its digest, its platform or "", and what it is if that is no image."""

    digest: str
    platform: str
    artifact: str = ""


class Finder:
    """Finds an image in a repository."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._place = str(registry.reference)
        self._asked = 0
        self._read = 0
        self.listed: list[Listed] = []
        """What the indexes on the way list, once the image is found or known not to be there."""

    def find(
        self, digest: str, content: bytes, image: str | None, platform: str | None
    ) -> RemoteImage:
        """Return the image that a manifest leads to; UsageError, with a list, where none fits.

        Raises CorruptArchive where it leads to none.
        """
        for _ in range(MAX_DEPTH):
            said = self._json(content, digest)
            if "manifests" not in said:
                return self._image(said, digest, content)
            candidates = list(self._candidates(said, digest, 0))
            if not candidates:
                raise CorruptArchive(f"{self._place}: its index lists no image{self._instead()}")
            contents = ArchiveContents(self._place, FORMAT, tuple(candidates))
            digest = choice.one(contents, image, platform).id
            digest, content = self._manifest(digest)
        raise self._endless()

    def _instead(self) -> str:
        kinds = dict.fromkeys(shown(one.artifact) for one in self.listed if one.artifact)
        return f", but artifacts: {', '.join([*kinds][:_KINDS_LISTED])}" if kinds else ""

    def _endless(self) -> CorruptArchive:
        return CorruptArchive(f"{self._place}: its indexes are nested without end")

    def _candidates(self, index: Json, where: str, depth: int) -> Iterator[ArchivedImage]:
        """Yield the images of an index; who does not say its platform is asked for it."""
        if depth >= MAX_DEPTH:
            raise self._endless()
        for descriptor in self._descriptors(index, "manifests", f"index {where}"):
            if descriptor.artifact:
                self._list(Listed(descriptor.digest, descriptor.platform, descriptor.artifact))
            elif descriptor.platform:
                yield self._candidate(descriptor.digest, descriptor.platform)
            else:
                yield from self._unsaid(descriptor, depth)

    def _unsaid(self, descriptor: Descriptor, depth: int) -> Iterator[ArchivedImage]:
        self._asked += 1
        if self._asked > MAX_ASKED:
            raise CorruptArchive(
                f"{self._place}: its index does not say the platforms of more than {MAX_ASKED}"
            )
        digest, content = self._manifest(descriptor.digest)
        said = self._json(content, digest)
        if "manifests" in said:
            yield from self._candidates(said, digest, depth + 1)
        elif descriptors.is_image(said):
            found = self._image(said, digest, content)
            yield self._candidate(digest, found.facts.platform)
        else:
            self._list(Listed(digest, "", descriptors.kind_of(said) or "unknown"))

    def _candidate(self, digest: str, platform: str) -> ArchivedImage:
        self._list(Listed(digest, platform))
        names = (references.familiar(self._registry.reference.name),)
        return ArchivedImage(digest, names, b"", b"", (), platform)

    def _list(self, listed: Listed) -> None:
        if len(self.listed) >= MAX_IMAGES:
            raise CorruptArchive(f"{self._place}: lists more than {MAX_IMAGES} images")
        self.listed.append(listed)

    def _image(self, said: Json, digest: str, written: bytes) -> RemoteImage:
        if said.get("schemaVersion") == 1:
            raise CorruptArchive(
                f"{self._place}: its manifest is of Docker's schema 1, which nothing reads any more"
            )
        if not isinstance(said.get("config"), dict) and not said.get("artifactType"):
            raise CorruptArchive(f"{self._place}: manifest {digest} is no image's")
        if not descriptors.is_image(said):
            kind = shown(descriptors.kind_of(said) or "of an unknown kind")
            raise CorruptArchive(f"{self._place}: is no image, but an artifact: {kind}")
        config_blob = self._blob(said["config"], "its configuration")
        config = self._registry.small_blob(config_blob)
        try:
            facts = image_config.parse(config)
        except CorruptArchive as error:
            raise CorruptArchive(f"{self._place}: {error}") from error
        items = self._items(said, "layers", f"manifest {digest}")
        if len(items) != len(facts.diff_ids):
            raise CorruptArchive(
                f"{self._place}: the manifest has {len(items)} layers, but its configuration"
                f" {config_blob.digest} has {len(facts.diff_ids)} diff ids"
            )
        layers = [
            self._layer(number, *described)
            for number, described in enumerate(
                zip(items, facts.diff_ids, facts.created_by, strict=True)
            )
        ]
        image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
        return RemoteImage(image_id, digest, config, written, facts, tuple(layers))

    def _layer(self, number: int, item: Any, diff_id: str, created_by: str) -> RemoteLayer:
        blob = self._blob(item, f"layer {number}")
        kind = str(item.get("mediaType") or "")
        if kind.endswith("+encrypted"):
            raise CorruptArchive(f"{self._place}: layer {number} ({blob.digest}) is encrypted")
        urls = item.get("urls")
        foreign = tuple(map(str, urls)) if isinstance(urls, list) else ()
        return RemoteLayer(diff_id, blob, created_by, foreign)

    def _blob(self, item: Any, where: str) -> Blob:
        descriptor = descriptors.read(item, self._place, "the manifest")
        size = item.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise CorruptArchive(f"{self._place}: the manifest does not say the size of {where}")
        return Blob(descriptor.digest, size, where)

    def _manifest(self, digest: str) -> tuple[str, bytes]:
        digest, content = self._registry.manifest(digest)
        self._read += len(content)
        if self._read > MAX_JSON_READ:
            raise CorruptArchive(
                f"{self._place}: its index refers to more than {MAX_JSON_READ} bytes of JSON"
            )
        return digest, content

    def _json(self, content: bytes, digest: str) -> Json:
        try:
            said = safe_json.loads(content)
        except safe_json.BadJsonError as error:
            raise CorruptArchive(
                f"{self._place}: what the registry gives for a manifest is not JSON: {error}"
            ) from error
        if not isinstance(said, dict):
            raise CorruptArchive(f"{self._place}: manifest {digest} is not a JSON object")
        return said

    def _items(self, said: Json, key: str, where: str) -> list[Any]:
        items = said.get(key)
        if items is None:
            return []
        if not isinstance(items, list):
            raise CorruptArchive(f"{self._place}: {key!r} of {where} is not a list")
        return items

    def _descriptors(self, said: Json, key: str, where: str) -> Iterator[Descriptor]:
        for item in self._items(said, key, where):
            yield descriptors.read(item, self._place, where)


def all_listed(finder: Finder, error: UsageError) -> tuple[Listed, ...]:
    """Return what there is where no image fits, for who only wants to know; else the error."""
    if not finder.listed:
        raise error
    return tuple(finder.listed)
