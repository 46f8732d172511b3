"""From what the user typed to images: the fork between engines and archives.

Owns what can be asked of a source, whatever its kind. Imports the engine's side or the formats'
only when the source is of that kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imagefs import reference
from imagefs.image import Image
from imagefs.progress import Progress
from imagefs.reference import EngineReference
from imagefs.store import Store


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What the user wants mounted or shown: SOURCE as typed, and the options that choose in it.

    `image` chooses one of an archive's images by tag, id prefix or position, `platform` one of
    several platforms. With `keep_going` damaged layers are made do with, with `verify` layers
    that are read in place have their digests checked.
    """

    text: str
    host: str | None = None
    platform: str | None = None
    image: str | None = None
    keep_going: bool = False
    verify: bool = False


def open_images(request: SourceRequest, store: Store, progress: Progress) -> Sequence[Image]:
    """Return all images of a source that the request does not rule out, at least one."""
    wanted = reference.parse(request.text)
    if isinstance(wanted, EngineReference):
        return [_from_engine(wanted.name, request, store, progress)]
    raise NotImplementedError


def open_image(request: SourceRequest, store: Store, progress: Progress) -> Image:
    """Return the one image that the request means; UsageError, with a list, where it is unclear."""
    return open_images(request, store, progress)[0]


def _from_engine(name: str, request: SourceRequest, store: Store, progress: Progress) -> Image:
    from imagefs import connection, fetch, index  # noqa: PLC0415
    from imagefs.engine import Engine  # noqa: PLC0415

    engine = Engine(connection.find(request.host))
    source = fetch.Source(engine, store, progress, request.platform, index.build)
    return fetch.ensure_image(name, source)
