"""From what the user typed to images: the fork between engines, registries and archives.

Owns what can be asked of a source, whatever its kind. Imports the engine's side, the registry's or
the formats' only when the source is of that kind. Any thread may call it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imagefs.errors import EngineUnreachable, ImageNotFound, UsageError
from imagefs.image import reference
from imagefs.image.model import Image, Layer
from imagefs.image.options import SourceOptions
from imagefs.image.reference import (
    ArchiveReference,
    EngineReference,
    Reference,
    RegistryReference,
    StdinReference,
)
from imagefs.progress import Progress
from imagefs.store.store import Store

if TYPE_CHECKING:
    from imagefs.archive.model import ArchiveContents, ArchivedImage, IngestContext
    from imagefs.registry.manifests import RemoteImage


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What the user wants mounted or shown: SOURCE as typed, and the options."""

    text: str
    options: SourceOptions = field(default_factory=SourceOptions)


@dataclass(frozen=True, slots=True)
class InspectedLayer:
    """A layer as its source describes it; `size` is of the bytes at hand, None if missing."""

    diff_id: str
    digest: str
    size: int | None
    created_by: str


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """An image as its source describes it; `problem` is what keeps it from being mounted whole."""

    id: str
    names: tuple[str, ...]
    platform: str
    labels: dict[str, str]
    layers: tuple[InspectedLayer, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ListedManifest:
    """What a registry's index lists beside the image: another's, or an artifact of some kind."""

    digest: str
    platform: str
    artifact: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a source holds, and which tool's format it is in.

    Of a registry's images one is shown, that of the platform that is meant, and `others` listed.
    """

    format: str
    images: tuple[InspectedImage, ...]
    others: tuple[ListedManifest, ...] = ()


def open_images(request: SourceRequest, store: Store, progress: Progress) -> Sequence[Image]:
    """Return all images of a source that the request does not rule out, at least one."""
    return _whole(lambda: _open_images(request, store, progress), store, progress)


def open_image(request: SourceRequest, store: Store, progress: Progress) -> Image:
    """Return the one image that the request means; UsageError, with a list, where it is unclear."""
    (image,) = _whole(lambda: [_open_image(request, store, progress)], store, progress)
    return image


def open_layer(
    request: SourceRequest, image_id: str, number: int, store: Store, progress: Progress
) -> Layer:
    """Return one layer of a registry's image of that id, for which no other layer is pulled."""
    wanted = reference.parse(request.text)
    assert isinstance(wanted, RegistryReference)
    from imagefs.registry import fetch  # noqa: PLC0415

    def get() -> Sequence[Image]:
        with _ingest_context(request, store, progress) as context:
            return [fetch.ensure_layer(fetch.Source(wanted, context), image_id, number)]

    (image,) = _whole(get, store, progress)
    return image.layers[0]


def _whole(get: Callable[[], Sequence[Image]], store: Store, progress: Progress) -> Sequence[Image]:
    """Return images after those of their layers that were cut in the store were brought in anew."""
    from imagefs.index import cache as index_cache  # noqa: PLC0415

    images = get()
    layers = [layer for image in images for layer in image.layers]
    damaged = index_cache.damaged(layers, store.index_dir)
    if not damaged:
        return images
    store.discard_layers(damaged)
    what = ", ".join(sorted(damaged))
    progress.warn(f"{store.root}: {what} was not whole any more, and is brought in anew")
    return get()


def _open_images(request: SourceRequest, store: Store, progress: Progress) -> Sequence[Image]:
    wanted = reference.parse(request.text)
    if isinstance(wanted, EngineReference):
        return [_from_engine(wanted.name, request, store, progress)]
    from imagefs.archive import choice, uncompress  # noqa: PLC0415

    with _ingest_context(request, store, progress) as context:
        if isinstance(wanted, RegistryReference):
            return [_from_registry(wanted, context)]
        contents = _contents(wanted, context)
        chosen = choice.every(contents, _image_asked(wanted, request), request.options.platform)
        return [uncompress.image_of(contents, image, context) for image in chosen]


def _open_image(request: SourceRequest, store: Store, progress: Progress) -> Image:
    wanted = reference.parse(request.text)
    if isinstance(wanted, EngineReference):
        return _from_engine(wanted.name, request, store, progress)
    from imagefs.archive import choice, uncompress  # noqa: PLC0415

    with _ingest_context(request, store, progress) as context:
        if isinstance(wanted, RegistryReference):
            return _from_registry(wanted, context)
        contents = _contents(wanted, context)
        chosen = choice.one(contents, _image_asked(wanted, request), request.options.platform)
        return uncompress.image_of(contents, chosen, context)


def inspect(request: SourceRequest, store: Store, progress: Progress) -> Inspection:
    """Return what a source holds, without making anything of it readable.

    An engine's image is fetched, since only its configuration tells all of this. A registry is
    asked for manifests and a configuration, and for no layer.
    """
    wanted = reference.parse(request.text)
    if isinstance(wanted, EngineReference):
        return _inspected_engine(_from_engine(wanted.name, request, store, progress))
    from imagefs.archive.model import IngestContext  # noqa: PLC0415

    context = IngestContext(store, progress, request.options)
    if isinstance(wanted, RegistryReference):
        return _inspected_registry(wanted, context)
    contents = _contents(wanted, context)
    return Inspection(contents.format, tuple(map(_inspected, contents.images)))


@contextmanager
def _ingest_context(
    request: SourceRequest, store: Store, progress: Progress
) -> Iterator["IngestContext"]:
    """Make ready to bring an archive's layers in; behind the block, nothing works on them."""
    from imagefs.archive.model import IngestContext  # noqa: PLC0415
    from imagefs.index.cache import Indexer  # noqa: PLC0415

    with Indexer(store.index_dir) as indexer:
        yield IngestContext(store, progress, request.options, indexer)


def _contents(wanted: Reference, context: "IngestContext") -> "ArchiveContents":
    from imagefs.archive import reader  # noqa: PLC0415

    if isinstance(wanted, StdinReference):
        return reader.read_stdin(context)
    assert isinstance(wanted, ArchiveReference)
    return reader.read(wanted.path, context)


def _image_asked(wanted: Reference, request: SourceRequest) -> str | None:
    """Return which image is asked for, be it by the reference or by an option."""
    named = wanted.image if isinstance(wanted, ArchiveReference) else None
    asked = request.options.image
    if named and asked and named != asked:
        raise UsageError(
            f"SOURCE asks for image {named!r}, and --image for {request.options.image!r}"
        )
    return request.options.image or named


def _inspected(image: "ArchivedImage") -> InspectedImage:
    from imagefs.archive.model import labels_of  # noqa: PLC0415

    layers = tuple(
        InspectedLayer(
            layer.diff_id,
            layer.digest,
            layer.file.blob.length if layer.file else None,
            layer.created_by,
        )
        for layer in image.layers
    )
    return InspectedImage(
        image.id,
        image.names,
        image.platform,
        labels_of(image.config),
        layers,
        image.problem or "; ".join(image.damage),
    )


def _inspected_engine(image: Image) -> Inspection:
    from imagefs.archive.model import labels_of  # noqa: PLC0415
    from imagefs.image import config as image_config  # noqa: PLC0415

    layers = tuple(
        InspectedLayer(
            layer.diff_id,
            layer.diff_id,
            layer.blob.length if layer.blob else None,
            layer.created_by,
        )
        for layer in image.layers
    )
    platform = image_config.parse(image.config).platform
    labels = labels_of(image.config)
    return Inspection("engine", (InspectedImage(image.id, image.names, platform, labels, layers),))


def _from_registry(wanted: RegistryReference, context: "IngestContext") -> Image:
    from imagefs.registry import fetch  # noqa: PLC0415

    return fetch.ensure_image(fetch.Source(wanted, context))


def _inspected_registry(wanted: RegistryReference, context: "IngestContext") -> Inspection:
    from imagefs.registry import fetch  # noqa: PLC0415

    found = fetch.describe(fetch.Source(wanted, context))
    images = (_described(found.image, wanted),) if found.image else ()
    others = tuple(
        ListedManifest(one.digest, one.platform, one.artifact)
        for one in found.listed
        if not found.image or one.digest != found.image.digest
    )
    return Inspection("registry", images, others)


def not_pulled(request: SourceRequest, store: Store, progress: Progress) -> InspectedImage | None:
    """Return what a registry says of an image of which the store lacks layers; None for others."""
    wanted = reference.parse(request.text)
    if not isinstance(wanted, RegistryReference):
        return None
    from imagefs.archive.model import IngestContext  # noqa: PLC0415
    from imagefs.registry import fetch  # noqa: PLC0415

    context = IngestContext(store, progress, request.options)
    image = fetch.not_pulled(fetch.Source(wanted, context))
    return _described(image, wanted) if image is not None else None


def _described(image: "RemoteImage", wanted: RegistryReference) -> InspectedImage:
    from imagefs.archive.model import labels_of  # noqa: PLC0415

    layers = tuple(
        InspectedLayer(layer.diff_id, layer.blob.digest, layer.blob.size, layer.created_by)
        for layer in image.layers
    )
    names, labels = (reference.familiar(wanted.name),), labels_of(image.config)
    return InspectedImage(image.id, names, image.facts.platform, labels, layers)


def _from_engine(name: str, request: SourceRequest, store: Store, progress: Progress) -> Image:
    from imagefs.engine import addresses, fetch  # noqa: PLC0415
    from imagefs.engine.api import Engine  # noqa: PLC0415

    options = request.options
    engine = Engine(addresses.find(options.host))
    source = fetch.Source(engine, store, progress, options.platform, options.max_layer_bytes)
    try:
        return fetch.ensure_image(name, source)
    except (EngineUnreachable, ImageNotFound) as error:
        # Most likely a mistyped path, though it might have been an image's name.
        if name == request.text and Path(name).suffix and ":" not in name:
            raise type(error)(f"there is no file {name}, and as an image: {error}") from error
        raise
