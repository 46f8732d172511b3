"""Tar headers to members: the bytes of a tar in, values out.

Owns the header parser for v7, ustar, GNU and pax tars. It reads through a function of its caller's
and only what it needs: headers, extended headers and sparse maps, never a file's content but for
what happens to lie in the same window. It keeps no state between calls and knows nothing of
layers, whiteouts or paths on this host; names are passed on as written. Any thread may call it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import adler32

from imagefs import pax, tarfmt
from imagefs.errors import CorruptArchive
from imagefs.tarfmt import BLOCK

ReadAt = Callable[[int, int], bytes]
"""`read_at(length, offset)` returns `length` bytes of the tar, fewer only at its end."""

WINDOW = 8192
"""Bytes per read. Headers of small files share a window; more would copy content for nothing."""
MAX_EXTENDED_HEADER = 1 << 20
"""Longest extended header or GNU long name that is read, in bytes (as in Go's archive/tar)."""
_MEMO_LIMIT = 50_000
_ADLER_MODULUS = 65521
_ZERO_BLOCK = bytes(BLOCK)


class Member(NamedTuple):
    """One member of a tar: its header, with all extended headers applied.

    `name` and `linkname` are as written; `mode` is the permission bits (0 to 0o7777) and
    `typeflag` one of `tarfmt`'s, where regular files of every kind have REGTYPE. `size` is the
    file's, in bytes; `stored` the bytes that the tar holds from `offset` on, which differ if the
    file is sparse: `sparse` then lists the (offset, length) runs of data, ascending, and the rest
    is holes. `mtime` may be negative; 0 <= mtimensec < 10**9. `rdev` is as makedev(3) packs it.
    """

    name: bytes
    typeflag: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    mtimensec: int
    linkname: bytes
    rdev: int
    offset: int
    stored: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    sparse: tuple[tuple[int, int], ...] | None


def scan(read_at: ReadAt, start: int, end: int) -> Iterator[Member]:
    """Yield the members of the tar that lies in the bytes from `start` to `end`, in order.

    Reading stops at the end-of-archive marker (a block of zeros), or at `end` where there is
    none. Raises CorruptArchive on a wrong checksum, a field that is no number, a member that
    goes past `end`, and names longer than PATH_MAX.
    """
    position = start
    base = start
    window = b""
    numbers: dict[bytes, int] = {}
    checksums: dict[bytes, int] = {}
    ids: dict[bytes, tuple[int, int, int]] = {}
    overrides = pax.Overrides()
    new = tuple.__new__
    while position < end:
        at = position - base
        if at + BLOCK > len(window):
            window = read_at(min(WINDOW, end - position), position)
            base, at = position, 0
            if len(window) < BLOCK:
                if not window.strip(b"\0"):
                    break
                raise CorruptArchive(f"truncated tar: it ends inside a header, at byte {position}")
        header = window[at : at + BLOCK]
        # adler32's low half is 1 plus the sum of the bytes, modulo 65521: the checksum at the
        # speed of C. What a checksum field should make of it is remembered by the field.
        field = header[tarfmt.CHKSUM]
        expected = checksums.get(field)
        if expected is None or adler32(header) & 0xFFFF != expected:
            if header == _ZERO_BLOCK:
                break
            expected = _check(header, field, position)
            if len(checksums) < _MEMO_LIMIT:
                checksums[field] = expected
        # Modes, owners, times and many sizes repeat: parse each distinct field once.
        field = header[tarfmt.MODE_UID_GID]
        owner = ids.get(field)
        if owner is None:
            owner = _owner(field, position)
            if len(ids) < _MEMO_LIMIT:
                ids[field] = owner
        field = header[tarfmt.SIZE]
        size = numbers.get(field)
        if size is None:
            size = numbers[field] = _size(field, position)
        field = header[tarfmt.MTIME]
        mtime = numbers.get(field)
        if mtime is None:
            mtime = numbers[field] = number(field, position)
        if len(numbers) > _MEMO_LIMIT:
            numbers.clear()
        typeflag = header[tarfmt.TYPEFLAG]
        data = position + BLOCK
        name = header[tarfmt.NAME].partition(b"\0")[0]
        if header[345] and header[tarfmt.MAGIC_VERSION].startswith(tarfmt.USTAR_MAGIC):
            name = _prefixed(header, name)

        if typeflag in _COMMON and overrides.empty:
            # The path that nearly all members take; the branch below is the same, in full.
            if typeflag == b"0":
                stored = size
            else:
                stored = size = 0
            linkname = b"" if not header[157] else header[tarfmt.LINKNAME].partition(b"\0")[0]
            mode, uid, gid = owner
            position = data + (stored + 511 & -BLOCK)
            if data + stored > end:
                raise _past_end(name, data, stored, end)
            yield new(
                Member,
                (
                    name,
                    typeflag,
                    mode,
                    uid,
                    gid,
                    size,
                    mtime,
                    0,
                    linkname,
                    0,
                    data,
                    stored,
                    (),
                    None,
                ),
            )
            continue

        if typeflag in pax.EXTENSIONS:
            if data + size > end:
                raise _past_end(name, data, size, end)
            overrides.add(typeflag, _special(read_at, data, size), position)
            position = data + (size + 511 & -BLOCK)
            continue
        member, position = _assemble(read_at, header, position, overrides, end)
        overrides.reset()
        if member is not None:
            yield member
    if overrides.pending:
        raise CorruptArchive("truncated tar: it ends behind an extended header")


_COMMON = frozenset({b"0", b"5", b"2", b"1"})


def number(field: bytes, position: int) -> int:
    """Return the value of a numeric header field: octal digits, or base-256 (GNU, star).

    A field of blanks and NULs is 0. Raises CorruptArchive naming `position` for anything else.
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
        raise CorruptArchive(f"no tar header at byte {position}: {field!r} is not a number")
    value = int(body, 8)
    return -value if negative else value


def _check(header: bytes, field: bytes, position: int) -> int:
    """Verify a header's checksum the long way; return what adler32's low half must be with it."""
    stored = number(field, position)
    blanked = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(blanked)
    # Some old tars summed their bytes as signed (GNU tar manual, "Checksumming Problems").
    if stored not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in blanked)):
        raise CorruptArchive(
            f"bad tar header checksum at byte {position}: expected {stored:o}, found {unsigned:o}"
        )
    return (1 + stored - 256 + sum(field)) % _ADLER_MODULUS


def _owner(field: bytes, position: int) -> tuple[int, int, int]:
    mode = number(field[0:8], position) & 0o7777
    return (
        mode,
        number(field[8:16], position) & 0xFFFFFFFF,
        number(field[16:24], position) & 0xFFFFFFFF,
    )


def _size(field: bytes, position: int) -> int:
    size = number(field, position)
    if size < 0:
        raise CorruptArchive(f"negative member size in the tar header at byte {position}")
    return size


def _prefixed(header: bytes, name: bytes) -> bytes:
    star = header[tarfmt.STAR_MAGIC] == tarfmt.STAR_MAGIC_VALUE
    prefix = header[tarfmt.STAR_PREFIX if star else tarfmt.PREFIX].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _past_end(name: bytes, data: int, stored: int, end: int) -> CorruptArchive:
    shown = name.decode("utf-8", "backslashreplace")
    return CorruptArchive(
        f"truncated tar: member {shown!r} at byte {data} has {stored} bytes,"
        f" but only {max(0, end - data)} are left"
    )


def _special(read_at: ReadAt, offset: int, size: int) -> bytes:
    """Read an extended header's data whole, up to MAX_EXTENDED_HEADER bytes."""
    if size > MAX_EXTENDED_HEADER:
        raise CorruptArchive(
            f"extended tar header of {size} bytes at byte {offset}; at most"
            f" {MAX_EXTENDED_HEADER} are read"
        )
    content = read_at(size, offset)
    if len(content) < size:
        raise CorruptArchive(f"truncated tar: it ends inside an extended header at byte {offset}")
    return content


def _assemble(
    read_at: ReadAt, header: bytes, position: int, overrides: pax.Overrides, end: int
) -> tuple[Member | None, int]:
    """Return the member of a header and what was said before it, and where the next header is."""
    typeflag = header[tarfmt.TYPEFLAG]
    data = position + BLOCK
    name = header[tarfmt.NAME].partition(b"\0")[0]
    if header[345] and header[tarfmt.MAGIC_VERSION].startswith(tarfmt.USTAR_MAGIC):
        name = _prefixed(header, name)
    size = stored = overrides.number("size", _size(header[tarfmt.SIZE], position))
    sparse = overrides.sparse()
    if typeflag == tarfmt.GNUTYPE_SPARSE:
        pairs, data = _oldgnu_pairs(read_at, header, data)
        size = number(header[tarfmt.OLDGNU_REALSIZE], position)
        sparse = pax.Sparse(pairs, size)
    if typeflag in tarfmt.HEADER_ONLY_TYPES:
        size = stored = 0
        sparse = None
    if data + stored > end:
        raise _past_end(name, data, stored, end)
    following = data + (stored + 511 & -BLOCK)
    if typeflag in tarfmt.IGNORED_TYPES:
        return None, following
    runs = None
    if sparse is not None:
        if sparse.pairs is None:
            pairs, used = _pax10_pairs(read_at, data, stored)
            sparse = pax.Sparse(pairs, sparse.size)
            data, stored = data + used, stored - used
        runs, size = sparse.checked(stored, position), sparse.size
    mode, uid, gid = _owner(header[tarfmt.MODE_UID_GID], position)
    mtime, mtimensec = overrides.time("mtime", number(header[tarfmt.MTIME], position))
    name = overrides.name(name)
    typeflag = _kind(typeflag, name)
    if typeflag == tarfmt.DIRTYPE:
        size = stored = 0
    return Member(
        name=name,
        typeflag=typeflag,
        mode=mode,
        uid=overrides.number("uid", uid) & 0xFFFFFFFF,
        gid=overrides.number("gid", gid) & 0xFFFFFFFF,
        size=size,
        mtime=mtime,
        mtimensec=mtimensec,
        linkname=overrides.linkname(header[tarfmt.LINKNAME].partition(b"\0")[0]),
        rdev=_device(header, position) if typeflag in b"34" else 0,
        offset=data,
        stored=stored,
        xattrs=overrides.xattrs(),
        sparse=runs,
    ), following


def _kind(typeflag: bytes, name: bytes) -> bytes:
    """Return what a member is: v7's directories end in a slash, and what is unknown is a file."""
    if typeflag == tarfmt.AREGTYPE and name.endswith(b"/"):
        return tarfmt.DIRTYPE
    if typeflag == tarfmt.GNUTYPE_DUMPDIR:
        return tarfmt.DIRTYPE
    return typeflag if typeflag in tarfmt.HEADER_ONLY_TYPES else tarfmt.REGTYPE


def _device(header: bytes, position: int) -> int:
    major = number(header[tarfmt.DEVMAJOR], position) & 0xFFF
    minor = number(header[tarfmt.DEVMINOR], position) & 0xFFFFF
    return major << 8 | minor & 0xFF | (minor & ~0xFF) << 12


def _oldgnu_pairs(read_at: ReadAt, header: bytes, data: int) -> tuple[list[tuple[int, int]], int]:
    """Return an old GNU sparse member's map, and where its data begins behind the map."""
    pairs = _sparse_structs(header[tarfmt.OLDGNU_SPARSE], data)
    extended = header[tarfmt.OLDGNU_ISEXTENDED]
    while extended:
        block = read_at(BLOCK, data)
        if len(block) < BLOCK:
            raise CorruptArchive(f"truncated tar: it ends inside a sparse map at byte {data}")
        data += BLOCK
        pairs += _sparse_structs(block[tarfmt.OLDGNU_EXTENSION_SPARSE], data)
        extended = block[tarfmt.OLDGNU_EXTENSION_ISEXTENDED]
        pax.limit_pairs(len(pairs), data)
    return pairs, data


def _sparse_structs(table: bytes, position: int) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(table), tarfmt.OLDGNU_SPARSE_PAIR):
        if not table[at]:
            break
        pairs.append(
            (number(table[at : at + 12], position), number(table[at + 12 : at + 24], position))
        )
    return pairs


def _pax10_pairs(read_at: ReadAt, offset: int, stored: int) -> tuple[list[tuple[int, int]], int]:
    """Return the map that leads the data of a pax 1.0 sparse member, and its length in bytes.

    It is decimal numbers, one a line: the count of pairs, then offset and length of each, padded
    with NULs to a whole block (GNU tar manual, "PAX Format, Version 1.0").
    """
    lines: list[bytes] = []
    rest = b""
    used = 0
    wanted = 1
    while len(lines) < wanted:
        block = read_at(min(BLOCK, stored - used), offset + used)
        if len(block) < BLOCK:
            raise CorruptArchive(f"the sparse map at byte {offset} does not end")
        used += BLOCK
        *whole, rest = (rest + block).split(b"\n")
        lines += whole
        if wanted == 1 and lines:
            count = pax.decimal(lines[0], offset)
            pax.limit_pairs(count, offset)
            wanted = 1 + 2 * count
        if len(rest) > BLOCK:
            raise CorruptArchive(f"the sparse map at byte {offset} is not a list of numbers")
    numbers = [pax.decimal(line, offset) for line in lines[1:wanted]]
    return list(zip(numbers[::2], numbers[1::2], strict=True)), used
