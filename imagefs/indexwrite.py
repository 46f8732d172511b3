"""A folded layer to the bytes of its index.

The only writer of what `rows.py` describes. Pure: a `Fold` in, bytes out.
"""

import json
from collections.abc import Iterator
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG
from zlib import crc32

from imagefs import rows, tarfmt
from imagefs.errors import CorruptArchive
from imagefs.fold import Directory, Fold, clean
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
_ESTARGZ_LANDMARKS = frozenset({_ESTARGZ_TOC, b".prefetch.landmark", b".no.prefetch.landmark"})
_IMPLIED = Member(b"", tarfmt.DIRTYPE, 0o755, 0, 0, 0, 0, 0, b"", 0, 0, 0, (), None)


class Table:
    """The index of one layer in the making; `parts()` are its bytes once `fill` has run.

    `start` is the layer's first byte, from which content offsets are to count. `key` is the
    SHA-256 digest of what identifies the layer.
    """

    def __init__(self, start: int, key: bytes) -> None:
        self._start = start
        self._key = key
        self._rows = bytearray()
        self._names: list[bytes] = []
        self._name_at = 0
        self._next_first = 1
        self._extras = bytearray(rows.EXTRA_UNIT)
        self._foreign: list[int] = []
        self._linked: dict[int, list[int]] = {}
        self._content_bytes = 0
        self._whiteouts = 0
        self._notes: list[str] = []
        self._hidden_in_root: frozenset[bytes] = frozenset()

    def fill(self, fold: Fold, damage: str = "") -> None:
        """Lay out the tree: breadth first, so that a directory's children are neighbours."""
        if damage:
            self._notes.append(damage)
        if fold.last.rpartition(b"/")[2] == _ESTARGZ_TOC:
            self._hidden_in_root = _ESTARGZ_LANDMARKS
        self._linked = {identity: [] for identity in fold.linked}
        queue = [(fold.root, 0)]
        self._add_root(fold.root)
        for directory, row in queue:
            queue += self._add_children(directory, row)
            self._hidden_in_root = frozenset()
        for same in self._linked.values():
            for row in same:
                at = row * rows.ROW_BYTES
                self._rows[at + 20 : at + 28] = rows.LINK.pack(len(same), same[0])

    def _add_root(self, root: Directory) -> None:
        self._names.append(b"")
        self._rows += self._directory_row(root, b"", (0, 0, 0, 1), gone=False)
        self._next_first = 1 + len(root.children)

    def _add_children(self, directory: Directory, parent: int) -> list[tuple[Directory, int]]:
        """Append the rows of a directory's children; return the directories among them."""
        pack, append = rows.ROW.pack, self._names.append
        linked, start, hidden = self._linked, self._start, self._hidden_in_root
        out = self._rows
        row = len(out) // rows.ROW_BYTES
        name_at = self._name_at
        below = []
        # Where the children of each directory will begin is known one generation ahead.
        first = self._next_first
        for name, node in sorted(directory.children.items(), key=_by_name):
            if isinstance(node, Directory):
                place = (name_at, row, parent, first)
                out += self._directory_row(node, name, place, gone=_is_gone(directory, name, node))
                first += len(node.children)
                below.append((node, row))
            elif (
                node.typeflag == b"0"
                and not node.xattrs
                and node.sparse is None
                and name[:4] != b".wh."
                and name not in hidden
            ):
                size = node.size
                # fmt: off
                out += pack(
                    name_at, len(name), 0, S_IFREG | node.mode, node.uid, node.gid, 1, row, parent,
                    node.mtimensec, node.mtime, size, node.offset - start, 0,
                )
                # fmt: on
                if id(node) not in linked:
                    self._content_bytes += size
                else:
                    self._content_bytes += 0 if linked[id(node)] else size
                    linked[id(node)].append(row)
            else:
                out += self._leaf_row(node, name, name_at, row, parent)
                if id(node) in linked:
                    linked[id(node)].append(row)
            append(name)
            name_at += len(name)
            row += 1
        self._name_at = name_at
        self._next_first = first
        return below

    def _directory_row(
        self, node: Directory, name: bytes, place: tuple[int, int, int, int], *, gone: bool
    ) -> bytes:
        """Return a directory's row; `place` is name_at, row, parent and the first child's row."""
        name_at, row, parent, first = place
        member = node.member or _IMPLIED
        flags = 0 if node.member else rows.IMPLIED
        for child in node.children:
            if child[:4] == tarfmt.WHITEOUT_PREFIX:
                flags |= rows.WHITEOUTS_WITHIN
                if child == tarfmt.WHITEOUT_OPAQUE:
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
            name_at, len(name), flags | (rows.XATTRS if member.xattrs else 0),
            S_IFDIR | member.mode, member.uid, member.gid, 1, row, parent, member.mtimensec,
            member.mtime, len(node.children), first, self._extra(member),
        )
        # fmt: on

    def _leaf_row(self, node: Member, name: bytes, name_at: int, row: int, parent: int) -> bytes:
        flags = rows.XATTRS if node.xattrs else 0
        if node.sparse is not None:
            flags |= rows.SPARSE
        if name[:4] == tarfmt.WHITEOUT_PREFIX:
            flags |= self._marker(name)
        elif name in self._hidden_in_root:
            flags |= rows.HIDDEN
        if node.typeflag == tarfmt.LNKTYPE:
            flags |= rows.FOREIGN
            self._foreign.append(row)
        data = node.rdev if node.typeflag in b"34" else node.offset - self._start
        if id(node) not in self._linked or not self._linked[id(node)]:
            self._content_bytes += node.size
        mode, size = node.mode, node.size
        if node.typeflag == tarfmt.SYMTYPE:
            # Linux has no modes of symbolic links (symlink(7)); tars may claim some.
            mode, size = 0o777, len(node.linkname)
        # fmt: off
        return rows.ROW.pack(
            name_at, len(name), flags, _TYPE_BITS[node.typeflag] | mode, node.uid, node.gid,
            1, row, parent, node.mtimensec, node.mtime, size, data, self._extra(node),
        )
        # fmt: on

    def _marker(self, name: bytes) -> int:
        if name in _AIMLESS_WHITEOUTS:
            self._notes.append(f"ignored whiteout {name.decode()!r}: it names nothing")
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

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes of the index, in order."""
        names = b"".join(self._names)
        links = sorted((same[0], row) for same in self._linked.values() for row in same)
        notes = json.dumps(self._notes).encode()
        if len(self._rows) // rows.ROW_BYTES > rows.MAX_ROWS:
            raise CorruptArchive(f"the layer has more than {rows.MAX_ROWS} members")
        if len(names) >> 32 or len(self._extras) >> 34:
            raise CorruptArchive("the layer's names or attributes take more than 4 GiB")
        payload = b"".join(
            (
                self._rows,
                names,
                self._extras,
                b"".join(rows.LINK.pack(*pair) for pair in links),
                b"".join(map(rows.LINK_ROW.pack, self._foreign)),
                notes,
            )
        )
        step = rows.BLOCK_BYTES
        checksums = b"".join(
            crc32(payload[at : at + step]).to_bytes(4, "little")
            for at in range(0, len(payload), step)
        )
        # fmt: off
        header = rows.HEADER.pack(
            rows.MAGIC, rows.VERSION, self._key, len(self._rows) // rows.ROW_BYTES, len(links),
            len(self._foreign), len(names), len(self._extras), len(notes), self._whiteouts,
            self._content_bytes, crc32(checksums),
        )
        # fmt: on
        header += rows.HEADER_CHECKSUM.pack(crc32(header))
        yield header.ljust(rows.HEADER_BYTES, b"\0")
        yield payload
        yield checksums


def _is_gone(directory: Directory, name: bytes, node: Directory) -> bool:
    """Tell whether a directory is deleted and only markers imply that it is there."""
    if node.member or tarfmt.WHITEOUT_PREFIX + name not in directory.children:
        return False
    queue = [node]
    for one in queue:
        for child, below in one.children.items():
            if isinstance(below, Directory) and not below.member:
                queue.append(below)
            elif not child.startswith(tarfmt.WHITEOUT_PREFIX):
                return False
    return True


def _by_name(item: tuple[bytes, object]) -> bytes:
    return item[0]
