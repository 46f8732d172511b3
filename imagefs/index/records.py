"""Members in few bytes: what a fold keeps of each, and how the index's writer reads it.

An entry is one `bytes`: the number of its directory (DIRECTORY_BYTES, big-endian), its name, and
a record of RECORD_BYTES that begins with a NUL, which no name holds. Nothing but a plain sort of
these, without a key or a line of Python for each, makes a tree of them:

    directory | name | 00, offset of the content  | ...     a leaf
    directory | name | 00 FF 00 00, its number    | ...     a directory, or a name of a shared inode

They come to lie by directory, and there by name; the NUL has `a` sort before `a.b`, and has a
search for `a` and a NUL find no longer name. Of one name, they lie in the order of the tar: offsets
grow from member to member, as each has a header before its content, and what has a number sorts
behind all of them; it is settled (`fold.py`), and nothing that waits is later. So the last
entry of a name is the one that counts, and one look at each neighbour drops the others.

What few members have lies in one buffer beside it, in the very form that the index has it in.
"""

from collections.abc import Iterator
from itertools import chain, compress, pairwise, starmap
from operator import eq, itemgetter, not_
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG
from struct import Struct
from typing import NamedTuple

from imagefs.errors import CorruptArchive
from imagefs.index import rows
from imagefs.tar import header as tar_header
from imagefs.tar.scan import Member

MAX_ATTRIBUTES = 1 << 28
"""Most bytes that link targets and extended attributes of one layer may take together."""

RECORD = Struct(">QBHIIqIQI")
"""Offset of the content in the layer (none is so long that the first byte were not a NUL), flags of
`rows`, mode with the type, uid, gid, mtime, mtimensec, size (of a device its number), place of the
extra in EXTRA_UNITs or 0.

In a directory's, its number stands for the offset, behind _BEHIND. A name of an inode that several
names may share has the inode's number there, and no type; if it is FOREIGN it is late: it came
before the inode, which it shares only where no lower layer has the target that its extra names."""
RECORD_BYTES = RECORD.size
DIRECTORY_BYTES = 4

DIRECTORY, FILE = S_IFDIR >> 12, S_IFREG >> 12
"""Types of nodes as the upper bits of a mode have them."""
_SHARED, _SYMLINK = 0, S_IFLNK >> 12
_DEVICES = frozenset({S_IFCHR >> 12, S_IFBLK >> 12})

# Beyond all offsets.
_BEHIND = 0xFF << 48
NO_NUMBER = bytes(DIRECTORY_BYTES)
_NUMBER = slice(4, 8)
_FLAGS, _TYPE = 8, 9
_PLACE = slice(39, 43)

# Bytes of the extra, which follows, and of a sparse file how many bytes the tar holds of it.
_EXTRA = Struct("<IQ")

_TYPE_BITS = {
    tar_header.REGTYPE: S_IFREG,
    tar_header.LNKTYPE: S_IFREG,
    tar_header.SYMTYPE: S_IFLNK,
    tar_header.CHRTYPE: S_IFCHR,
    tar_header.BLKTYPE: S_IFBLK,
    tar_header.DIRTYPE: S_IFDIR,
    tar_header.FIFOTYPE: S_IFIFO,
}


class Detail(NamedTuple):
    """All that a row of the index says of a member; `flags` are of `rows`, `mode` has the type.

    `data` is the content's offset in the layer, or a device's number. `stored` is how many bytes
    the tar holds. `extra_bytes` is how long the extra is, padded; 0 if there is none.
    """

    flags: int
    mode: int
    uid: int
    gid: int
    mtime: int
    mtimensec: int
    size: int
    data: int
    stored: int
    extra_bytes: int


class PackedMembers:
    """The records of one layer, and what does not fit into them."""

    def __init__(self) -> None:
        self.has_late = False
        self._extras = bytearray(rows.EXTRA_UNIT)
        self._inodes = bytearray()
        self._attributes = 0

    @property
    def inodes(self) -> int:
        """How many inodes have been shared."""
        return len(self._inodes) // RECORD_BYTES

    @property
    def details_bytes(self) -> int:
        """What is kept of all members beside their entries, in bytes."""
        return len(self._extras) + len(self._inodes)

    def leaf(self, member: Member) -> bytes:
        """Return the record of any member but a directory. CorruptArchive beyond the limits."""
        return self._record(member, member.offset)

    def directory(self, member: Member | None, number: int = 0) -> bytes:
        """Return a directory's record; a `number` of 0 says that nothing lies in it yet.

        Without a member, nothing but its content speaks for it.
        """
        if member is not None:
            return self._record(member, _BEHIND | number)
        return RECORD.pack(_BEHIND | number, rows.IMPLIED, S_IFDIR | 0o755, 0, 0, 0, 0, 0, 0)

    def _record(self, member: Member, offset: int) -> bytes:
        kind, mode, size = _TYPE_BITS[member.typeflag], member.mode, member.size
        flags, target, place = 0, b"", 0
        if kind == S_IFLNK:
            # Linux has no modes of symbolic links (symlink(7)); tars may claim some.
            target = member.linkname
            mode, size = 0o777, len(target)
        elif member.typeflag == tar_header.LNKTYPE:
            flags, target = rows.FOREIGN, b"/".join(clean(member.linkname))
        elif kind >> 12 in _DEVICES:
            size = member.rdev
        if target or member.xattrs or member.sparse is not None:
            flags |= rows.XATTRS if member.xattrs else 0
            flags |= rows.SPARSE if member.sparse is not None else 0
            place = self._keep(_extra(target, member), member.stored)
            lengths = (len(name) + len(value) for name, value in member.xattrs)
            self._count_attributes(len(target) + sum(lengths))
        # fmt: off
        return RECORD.pack(
            offset, flags, kind | mode, member.uid, member.gid, member.mtime, member.mtimensec,
            size, place,
        )
        # fmt: on

    def share(self, record: bytes) -> bytes:
        """Return a record that several names can have, of the inode that `record` is of."""
        if is_shared(record):
            return record
        shared = RECORD.pack(_BEHIND | self.inodes, 0, _SHARED, 0, 0, 0, 0, 0, 0)
        self._inodes += record
        return shared

    def late(self, link: bytes, shared: bytes, paths: bytes) -> bytes:
        """Return the record of a hard link, unbound so far, to a shared inode that came after it.

        `paths` is where lower layers might have its target, which then counts.
        """
        self.has_late = True
        place = _place(self.respelled(link, paths))
        return RECORD.pack(_BEHIND | inode_of(shared), rows.FOREIGN, _SHARED, 0, 0, 0, 0, 0, place)

    def respelled(self, link: bytes, paths: bytes) -> bytes:
        """Return the record of an unbound hard link with another target."""
        if self._target(link) == paths:
            return link
        before, header = self._extra_of(link), rows.EXTRA_HEADER
        length, xattrs, runs = header.unpack_from(before) if before else (0, 0, 0)
        rest = before[header.size + length :]
        self._count_attributes(len(paths) + len(rest))
        place = self._keep(_padded(header.pack(len(paths), xattrs, runs) + paths + rest), 0)
        return link[: _PLACE.start] + place.to_bytes(4, "big")

    def detail(self, record: bytes) -> Detail:
        """Return all that a record says."""
        record = self._own(record)
        data, flags, mode, uid, gid, mtime, mtimensec, size, place = RECORD.unpack(record)
        kind = mode >> 12
        stored = size if kind == FILE else 0
        if kind == DIRECTORY:
            data = 0
        elif kind in _DEVICES:
            size, data = 0, size
        extra_bytes = 0
        if place:
            extra_bytes, held = _EXTRA.unpack_from(self._extras, place * rows.EXTRA_UNIT)
            stored = held if flags & rows.SPARSE else stored
        fields = (flags, mode, uid, gid, mtime, mtimensec, size, data, stored, extra_bytes)
        return tuple.__new__(Detail, fields)

    def extra(self, record: bytes) -> bytes:
        """Return the extra of a record, as the index has it; empty if there is none.

        Of a late hard link it is the link's own, where its target's path is.
        """
        return self._extra_of(record if is_late(record) else self._own(record))

    def _extra_of(self, record: bytes) -> bytes:
        at = _place(record) * rows.EXTRA_UNIT
        if not at:
            return b""
        length, _ = _EXTRA.unpack_from(self._extras, at)
        return bytes(self._extras[at + _EXTRA.size : at + _EXTRA.size + length])

    def symlink(self, record: bytes | None) -> bytes | None:
        """Return the target of a symbolic link, or None if a record is not of one."""
        if record is None:
            return None
        record = self._own(record)
        return self._target(record) if record[_TYPE] >> 4 == _SYMLINK else None

    def unbound(self, record: bytes | None) -> bytes | None:
        """Return the target of a hard link that is bound to none yet, or None for all else."""
        if record is None or is_shared(record) or not record[_FLAGS] & rows.FOREIGN:
            return None
        return self._target(record)

    def _target(self, record: bytes) -> bytes:
        extra = self._extra_of(record)
        if not extra:
            return b""
        length = rows.EXTRA_HEADER.unpack_from(extra)[0]
        return extra[rows.EXTRA_HEADER.size :][:length]

    def _own(self, record: bytes) -> bytes:
        """Return the record of a shared inode, or what is one's own as it is."""
        if not is_shared(record):
            return record
        at = inode_of(record) * RECORD_BYTES
        return bytes(self._inodes[at : at + RECORD_BYTES])

    def _keep(self, extra: bytes, stored: int) -> int:
        """Keep an extra; return its place."""
        place = len(self._extras) // rows.EXTRA_UNIT
        self._extras += _EXTRA.pack(len(extra), stored)
        self._extras += extra
        return place

    def _count_attributes(self, length: int) -> None:
        self._attributes += length
        if self._attributes > MAX_ATTRIBUTES:
            raise CorruptArchive(
                f"link targets and attributes of more than {MAX_ATTRIBUTES} bytes in one layer"
            )


def is_directory(record: bytes | None) -> bool:
    """Tell whether a record is a directory's."""
    return record is not None and record[_TYPE] >> 4 == DIRECTORY


def is_implied(record: bytes) -> bool:
    """Tell whether a record is of a directory that no member describes."""
    return bool(record[_FLAGS] & rows.IMPLIED)


def is_shared(record: bytes) -> bool:
    """Tell whether a record is of an inode that was shared."""
    return record[_TYPE] >> 4 == _SHARED


def is_late(record: bytes) -> bool:
    """Tell whether a record is of a hard link that came before the inode that it shares."""
    return is_shared(record) and bool(record[_FLAGS] & rows.FOREIGN)


def inode_of(record: bytes) -> int:
    """Return the number of a shared inode."""
    return int.from_bytes(record[_NUMBER], "big")


def number_of(record: bytes) -> int:
    """Return the number of a directory; 0 if nothing lies in it, or for the root."""
    return int.from_bytes(record[_NUMBER], "big")


def inside(record: bytes) -> bytes:
    """Return what the entries in a directory begin with, or NO_NUMBER."""
    return record[_NUMBER]


def numbered(record: bytes, key: bytes) -> bytes:
    """Return a directory's record with another number, as `key_of` has it."""
    return record[: _NUMBER.start] + key + record[_NUMBER.stop :]


def key_of(number: int) -> bytes:
    """Return what the entries of the directory of that number begin with."""
    return number.to_bytes(DIRECTORY_BYTES, "big")


def _place(record: bytes) -> int:
    return int.from_bytes(record[_PLACE], "big")


def latest(entries: list[bytes]) -> list[bytes]:
    """Return sorted entries without those that have a later one of the same name."""
    if not any(_same_as_next(entries)):
        return entries
    return list(compress(entries, chain(map(not_, _same_as_next(entries)), [True])))


def _same_as_next(entries: list[bytes]) -> Iterator[bool]:
    # Without a list of all keys, and without a line of Python for each.
    return starmap(eq, pairwise(map(itemgetter(slice(-RECORD_BYTES)), entries)))


def _extra(target: bytes, member: Member) -> bytes:
    """Return a link target and a member's xattrs and runs as the index has them."""
    runs = member.sparse or ()
    if not (target or member.xattrs or runs):
        return b""
    out = bytearray(rows.EXTRA_HEADER.pack(len(target), len(member.xattrs), len(runs)))
    out += target
    for name, value in member.xattrs:
        out += rows.XATTR_HEADER.pack(len(name), len(value)) + name + value
    for run in runs:
        out += rows.RUN.pack(*run)
    return _padded(out)


def _padded(extra: bytes | bytearray) -> bytes:
    return bytes(extra) + bytes(-len(extra) % rows.EXTRA_UNIT)


SPECIAL_NAMES = frozenset({b"", b".", b".."})
"""Path components that are no names."""


def clean(path: bytes) -> list[bytes]:
    """Return a path's components, cleaned by name alone: nothing leads out of the root."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in SPECIAL_NAMES:
            parts.append(part)
    return parts
