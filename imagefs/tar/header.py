"""The tar header as its standards define it: names, offsets and values, no code.

POSIX.1-2024, pax, "ustar Interchange Format" and "pax Header Block"; the GNU additions are from
GNU tar's manual, "Basic Tar Format" and "Storing Sparse Files", and its src/tar.h.
"""

BLOCK = 512
BLOCK_SHIFT = 9

# Fields of the 512-byte header: slices of it. "v7" ends behind linkname.
NAME = slice(0, 100)
MODE_UID_GID = slice(100, 124)
SIZE = slice(124, 136)
MTIME = slice(136, 148)
CHKSUM = slice(148, 156)
TYPEFLAG = slice(156, 157)
LINKNAME = slice(157, 257)
MAGIC_VERSION = slice(257, 265)
DEVMAJOR = slice(329, 337)
DEVMINOR = slice(337, 345)
PREFIX = slice(345, 500)
# Old GNU headers have these where ustar has its prefix.
GNU_ATIME = slice(345, 357)
GNU_CTIME = slice(357, 369)

USTAR_MAGIC = b"ustar\0"
GNU_MAGIC_VERSION = b"ustar  \0"

# star writes a shorter prefix and its own magic at the end of the block (star(5)).
STAR_PREFIX = slice(345, 476)
STAR_MAGIC = slice(508, 512)
STAR_MAGIC_VALUE = b"tar\0"

# Values of typeflag.
REGTYPE = b"0"
AREGTYPE = b"\0"
LNKTYPE = b"1"
SYMTYPE = b"2"
CHRTYPE = b"3"
BLKTYPE = b"4"
DIRTYPE = b"5"
FIFOTYPE = b"6"
CONTTYPE = b"7"
XHDTYPE = b"x"
XGLTYPE = b"g"
SOLARIS_XHDTYPE = b"X"
GNUTYPE_DUMPDIR = b"D"
GNUTYPE_LONGLINK = b"K"
GNUTYPE_LONGNAME = b"L"
GNUTYPE_MULTIVOL = b"M"
GNUTYPE_NAMES = b"N"
GNUTYPE_SPARSE = b"S"
GNUTYPE_VOLHDR = b"V"

# Types whose header no data follows, whatever their size field says.
HEADER_ONLY_TYPES = frozenset({LNKTYPE, SYMTYPE, CHRTYPE, BLKTYPE, DIRTYPE, FIFOTYPE})
# Types that describe no file: their data is passed over.
IGNORED_TYPES = frozenset({GNUTYPE_MULTIVOL, GNUTYPE_NAMES, GNUTYPE_VOLHDR})

# Old GNU sparse members: the header holds 4 (offset, numbytes) pairs, each extension block 21.
OLDGNU_SPARSE = slice(386, 482)
OLDGNU_ISEXTENDED = 482
OLDGNU_REALSIZE = slice(483, 495)
OLDGNU_EXTENSION_SPARSE = slice(0, 504)
OLDGNU_EXTENSION_ISEXTENDED = 504
OLDGNU_SPARSE_PAIR = 24

# pax records of an extended header.
PAX_XATTR_SCHILY = b"SCHILY.xattr."
PAX_XATTR_LIBARCHIVE = b"LIBARCHIVE.xattr."
PAX_SPARSE_PREFIX = b"GNU.sparse."

WHITEOUT_PREFIX = b".wh."
"""A file of this prefix deletes its namesake from the lower layers (OCI image-spec, layer.md)."""
WHITEOUT_META_PREFIX = b".wh..wh."
"""Names that aufs kept for itself; never shown in a merged root."""
WHITEOUT_OPAQUE = b".wh..wh..opq"
"""Hides all that the lower layers have in the directory that it stands in."""

PATH_MAX = 4096
"""Longest name and link target, in bytes, that Linux can use (<linux/limits.h>)."""
