"""What comes back from a registry: bodies, however they end, and what it says of an error.

Owns the bounds of small answers. Knows nothing of what was asked. An answer belongs to one thread.
"""

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
import urllib3

from imagefs.errors import RegistryError, RegistryUnreachable
from imagefs.image import safe_json
from imagefs.image.json_shape import innermost
from imagefs.text import one_line

SMALL_TIMEOUT = 60.0
"""Seconds within which a small answer must be there, however it drips."""
_CHUNK = 64 << 10
_MAX_SAID = 64 << 10


class BrokenOff(RegistryUnreachable):
    """An answer ended before its end."""


class Chunks:
    """Reads an answer's body as it comes; BrokenOff says that the connection was lost."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def __call__(self, size: int) -> bytes:
        """Return what is there, at most so much; nothing at the end."""
        try:
            return self._response.raw.read1(size, decode_content=False) or b""
        except (OSError, urllib3.exceptions.HTTPError, ValueError, AttributeError) as error:
            raise BrokenOff(
                f"{host(self._response)} stopped in the middle: {innermost(error)}"
            ) from error


def small(response: requests.Response, limit: int, what: str) -> bytes:
    """Return the body of a small answer.

    RegistryError if it is not small, RegistryUnreachable if it does not come, BrokenOff if it ends.
    """
    late = time.monotonic() + SMALL_TIMEOUT
    body = bytearray()
    read = Chunks(response)
    while piece := read(_CHUNK):
        body += piece
        if len(body) > limit:
            raise RegistryError(f"{what} has more than {limit} bytes, which are not read")
        if time.monotonic() > late:
            raise RegistryUnreachable(f"{what} did not come within {SMALL_TIMEOUT:g} s")
    promised = length(response)
    if promised is not None and len(body) < promised:
        raise BrokenOff(f"{host(response)} stopped in the middle of {what}")
    return bytes(body)


def length(response: requests.Response) -> int | None:
    """Return how many bytes an answer promises; None where it does not."""
    said = response.headers.get("Content-Length", "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 20 else None


def host(response: requests.Response) -> str:
    """Return who has answered."""
    return urlsplit(response.url or "").netloc


def shown(url: str) -> str:
    """Return an address for messages, without what may be a secret in it."""
    scheme, mark, rest = url.partition("://")
    place = (rest if mark else scheme).partition("?")[0].partition("#")[0]
    authority, slash, path = place.partition("/")
    return one_line(f"{scheme if mark else ''}{mark}{authority.rpartition('@')[2]}{slash}{path}")


def retry_after(response: requests.Response) -> float:
    """Return the seconds that Retry-After asks for, by a number or a date (RFC 9110, 10.2.3)."""
    said = response.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdecimal():
        return float(said[:9])
    try:
        when = parsedate_to_datetime(said)
    except (ValueError, TypeError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def reason(response: requests.Response, what: str) -> str:
    """Return what an answer that is an error says (distribution-spec, "Error codes")."""
    try:
        errors = safe_json.loads(small(response, _MAX_SAID, what))["errors"]
        said = [str(one.get("message") or one.get("code") or "") for one in errors[:3]]
    except (RegistryError, safe_json.BadJsonError, KeyError, TypeError, AttributeError):
        said = []
    spoken = one_line("; ".join(filter(None, said)))
    return spoken or one_line(str(response.reason or "")) or "no reason given"
