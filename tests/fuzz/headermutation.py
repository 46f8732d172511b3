"""Tars whose headers are changed by field: what readers of tars are likely to read differently."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.headers import END, GNU, USTAR, V7, content, header, long_name, record

_NAMES = (b"a", b"b/c", b"d/", b"./e", b"/f", b"../g", b"h//i", b"", b".", b"n" * 100, b"j\0k")
_LONG = (b"l" * 120, b"m/" * 70 + b"n", b"o/", b"", b"p", b"q\0r", b"s" * 300 + b"/t")
_TYPES = (b"0", b"0", b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S")
_ODD_TYPES = (b"Z", b"A", b"8", b"9", b" ", b"X", b"g", b"x", b"\xff")
_NUMBERS: tuple[int | bytes, ...] = (
    *(0, 1, 5, 511, 512, 513, 1024, 1 << 21, -1),
    *(b"", b" ", b"7", b" 7 ", b"0000007", b"00000000007\0", b"-7", b"8", b"+7", b"7 7", b"7\x007"),
    *(b"\x80" + bytes(6) + b"\x05", b"\x80" + bytes(10) + b"\x05", b"\xff" * 12, b"\xff" * 8),
    *(b"\x80" + b"\xff" * 11, b"\x81" + bytes(10) + b"\x07", b"0x7", b"777777777777"),
)
_MAGICS = (USTAR, USTAR, GNU, GNU, V7, b"ustar\0\0\0", b"ustar  \1", b"ustar\0  ", b"USTAR\x0000")
_TAILS = (
    *(b"", b"", b"", b"pre", b"pre/fix", b"00000000001\0", b"00000000001\x0000000000002\0"),
    *(b"pre".ljust(163, b"\0") + b"tar\0", b"x" * 155, b"12345670123\0pre", b"\xffpre", b"\x80pre"),
    *(b"\0garbage", b"0000000000-\0", b"7" * 155),
)
_PAX: tuple[tuple[bytes, Sequence[bytes]], ...] = (
    (b"path", (b"P", b"P/", b"", b"P" * 200, b"P\0Q", b"../P", b"./P/../Q")),
    (b"linkpath", (b"T", b"", b"T" * 200, b"T\0U")),
    (b"size", (b"0", b"1", b"5", b"512", b"", b"-1", b"x", b"007", b"+5", b" 5", b"9" * 30)),
    (
        b"mtime",
        (b"1.5", b"-1.5", b"1.", b".5", b"1.5x", b"1.0000000005", b"1.123456789x", b"", b"-"),
    ),
    (
        b"mtime",
        (b"-0.5", b"1e3", b"99999999999", b"1.5.5", b"1.0000000000x", b"+1", b"-1.000000000"),
    ),
    (b"uid", (b"7", b"", b"-1", b"x", b"4294967296")),
    (b"gid", (b"7", b"", b"x")),
    (b"GNU.sparse.major", (b"0", b"1", b"2", b"")),
    (b"GNU.sparse.minor", (b"0", b"1", b"")),
    (b"GNU.sparse.name", (b"S", b"", b"S/")),
    (b"GNU.sparse.size", (b"0", b"5", b"512", b"600", b"x")),
    (b"GNU.sparse.realsize", (b"0", b"5", b"512", b"600")),
    (b"GNU.sparse.map", (b"0,5", b"", b"1,2,3,4", b"0,1,1", b"5,0", b"x,y")),
    (b"GNU.sparse.offset", (b"0", b"1")),
    (b"GNU.sparse.numbytes", (b"5", b"1")),
    (b"SCHILY.xattr.user.k", (b"v", b"\0")),
    (b"comment", (b"c", b"", b"=", b"\n")),
    (b"hdrcharset", (b"BINARY",)),
)
_RAW = (
    *(
        b"",
        b"\0" * 20,
        b"5 a\n",
        b"6 a=\n",
        b"7 a=b\n",
        b"8 a=b\n",
        b"x",
        b"99 a=b\n",
        b"7 a=b\n\0\0",
    ),
    *(b"07 a=b\n", b"+7 a=b\n", b" 7 a=b\n", b"5 =b\n", b"7 a=b", b"13 path=PPPP\n6 a=\n", b"0 \n"),
)


def tars(chance: random.Random) -> Iterator[bytes]:
    """Yield tars for ever; those of one seed are always the same."""
    while True:
        tar = b"".join(_member(chance) for _ in range(chance.randrange(1, 4)))
        tar += header(b"last", size=4) + content(b"last")
        yield tar + (END if chance.random() < 0.95 else bytes(chance.choice((0, 512, 513))))


def _member(chance: random.Random) -> bytes:
    """Return a member, of which a few fields are odd, behind some extended headers."""
    before = b"".join(_extended(chance) for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 3))))
    data = b"data" * chance.choice((0, 1, 1, 1, 200))
    typeflag = chance.choice(_TYPES if chance.random() < 0.93 else _ODD_TYPES)
    fields: dict[str, Any] = {"size": len(data), "magic": chance.choice((USTAR, GNU, V7))}
    if typeflag in (b"1", b"2"):
        fields["linkname"] = chance.choice(_NAMES)
    for field in chance.choices(tuple(_FIELDS), k=chance.choice((0, 0, 0, 1, 1, 2))):
        fields[field] = chance.choice(_FIELDS[field])
    if "device" in fields:
        fields["device"] = (fields["device"], chance.choice(_NUMBERS))
    name = chance.choice(_NAMES)
    block = header(name.ljust(100, b"\0")[:100], typeflag, **_fitting(fields))
    if chance.random() < 0.03:
        block = _flipped(block, chance)
    stored = data if chance.random() < 0.8 and typeflag not in (b"1", b"2", b"5") else b""
    return before + block + content(stored)


_FIELDS: dict[str, Sequence[Any]] = {
    "size": (0, 0, 1, 4, 4, b"", b" 4 ", b"4\0", b"\x80" + bytes(10) + b"\4", b"-4", b"x", 512),
    "mode": _NUMBERS,
    "uid": _NUMBERS,
    "gid": _NUMBERS,
    "mtime": _NUMBERS,
    "chksum": (0, b"", b"x", None, None),
    "linkname": _NAMES,
    "magic": _MAGICS,
    "device": _NUMBERS,
    "tail": _TAILS,
}


def _fitting(fields: dict[str, Any]) -> dict[str, Any]:
    if isinstance(fields.get("linkname"), bytes):
        fields["linkname"] = fields["linkname"][:100]
    return fields


def _flipped(block: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(block))
    return block[:at] + bytes([block[at] ^ 1 << chance.randrange(8)]) + block[at + 1 :]


def _extended(chance: random.Random) -> bytes:
    """Return an extended header of any kind."""
    kind = chance.choice(
        (b"x", b"x", b"x", b"L", b"K", b"g", b"X" if chance.random() < 0.1 else b"x")
    )
    if kind in (b"L", b"K"):
        return long_name(chance.choice(_LONG), kind)
    data = b""
    for key, values in chance.choices(_PAX, k=chance.choice((1, 1, 2, 4))):
        # The first of them are ordinary: most tars are to be read by somebody.
        data += record(key, chance.choice(values[:2] if chance.random() < 0.7 else values))
    if chance.random() < 0.1:
        data += chance.choice(_RAW)
    magic = chance.choice((USTAR, USTAR, GNU, V7))
    return header(b"pax", kind, size=len(data), magic=magic) + content(data)
