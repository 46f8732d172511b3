"""Tars written block by block, for what no tar program would write.

    header(b"f", size=5) + content(b"hello") + END

A number that is given as bytes goes into its field as it is.
"""

from collections.abc import Iterable

from imagefs.tar.header import BLOCK

END = bytes(2 * BLOCK)
"""The end-of-archive marker."""

USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)


def field(value: int | bytes, width: int) -> bytes:
    """Return a number as octal digits, or in base 256 where they do not fit."""
    if isinstance(value, bytes):
        return value.ljust(width, b"\0")[:width]
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    first = b"\x80" if value >= 0 else b"\xff"
    return first + value.to_bytes(width - 1, "big", signed=value < 0)


def header(
    name: bytes = b"f",
    typeflag: bytes = b"0",
    *,
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 0,
    chksum: int | bytes | None = None,
    linkname: bytes = b"",
    magic: bytes = USTAR,
    device: tuple[int | bytes, int | bytes] = (0, 0),
    tail: bytes = b"",
) -> bytes:
    """Return a header block; `tail` are its bytes from 345 on. The checksum is right by default."""
    block = b"".join(
        (
            name.ljust(100, b"\0"),
            field(mode, 8),
            field(uid, 8),
            field(gid, 8),
            field(size, 12),
            field(mtime, 12),
            b" " * 8,
            typeflag,
            linkname.ljust(100, b"\0"),
            magic,
            bytes(64),
            field(device[0], 8),
            field(device[1], 8),
            tail.ljust(167, b"\0"),
        )
    )
    assert len(block) == BLOCK
    if chksum is None:
        chksum = b"%06o\0 " % sum(block)
    return block[:148] + field(chksum, 8) + block[156:]


def content(data: bytes) -> bytes:
    """Return a member's data, padded to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def file(name: bytes, data: bytes = b"") -> bytes:
    """Return a whole regular member."""
    return header(name, size=len(data)) + content(data)


def record(key: bytes, value: bytes) -> bytes:
    """Return one pax record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def pax(records: Iterable[tuple[bytes, bytes]], typeflag: bytes = b"x") -> bytes:
    """Return an extended header of these records."""
    data = b"".join(record(key, value) for key, value in records)
    return header(b"pax", typeflag, size=len(data)) + content(data)


def long_name(name: bytes, typeflag: bytes = b"L") -> bytes:
    """Return a GNU long name, or with `K` a long link target."""
    data = name + b"\0"
    return header(b"././@LongLink", typeflag, size=len(data), magic=GNU) + content(data)
