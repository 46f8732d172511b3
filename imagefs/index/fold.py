"""The members of one layer, in order, to the directory tree that they leave behind.

Owns what a path inside a layer means: lexical cleaning, directories that are only implied,
symbolic links as parents, names that come twice, hard links to anything in any order. Whiteouts
are kept as the plain entries that they are; what they do to other layers is `merge.py`'s. Nothing
here touches the host's file system. One `Fold` belongs to one scan.

An entry's key is its directory's number and its name. So a path is resolved once, when its member
comes, and a directory that something replaces is not taken apart: nothing leads to its number then.

A hard link means what its target's path leads to when it comes. Where that is a leaf of this layer,
both become names of one shared inode, whatever is put at either path later. Else the link is
pending: its record is unbound and holds the path. A link to an unbound one is one more name of
that. Once all members are in, each pending link is followed through this layer, from target to
target, until there is a leaf, none, or a link that was passed before. What it passed are paths
that lower layers are asked for, the nearest first, as what they hold was there before. A leaf at
the end is then shared by all links of the way, for where no lower layer has the target: they are
late. All others stay unbound, and are the index's foreign ones, which `vfs/links.py` resolves.

What it costs is bounded: a plain file takes some 90 bytes beside its name, any other member up to
some 250 beside its name, its target and its attributes, and what a few bytes of a tar could blow
up (implied directories, attributes, links through links) has a limit of its own.
"""

from collections.abc import Callable, Iterable
from itertools import chain, islice
from stat import S_IFREG
from typing import TypeAlias

from imagefs.errors import CorruptArchive
from imagefs.filesystem import NAME_MAX
from imagefs.index import records as layer_records
from imagefs.index.records import (
    RECORD,
    RECORD_BYTES,
    SPECIAL_NAMES,
    PackedMembers,
    clean,
    is_directory,
)
from imagefs.index.sorted_tree import Folded
from imagefs.tar import header as tar_header
from imagefs.tar.scan import Member

MAX_MEMBERS = 1 << 22
"""Most members of one layer; the largest that are known have some two million."""
MAX_IMPLIED = 1 << 19
"""Most directories of one layer that no member describes; one path can name two thousand."""
MAX_FOLLOWED = 4_000_000
"""Most steps through links and deep directories that the paths of one layer may take."""
STEPS_A_NAME = 8
"""How many of these steps take about as long as a name; where they are more, they count."""

_DEEP = 64
"""From which component on the steps of a path are counted: honest trees hardly go so deep."""
_MAX_LINKS = 40
"""As many symbolic links as the kernel follows in one path (path_resolution(7))."""
# Bytes of the paths of later links that a hard link may lead on to in lower layers, beside its own:
# each is looked up in every snapshot that asks.
_MAX_ALTERNATIVES = 16
_TOGETHER, _BYTES_UNTOLD, _STEPS_UNTOLD = 4096, 1 << 20, 1 << 15
"""Members, bytes of what is kept beside them, or steps until it is told what the tree takes."""
_BYTES_WAITING, _BYTES_SETTLED = 50, 300
"""What an entry takes: beside its content, or with a name that is not long."""
_MAX_KNOWN = 1 << 17
_MAX_KNOWN_LENGTH = 512

_ROOT = layer_records.key_of(0)

Took: TypeAlias = Callable[[int, int], None]


class Fold:
    """A layer's tree, grown member by member.

    Leaves wait in the order that they came in. They are settled by name only when it matters what
    stands there, which saves memory and time; what is settled is always later than what waits
    under the same name. Directories, and symbolic links up to a number, are settled at once.

    `took` is told again and again how many names the tree has by now, or has taken the time of, and
    how many bytes of memory it takes.
    """

    def __init__(self, took: Took = lambda _names, _memory: None) -> None:
        self._took = took
        self._count = self._names = self._told = self._told_details = 0
        self._members = PackedMembers()
        self._root = self._members.directory(None)
        self._waiting: list[bytes] = []
        self._settled: dict[bytes, bytes] = {}
        self._unsettled_links = False
        self._directories = {b"": _ROOT}
        # The last one of a path that is too long to keep many.
        self._deep = b"", _ROOT
        self._numbers = 0
        self._pending: list[bytes] = []
        self._implied = self._followed = self._told_followed = 0

    def add(self, members: Iterable[Member]) -> None:
        """Take in members. CorruptArchive where they go beyond what one layer may have."""
        known, settled = self._directories, self._settled
        append, pack = self._waiting.append, RECORD.pack
        left = iter(members)
        for first in left:
            if self._count >= MAX_MEMBERS:
                raise CorruptArchive(f"a layer of more than {MAX_MEMBERS} members")
            some = min(_TOGETHER, MAX_MEMBERS - self._count)
            self._take_stock()
            self._count += some
            for member in chain((first,), islice(left, some - 1)):
                # fmt: off
                (name, typeflag, mode, uid, gid, size, mtime, nanoseconds, _, _, offset, _, xattrs,
                 sparse) = member
                # fmt: on
                head, _, base = name.rpartition(b"/")
                directory = known.get(head)
                # A name that ends in a slash, or holds dots or empty parts, goes the long way.
                if directory is None or base in SPECIAL_NAMES:
                    directory, last = self._place(name)
                    if not last:
                        self._describe_root(member)
                        continue
                    if last == base:
                        self._know(head, directory)
                    base = last
                if len(base) > NAME_MAX:
                    _refuse_long(base)
                key = directory + base
                # The way that nearly all members take; _put is the same in full.
                if typeflag == b"0" and not xattrs and sparse is None and key not in settled:
                    mode |= S_IFREG
                    append(key + pack(offset, 0, mode, uid, gid, mtime, nanoseconds, size, 0))
                else:
                    self._put(key, member)

    def _take_stock(self) -> None:
        """Tell what the tree takes, and how much of it the waiting leaves are."""
        self._names += sum(map(len, self._waiting[self._told :]))
        self._told, self._told_details = len(self._waiting), self._members.details_bytes
        self._told_followed = self._followed
        self._took(
            max(len(self._waiting) + len(self._settled), self._followed // STEPS_A_NAME),
            self._names
            + _BYTES_WAITING * len(self._waiting)
            + _BYTES_SETTLED * len(self._settled)
            + self._told_details,
        )

    def finish(self) -> Folded:
        """Return the tree; nothing can be added any more.

        Hard links whose targets came after them are bound, as far as the layer holds them.
        """
        self._take_stock()
        self._bind_pending()
        settled, entries = self._settled, self._waiting
        self._settled, self._waiting, self._pending = {}, [], []
        self._forget_paths()
        while settled:
            key, record = settled.popitem()
            entries.append(key + record)
        del settled
        entries.sort()
        entries = layer_records.latest(entries)
        return Folded(self._members, self._root, entries, self._numbers)

    def _bind_pending(self) -> None:
        """Settle where links lead whose targets were not there when they came.

        A lower layer's file counts first, as it was there already; then what this layer has in the
        end. That may be another such link, which leads on in the same way.
        """
        settled, unbound = self._settled, self._members.unbound
        ends: dict[bytes, tuple[bytes, bytes | None]] = {}
        for key in self._pending:
            trail: list[tuple[bytes, bytes]] = []
            there: bytes | None = key
            while there and there not in ends:
                path = unbound(settled.get(there))
                if path is None:
                    break
                ends[there] = (path, None)
                trail.append((there, path))
                there = self._find(path)
            if len(trail) == 1 and (there is None or there not in settled):
                # The layer has nothing there: nearly all are such, and there may be very many.
                del ends[key]
            else:
                self._unwind(trail, there, ends)
        for key, (paths, target) in ends.items():
            link = settled[key]
            if target is None:
                settled[key] = self._members.respelled(link, paths)
            else:
                settled[key] = self._members.late(link, self._share(target), paths)

    def _unwind(
        self,
        trail: list[tuple[bytes, bytes]],
        there: bytes | None,
        ends: dict[bytes, tuple[bytes, bytes | None]],
    ) -> None:
        """Say of each link on a way where it leads, whose last one leads to the key `there`."""
        on_the_way = {link for link, _ in trail}
        more, target = b"", None
        record = self._settled.get(there or b"")
        if there in ends and there not in on_the_way:
            more, target = ends[there]
        elif there not in on_the_way and record is not None and not is_directory(record):
            target = there
        for link, path in reversed(trail):
            if more and more != path and len(more) <= _MAX_ALTERNATIVES:
                more = path + b"\0" + more
            else:
                more = path
            ends[link] = (more, target)

    def _share(self, key: bytes) -> bytes:
        record = self._settled[key] = self._members.share(self._settled[key])
        return record

    def _describe_root(self, member: Member) -> None:
        if member.typeflag == tar_header.DIRTYPE:
            self._root = self._members.directory(member)

    def _put(self, key: bytes, member: Member) -> None:
        """Place any member; what stood there gives way, the last one wins."""
        if self._members.details_bytes - self._told_details > _BYTES_UNTOLD:
            self._take_stock()
        if member.typeflag == tar_header.DIRTYPE:
            self._put_directory(key, member)
            return
        if member.typeflag == tar_header.LNKTYPE:
            record = self._link(key, member)
        else:
            record = self._members.leaf(member)
            if key not in self._settled and not self._may_lead_on(member):
                self._waiting.append(key + record)
                return
        there = self._settled.get(key)
        if is_directory(there) or self._members.symlink(there) is not None:
            self._forget_paths()
        self._settled[key] = record

    def _may_lead_on(self, member: Member) -> bool:
        """Tell whether to settle a leaf at once, since it is likely to be asked for as a parent.

        It is a symbolic link then. If there are very many of these, they wait as others do.
        """
        if member.typeflag != tar_header.SYMTYPE:
            return False
        few = len(self._settled) < _MAX_KNOWN
        self._unsettled_links |= not few
        return few

    def _put_directory(self, key: bytes, member: Member) -> None:
        there = self._settled.get(key)
        number = 0
        if there is not None and is_directory(there):
            number = layer_records.number_of(there)
        elif there is not None:
            self._forget_paths()
        self._settled[key] = self._members.directory(member, number)

    def _link(self, key: bytes, member: Member) -> bytes:
        target = self._find(member.linkname)
        there = self._settled.get(target or b"")
        if target is not None and there is not None and not is_directory(there):
            if self._members.unbound(there) is None:
                return self._share(target)
            # By now it is the lower layers' file that it leads to, and this is one more name of it.
            self._pending.append(key)
            return there
        self._pending.append(key)
        return self._members.leaf(member._replace(linkname=self._spelled(member.linkname)))

    def _place(self, path: bytes) -> tuple[bytes, bytes]:
        """Return the directory that a path leads to, made if need be, and the last component.

        The component is empty for the root itself.
        """
        head, _, base = path.rpartition(b"/")
        directory = self._known(head)
        if directory is not None and base not in SPECIAL_NAMES:
            return directory, base
        self._count_steps(path.count(b"/") - _DEEP)
        *parents, base = clean(path) or [b""]
        head = b"/".join(parents)
        directory = self._known(head)
        if directory is None:
            directory = self._make(parents)
            self._know(head, directory)
        return directory, base

    def _known(self, path: bytes) -> bytes | None:
        deep, directory = self._deep
        return directory if path == deep else self._directories.get(path)

    def _know(self, path: bytes, directory: bytes) -> None:
        if len(path) > _MAX_KNOWN_LENGTH:
            self._deep = path, directory
        else:
            if len(self._directories) >= _MAX_KNOWN:
                self._forget_paths()
            self._directories[path] = directory

    def _make(self, parents: list[bytes]) -> bytes:
        trail = [_ROOT]
        for name in parents:
            key = trail[-1] + name
            child = self._child(key)
            if child is None or not is_directory(child):
                target = self._members.symlink(child)
                followed = None if target is None else self._follow(trail, target, make=True)
                if followed is not None:
                    trail = followed
                    continue
                if child is not None:
                    self._forget_paths()
                child = self._imply(name)
            trail.append(self._enter(key, child))
        return trail[-1]

    def _child(self, key: bytes) -> bytes | None:
        """Return what stands at a key and may lead on, a directory or a symbolic link."""
        if self._unsettled_links and key not in self._settled:
            self._settle()
        return self._settled.get(key)

    def _settle(self) -> None:
        settle, waiting = self._settled.setdefault, self._waiting
        while waiting:
            entry = waiting.pop()
            settle(entry[:-RECORD_BYTES], entry[-RECORD_BYTES:])
        self._unsettled_links = False

    def _imply(self, name: bytes) -> bytes:
        if len(name) > NAME_MAX:
            _refuse_long(name)
        self._implied += 1
        if self._implied > MAX_IMPLIED:
            raise CorruptArchive(f"a layer that implies more than {MAX_IMPLIED} directories")
        return self._members.directory(None)

    def _enter(self, key: bytes, record: bytes) -> bytes:
        """Return what all keys in a directory begin with, whose own key and record these are."""
        inside = layer_records.inside(record)
        if inside == layer_records.NO_NUMBER:
            self._numbers += 1
            inside = layer_records.key_of(self._numbers)
            self._settled[key] = layer_records.numbered(record, inside)
        return inside

    def _follow(
        self, trail: list[bytes], target: bytes, *, make: bool = False
    ) -> list[bytes] | None:
        """Return the way from the layer's root to the directory that a symbolic link means.

        None where the layer has none, or links go in a circle. Like chroot(2), the layer's root is
        the root of absolute targets and the parent of itself. Directories that the layer does not
        hold are made if told to, as a lower layer may have them; a file in their way gives way.
        """
        trail = list(trail)
        links = 0
        waiting = self._steps(trail, target)
        while waiting:
            name = waiting.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del trail[max(1, len(trail) - 1) :]
                continue
            key = trail[-1] + name
            child = self._child(key)
            link = self._members.symlink(child)
            if child is not None and is_directory(child):
                trail.append(self._enter(key, child))
            elif link:
                links += 1
                if links > _MAX_LINKS:
                    return None
                waiting += self._steps(trail, link)
            elif make and link is None:
                trail.append(self._enter(key, self._imply(name)))
            else:
                return None
        return trail if target else None

    def _spelled(self, path: bytes) -> bytes:
        """Return a path without the symbolic links that this layer has among its parents.

        Where these lead out of the layer, only lower layers can tell what is there.
        """
        names: list[bytes] = []
        keys: list[bytes | None] = [_ROOT]
        links, waiting = 0, clean(path)[::-1]
        self._count_steps(len(waiting) - _DEEP)
        while waiting:
            name = waiting.pop()
            if name == b"..":
                del names[-1:], keys[max(1, len(keys) - 1) :]
            if name in SPECIAL_NAMES:
                continue
            above = keys[-1]
            child = None if above is None else self._child(above + name)
            link = self._members.symlink(child) if waiting else None
            if link:
                links += 1
                if links > _MAX_LINKS:
                    return path
                if link.startswith(b"/"):
                    del names[:], keys[1:]
                waiting += self._parts(link)
                continue
            names.append(name)
            inside = (
                layer_records.inside(child)
                if is_directory(child) and child
                else layer_records.NO_NUMBER
            )
            keys.append(None if inside == layer_records.NO_NUMBER else inside)
        found = b"/".join(names)
        return found if len(found) <= tar_header.PATH_MAX else path

    def _steps(self, trail: list[bytes], target: bytes) -> list[bytes]:
        """Return a link target's components, the last one first; an absolute one starts over."""
        if target.startswith(b"/"):
            del trail[1:]
        return self._parts(target)

    def _parts(self, target: bytes) -> list[bytes]:
        parts = target.split(b"/")[::-1]
        self._count_steps(len(parts))
        return parts

    def _count_steps(self, steps: int) -> None:
        self._followed += max(0, steps)
        if self._followed - self._told_followed > _STEPS_UNTOLD:
            self._take_stock()
        if self._followed > MAX_FOLLOWED:
            raise CorruptArchive(
                f"links and deep directories of more than {MAX_FOLLOWED} steps in one layer"
            )

    def _find(self, path: bytes) -> bytes | None:
        """Return the key that a path leads to; symbolic links count as parents only.

        None for the root, and where there is no directory that the key could be in.
        """
        self._count_steps(path.count(b"/") - _DEEP)
        *parents, base = clean(path) or [b""]
        if not base:
            return None
        self._settle()
        head = b"/".join(parents)
        directory = self._known(head)
        if directory is None:
            followed = self._follow([_ROOT], head)
            if followed is None:
                return None
            directory = followed[-1]
            self._know(head, directory)
        return directory + base

    def _forget_paths(self) -> None:
        self._directories.clear()
        self._directories[b""] = _ROOT
        self._deep = b"", _ROOT


def _refuse_long(name: bytes) -> None:
    """Raise CorruptArchive, unless a whiteout's prefix alone makes the name too long."""
    if len(name.removeprefix(tar_header.WHITEOUT_PREFIX)) > NAME_MAX:
        shown = name[:40].decode("utf-8", "backslashreplace")
        raise CorruptArchive(
            f"member name {shown!r}... of {len(name)} bytes;"
            f" Linux allows {NAME_MAX} between slashes"
        )
