"""Members in few bytes: what a fold keeps of each, and how the index's writer reads it.

An entry is one `bytes`: the number of its directory (DIRECTORY_BYTES, big-endian), its name, and
a record of RECORD_BYTES that begins with a NUL, which no name holds. So entries sort by directory,
then by name, then by what the record begins with: the content's offset, which grows from member to
member, or what sorts behind all offsets. The last entry of a name is thus the one that counts.

What RECORD cannot say of a member lies in one buffer beside it, link targets and attributes in
the very form that the index has them in.
"""

from collections.abc import Iterator
from itertools import chain, compress, pairwise, starmap
from operator import eq, itemgetter, not_
from stat import (
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_ISLNK,
    S_ISREG,
)
from struct import Struct
from typing import NamedTuple

from imagefs.errors import CorruptArchive
from imagefs.index import rows
from imagefs.tar import header as tar_header
from imagefs.tar.scan import Member

MAX_ATTRIBUTES = 1 << 28
"""Most bytes that link targets and extended attributes of one layer may take together."""

RECORD = Struct(">xQHII")
"""A plain file: offset of its content in the layer, number of its owner, mtime, size."""
RECORD_BYTES = RECORD.size
DIRECTORY_BYTES = 4

MAX_OWNERS = 0xFFF0
"""Numbers of owners are below this; other kinds of records have one of these in their place:"""
FULL = 0xFFFF
"""A leaf with more to it: offset, FULL, place of the detail."""
INODE = 0xFFFE
"""A leaf that several names may share: _BEHIND, INODE, number of the inode."""
LATE = 0xFFFB
"""A name of such an inode, but only where no lower layer has its target: it came before the inode.
_BEHIND, place of the link's own detail (7 bytes), LATE, number of the inode."""
DIRECTORY = 0xFFFD
"""A directory: _BEHIND, owner, number, DIRECTORY, mtime; of owner FULL, the detail's place."""
_IMPLIED = 0xFFFC
"""The owner of a directory that no member describes."""

_FULL_RECORD = Struct(">xQHQ")
_INODE_RECORD = Struct(">xB7sHQ")
_DIRECTORY_RECORD = Struct(">xBxHIHQ")
# A first byte that no offset begins with.
_BEHIND = 0xFF
NO_NUMBER = bytes(DIRECTORY_BYTES)
_NUMBER = slice(5, 9)
_KIND = slice(9, 11)
_PLACE = slice(11, 19)
_NO_PLACE = bytes(7)
_OWN_PLACE = slice(2, 9)
_IS_FULL, _IS_INODE, _IS_LATE, _IS_DIRECTORY = (
    kind.to_bytes(2, "big") for kind in (FULL, INODE, LATE, DIRECTORY)
)

# flags, mode with the type, uid, gid, mtime, mtimensec, size (of a device its number), bytes of
# the extra; that follows, and before it, of a sparse file, how many bytes the tar holds of it.
_DETAIL = Struct("<HIIIqIQI")
_STORED = Struct("<Q")

_TYPE_BITS = {
    tar_header.REGTYPE: S_IFREG,
    tar_header.LNKTYPE: S_IFREG,
    tar_header.SYMTYPE: S_IFLNK,
    tar_header.CHRTYPE: S_IFCHR,
    tar_header.BLKTYPE: S_IFBLK,
    tar_header.DIRTYPE: S_IFDIR,
    tar_header.FIFOTYPE: S_IFIFO,
}
_DEVICES = frozenset({S_IFCHR, S_IFBLK})


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


_NOTHING = Detail(rows.IMPLIED, S_IFDIR | 0o755, 0, 0, 0, 0, 0, 0, 0, 0)


class ArchiveContents:
    """The records of one layer.

    `owners` lists mode, uid and gid by their number, `numbers` the other way around.
    """

    def __init__(self) -> None:
        self.owners: list[tuple[int, int, int]] = []
        self.numbers: dict[tuple[int, int, int], int] = {}
        self.has_late = False
        self._details = bytearray()
        self._inodes = bytearray()
        self._attributes = 0

    @property
    def inodes(self) -> int:
        """How many inodes have been shared."""
        return len(self._inodes) // RECORD_BYTES

    @property
    def details_bytes(self) -> int:
        """What is kept of all members beside their entries, in bytes."""
        return len(self._details) + len(self._inodes)

    def number(self, mode: int, uid: int, gid: int) -> int:
        """Return the number of an owner; MAX_OWNERS or more if there are too many for numbers."""
        owner = self.numbers.get((mode, uid, gid))
        if owner is None:
            owner = len(self.owners)
            if owner >= MAX_OWNERS:
                return FULL
            self.numbers[mode, uid, gid] = owner
            self.owners.append((mode, uid, gid))
        return owner

    def leaf(self, member: Member) -> bytes:
        """Return the record of any member but a directory. CorruptArchive beyond the limits."""
        offset, mtime, size = member.offset, member.mtime, member.size
        if member.typeflag == tar_header.REGTYPE and _is_brief(member) and not size >> 32:
            owner = self.number(member.mode, member.uid, member.gid)
            if owner != FULL:
                return RECORD.pack(offset, owner, mtime, size)
        return _FULL_RECORD.pack(offset, FULL, self._keep(member))

    def directory(self, member: Member | None, number: int = 0) -> bytes:
        """Return a directory's record; a `number` of 0 says that nothing lies in it yet.

        Without a member, nothing but its content speaks for it.
        """
        owner, said = _IMPLIED, 0
        if member is not None:
            owner, said = FULL, member.mtime
            if _is_brief(member):
                owner = self.number(member.mode, member.uid, member.gid)
            if owner == FULL:
                said = self._keep(member)
        return _DIRECTORY_RECORD.pack(_BEHIND, owner, number, DIRECTORY, said)

    def share(self, record: bytes) -> bytes:
        """Return a record that several names can have, of the inode that `record` is of."""
        if record[_KIND] == _IS_INODE:
            return record
        shared = _INODE_RECORD.pack(_BEHIND, _NO_PLACE, INODE, self.inodes)
        self._inodes += record
        return shared

    def late(self, link: bytes, shared: bytes, paths: bytes) -> bytes:
        """Return the record of a hard link, unbound so far, to a shared inode that came after it.

        `paths` is where lower layers might have its target, which then counts.
        """
        self.has_late = True
        place = int.from_bytes(self.respelled(link, paths)[_PLACE], "big")
        own = place.to_bytes(7, "big")
        return _INODE_RECORD.pack(_BEHIND, own, LATE, inode_of(shared))

    def respelled(self, link: bytes, paths: bytes) -> bytes:
        """Return the record of an unbound hard link with another target."""
        if self._target(link) == paths:
            return link
        offset, _, place = _FULL_RECORD.unpack(link)
        fields = _DETAIL.unpack_from(self._details, place)
        before, header = self._extra_of(link), rows.EXTRA_HEADER
        length, xattrs, runs = header.unpack_from(before) if before else (0, 0, 0)
        rest = before[header.size + length :]
        self._count_attributes(len(paths) + len(rest))
        extra = _padded(header.pack(len(paths), xattrs, runs) + paths + rest)
        place = len(self._details)
        self._details += _DETAIL.pack(*fields[:-1], len(extra)) + extra
        return _FULL_RECORD.pack(offset, FULL, place)

    def late_link(self, record: bytes) -> bytes:
        """Return the record that a late hard link had before it was bound."""
        return _FULL_RECORD.pack(0, FULL, int.from_bytes(record[_OWN_PLACE], "big"))

    def detail(self, record: bytes) -> Detail:
        """Return all that a record says."""
        kind = record[_KIND]
        if kind in (_IS_INODE, _IS_LATE):
            record = self._own(record)
            kind = record[_KIND]
        if kind == _IS_FULL:
            offset, _, place = _FULL_RECORD.unpack(record)
            return self._kept(place, offset)
        if kind == _IS_DIRECTORY:
            return self._directory_detail(record)
        offset, owner, mtime, size = RECORD.unpack(record)
        mode, uid, gid = self.owners[owner]
        return Detail(0, S_IFREG | mode, uid, gid, mtime, 0, size, offset, size, 0)

    def _directory_detail(self, record: bytes) -> Detail:
        _, owner, _, _, said = _DIRECTORY_RECORD.unpack(record)
        if owner == _IMPLIED:
            return _NOTHING
        if owner == FULL:
            return self._kept(said, 0)
        mode, uid, gid = self.owners[owner]
        return tuple.__new__(Detail, (0, S_IFDIR | mode, uid, gid, said, 0, 0, 0, 0, 0))

    def extra(self, record: bytes) -> bytes:
        """Return the extra of a record that has one, as the index has it.

        Of a late hard link it is the link's own, where its target's path is.
        """
        own = self.late_link(record) if is_late(record) else self._own(record)
        return self._extra_of(own)

    def _extra_of(self, record: bytes) -> bytes:
        place = int.from_bytes(record[_PLACE], "big")
        flags, *_, length = _DETAIL.unpack_from(self._details, place)
        place += _DETAIL.size + (_STORED.size if flags & rows.SPARSE else 0)
        return bytes(self._details[place : place + length])

    def symlink(self, record: bytes | None) -> bytes | None:
        """Return the target of a symbolic link, or None if a record is not of one."""
        if record is None:
            return None
        record = self._own(record)
        if record[_KIND] != _IS_FULL or not S_ISLNK(self.detail(record).mode):
            return None
        return self._target(record)

    def unbound(self, record: bytes | None) -> bytes | None:
        """Return the target of a hard link that is bound to none yet, or None for all else."""
        if record is None or record[_KIND] != _IS_FULL:
            return None
        return self._target(record) if self.detail(record).flags & rows.FOREIGN else None

    def _target(self, record: bytes) -> bytes:
        extra = self._extra_of(record)
        if not extra:
            return b""
        length = rows.EXTRA_HEADER.unpack_from(extra)[0]
        return extra[rows.EXTRA_HEADER.size :][:length]

    def _own(self, record: bytes) -> bytes:
        """Return the record of a shared inode, or what is one's own as it is."""
        if record[_KIND] not in (_IS_INODE, _IS_LATE):
            return record
        at = inode_of(record) * RECORD_BYTES
        return bytes(self._inodes[at : at + RECORD_BYTES])

    def _keep(self, member: Member) -> int:
        """Keep a member in full; return its place."""
        flags, extra = _extra(member)
        lengths = (len(name) + len(value) for name, value in member.xattrs)
        self._count_attributes(len(member.linkname) + sum(lengths))
        kind, mode, size = _TYPE_BITS[member.typeflag], member.mode, member.size
        if kind == S_IFLNK:
            # Linux has no modes of symbolic links (symlink(7)); tars may claim some.
            mode, size = 0o777, len(member.linkname)
        elif kind in _DEVICES:
            size = member.rdev
        place = len(self._details)
        # fmt: off
        self._details += _DETAIL.pack(
            flags, kind | mode, member.uid, member.gid, member.mtime, member.mtimensec, size,
            len(extra),
        )
        # fmt: on
        if member.sparse is not None:
            self._details += _STORED.pack(member.stored)
        self._details += extra
        return place

    def _count_attributes(self, length: int) -> None:
        self._attributes += length
        if self._attributes > MAX_ATTRIBUTES:
            raise CorruptArchive(
                f"link targets and attributes of more than {MAX_ATTRIBUTES} bytes in one layer"
            )

    def _kept(self, place: int, offset: int) -> Detail:
        flags, mode, uid, gid, mtime, mtimensec, size, extra_bytes = _DETAIL.unpack_from(
            self._details, place
        )
        stored = size if S_ISREG(mode) else 0
        if flags & rows.SPARSE:
            (stored,) = _STORED.unpack_from(self._details, place + _DETAIL.size)
        if S_IFMT(mode) in _DEVICES:
            size, offset = 0, size
        fields = (flags, mode, uid, gid, mtime, mtimensec, size, offset, stored, extra_bytes)
        return tuple.__new__(Detail, fields)


def is_directory(record: bytes | None) -> bool:
    """Tell whether a record is a directory's."""
    return record is not None and record[_KIND] == _IS_DIRECTORY


def is_implied(record: bytes) -> bool:
    """Tell whether a record is of a directory that no member describes."""
    return is_directory(record) and _DIRECTORY_RECORD.unpack(record)[1] == _IMPLIED


def is_shared(record: bytes) -> bool:
    """Tell whether a record is of an inode that was shared."""
    return record[_KIND] in (_IS_INODE, _IS_LATE)


def is_late(record: bytes) -> bool:
    """Tell whether a record is of a hard link that came before the inode that it shares."""
    return record[_KIND] == _IS_LATE


def inode_of(record: bytes) -> int:
    """Return the number of a shared inode."""
    return int(_INODE_RECORD.unpack(record)[3])


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


def latest(entries: list[bytes]) -> list[bytes]:
    """Return sorted entries without those that have a later one of the same name."""
    if not any(_same_as_next(entries)):
        return entries
    return list(compress(entries, chain(map(not_, _same_as_next(entries)), [True])))


def _same_as_next(entries: list[bytes]) -> Iterator[bool]:
    # Without a list of all keys, and without a line of Python for each.
    return starmap(eq, pairwise(map(itemgetter(slice(-RECORD_BYTES)), entries)))


def _is_brief(member: Member) -> bool:
    """Tell whether a member has no more to it than a record can say, but for owner and size."""
    return not (
        member.mtimensec or member.xattrs or member.mtime >> 32 or member.sparse is not None
    )


def _extra(member: Member) -> tuple[int, bytes]:
    """Return a member's flags, and its link target, xattrs and runs as the index has them."""
    flags, target = 0, b""
    if member.typeflag == tar_header.SYMTYPE:
        target = member.linkname
    elif member.typeflag == tar_header.LNKTYPE:
        flags, target = rows.FOREIGN, b"/".join(clean(member.linkname))
    if member.xattrs:
        flags |= rows.XATTRS
    if member.sparse is not None:
        flags |= rows.SPARSE
    runs = member.sparse or ()
    if not (target or member.xattrs or runs):
        return flags, b""
    out = bytearray(rows.EXTRA_HEADER.pack(len(target), len(member.xattrs), len(runs)))
    out += target
    for name, value in member.xattrs:
        out += rows.XATTR_HEADER.pack(len(name), len(value)) + name + value
    for run in runs:
        out += rows.RUN.pack(*run)
    return flags, _padded(out)


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
