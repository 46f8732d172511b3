"""From a name in a registry to an Image in the store: resolved, pulled, checked, published.

Owns the order of the steps, and the decisions when not to ask: for what was pulled by digest, and
where nobody answers. Nothing of an image is visible in the store before all its layers are there.
Any thread may call it; two that want one image, here or in another process, pull it once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from imagefs.archive.model import IngestContext
from imagefs.errors import HostError, RegistryError, RegistryUnreachable, UsageError
from imagefs.image import reference as references
from imagefs.image import safe_json
from imagefs.image.model import Image, Layer
from imagefs.image.options import SourceOptions
from imagefs.image.platform import of_host
from imagefs.image.reference import RegistryReference
from imagefs.image.short_id import short_id
from imagefs.registry import manifests
from imagefs.registry.api import Registry
from imagefs.registry.manifests import Finder, Listed, RemoteImage
from imagefs.registry.pull import missing, pull


@dataclass(frozen=True, slots=True)
class Source:
    """Which image is wanted, and where it goes; the context's options say how, and which of it."""

    reference: RegistryReference
    context: IngestContext

    @property
    def options(self) -> SourceOptions:
        """How the registry is reached, and what chooses in an index."""
        return self.context.options


@dataclass(frozen=True, slots=True)
class Description:
    """What manifests tell: the image that is meant, if one is, and all that an index lists."""

    image: RemoteImage | None
    listed: tuple[Listed, ...]


def ensure_image(source: Source) -> Image:
    """Return the image that a reference means to its registry, from the store if it is there.

    A digest that was pulled before is not asked for again. A registry that is not there leaves
    what the reference meant when it was last pulled, with a warning.
    """
    reference, progress = source.reference, source.context.progress
    last = _remembered(source, reference.name)
    if last is not None and reference.digest:
        return last
    with _registry(source) as registry:
        try:
            if last is not None and _same(source, registry.tag_digest(), last):
                return last
            digest, content = registry.manifest()
            found = Finder(registry).find(
                digest, content, source.options.image, source.options.platform
            )
        except RegistryUnreachable as error:
            if last is None:
                raise
            progress.warn(f"{error}; using {reference} as it was when last pulled")
            return last
        image = _pulled(found, registry, source)
    store = source.context.store
    store.remember(_key(source, reference.name), image.id, references.familiar(reference.name))
    store.remember(_key(source, _pinned(reference, digest)), image.id)
    return image


def ensure_layer(source: Source, image_id: str, number: int) -> Image:
    """Return an image that a reference is known to mean, cut to one of its layers.

    If the store lacks the image, that layer alone is pulled. RegistryError where the reference has
    come to mean another image.
    """
    reference, options = source.reference, source.options
    last = _remembered(source, reference.name)
    if last is not None and last.id == image_id:
        return replace(last, layers=last.layers[number : number + 1])
    with _registry(source) as registry:
        found = Finder(registry).find(*registry.manifest(), options.image, options.platform)
        if found.id != image_id:
            raise RegistryError(f"{reference} means another image by now")
        found = replace(found, layers=found.layers[number : number + 1])
        wanted = missing(found.layers, source.context.store)
        if wanted:
            pull(wanted, registry, source.context)
    return Image(found.id, _names(source), found.config, found.manifest, _layers(found, source))


def not_pulled(source: Source) -> RemoteImage | None:
    """Return what the registry says of an image of which the store lacks layers.

    None for one that `ensure_image` returns without pulling any.
    """
    last = _remembered(source, source.reference.name)
    if last is not None and source.reference.digest:
        return None
    options = source.options
    with _registry(source) as registry:
        try:
            if last is not None and _same(source, registry.tag_digest(), last):
                return None
            found = Finder(registry).find(*registry.manifest(), options.image, options.platform)
        except RegistryUnreachable:
            if last is None:
                raise
            return None
    return found if missing(found.layers, source.context.store) else None


def describe(source: Source) -> Description:
    """Return what the registry says of an image, of which nothing is pulled but JSON."""
    with _registry(source) as registry:
        digest, content = registry.manifest()
        finder = Finder(registry)
        try:
            image = finder.find(digest, content, source.options.image, source.options.platform)
        except UsageError as error:
            if source.options.platform or source.options.image:
                raise
            return Description(None, manifests.all_listed(finder, error))
        return Description(image, tuple(finder.listed))


@contextmanager
def _registry(source: Source) -> Iterator[Registry]:
    progress = source.context.progress
    if source.options.insecure:
        progress.warn(
            f"{source.reference.domain} is not verified (--insecure): anybody may answer for it,"
            " and learn what it is told"
        )
    registry = Registry(source.reference, source.options, progress.note, progress.warn)
    try:
        yield registry
    finally:
        registry.close()


def _key(source: Source, name: str) -> str:
    """Return by what a name's image is remembered: without a platform, that of this machine."""
    options = source.options
    wanted = options.platform or f"any on {of_host()}"
    return f"docker://{name} {wanted}" + (f" {options.image}" if options.image else "")


def _pinned(reference: RegistryReference, digest: str) -> str:
    return replace(reference, digest=digest).name


def _remembered(source: Source, name: str) -> Image | None:
    store = source.context.store
    image_id = store.recall(_key(source, name))
    image = store.image(image_id) if image_id else None
    return replace(image, names=_names(source)) if image else None


def _names(source: Source) -> tuple[str, ...]:
    return (references.familiar(source.reference.name),)


def _same(source: Source, digest: str, last: Image) -> bool:
    """Tell whether a tag that means `digest` means the image that it meant last.

    What an engine has stored since has the engine's manifest, and is described anew.
    """
    if not digest or not _is_of_registry(last):
        return False
    before = source.context.store.recall(_key(source, _pinned(source.reference, digest)))
    return before == last.id


def _is_of_registry(image: Image) -> bool:
    try:
        said = safe_json.loads(image.manifest)
    except safe_json.BadJsonError:
        return False
    return isinstance(said, dict) and isinstance(said.get("config"), dict)


def _pulled(found: RemoteImage, registry: Registry, source: Source) -> Image:
    """Return an image, all of it in the store."""
    context = source.context
    store = context.store

    def waiting() -> None:
        context.progress.note(f"another process pulls {short_id(found.id)}; waiting for it")

    with store.lock(f"pull {found.id}", waiting):
        wanted = missing(found.layers, store)
        if wanted:
            pull(wanted, registry, context)
        layers = _layers(found, source)
        held = store.image(found.id)
        if held is None or held.manifest != found.manifest:
            store.adopt_image(found.id, _names(source), found.config, found.manifest)
    return Image(found.id, _names(source), found.config, found.manifest, layers)


def _layers(found: RemoteImage, source: Source) -> tuple[Layer, ...]:
    store = source.context.store
    layers = []
    for layer in found.layers:
        blob = store.layer(layer.diff_id)
        if blob is None:
            raise HostError(f"{store.root}: {layer.diff_id} was removed while it was needed")
        layers.append(Layer(layer.diff_id, blob, stored=True, created_by=layer.created_by))
    return tuple(layers)
