"""JSON of strangers to values, in bounded memory: bytes in, a value out, or one kind of error.

Owns what may be believed of such JSON: how many values it holds, how deep they lie in each other,
that its text is Unicode. What a value must look like is its reader's business. Pure; any thread
may call it.
"""

import json
import re
import sys
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
    """Return what JSON says; half a surrogate pair becomes U+FFFD, as Go has it.

    Raises BadJsonError.
    """
    _check(data)
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadJsonError(str(error)) from error
    except ValueError as error:
        # Python's own bound on integers, which it explains to programmers.
        most = sys.get_int_max_str_digits()
        raise BadJsonError(f"it holds a number of more than {most} digits") from error
    return _unicode(value) if _ESCAPED_SURROGATE.search(data) else value


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
