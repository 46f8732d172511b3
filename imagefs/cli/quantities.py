"""Sizes, times and owners as people write them: types of options, as click takes them."""

import re
from collections.abc import Callable

from imagefs.errors import UsageError

_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,18})?|\.[0-9]{1,18})"
_POWERS = ("", "k", "m", "g", "t", "p", "e")
_SIZE = rf"{_NUMBER}\s*(?:([kmgtpe]?)(?:b|bytes?)?|([kmgtpe])ib?)"
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNIT = "(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)"
_TIME_PART = rf"{_NUMBER}\s*{_UNIT}\s*"


def size(text: str) -> int:
    """Return the bytes that a size means: 500M, 1.5 GB, 20GiB. Raises UsageError."""
    from decimal import Decimal  # noqa: PLC0415 - 5 ms, for those who write a size

    match = re.fullmatch(_SIZE, text.strip().lower())
    if match is None:
        raise UsageError(
            f"{text!r} is no size; write a number with K, M, G or T, which count by 1000,"
            " or with KiB, MiB, GiB or TiB, which count by 1024"
        )
    number, by_1000, by_1024 = match.groups()
    unit = 1024 ** _POWERS.index(by_1024) if by_1024 else 1000 ** _POWERS.index(by_1000)
    return int(Decimal(number) * unit)


def seconds(text: str) -> float:
    """Return the seconds that a time means: 90s, 36 hours, 1h30m, 2w. Raises UsageError."""
    from decimal import Decimal  # noqa: PLC0415

    words = text.strip().lower()
    if not re.fullmatch(f"(?:{_TIME_PART})+", words):
        raise UsageError(f"{text!r} is no time; write a number with s, m, h, d or w")
    return float(
        sum(Decimal(number) * _TIMES[unit[0]] for number, unit in re.findall(_TIME_PART, words))
    )


def owner(mine: Callable[[], int]) -> Callable[[str], int]:
    """Return a type of option: a user's or group's number, or the word for what `mine` returns."""

    def number(text: str) -> int:
        if text == "mine":
            return mine()
        # The last one is chown(2)'s word for none.
        if re.fullmatch("[0-9]{1,10}", text) and int(text) < 2**32 - 1:
            return int(text)
        raise UsageError(f"{text!r} is no uid or gid; write a number, or `mine`")

    return number
