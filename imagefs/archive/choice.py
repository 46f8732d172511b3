"""Which of an archive's images is meant: by name, id or position, and by platform.

Pure: packed images in, packed images out, or a UsageError that lists what there is. Any thread may
call it.
"""

import platform as host
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

from imagefs.archive.members import shown
from imagefs.archive.model import Packed, PackedImage
from imagefs.errors import CorruptArchive, UsageError
from imagefs.image import reference

_POSITION_DIGITS = 3
_LISTED = 20
"""Images, or names of one, that a message lists."""
_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i386": "386",
    "i686": "386",
    "loongarch64": "loong64",
    "mips64": "mips64le",
}
"""What uname(2) calls a machine, in Go's words where they differ."""


def host_platform() -> str:
    """Return the platform whose images this host runs: Linux, on its own architecture."""
    machine = host.machine()
    return f"linux/{_MACHINES.get(machine, machine)}"


def one(packed: Packed, image: str | None, platform: str | None) -> PackedImage:
    """Return the image that is meant; UsageError, with a list, where that is not clear."""
    entries = _entries(_matching(packed, image))
    if len({variant.id for variants in entries for variant in variants[:1]}) > 1:
        raise UsageError(
            f"{packed.place} holds {len(entries)} images; choose one with --image NAME,"
            f" its position or id, or mount all with --all: {_listed(entries)}"
        )
    return _variant(packed, entries[0], platform)


def every(packed: Packed, image: str | None, platform: str | None) -> tuple[PackedImage, ...]:
    """Return one image of each entry, for the platform that is meant."""
    chosen = [
        _variant(packed, variants, platform) for variants in _entries(_matching(packed, image))
    ]
    return tuple(chosen)


def _entries(images: Iterable[PackedImage]) -> list[list[PackedImage]]:
    found: dict[int, list[PackedImage]] = {}
    for image in images:
        found.setdefault(image.entry, []).append(image)
    return list(found.values())


def _matching(packed: Packed, wanted: str | None) -> Sequence[PackedImage]:
    """Return the images that `wanted` may mean: the first way of reading it that fits counts."""
    if wanted is None:
        return packed.images
    for fits in _readings(wanted):
        found = [image for image in packed.images if fits(image)]
        if found:
            return found
    there = _listed(_entries(packed.images))
    raise UsageError(f"{packed.place} holds no image {shown(wanted)}; it holds {there}")


def _readings(wanted: str) -> Iterator[Callable[[PackedImage], bool]]:
    """Yield what the word may mean: a name, one without its registry, a position, an id, a tag."""
    familiar = reference.familiar(wanted)
    yield lambda image: wanted in image.names
    yield lambda image: familiar in map(reference.familiar, image.names)
    yield lambda image: any(name.endswith(f"/{familiar}") for name in image.names)
    if wanted.isdecimal() and len(wanted) <= _POSITION_DIGITS:
        yield lambda image: image.entry == int(wanted)
    prefix = reference.id_prefix(wanted)
    if prefix is not None:
        yield lambda image: image.id.partition(":")[2].startswith(prefix)
    yield lambda image: any(name.rpartition(":")[2] == wanted for name in image.names)


def _variant(packed: Packed, variants: Sequence[PackedImage], platform: str | None) -> PackedImage:
    """Return the one of an entry's images that is for the platform."""
    wanted = platform or host_platform()
    fitting = [image for image in variants if is_for(wanted, image.platform)]
    held = [image for image in variants if image.held]
    preferred: Sequence[PackedImage] = [image for image in fitting if image.held]
    if not preferred and platform is None:
        # Somebody who has only this image wants to see it, wherever it would run.
        preferred = next((only for only in (variants, held) if len(only) == 1), [])
    fitting.sort(key=lambda image: bool(image.problem))
    if not (preferred or fitting):
        raise UsageError(
            f"{packed.place} holds no image for {shown(wanted)};"
            f" choose with --platform: {_platforms(held or variants)}"
        )
    chosen = (*preferred, *fitting)[0]
    if chosen.problem:
        also = f"; choose another with --platform: {_platforms(held)}" if held else ""
        named = shown(chosen.platform or "unknown")
        raise CorruptArchive(f"{chosen.problem} (the image for {named}){also}")
    return chosen


def _platforms(images: Iterable[PackedImage]) -> str:
    return _listing(dict.fromkeys(shown(image.platform or "unknown") for image in images))


def is_for(wanted: str, platform: str) -> bool:
    """Tell whether an image's platform is the wanted one, which may leave out its end.

    `arm64` alone means Linux's; what every arm64 is, v8, need not be said.
    """
    if "/" not in wanted:
        wanted = f"linux/{wanted}"
    return (_normal(platform) + "/").startswith(_normal(wanted) + "/")


def _normal(platform: str) -> str:
    platform = platform.lower()
    return platform.removesuffix("/v8") if "/arm64" in platform else platform


def _listed(entries: Sequence[Sequence[PackedImage]]) -> str:
    """Return a line that tells the images apart."""
    items = []
    for variants in entries:
        image = variants[0]
        names = " ".join(map(shown, image.names[:_LISTED])) or "untagged"
        items.append(f"{image.entry}: {names} ({image.id.partition(':')[2][:12]})")
    return _listing(items)


def _listing(items: Collection[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(islice(items, _LISTED)) + more
