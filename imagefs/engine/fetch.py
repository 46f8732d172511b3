"""From an engine's image name to an Image in the store: resolved, streamed, checked, published.

Owns the one pass over the export stream, in which layers are written, hashed and indexed while
they arrive, and the decision when the engine need not be asked at all. Nothing of an image is
visible in the store before all of it is there and every digest is right. Any thread may call it;
two fetches of one image, here or in another process, become one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from imagefs.engine.api import Engine, EngineImage
from imagefs.engine.export import Receiver
from imagefs.errors import EngineUnreachable
from imagefs.host.files import host_errors
from imagefs.image import reference
from imagefs.image.model import MAX_LAYER_BYTES, Image, Layer
from imagefs.image.short_id import short_id
from imagefs.progress import Progress
from imagefs.store.store import Store

Indexer = Callable[[Layer, Path, Path], None]
"""`index.build`, handed in because the index lies to the right of this module."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where images come from and where they go; with `indexer`, layers are indexed on the way.

    No layer that is fetched may come to more than `max_layer_bytes`.
    """

    engine: Engine
    store: Store
    progress: Progress
    platform: str | None = None
    indexer: Indexer | None = None
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
    """Fetch an image from the engine into the store, which must not have it."""
    store = source.store
    with store.workspace() as work, host_errors(store.root):
        limit = source.max_layer_bytes
        with Receiver(work, store, source.indexer, found.diff_ids, limit) as receiver:
            source.progress.phase("the engine is preparing the export")
            with source.engine.export(found.id, source.platform) as chunks:
                receiver.receive(_watched(chunks, found, source))
            source.progress.phase("checking the image")
            bundle = receiver.bundle(found.id, source.platform)
        for diff_id, path in bundle.layers.items():
            store.adopt_layer(path, diff_id)
        for path in receiver.index_dir.iterdir():
            path.replace(store.index_dir / path.name)
        image = store.adopt_image(bundle.image_id, found.names, bundle.config, bundle.manifest)
        store.remember(_id_key(found.id, source.platform), image.id)
    return image


def _watched(chunks: Iterator[bytes], found: EngineImage, source: Source) -> Iterator[bytes]:
    """Pass the chunks on; the first ends the phase in which the engine only prepares."""
    for number, chunk in enumerate(chunks):
        if number == 0:
            source.progress.phase("fetching", found.size or None)
        source.progress.advance(len(chunk))
        yield chunk
