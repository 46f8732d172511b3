"""What a registry wants before it answers: the challenges of WWW-Authenticate (RFC 9110, 11.6.1).

Pure: a header's text in, values out. Any thread may call it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WORD = r"[!#$%&'*+.^_`|~\w-]+"
_NEXT = re.compile(
    rf"[\s,]*(?P<word>{_WORD})"
    r'(?:\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<plain>[^\s,"]*)))?',
    re.ASCII,
)
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """A way to authenticate, its name in small letters, and what is said of it."""

    scheme: str
    parameters: dict[str, str]


def parse(header: str) -> list[Challenge]:
    """Return the challenges of a header, as far as they make sense."""
    found: list[Challenge] = []
    for word, value in _words(header):
        if value is None:
            found.append(Challenge(word.lower(), {}))
        elif found:
            found[-1].parameters.setdefault(word.lower(), value)
    return found


def _words(header: str) -> Iterator[tuple[str, str | None]]:
    """Yield the words of a header, those that are parameters with their values."""
    at = 0
    while match := _NEXT.match(header, at):
        at = match.end()
        quoted = match["quoted"]
        yield match["word"], _ESCAPED.sub(r"\1", quoted) if quoted is not None else match["plain"]


def chosen(header: str) -> Challenge | None:
    """Return the challenge to meet: a token's, else a password's; None where there is neither."""
    ours = [one for one in parse(header) if one.scheme in ("bearer", "basic")]
    return min(ours, key=lambda one: one.scheme != "bearer", default=None)
