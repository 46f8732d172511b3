"""What others say, made safe to use: JSON of the right shape, and the reason within an error.

Pure. Any thread may call it.
"""

from typing import Any

from imagefs.image import safe_json
from imagefs.text import one_line


def error_message(body: bytes) -> str | None:
    """Return the message of an engine's error object, or None if this is none."""
    try:
        error = safe_json.loads(body)
    except safe_json.BadJsonError:
        return None
    message = error.get("message") if isinstance(error, dict) else None
    return one_line(message) if isinstance(message, str) and message.strip() else None


def innermost(error: BaseException) -> str:
    """Return the reason at the bottom of an error that requests and urllib3 have wrapped."""
    while True:
        inner = error.__cause__ or next(
            (arg for arg in getattr(error, "args", ()) if isinstance(arg, BaseException)),
            getattr(error, "reason", None),
        )
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(reason) or type(error).__name__


def string(value: Any) -> str:
    """Return the value if it is a string; TypeError if not."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a string belongs")
    return value


def list_of(value: Any) -> list[Any]:
    """Return the value if it is a list; TypeError if not."""
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} where a list belongs")
    return value


def strings(value: Any) -> tuple[str, ...]:
    """Return the value if it is a list of strings, where null is an empty one; or TypeError."""
    return tuple(string(item) for item in list_of(value if value is not None else []))
