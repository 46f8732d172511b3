"""EROFS as it lies on disk: records, flags and limits, no code but the check sum's.

After Linux's fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst; names are those of the
header. All numbers are little-endian. A node number (nid) is an inode's offset in slots of 32
bytes. Of what has come to the format since Linux 5.16 nothing is used, but for blocks of 512 bytes
(Linux 6.4), which make each member of a tar addressable.
"""

import stat
from struct import Struct

MAGIC = 0xE0F5E1E2
SUPER_OFFSET = 1024
SLOT_BITS = 5
MAX_ROOT_NID = (1 << 16) - 1
NULL_ADDRESS = 0xFFFFFFFF
"""The address of a chunk that is a hole."""
MAX_ADDRESS = NULL_ADDRESS - 1
MAX_DEVICES = (1 << 16) - 1

# feature_compat and feature_incompat
SUPER_CHECKSUM, MTIME = 1, 2
CHUNKED_FILE, DEVICE_TABLE = 4, 8

# magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time,
# build_time_nsec, blocks, meta_blkaddr, xattr_blkaddr, uuid, volume_name, feature_incompat,
# u1, extra_devices, devt_slotoff
SUPER = Struct("<IIIBBHQqIIII16s16sIHHH38x")
CHECKSUM_AT = SUPER_OFFSET + 4
DEVICE = Struct("<64sII56x")
"""tag, blocks, mapped_blkaddr."""

COMPACT = Struct("<HHHHI4xIIHH4x")
"""i_format, i_xattr_icount, i_mode, i_nlink, i_size, i_u, i_ino, i_uid, i_gid."""
EXTENDED = Struct("<HHH2xQIIIIqII16x")
"""i_format, i_xattr_icount, i_mode, i_size, i_u, i_ino, i_uid, i_gid, i_mtime, i_mtime_nsec,
i_nlink."""
I_SIZE_AT, I_U_AT = 8, 16
"""Where these fields lie in an inode of either kind."""

# i_format: the version in bit 0, the data's layout above.
VERSION_COMPACT, VERSION_EXTENDED = 0, 1
FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED = 0 << 1, 2 << 1, 4 << 1

CHUNK_INDEXES = 0x20
MAX_CHUNK_BITS = 31
"""What a chunk's bits may exceed a block's by."""
CHUNK_INDEX = Struct("<HHI")
"""advise (0), device_id, blkaddr."""

XATTR_HEADER = Struct("<IB7x")
"""h_name_filter (unused), h_shared_count; the ids of shared attributes follow, then the others."""
XATTR_ENTRY = Struct("<BBH")
"""e_name_len, e_name_index, e_value_size; name and value follow."""
XATTR_UNIT = 4
MAX_XATTR_VALUE = (1 << 16) - 1
MAX_XATTR_BYTES = XATTR_HEADER.size + XATTR_UNIT * ((1 << 16) - 2)
XATTR_PREFIXES = {
    b"user.": 1,
    b"system.posix_acl_access": 2,
    b"system.posix_acl_default": 3,
    b"trusted.": 4,
    b"security.": 6,
}
"""Where the name of an attribute begins so, the index that stands for it."""

DIRENT = Struct("<QHBx")
"""nid, nameoff, file_type."""
FILE_TYPES = {
    stat.S_IFREG >> 12: 1,
    stat.S_IFDIR >> 12: 2,
    stat.S_IFCHR >> 12: 3,
    stat.S_IFBLK >> 12: 4,
    stat.S_IFIFO >> 12: 5,
    stat.S_IFSOCK >> 12: 6,
    stat.S_IFLNK >> 12: 7,
}
DIRECTORY = FILE_TYPES[stat.S_IFDIR >> 12]

_POLYNOMIAL = 0x82F63B78


def crc32c(content: bytes) -> int:
    """Return the check sum of a superblock as the kernel takes it: CRC-32C, not inverted."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value
