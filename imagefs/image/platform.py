"""Platforms, `os/architecture[/variant]`: what people write, what images say, what fits what.

Owns the one way in which the parts are joined, and the one in which a wanted platform is compared
with an image's, for archives and engines alike. It goes by what a processor runs: of a family of
variants each runs the older ones, and the best that fits comes first. What runs on a processor
only in another mode (386 on amd64, arm on arm64) is another platform: who looks at an image wants
the one that was asked for. Pure; any thread may call it.
"""

import platform as host
import re
from dataclasses import dataclass

from imagefs.errors import UsageError

_PART = re.compile(r"[\w.-]+", re.ASCII)
_NUMBERED = re.compile(r"v?([0-9]{1,3})(?:\.([0-9]{1,3}))?", re.ASCII)
_SYSTEMS = frozenset({"darwin", "freebsd", "linux", "netbsd", "openbsd", "solaris", "windows"})
_ARCHITECTURES = {
    "aarch64": ("arm64", ""),
    "armel": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "armv5l": ("arm", "v5"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
    "x86-64": ("amd64", ""),
    "x86_64": ("amd64", ""),
}
"""What others call an architecture, uname(2) among them, in Go's words."""
_FAMILIES = {"amd64": (1, 0), "arm": (7, 0), "arm64": (8, 0)}
"""Architectures whose numbered variants run all lower ones, and which one is meant by none."""

Rank = tuple[int, int, int]
"""How well an image's platform fits: the lowest is the best."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform in Go's words; `variant` is "" where it is not said."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return joined(self.os, self.architecture, self.variant)

    def rank(self, image: str) -> Rank | None:
        """Return how well an image of that platform fits where this one is wanted; None: not."""
        other = _read(image.split("/"))
        if (self.os, self.architecture) != (other.os, other.architecture):
            return None
        if self.variant == other.variant:
            return 0, 0, 0
        unsaid = not (self.variant and other.variant)
        usual = _FAMILIES.get(self.architecture)
        wanted, has = (_number(one.variant) if one.variant else usual for one in (self, other))
        if usual is None or wanted is None or has is None:
            return (3, 0, 0) if unsaid else None
        if has <= wanted:
            return 1, wanted[0] - has[0], wanted[1] - has[1]
        # Too new for what is usual; but who named no variant, or is told none, may look at it.
        return (2, has[0], has[1]) if unsaid else None


def parse(text: str) -> Platform:
    """Return the platform that somebody asks for: OS/ARCHITECTURE[/VARIANT], or one of the two.

    Raises UsageError for what is none.
    """
    parts = text.strip().split("/")
    if len(parts) > 3 or not all(map(_PART.fullmatch, parts)):
        raise UsageError(
            f"{text!r} is no platform; write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT"
        )
    if len(parts) == 1 and parts[0].lower() in _SYSTEMS:
        own = of_host()
        return Platform(parts[0].lower(), own.architecture, own.variant)
    return _read(parts)


def of_host() -> Platform:
    """Return the platform whose images this host runs: Linux, on its own architecture."""
    return _read(["linux", host.machine()])


def joined(*parts: object) -> str:
    """Return a platform as text, of parts that some JSON gives: what is no text is not said."""
    return "/".join(part for part in parts if isinstance(part, str) and part)


def _read(parts: list[str]) -> Platform:
    """Return a platform from its parts, in Go's words; a single one is Linux's architecture."""
    system, architecture, *rest = [part.lower() for part in (parts if parts[1:] else ["", *parts])]
    architecture, variant = _ARCHITECTURES.get(architecture, (architecture, ""))
    if rest:
        variant = "/".join(rest)
    if number := _number(variant):
        variant = f"v{number[0]}" + (f".{number[1]}" if number[1] else "")
    return Platform(system or "linux", architecture, variant)


def _number(variant: str) -> tuple[int, int] | None:
    match = _NUMBERED.fullmatch(variant)
    return (int(match[1]), int(match[2] or 0)) if match else None
