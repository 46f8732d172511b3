"""Which of an archive's images is meant: by name, id or position, and by platform.

Pure: packed images in, packed images out, or a UsageError that lists what there is. Any thread may
call it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

from imagefs.archive.members import shown
from imagefs.archive.model import ArchiveContents, ArchivedImage
from imagefs.errors import CorruptArchive, UsageError
from imagefs.image import platform as platforms
from imagefs.image import reference
from imagefs.image.short_id import short_ids

_POSITION_DIGITS = 3
_LISTED = 20
"""Images, or names of one, that a message lists."""


def one(contents: ArchiveContents, image: str | None, platform: str | None) -> ArchivedImage:
    """Return the image that is meant; UsageError, with a list, where that is not clear."""
    entries = _entries(_matching(contents, image))
    if len({variant.id for variants in entries for variant in variants[:1]}) > 1:
        raise UsageError(
            f"{contents.place} holds {len(entries)} images; choose one with --image NAME,"
            f" its position or id, or mount all with --all: {_listed(entries)}"
        )
    return _variant(contents, entries[0], platform)


def every(
    contents: ArchiveContents, image: str | None, platform: str | None
) -> tuple[ArchivedImage, ...]:
    """Return one image of each entry, for the platform that is meant."""
    chosen = [
        _variant(contents, variants, platform) for variants in _entries(_matching(contents, image))
    ]
    return tuple(chosen)


def _entries(images: Iterable[ArchivedImage]) -> list[list[ArchivedImage]]:
    found: dict[int, list[ArchivedImage]] = {}
    for image in images:
        found.setdefault(image.entry, []).append(image)
    return list(found.values())


def _matching(contents: ArchiveContents, wanted: str | None) -> Sequence[ArchivedImage]:
    """Return the images that `wanted` may mean: the first way of reading it that fits counts."""
    if wanted is None:
        return contents.images
    for fits in _readings(wanted):
        found = [image for image in contents.images if fits(image)]
        if found:
            return found
    begun = _begun(contents, wanted)
    if begun:
        return begun
    for_tag = [image for image in contents.images if wanted in map(_tag, image.names)]
    if for_tag:
        return for_tag
    there = _listed(_entries(contents.images))
    raise UsageError(f"{contents.place} holds no image {shown(wanted)}; it holds {there}")


def _begun(contents: ArchiveContents, wanted: str) -> Sequence[ArchivedImage]:
    """Return the one image whose id begins so; its beginning alone must tell it from all others."""
    prefix = reference.id_prefix(wanted)
    if prefix is None:
        return ()
    found = [image for image in contents.images if image.id.partition(":")[2].startswith(prefix)]
    ids = short_ids(image.id for image in found)
    if len(ids) > 1:
        raise UsageError(
            f"{contents.place} holds {len(ids)} images whose ids begin with {prefix};"
            f" write more of it: {_listing(ids.values())}"
        )
    return found


def _tag(name: str) -> str:
    return name.rpartition(":")[2]


def _readings(wanted: str) -> Iterator[Callable[[ArchivedImage], bool]]:
    """Yield what the word may mean: a whole id, a name, one without its registry, a position."""
    familiar = reference.familiar(wanted)
    whole = reference.full_id(wanted)
    if whole is not None:
        # First: no name may stand for what can mean one image only.
        yield lambda image: image.id.partition(":")[2] == whole.partition(":")[2]
    yield lambda image: wanted in image.names
    yield lambda image: familiar in map(reference.familiar, image.names)
    yield lambda image: any(name.endswith(f"/{familiar}") for name in image.names)
    if wanted.isdecimal() and len(wanted) <= _POSITION_DIGITS:
        yield lambda image: image.entry == int(wanted)


def _variant(
    contents: ArchiveContents, variants: Sequence[ArchivedImage], platform: str | None
) -> ArchivedImage:
    """Return the one of an entry's images that is for the platform."""
    wanted = platforms.parse(platform) if platform else platforms.of_host()
    ranks = {id(image): wanted.rank(image.platform) for image in variants}
    fitting = [image for image in variants if ranks[id(image)] is not None]
    fitting.sort(key=lambda image: ranks[id(image)] or ())
    held = [image for image in variants if image.held]
    preferred: Sequence[ArchivedImage] = [image for image in fitting if image.held]
    if not preferred and platform is None:
        # Somebody who has only this image wants to see it, wherever it would run.
        preferred = next((only for only in (variants, held) if len(only) == 1), [])
    fitting.sort(key=lambda image: bool(image.problem))
    if not (preferred or fitting):
        raise UsageError(
            f"{contents.place} holds no image for {wanted};"
            f" choose with --platform: {_platforms(held or variants)}"
        )
    chosen = (*preferred, *fitting)[0]
    if chosen.problem:
        also = f"; choose another with --platform: {_platforms(held)}" if held else ""
        named = shown(chosen.platform or "unknown")
        raise CorruptArchive(f"{chosen.problem} (the image for {named}){also}")
    return chosen


def _platforms(images: Iterable[ArchivedImage]) -> str:
    return _listing(dict.fromkeys(shown(image.platform or "unknown") for image in images))


def _listed(entries: Sequence[Sequence[ArchivedImage]]) -> str:
    """Return a line that tells the images apart."""
    items = []
    short = short_ids(variants[0].id for variants in entries)
    for variants in entries:
        image = variants[0]
        names = " ".join(map(shown, image.names[:_LISTED])) or "untagged"
        items.append(f"{image.entry}: {names} ({short[image.id]})")
    return _listing(items)


def _listing(items: Collection[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(islice(items, _LISTED)) + more
