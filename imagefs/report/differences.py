"""What differs between two images, gathered for a page: their layers and their configurations."""

from dataclasses import dataclass
from itertools import chain

from imagefs.image.model import Image
from imagefs.report.facts import facts


@dataclass(frozen=True, slots=True)
class Differences:
    """How a new image differs from an old one.

    `shared` layers are the same from the bottom on. `facts` are names of the configuration with
    what each image says, None for nothing.
    """

    shared: int
    facts: list[tuple[str, str | None, str | None]]


def differences(old: Image, new: Image) -> Differences:
    """Return how one image differs from another."""
    return Differences(_shared(old, new), _facts(old, new))


def _shared(old: Image, new: Image) -> int:
    count = 0
    for one, other in zip(old.layers, new.layers, strict=False):
        if one.diff_id != other.diff_id:
            break
        count += 1
    return count


def _facts(old: Image, new: Image) -> list[tuple[str, str | None, str | None]]:
    """Return what the two configurations say otherwise, in the order of the page."""
    sides = []
    for image in (old, new):
        said = facts(image.config)
        sides.append(
            {
                **dict(said.plain),
                **{f"{name} (environment)": value for name, value in said.environment},
                **{f"{name} (label)": value for name, value in said.labels},
            }
        )
    before, after = sides
    return [
        (name, before.get(name), after.get(name))
        for name in dict.fromkeys(chain(before, after))
        if before.get(name) != after.get(name)
    ]
