"""Inodes and extended attributes as bytes; the smaller kind of inode wherever nothing is lost."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from imagefs.erofs import format as fmt
from imagefs.filesystem import Attr

_U16, _U32 = 1 << 16, 1 << 32


class Body(NamedTuple):
    """Where an inode's content lies: the data's layout and what `i_u` says of it.

    `tail` follows the inode: the content itself, which must lie in one block, or the map of its
    chunks, which begins at a multiple of 8.
    """

    layout: int = fmt.FLAT_PLAIN
    union: int = 0
    tail: bytes = b""


class Epoch(NamedTuple):
    """The time of inodes that say none of their own, in seconds and nanoseconds."""

    seconds: int
    nanoseconds: int


def attributes(shared: Iterable[int], own: Mapping[bytes, bytes]) -> bytes:
    """Return the attributes that follow an inode: ids of shared ones, then its own.

    What the format has no room for is left out: values beyond 65,535 bytes, and what makes it
    more than 256 KiB.
    """
    ids = list(shared)
    found = bytearray(fmt.XATTR_HEADER.pack(0, len(ids)))
    for one in ids:
        found += one.to_bytes(4, "little")
    for name, value in own.items():
        entry = attribute(name, value)
        if entry and len(found) + len(entry) <= fmt.MAX_XATTR_BYTES:
            found += entry
    return bytes(found) if len(found) > fmt.XATTR_HEADER.size else b""


def attribute(name: bytes, value: bytes) -> bytes:
    """Return an attribute as it lies on disk; nothing where the format has no place for it."""
    for prefix, index in fmt.XATTR_PREFIXES.items():
        rest = name[len(prefix) :]
        if name.startswith(prefix) and bool(rest) == prefix.endswith(b"."):
            if len(rest) > 255 or len(value) > fmt.MAX_XATTR_VALUE:
                return b""
            entry = fmt.XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
            return entry + bytes(-len(entry) % fmt.XATTR_UNIT)
    return b""


def inode(attr: Attr, body: Body, xattrs: bytes, epoch: Epoch) -> bytes:
    """Return an inode with its attributes, but without what follows them."""
    _, _, mode, nlink, uid, gid, rdev, size, _, mtime, nanoseconds = attr
    count = (len(xattrs) - fmt.XATTR_HEADER.size) // fmt.XATTR_UNIT + 1 if xattrs else 0
    union = rdev or body.union
    if (mtime, nanoseconds) == epoch and size < _U32 and uid < _U16 and gid < _U16 and nlink < _U16:
        form = body.layout | fmt.VERSION_COMPACT
        return fmt.COMPACT.pack(form, count, mode, nlink, size, union, 0, uid, gid) + xattrs
    form = body.layout | fmt.VERSION_EXTENDED
    # fmt: off
    return fmt.EXTENDED.pack(
        form, count, mode, size, union, 0, uid, gid, mtime, nanoseconds, nlink
    ) + xattrs
    # fmt: on
