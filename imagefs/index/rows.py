"""The layer index as it lies on disk: offsets, flags and record formats, no code.

    header      HEADER_BYTES: HEADER, then zeros
    rows        ROW records; row 0 is the layer's root, the children of a directory are contiguous
                and sorted by name
    names       the names of the rows, in the order of the rows
    extras      what few rows have: link targets, extended attributes, sparse maps
    links       LINK records, sorted: the rows of every inode that has more than one name
    foreign     rows of hard links whose target the layer does not hold, as LINK_ROW
    notes       JSON: what was odd or damaged, for people
    checksums   CRC-32 of each BLOCK_BYTES of all that lies between header and here

All numbers are little-endian. Offsets of content count from the layer's first byte, so that the
table stays true wherever the layer's bytes lie.
"""

from struct import Struct
from typing import NamedTuple

MAGIC = b"imagefs\x1a"
VERSION = 4

HEADER_BYTES = 4096
BLOCK_BYTES = 1 << 14
BLOCK_SHIFT = 14

MAX_ROWS = 1 << 28
"""Most rows of one layer: as many as a node id can tell apart."""

# magic, version, key (SHA-256 of what was indexed), rows, links, foreign, names bytes,
# extras bytes, notes bytes, whiteouts, content bytes, the layer's bytes, CRC-32 of the checksums
HEADER = Struct("<8sI32sIIIQQQIQQI")
# Follows the header: CRC-32 of the header.
HEADER_CHECKSUM = Struct("<I")

ROW = Struct("<IHHIIIIIIIqQQI")
ROW_BYTES = ROW.size
NAME_PLACE = Struct("<IH")
"""The first two fields of a ROW."""
FLAGS_AT = NAME_PLACE.size
"""Where in a ROW its flags begin, with the low byte, which holds all that there are."""
LINK = Struct("<II")
LINK_ROW = Struct("<I")
EXTRA_UNIT = 4
"""Extras begin at multiples of this, and rows hold the multiple; 0 is none."""
EXTRA_HEADER = Struct("<IHI")
"""Bytes of the link target, count of extended attributes, count of sparse runs."""
XATTR_HEADER = Struct("<HI")
"""Bytes of the name, bytes of the value; both follow."""
RUN = Struct("<QQ")
"""Offset and length of a run of data in a sparse file, in bytes."""

# Bits of a row's flags.
IMPLIED = 1
"""A directory that no member describes: it exists because something lies in it."""
OPAQUE = 2
"""A directory in which nothing of the lower layers shows."""
WHITEOUT = 4
"""A marker that deletes its namesake from the lower layers."""
HIDDEN = 8
"""Shown in the layer, never in a merged root."""
WHITEOUTS_WITHIN = 16
"""A directory that holds whiteouts."""
FOREIGN = 32
"""A hard link to a file of a lower layer; its target, from the root, is the extra's link target.

There may be several, NUL between them, of which the first that is a file counts. Where there is
none, a link whose `inode` is another row has that inode: the layer has its target behind it.
"""
XATTRS = 64
"""The extra holds extended attributes."""
SPARSE = 128
"""The extra holds a sparse map."""


class Row(NamedTuple):
    """One name in a layer, and the inode that it names.

    `inode` is the row that stands for the inode: this one, unless it is a hard link to another.
    `parent` is the directory's row. `size` and `data` are a file's size and its content's offset;
    of a directory, the count of its children and the row of the first; of a device, `data` is
    its number.
    """

    name_at: int
    name_len: int
    flags: int
    mode: int
    uid: int
    gid: int
    nlink: int
    inode: int
    parent: int
    mtimensec: int
    mtime: int
    size: int
    data: int
    extra: int
