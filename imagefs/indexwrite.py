"""A folded layer to the bytes of its index.

The only writer of what `rows.py` describes. A `Fold` in, bytes into a file that is handed in.
"""

import json
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG
from typing import BinaryIO, TypeGuard
from zlib import crc32

from imagefs import rows, tarfmt
from imagefs.errors import CorruptArchive
from imagefs.fold import PLAIN, Directory, Fold, Leaf, Node, clean
from imagefs.tarfmt import BLOCK_SHIFT
from imagefs.tarscan import Member

_TYPE_BITS = {
    tarfmt.REGTYPE: S_IFREG,
    tarfmt.LNKTYPE: S_IFREG,
    tarfmt.SYMTYPE: S_IFLNK,
    tarfmt.CHRTYPE: S_IFCHR,
    tarfmt.BLKTYPE: S_IFBLK,
    tarfmt.FIFOTYPE: S_IFIFO,
}
# Names after which nothing is left to delete: "", "." and "..".
_AIMLESS_WHITEOUTS = frozenset({b".wh.", b".wh..", b".wh..."})
_ESTARGZ_TOC = b"stargz.index.json"
_LANDMARKS = frozenset({b".prefetch.landmark", b".no.prefetch.landmark"})
_LANDMARK_BYTES = 1
# What sorts behind all names that begin with the prefix.
_BEHIND_WHITEOUTS = b".wh/"
# Names that are laid out at once, and bytes of rows that are written at once.
_BATCH = 4096
_PART = 1 << 20
# What a row can address, less the names of a batch; `fold.py` bounds all else.
_MAX_NAMES = (1 << 32) - (1 << 22)
_IMPLIED = Member(b"", tarfmt.DIRTYPE, 0o755, 0, 0, 0, 0, 0, b"", 0, 0, 0, (), None)


class Table:
    """The writer of one layer's index.

    `start` is the layer's first byte, from which content offsets are to count. `key` is the
    SHA-256 digest of what identifies the layer.
    """

    def __init__(self, start: int, key: bytes) -> None:
        self._start = start
        self._key = key
        self._count = 0
        self._names = bytearray()
        self._next_first = 1
        self._extras = bytearray(rows.EXTRA_UNIT)
        self._foreign: list[int] = []
        self._owners: list[tuple[int, int, int]] = []
        self._linked: dict[int, _Linked] = {}
        self._links: list[tuple[int, int]] = []
        self._bare: dict[int, bool] = {}
        self._content_bytes = 0
        self._whiteouts = 0
        self._aimless: Counter[bytes] = Counter()
        self._zero_devices = 0
        self._hidden_in_root: frozenset[bytes] = frozenset()

    def write(self, fold: Fold, out: BinaryIO, damage: str = "") -> None:
        """Write the index of a tree to a new file; `damage` is for its notes.

        The tree is taken apart on the way: it and the table are never in memory as a whole.
        """
        out.seek(rows.HEADER_BYTES)
        checksums = _Checksums()
        for part in self._rows(fold):
            checksums.add(part)
            out.write(part)
        links = b"".join(rows.LINK.pack(*pair) for pair in sorted(self._links))
        foreign = b"".join(map(rows.LINK_ROW.pack, self._foreign))
        notes = json.dumps(self._notes(damage)).encode()
        for part in (self._names, self._extras, links, foreign, notes):
            checksums.add(part)
            out.write(part)
        out.write(checksums.all())
        # fmt: off
        header = rows.HEADER.pack(
            rows.MAGIC, rows.VERSION, self._key, self._count, len(self._links),
            len(self._foreign), len(self._names), len(self._extras), len(notes), self._whiteouts,
            self._content_bytes, crc32(checksums.all()),
        )
        # fmt: on
        header += rows.HEADER_CHECKSUM.pack(crc32(header))
        out.seek(0)
        out.write(header.ljust(rows.HEADER_BYTES, b"\0"))

    def _rows(self, fold: Fold) -> Iterator[bytes | bytearray]:
        """Yield the rows: breadth first, so that a directory's children are neighbours."""
        self._hidden_in_root = _hidden_in_root(fold)
        self._owners = list(fold.owners)
        if fold.linked:
            self._count_links(fold)
        yield self._directory_row(fold.root, b"", 0, 0, gone=False)
        self._count = 1
        waiting = deque([(fold.root, 0)])
        fold.root = Directory()
        part = bytearray()
        while waiting:
            directory, number = waiting.popleft()
            order = sorted(directory.children)
            deleted = _deleted(directory, order)
            # From the end, so that each name is let go of once the table has it.
            order.reverse()
            while order:
                batch = order[: -_BATCH - 1 : -1]
                del order[-_BATCH:]
                waiting += self._add(part, directory, number, batch, deleted)
                if len(self._names) > _MAX_NAMES:
                    raise CorruptArchive("the layer's names take more than 4 GiB")
                if len(part) >= _PART:
                    yield part
                    part = bytearray()
            self._hidden_in_root = frozenset()
        yield part

    def _count_links(self, fold: Fold) -> None:
        linked = self._linked = {identity: _Linked() for identity in fold.linked}
        queue = [fold.root]
        while queue:
            for node in queue.pop().children.values():
                if isinstance(node, Directory):
                    queue.append(node)
                elif id(node) in linked:
                    linked[id(node)].count += 1

    def _add(
        self,
        out: bytearray,
        directory: Directory,
        parent: int,
        batch: Sequence[bytes],
        deleted: frozenset[bytes],
    ) -> list[tuple[Directory, int]]:
        """Append the rows of some of a directory's children; return the directories among them."""
        pack, unpack, names, children = rows.ROW.pack, PLAIN.unpack, self._names, directory.children
        linked, hidden, owners = self._linked, self._hidden_in_root, self._owners
        row = self._count
        content = 0
        below = []
        for name in batch:
            node = children.pop(name)
            if isinstance(node, Directory):
                gone = name in deleted and self._is_bare(node)
                out += self._directory_row(node, name, row, parent, gone=gone)
                below.append((node, row))
            elif (
                type(node) is bytes
                and name[:4] != b".wh."
                and name not in hidden
                and id(node) not in linked
            ):
                owner, mtime, size, place = unpack(node)
                mode, uid, gid = owners[owner]
                # fmt: off
                out += pack(
                    len(names), len(name), 0, S_IFREG | mode, uid, gid, 1, row, parent, 0, mtime,
                    size, place << BLOCK_SHIFT, 0,
                )
                # fmt: on
                content += size
            else:
                out += self._leaf_row(node, name, row, parent)
            names += name
            row += 1
        self._count = row
        self._content_bytes += content
        return below

    def _is_bare(self, node: Directory) -> bool:
        """Tell whether nothing but markers imply that a directory is there."""
        known = self._bare
        if id(node) not in known:
            below = [node]
            for one in below:
                below += [child for child in one.children.values() if _is_implied(child)]
            for one in reversed(below):
                known[id(one)] = not one.member and all(
                    known[id(child)]
                    if _is_implied(child)
                    else name.startswith(tarfmt.WHITEOUT_PREFIX)
                    for name, child in one.children.items()
                )
        return known[id(node)]

    def _directory_row(
        self, node: Directory, name: bytes, row: int, parent: int, *, gone: bool
    ) -> bytes:
        """Return a directory's row; the children of all before it are known to come first."""
        first = self._next_first
        self._next_first += len(node.children)
        member = node.member or _IMPLIED
        flags = 0 if node.member else rows.IMPLIED
        if any(child[:4] == b".wh." for child in node.children):
            flags |= rows.WHITEOUTS_WITHIN
            if tarfmt.WHITEOUT_OPAQUE in node.children:
                flags |= rows.OPAQUE
        if node.member and name[:4] == tarfmt.WHITEOUT_PREFIX:
            flags |= self._marker(name)
            # Only the entry's own name is a marker: what lies in it shows, and so does it.
            if node.children and not name.startswith(tarfmt.WHITEOUT_META_PREFIX):
                flags &= ~rows.HIDDEN
        if gone or name.startswith(tarfmt.WHITEOUT_META_PREFIX):
            flags |= rows.HIDDEN
        # fmt: off
        return rows.ROW.pack(
            len(self._names), len(name), flags | (rows.XATTRS if member.xattrs else 0),
            S_IFDIR | member.mode, member.uid, member.gid, 1, row, parent, member.mtimensec,
            member.mtime, len(node.children), first, self._extra(member),
        )
        # fmt: on

    def _leaf_row(self, node: Leaf, name: bytes, row: int, parent: int) -> bytes:
        member = node if isinstance(node, Member) else self._plain(node)
        flags = rows.XATTRS if member.xattrs else 0
        if member.sparse is not None:
            flags |= rows.SPARSE
        if name[:4] == tarfmt.WHITEOUT_PREFIX:
            flags |= self._marker(name)
        elif name in self._hidden_in_root:
            flags |= rows.HIDDEN
        if member.typeflag == tarfmt.LNKTYPE:
            flags |= rows.FOREIGN
            self._foreign.append(row)
        mode, size = member.mode, member.size
        if member.typeflag == tarfmt.SYMTYPE:
            # Linux has no modes of symbolic links (symlink(7)); tars may claim some.
            mode, size = 0o777, len(member.linkname)
        self._zero_devices += member.typeflag == tarfmt.CHRTYPE and not member.rdev
        inode = self._linked.get(id(node)) or _Linked(count=1)
        if inode.row < 0:
            inode.row, inode.extra = row, self._extra(member)
            # What a sparse file takes, not what it claims: the sum has 64 bits.
            self._content_bytes += member.stored
        if inode.count > 1:
            self._links.append((inode.row, row))
        data = member.rdev if member.typeflag in b"34" else member.offset - self._start
        # fmt: off
        return rows.ROW.pack(
            len(self._names), len(name), flags, _TYPE_BITS[member.typeflag] | mode, member.uid,
            member.gid, inode.count, inode.row, parent, member.mtimensec, member.mtime, size,
            data, inode.extra,
        )
        # fmt: on

    def _plain(self, node: bytes) -> Member:
        owner, mtime, size, place = PLAIN.unpack(node)
        mode, uid, gid = self._owners[owner]
        # fmt: off
        return Member(
            b"", tarfmt.REGTYPE, mode, uid, gid, size, mtime, 0, b"", 0,
            self._start + (place << BLOCK_SHIFT), size, (), None,
        )
        # fmt: on

    def _marker(self, name: bytes) -> int:
        if name in _AIMLESS_WHITEOUTS:
            self._aimless[name] += 1
            return rows.HIDDEN
        if name == tarfmt.WHITEOUT_OPAQUE:
            self._whiteouts += 1
            return rows.HIDDEN
        if name.startswith(tarfmt.WHITEOUT_META_PREFIX):
            return rows.HIDDEN
        self._whiteouts += 1
        return rows.HIDDEN | rows.WHITEOUT

    def _extra(self, member: Member) -> int:
        """Store a link target, xattrs and sparse runs; return where, in EXTRA_UNITs, or 0."""
        target = b""
        if member.typeflag == tarfmt.SYMTYPE:
            target = member.linkname
        elif member.typeflag == tarfmt.LNKTYPE:
            target = b"/".join(clean(member.linkname))
        runs = member.sparse or ()
        if not (target or member.xattrs or runs):
            return 0
        out = self._extras
        at = len(out)
        out += rows.EXTRA_HEADER.pack(len(target), len(member.xattrs), len(runs))
        out += target
        for name, value in member.xattrs:
            out += rows.XATTR_HEADER.pack(len(name), len(value)) + name + value
        for run in runs:
            out += rows.RUN.pack(*run)
        out += bytes(-len(out) % rows.EXTRA_UNIT)
        return at // rows.EXTRA_UNIT

    def _notes(self, damage: str) -> list[str]:
        notes = [damage] if damage else []
        for name, count in sorted(self._aimless.items()):
            times = f", {count} times" if count > 1 else ""
            notes.append(f"ignored whiteout {name.decode()!r}{times}: it names nothing")
        if self._zero_devices:
            notes.append(
                f"{self._zero_devices} character devices 0:0 are no whiteouts here, as they are to"
                " some engines"
            )
        return notes


class _Linked:
    """An inode of several names: how many, and once it has a row, that and its extra content."""

    __slots__ = ("count", "extra", "row")

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.row = -1
        self.extra = 0


class _Checksums:
    """The CRC-32 of each block of what is added, part by part; blocks go across parts."""

    def __init__(self) -> None:
        self._found = bytearray()
        self._checksum = 0
        self._room = rows.BLOCK_BYTES

    def add(self, part: bytes | bytearray) -> None:
        at = 0
        with memoryview(part) as view:
            while at < len(view):
                piece = view[at : at + self._room]
                self._checksum = crc32(piece, self._checksum)
                at += len(piece)
                self._room -= len(piece)
                if not self._room:
                    self._found += self._checksum.to_bytes(4, "little")
                    self._checksum, self._room = 0, rows.BLOCK_BYTES

    def all(self) -> bytes:
        if self._room == rows.BLOCK_BYTES:
            return bytes(self._found)
        return bytes(self._found) + self._checksum.to_bytes(4, "little")


def _hidden_in_root(fold: Fold) -> frozenset[bytes]:
    """Return the names in a layer's root that are there for those who pull it lazily.

    eStargz ends with its table of contents (stargz-snapshotter, estargz.md); zstd:chunked has that
    outside of the tar, but may have the same landmarks.
    """
    if fold.last.rpartition(b"/")[2] == _ESTARGZ_TOC:
        return _LANDMARKS | {_ESTARGZ_TOC}
    return frozenset(name for name in _LANDMARKS if _is_landmark(fold.root.children.get(name)))


def _is_landmark(node: Node | None) -> bool:
    if isinstance(node, bytes):
        return int(PLAIN.unpack(node)[2]) == _LANDMARK_BYTES
    return isinstance(node, Member) and node.size == _LANDMARK_BYTES


def _deleted(directory: Directory, order: Sequence[bytes]) -> frozenset[bytes]:
    """Return the names that markers in a directory delete; `order` are its names, sorted."""
    first = bisect_left(order, tarfmt.WHITEOUT_PREFIX)
    last = bisect_left(order, _BEHIND_WHITEOUTS)
    return frozenset(
        name[len(tarfmt.WHITEOUT_PREFIX) :]
        for name in order[first:last]
        if not _is_implied(directory.children[name])
    )


def _is_implied(node: Directory | Leaf) -> TypeGuard[Directory]:
    return isinstance(node, Directory) and node.member is None
