"""An engine's export, which is an archive that streams: what breaks it, and which image it binds.

Owns the diagnosis, since what breaks an export is the engine's fault and an EngineError with the
engine's words if there are any; and the rule that manifest.json lists one image, that it is the one
asked for, and that each layer's bytes have the digest that its configuration says. Nothing of an
export is made do with. Belongs to one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from imagefs.archive import choice, docker_oci, members
from imagefs.archive.docker import MANIFEST
from imagefs.archive.members import KEEP_GOING, Files, shown
from imagefs.archive.model import ArchivedImage
from imagefs.archive.spool import Spool
from imagefs.errors import CorruptArchive, EngineError, UsageError
from imagefs.image.json_shape import error_message
from imagefs.image.model import Layer

_PLACE = "the engine's export"
_TAIL = 4096
_MAX_BRACES = 100


@contextmanager
def watched(chunks: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """Pass a stream on; what the block finds wrong with it is an EngineError."""
    tail = b""

    def passed_on() -> Iterator[bytes]:
        nonlocal tail
        for chunk in chunks:
            tail = (tail + chunk[-_TAIL:])[-_TAIL:]
            yield chunk

    try:
        yield passed_on()
    except CorruptArchive as error:
        reason = f"{_PLACE} is broken: {str(error).removesuffix(KEEP_GOING)}"
        said = _last_words(tail)
        raise EngineError(f"the engine broke off the export: {said}" if said else reason) from error


def _last_words(tail: bytes) -> str | None:
    """Return what an engine says at the end of a stream, of which `tail` is the last, if anything.

    One that fails behind the first byte can no longer change its status, so it appends its error
    object to the stream.
    """
    at = len(tail)
    for _ in range(_MAX_BRACES):
        at = tail.rfind(b"{", 0, at)
        if at < 0:
            break
        message = error_message(tail[at:])
        if message is not None:
            return message
    return None


def bound(
    spool: Spool, image_id: str, platform: str | None
) -> tuple[ArchivedImage, tuple[Layer, ...]]:
    """Return the image that came, and its layers; EngineError if it is not the one asked for.

    Raises HostError for a layer that may not be so large.
    """
    try:
        image = _meant(spool.files(_PLACE), image_id, platform)
        return image, tuple(_layers(spool, image))
    except (CorruptArchive, UsageError) as error:
        raise EngineError(str(error).removesuffix(KEEP_GOING)) from error


def _meant(files: Files, image_id: str, platform: str | None) -> ArchivedImage:
    """Return the image of an export; which platform's, its index may have to tell."""
    file = files.find(MANIFEST)
    if file is None:
        raise CorruptArchive(f"{_PLACE} lacks {MANIFEST}")
    manifest = members.content(files, MANIFEST, file)
    listed = members.parse(files, MANIFEST, manifest)
    if not isinstance(listed, list) or len(listed) != 1:
        raise CorruptArchive(f"{_PLACE}: {MANIFEST} does not list one image")
    contents = docker_oci.read(files, manifest)
    for image in contents.images:
        if image.id == image_id:
            return image
    if platform is not None:
        return choice.one(contents, None, platform)
    image = contents.images[0]
    if not _holds(files, image_id):
        raise CorruptArchive(f"the engine was asked for image {image_id} and exported {image.id}")
    return image


def _holds(files: Files, digest: str) -> bool:
    """Tell whether an export has the index or manifest whose digest it is.

    In the containerd image store that is an image's id; a single platform's export lacks it.
    """
    name = f"blobs/{digest.replace(':', '/')}"
    file = files.find(name)
    if file is None:
        return False
    return f"sha256:{sha256(members.content(files, name, file)).hexdigest()}" == digest


def _layers(spool: Spool, image: ArchivedImage) -> Iterator[Layer]:
    for number, layer in enumerate(image.layers):
        if layer.file is None:
            raise CorruptArchive(f"{_PLACE} lacks {shown(layer.name)}")
        found = spool.as_layer(layer.name, layer.file)
        if found.diff_id != layer.diff_id:
            raise CorruptArchive(
                f"{_PLACE}: layer {number} should have the digest {layer.diff_id},"
                f" and has {found.diff_id}"
            )
        yield found
