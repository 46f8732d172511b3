"""Why a name of a layer does not show in the root: the means there are, and who used which."""

from enum import StrEnum
from typing import NamedTuple


class Cause(StrEnum):
    """Why a name does not show; the nearest to the name first."""

    MARKER = "marker"
    """It is a whiteout itself, or lies in a directory of an old storage driver's."""
    OVERWRITTEN = "overwritten"
    """A later layer has something else of the same name."""
    COPIED = "copied"
    """The same, and that is a file of the same content: its metadata alone may have changed."""
    DELETED = "deleted"
    """A later layer has a whiteout for it."""
    OPAQUE = "opaque"
    """A later layer has an opaque marker in a directory above it."""
    BELOW = "below"
    """A later layer deletes or replaces a directory above it."""


WORDS = {
    Cause.MARKER: "a marker itself",
    Cause.OVERWRITTEN: "overwritten",
    Cause.COPIED: "copied again unchanged",
    Cause.DELETED: "deleted",
    Cause.OPAQUE: "opaque directory",
    Cause.BELOW: "directory gone",
}
"""The causes for people."""
RANK = {cause: number for number, cause in enumerate(Cause)}


class Event(NamedTuple):
    """What hides names: the position of the layer, the means, and the directory that it is about.

    The path is None where each name is hidden by itself.
    """

    layer: int
    cause: Cause
    path: bytes | None = None
