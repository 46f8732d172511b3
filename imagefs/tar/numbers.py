"""Numbers as tar headers and pax records write them. Pure; ValueError for what is no number."""

from imagefs.tar.header import BLOCK


def number(field: bytes) -> int:
    """Return the value of a numeric header field: octal digits, or base-256 (GNU, star).

    A field of blanks and NULs is 0. Raises ValueError for anything else.
    """
    first = field[0]
    if first >= 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        return value - (1 << 8 * len(field) - 1) if first & 0x40 else value
    digits = field.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    negative = digits.startswith(b"-")
    body = digits[1:] if negative else digits
    if not body:
        return 0
    if body.strip(b"01234567"):
        raise ValueError(f"{field!r} is not a number")
    value = int(body, 8)
    return -value if negative else value


def decimal(digits: bytes) -> int:
    """Return the value of a non-negative decimal number below 2**63."""
    if not digits.isdigit() or len(digits) > 19:
        raise ValueError(f"{digits[:30]!r} is not a number")
    value = int(digits)
    if value >> 63:
        raise ValueError(f"{value} is too large a number")
    return value


def padded(size: int) -> int:
    """Return how many bytes a content of that size takes in a tar, which has whole blocks only."""
    return size + BLOCK - 1 & -BLOCK
