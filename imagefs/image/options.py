"""What may be asked of a source, whatever its kind: one value all the way."""

from dataclasses import dataclass

from imagefs.image.model import MAX_LAYER_BYTES


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """The options that choose in a source, and how careful to be with what comes of it.

    `host` is the engine to ask, as DOCKER_HOST writes it; `image` chooses one of an archive's
    images by tag, id prefix or position, `platform` one of several platforms. With `keep_going`
    damaged layers are made do with, with `verify` layers that are read in place have their
    digests checked. One layer that comes into the store may have `max_layer_bytes`.
    """

    host: str | None = None
    platform: str | None = None
    image: str | None = None
    keep_going: bool = False
    verify: bool = False
    max_layer_bytes: int = MAX_LAYER_BYTES
