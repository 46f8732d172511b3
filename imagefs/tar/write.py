"""Members as the bytes of a tar: POSIX's pax format, the same bytes for the same members.

A header is plain ustar where that can say all, so that any reader will do; what it cannot say,
extended records before it do. Sparse files are written as GNU tar's pax format 1.0 has them.
Pure; what is written is the caller's.
"""

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imagefs.tar import header as tar_header
from imagefs.tar.header import BLOCK

END = bytes(2 * BLOCK)
"""What ends an archive."""
TYPES = {
    stat.S_IFREG: tar_header.REGTYPE,
    stat.S_IFDIR: tar_header.DIRTYPE,
    stat.S_IFLNK: tar_header.SYMTYPE,
    stat.S_IFCHR: tar_header.CHRTYPE,
    stat.S_IFBLK: tar_header.BLKTYPE,
    stat.S_IFIFO: tar_header.FIFOTYPE,
}
"""By the type in a mode (stat(2)): the typeflag of such a member; sockets have none."""

_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_NAME, _PREFIX = 100, 155
_NANO = 10**9


@dataclass(frozen=True, slots=True)
class Member:
    """What a header says; names are without a slash before them, a directory's ends in one.

    `size` counts the bytes that a file has when it is extracted. With `runs`, offset and length of
    a sparse file's data, ascending, the tar holds those alone.
    """

    name: bytes
    type: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    mtimensec: int = 0
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    runs: Sequence[tuple[int, int]] | None = None


def head(member: Member) -> bytes:
    """Return all that comes before a member's content: headers, and a sparse file's map."""
    records: dict[bytes, bytes] = {}
    sparse_map = b"" if member.runs is None else _map(member.runs, member.size)
    stored = member.size
    if member.runs is not None:
        stored = len(sparse_map) + sum(length for _, length in member.runs)
        records |= {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": member.name,
            b"GNU.sparse.realsize": b"%d" % member.size,
        }
    name, prefix = _split(member.name)
    if name is None or not member.name.isascii():
        name, prefix = _inside(b"GNUSparseFile.0" if sparse_map else b"PaxPath", member.name), b""
        records.setdefault(b"GNU.sparse.name" if sparse_map else b"path", member.name)
    elif sparse_map:
        name, prefix = _inside(b"GNUSparseFile.0", member.name), b""
    target = member.target
    if len(target) > _NAME or not target.isascii():
        records[b"linkpath"], target = target, target[:_NAME]
    uid, gid = _number(records, b"uid", member.uid), _number(records, b"gid", member.gid)
    if stored > _MAX_SIZE:
        records[b"size"] = b"%d" % stored
    if member.mtimensec or not 0 <= member.mtime <= _MAX_SIZE:
        records[b"mtime"] = _decimal(member.mtime * _NANO + member.mtimensec)
    for key, value in sorted(member.xattrs.items()):
        # As GNU tar and libarchive write these two: "=" ends a keyword.
        keyword = key.replace(b"%", b"%25").replace(b"=", b"%3D")
        records[tar_header.PAX_XATTR_SCHILY + keyword] = value
    extended = b""
    if records:
        body = _extended(records)
        described = _inside(b"PaxHeaders.0", member.name)
        extended = _ustar(described, b"", tar_header.XHDTYPE, (0o644, 0, 0, len(body), 0), b"")
        extended += padded(body)
    numbers = (
        member.mode,
        uid,
        gid,
        min(stored, _MAX_SIZE),
        min(max(member.mtime, 0), _MAX_SIZE),
    )
    plain = _ustar(name, prefix, member.type, numbers, target, member.device)
    return extended + plain + sparse_map


def padded(content: bytes) -> bytes:
    """Return bytes with zeros behind them, up to a whole block."""
    return content + bytes(padding(len(content)))


def padding(length: int) -> int:
    """Return how many zeros follow so many bytes of content."""
    return -length % BLOCK


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """Return a name as ustar's two fields; None where they cannot hold it."""
    if len(name) <= _NAME:
        return name, b""
    # The slash between the two is nobody's; the last field must not be empty.
    at = name.find(b"/", max(0, len(name) - _NAME - 1), len(name) - 1)
    if 0 < at <= _PREFIX:
        return name[at + 1 :], name[:at]
    return None, b""


def _inside(folder: bytes, name: bytes) -> bytes:
    """Return a name for readers that know no extended records, which cannot have the real one."""
    base = name.rstrip(b"/").rpartition(b"/")[2]
    shown = bytes(letter if 0x20 < letter < 0x7F else 0x5F for letter in base)
    return (folder + b"/" + shown)[:_NAME]


def _number(records: dict[bytes, bytes], key: bytes, value: int) -> int:
    if value <= _MAX_ID:
        return value
    records[key] = b"%d" % value
    return 0


def _decimal(nanoseconds: int) -> bytes:
    """Return a time in seconds, with as many digits as it takes."""
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), _NANO)
    digits = b"%d.%09d" % (seconds, rest)
    return sign + digits.rstrip(b"0").rstrip(b".")


def _extended(records: Mapping[bytes, bytes]) -> bytes:
    """Return extended records; they say so first where a name in them is no UTF-8."""
    body = b""
    if not all(map(_is_text, (value for key, value in records.items() if key in _NAMES))):
        body = _record(b"hdrcharset", b"BINARY")
    return body + b"".join(_record(key, value) for key, value in records.items())


_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    """Return a record; its length counts the digits of the length too."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _map(runs: Sequence[tuple[int, int]], size: int) -> bytes:
    """Return a sparse file's map; one that ends in a hole has an empty run at its end."""
    told = list(runs)
    if not told or sum(told[-1]) < size:
        told.append((size, 0))
    return padded(b"%d\n" % len(told) + b"".join(b"%d\n%d\n" % run for run in told))


def _ustar(
    name: bytes,
    prefix: bytes,
    kind: bytes,
    numbers: tuple[int, int, int, int, int],
    target: bytes,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    mode, uid, gid, size, mtime = numbers
    fields = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%bustar\00000%b%07o\0%07o\0%b" % (
        name.ljust(_NAME, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
        kind,
        target.ljust(_NAME, b"\0"),
        bytes(64),  # the owner's names, which the image does not tell
        *device,
        prefix.ljust(_PREFIX, b"\0"),
    )
    block = fields.ljust(BLOCK, b"\0")
    checksum = b"%06o\0 " % sum(block)
    return block[: tar_header.CHKSUM.start] + checksum + block[tar_header.CHKSUM.stop :]
