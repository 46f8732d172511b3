"""Tar headers to members: the bytes of a tar in, values out.

Owns the header parser for v7, ustar, GNU and pax tars. It reads through a function of its caller's
and only what it needs: headers, extended headers and sparse maps, never a file's content but for
what happens to lie in the same window. It keeps no state between calls and knows nothing of
layers, whiteouts or paths on this host; names are passed on as written. Any thread may call it.
"""

from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple
from zlib import adler32

from imagefs.errors import CorruptArchive
from imagefs.tar import header as tar_header
from imagefs.tar import pax, sparse
from imagefs.tar.header import BLOCK
from imagefs.tar.numbers import number, padded

ReadAt = Callable[[int, int], bytes]
"""`read_at(length, offset)` returns `length` bytes of the tar, fewer only at its end."""

NO_END = 1 << 62
"""Where a tar ends whose length nobody knows."""
WINDOW = 8192
"""Bytes per read. Headers of small files share a window; more would copy content for nothing."""
MAX_EXTENDED_HEADER = pax.MAX_EXTENDED
"""Longest extended header or GNU long name that is read, in bytes."""
_MEMO_LIMIT = 50_000
_ADLER_MODULUS = 65521
_ZERO_BLOCK = bytes(BLOCK)


class Member(NamedTuple):
    """One member of a tar: its header, with all extended headers applied.

    `name` and `linkname` are as written; `mode` is the permission bits (0 to 0o7777) and
    `typeflag` one of `tar.header`'s, where regular files of every kind have REGTYPE. `size` is the
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


# One loop on purpose: a call for each member would cost a third of the speed.
def scan(  # noqa: PLR0912, PLR0915
    read_at: ReadAt, start: int, end: int, *, marked: bool = False
) -> Iterator[Member]:
    """Yield the members of the tar that lies in the bytes from `start` to `end`, in order.

    Reading stops at the end-of-archive marker (a block of zeros), or at `end` where there is
    none; then a tar that is `marked` must have been cut. Raises CorruptArchive on a wrong
    checksum, a field that is no number, a member that goes past `end`, names longer than
    PATH_MAX, and more of extended headers or sparse runs than their limits allow.
    """
    position = base = start
    window = b""
    checksums, owners, sizes, times = _Checksums(), _Owners(), _Sizes(), _Times()
    overrides = pax.Overrides()
    fields_of, new = _FIELDS.unpack_from, tuple.__new__
    while position < end:
        at = position - base
        if at + BLOCK > len(window):
            window = read_at(min(WINDOW, end - position), position)
            base, at = position, 0
            if len(window) < BLOCK:
                if not window.strip(b"\0"):
                    break
                raise CorruptArchive(f"truncated tar: it ends inside a header, at byte {position}")
        name, owner, size, mtime, chksum, typeflag, linkname, prefix = fields_of(window, at)
        try:
            # adler32's low half is 1 plus the sum of the bytes, modulo 65521.
            if checksums[chksum] != adler32(window[at : at + BLOCK]) & 0xFFFF:
                header = window[at : at + BLOCK]
                if header == _ZERO_BLOCK:
                    break
                _check(header)
            # Modes, owners, times and most sizes repeat: each distinct field is parsed once.
            mode, uid, gid = owners[owner]
            size = sizes[size]
            mtime = times[mtime]
        except ValueError as error:
            raise CorruptArchive(f"no tar header at byte {position}: {error}") from error
        data = position + BLOCK
        if typeflag in _COMMON and overrides.empty and prefix == 0:
            # The way that nearly all members take; _assemble is the same in full.
            if typeflag != b"0":
                size = 0
            if data + size > end:
                raise _past_end(name, data, size, end)
            position = data + (size + 511 & -BLOCK)  # padded(size), without a call
            name = name.partition(b"\0")[0]
            linkname = linkname.partition(b"\0")[0] if linkname[0] else b""
            fields = (
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
                size,
                (),
                None,
            )
            yield new(Member, fields)
        elif typeflag in pax.EXTENSIONS:
            if data + size > end:
                raise _past_end(name, data, size, end)
            overrides.add(typeflag, _special(read_at, data, size), position)
            position = data + padded(size)
        else:
            header = window[at : at + BLOCK]
            member, position = _assemble(read_at, header, position, overrides, end)
            overrides.reset()
            if member is not None:
                yield member
    else:
        if marked:
            raise CorruptArchive("truncated tar: it lacks its end-of-archive marker")
    if overrides.pending:
        raise CorruptArchive("truncated tar: it ends behind an extended header")


# name, mode+uid+gid, size, mtime, chksum, typeflag, linkname, first byte of the prefix
_FIELDS = Struct("<100s24s12s12s8sc100s88xB")


class _Numbers(dict[bytes, int]):
    """The value of a numeric field by its bytes: parsed when first seen, bounded in number."""

    def __missing__(self, field: bytes) -> int:
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        value = self[field] = self.parse(field)
        return value

    def parse(self, field: bytes) -> int:
        """Return what is kept for a field."""
        return number(field)


class _Sizes(_Numbers):
    """As _Numbers, for sizes: none is negative."""

    def parse(self, field: bytes) -> int:
        return _size(field)


class _Times(_Numbers):
    """As _Numbers, for times: seconds that fit in 64 bits."""

    def parse(self, field: bytes) -> int:
        return _time(field)


class _Checksums(_Numbers):
    """What adler32's low half must be for a header, by its checksum field."""

    def parse(self, field: bytes) -> int:
        return (1 + number(field) - 8 * 0x20 + sum(field)) % _ADLER_MODULUS


class _Owners(dict[bytes, tuple[int, int, int]]):
    """The permission bits, uid and gid by the bytes of the three fields; bounded in number."""

    def __missing__(self, field: bytes) -> tuple[int, int, int]:
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        value = self[field] = _owner(field)
        return value


_COMMON = frozenset({b"0", b"5", b"2", b"1"})


def _check(header: bytes) -> None:
    """Verify a header's checksum the long way; raise ValueError if it is wrong."""
    stored = number(header[tar_header.CHKSUM])
    blanked = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(blanked)
    # Some old tars summed their bytes as signed (GNU tar manual, "Checksumming Problems").
    if stored not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in blanked)):
        raise ValueError(f"its checksum is {unsigned:o}, but it says {stored:o} (octal)")


def _owner(field: bytes) -> tuple[int, int, int]:
    mode, uid, gid = number(field[0:8]), number(field[8:16]), number(field[16:24])
    return mode & 0o7777, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF


def _size(field: bytes) -> int:
    size = number(field)
    if size < 0 or size >> 63:
        raise ValueError(f"a size of {size} bytes")
    return size


def _time(field: bytes) -> int:
    seconds = number(field)
    if not -(1 << 63) < seconds < 1 << 63:
        raise ValueError(f"a time of {seconds} seconds")
    return seconds


def _prefixed(header: bytes) -> bytes:
    name = header[tar_header.NAME].partition(b"\0")[0]
    magic = header[tar_header.MAGIC_VERSION]
    if magic.startswith(tar_header.USTAR_MAGIC):
        star = header[tar_header.STAR_MAGIC] == tar_header.STAR_MAGIC_VALUE
        prefix = header[tar_header.STAR_PREFIX if star else tar_header.PREFIX].partition(b"\0")[0]
    elif magic == tar_header.GNU_MAGIC_VERSION and not _has_gnu_times(header):
        # Go's archive/tar wrote such names before 1.8, and takes them for what they were meant as.
        prefix = header[tar_header.PREFIX].partition(b"\0")[0]
        prefix = prefix if prefix.isascii() else b""
    else:
        return name
    return prefix + b"/" + name if prefix else name


def _has_gnu_times(header: bytes) -> bool:
    """Tell whether GNU's two times are such, or absent, where ustar has its prefix."""
    for field in (header[tar_header.GNU_ATIME], header[tar_header.GNU_CTIME]):
        try:
            # As Go counts: in octal there is no sign, and a number has 64 bits.
            if field[0] and (number(field) >> 63 not in (0, -1) or field.strip(b" \0")[:1] == b"-"):
                return False
        except ValueError:
            return False
    return True


def _past_end(name: bytes, data: int, stored: int, end: int) -> CorruptArchive:
    shown = name.partition(b"\0")[0].decode("utf-8", "backslashreplace")
    return CorruptArchive(
        f"truncated tar: member {shown!r} at byte {data} has {stored} bytes,"
        f" but only {max(0, end - data)} are left"
    )


def _special(read_at: ReadAt, offset: int, size: int) -> bytes:
    """Read an extended header's data whole, up to pax.MAX_EXTENDED bytes."""
    pax.limit(size, offset)
    content = read_at(size, offset)
    if len(content) < size:
        raise CorruptArchive(f"truncated tar: it ends inside an extended header at byte {offset}")
    return content


def _assemble(
    read_at: ReadAt, header: bytes, position: int, overrides: pax.Overrides, end: int
) -> tuple[Member | None, int]:
    """Return the member of a header and what was said before it, and where the next header is."""
    try:
        return _member(read_at, header, position, overrides, end)
    except ValueError as error:
        raise CorruptArchive(f"no tar header at byte {position}: {error}") from error


def _member(
    read_at: ReadAt, header: bytes, position: int, overrides: pax.Overrides, end: int
) -> tuple[Member | None, int]:
    typeflag = header[tar_header.TYPEFLAG]
    data = position + BLOCK
    size = stored = overrides.number("size", _size(header[tar_header.SIZE]))
    layout = overrides.sparse(stored)
    if typeflag == tar_header.GNUTYPE_SPARSE:
        layout, data = sparse.oldgnu(read_at, header, data, end)
    overrides.runs.add(layout)
    mode, uid, gid = _owner(header[tar_header.MODE_UID_GID])
    mtime, mtimensec = overrides.time("mtime", _time(header[tar_header.MTIME]))
    name = overrides.name(_prefixed(header))
    if typeflag == tar_header.AREGTYPE and name.endswith(b"/"):
        typeflag = tar_header.DIRTYPE
    if typeflag in tar_header.HEADER_ONLY_TYPES:
        size = stored = 0
        layout = None
    if data + stored > end:
        raise _past_end(name, data, stored, end)
    following = data + padded(stored)
    if typeflag in tar_header.IGNORED_TYPES:
        return None, following
    runs = None
    if layout is not None:
        if layout.pairs is None:
            layout, used = sparse.pax10(read_at, data, stored, layout.size)
            data, stored = data + used, stored - used
            overrides.runs.add(layout)
        runs, size = layout.checked(stored, position), layout.size
    typeflag = _kind(typeflag)
    if typeflag == tar_header.DIRTYPE:
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
        linkname=overrides.linkname(header[tar_header.LINKNAME].partition(b"\0")[0]),
        rdev=_device(header) if typeflag in b"34" else 0,
        offset=data,
        stored=stored,
        xattrs=overrides.xattrs(),
        sparse=runs,
    ), following


def _kind(typeflag: bytes) -> bytes:
    """Return what a member is: what is unknown is a file."""
    if typeflag == tar_header.GNUTYPE_DUMPDIR:
        return tar_header.DIRTYPE
    return typeflag if typeflag in tar_header.HEADER_ONLY_TYPES else tar_header.REGTYPE


def _device(header: bytes) -> int:
    magic = header[tar_header.MAGIC_VERSION]
    if not magic.startswith(tar_header.USTAR_MAGIC) and magic != tar_header.GNU_MAGIC_VERSION:
        # v7 has no such fields.
        return 0
    major = number(header[tar_header.DEVMAJOR]) & 0xFFF
    minor = number(header[tar_header.DEVMINOR]) & 0xFFFFF
    return major << 8 | minor & 0xFF | (minor & ~0xFF) << 12
