"""JSON of strangers to values, in bounded memory: bytes in, a value out, or one kind of error.

Owns what may be believed of such JSON: how many values it holds, how deep they lie in each other,
that its text is Unicode. What a value must look like is its reader's business. Pure; any thread
may call it.
"""

import json
import re
from typing import Any

MAX_VALUES = 500_000
"""Most values that are read at once. Each may take some 250 bytes; an index of a thousand images
has some 20,000."""
MAX_DEPTH = 100
"""How deep arrays and objects may lie in each other. Those of images go down to 6 or so, and
Python's own bound depends on who calls."""

# A string that does not end goes to the end, so that no byte is looked at twice.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},:]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class BadJsonError(ValueError):
    """Bytes that are no JSON, or more of it than is read; the message is one line."""


class TooMuchJsonError(BadJsonError):
    """JSON that may be right, but is more than is read."""


def loads(data: bytes) -> Any:
    """Return what JSON says; half a surrogate pair becomes U+FFFD, as Go has it, and integers are
    what `integer` makes of them. Raises BadJsonError.
    """
    _check(data)
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_int=integer)
    except (ValueError, RecursionError) as error:
        raise BadJsonError(str(error)) from error
    return _unicode(value) if _ESCAPED_SURROGATE.search(data) else value


def integer(digits: str) -> int | float:
    """Return an integer, or an infinity for one of more digits than Python converts.

    Go passes over such a number in a field that nobody reads, so it is no error by itself; who
    wants an integer finds that it is none.
    """
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _check(data: bytes) -> None:
    """Raise BadJsonError for too many values, or too deep ones, before memory is spent on them."""
    # Each value but the first stands behind one of these.
    if sum(map(data.count, (b",", b"[", b"{", b":"))) <= MAX_DEPTH:
        return
    depth = values = 0
    for token in _TOKEN.finditer(data):
        match token[0][:1]:
            case b"[" | b"{":
                depth += 1
                values += 1
            case b"]" | b"}":
                depth -= 1
            case b"," | b":":
                values += 1
        if depth > MAX_DEPTH:
            raise TooMuchJsonError(f"its values lie more than {MAX_DEPTH} deep in each other")
        if values > MAX_VALUES:
            raise TooMuchJsonError(f"it holds more than {MAX_VALUES} values")


def _unicode(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_unicode(item) for item in value]
    if isinstance(value, dict):
        return {_unicode(key): _unicode(item) for key, item in value.items()}
    return value
