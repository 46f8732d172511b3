"""From an engine's image name to an Image in the store: resolved, streamed, checked, published.

Owns the way of an export through the archive's modules into the store, and the decision when the
engine need not be asked at all. Nothing of an image is
visible in the store before all of it is there and every digest is right. Any thread may call it;
two fetches of one image, here or in another process, become one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from imagefs.archive.model import IngestContext
from imagefs.archive.spool import spooling
from imagefs.engine import export
from imagefs.engine.api import Engine, EngineImage
from imagefs.errors import EngineError, EngineUnreachable
from imagefs.image import reference
from imagefs.image.model import MAX_LAYER_BYTES, Image
from imagefs.image.options import SourceOptions
from imagefs.image.short_id import short_id
from imagefs.index import cache as index_cache
from imagefs.index.cache import Indexer
from imagefs.progress import Progress
from imagefs.store.store import Store

SIZES, MORE_BYTES = 16, MAX_LAYER_BYTES
"""How many times an image's size its export may have, and what beside: engines tell what the files
of one platform hold, not their headers, and may send the other platforms too."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where images come from and where they go.

    No layer that is fetched may come to more than `max_layer_bytes`.
    """

    engine: Engine
    store: Store
    progress: Progress
    platform: str | None = None
    max_layer_bytes: int = MAX_LAYER_BYTES


def ensure_image(name: str, source: Source) -> Image:
    """Return the image that `name` means to the engine, from the store if it is there.

    A whole id that the store knows is not asked for at all. An engine that is down leaves what
    the store remembers of the name, with a warning.
    """
    store, engine = source.store, source.engine
    whole = reference.full_id(name)
    if whole is not None and (image := cached(whole, store, source.platform)) is not None:
        return image
    try:
        found = engine.inspect(name, source.platform)
    except EngineUnreachable as error:
        remembered = _remembered(name, source)
        if remembered is None:
            raise
        source.progress.warn(f"{error}; using {name} as it was when last fetched")
        return remembered
    image = cached(found.id, store, source.platform)
    if image is None:
        image = _fetch_once(found, source)
    # What was typed is a name of its own where an engine completes it, as Podman does.
    for alias in {name, *found.names} if reference.id_prefix(name) is None else found.names:
        store.remember(_name_key(alias, source), image.id, reference.familiar(alias))
    return replace(image, names=found.names)


def cached(engine_id: str, store: Store, platform: str | None = None) -> Image | None:
    """Return what the store has of an engine's id, which need not be the configuration's digest."""
    known = store.recall(_id_key(engine_id, platform))
    return store.image(known or engine_id)


def _remembered(name: str, source: Source) -> Image | None:
    """Return what a name meant to this engine, or to any if that is one thing, or an id's image."""
    store = source.store
    known = store.recall(_name_key(name, source))
    candidates = [known] if known else store.refs.named(reference.familiar(name))
    if not candidates and (prefix := reference.id_prefix(name)) is not None:
        candidates = store.ids(prefix)
    return store.image(candidates[0]) if len(candidates) == 1 else None


def _name_key(name: str, source: Source) -> str:
    platform = f" {source.platform}" if source.platform else ""
    return f"{source.engine.host} {reference.familiar(name)}{platform}"


def _id_key(engine_id: str, platform: str | None) -> str:
    return f"{engine_id} {platform}" if platform else engine_id


def _fetch_once(found: EngineImage, source: Source) -> Image:
    def waiting() -> None:
        source.progress.note(f"another process is fetching {short_id(found.id)}; waiting for it")

    with source.store.lock(f"fetch {found.id}", waiting):
        image = cached(found.id, source.store, source.platform)
        return image if image is not None else fetch(found, source)


def fetch(found: EngineImage, source: Source) -> Image:
    """Fetch an image from the engine into the store, which must not have it, and index it.

    Raises EngineError for an export that is not whole, or not of that image.
    """
    store, progress = source.store, source.progress
    options = SourceOptions(max_layer_bytes=source.max_layer_bytes)
    with Indexer(store.index_dir) as indexer:
        context = IngestContext(store, progress, options, indexer)
        with spooling(context, found.diff_ids) as spool:
            progress.phase("the engine is preparing the export")
            with (
                source.engine.export(found.id, source.platform) as chunks,
                export.watched(_told(chunks, found, progress)) as stream,
            ):
                spool.take(stream)
            progress.phase("checking the image")
            image, layers = export.bound(spool, found.id, source.platform)
            spool.settle()
            # A layer that could not be indexed is no tar: this says so.
            for layer in index_cache.missing(layers, store.index_dir):
                index_cache.build(layer, store.index_dir)
            spool.keep_layers(layer.diff_id for layer in layers)
    fetched = store.adopt_image(image.id, found.names, image.config, image.manifest)
    store.remember(_id_key(found.id, source.platform), fetched.id)
    return fetched


def _told(chunks: Iterator[bytes], found: EngineImage, progress: Progress) -> Iterator[bytes]:
    """Pass the chunks on; the first ends the phase in which the engine only prepares.

    Raises EngineError for far more than what the engine has told of the image.
    """
    taken, most = 0, SIZES * found.size + MORE_BYTES
    for number, chunk in enumerate(chunks):
        if number == 0:
            progress.phase("fetching", found.size or None)
        progress.advance(len(chunk))
        taken += len(chunk)
        if taken > most and found.size > 0:
            raise EngineError(
                f"the engine's export goes on beyond {most} bytes, and the image has {found.size}"
            )
        yield chunk
