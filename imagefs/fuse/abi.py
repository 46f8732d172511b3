"""The kernel's FUSE protocol as data: opcodes, flags and structs, under the kernel's own names.

Source: <linux/fuse.h>, protocol 7.31 to 7.45 (Linux 5.4 to 6.18); its changelog says which
version brought what. Nothing here does anything. Structs are in the machine's byte order and
written without implicit padding, as the header pads them by hand to 64 bits. Fields of requests
that nothing here reads are skipped ("x"); comments name them after a semicolon. Times are signed,
though the header calls them unsigned: the kernel keeps them as time64_t, and files from before
1970 exist.
"""

from struct import Struct

from imagefs.filesystem import NAME_MAX

FUSE_KERNEL_VERSION = 7
FUSE_KERNEL_MINOR_VERSION = 45
FUSE_ROOT_ID = 1
FUSE_MIN_READ_BUFFER = 8192

# enum fuse_opcode
FUSE_LOOKUP = 1
FUSE_FORGET = 2
FUSE_GETATTR = 3
FUSE_SETATTR = 4
FUSE_READLINK = 5
FUSE_SYMLINK = 6
FUSE_MKNOD = 8
FUSE_MKDIR = 9
FUSE_UNLINK = 10
FUSE_RMDIR = 11
FUSE_RENAME = 12
FUSE_LINK = 13
FUSE_OPEN = 14
FUSE_READ = 15
FUSE_WRITE = 16
FUSE_STATFS = 17
FUSE_RELEASE = 18
FUSE_FSYNC = 20
FUSE_SETXATTR = 21
FUSE_GETXATTR = 22
FUSE_LISTXATTR = 23
FUSE_REMOVEXATTR = 24
FUSE_FLUSH = 25
FUSE_INIT = 26
FUSE_OPENDIR = 27
FUSE_READDIR = 28
FUSE_RELEASEDIR = 29
FUSE_FSYNCDIR = 30
FUSE_GETLK = 31
FUSE_SETLK = 32
FUSE_SETLKW = 33
FUSE_ACCESS = 34
FUSE_CREATE = 35
FUSE_INTERRUPT = 36
FUSE_BMAP = 37
FUSE_DESTROY = 38
FUSE_IOCTL = 39
FUSE_POLL = 40
FUSE_NOTIFY_REPLY = 41
FUSE_BATCH_FORGET = 42
FUSE_FALLOCATE = 43
FUSE_READDIRPLUS = 44
FUSE_RENAME2 = 45
FUSE_LSEEK = 46
FUSE_COPY_FILE_RANGE = 47
FUSE_SETUPMAPPING = 48
FUSE_REMOVEMAPPING = 49
FUSE_SYNCFS = 50
FUSE_TMPFILE = 51
FUSE_STATX = 52
FUSE_COPY_FILE_RANGE_64 = 53

# INIT request and reply flags; from bit 32 on they travel in flags2.
FUSE_ASYNC_READ = 1 << 0
FUSE_EXPORT_SUPPORT = 1 << 4
FUSE_AUTO_INVAL_DATA = 1 << 12
FUSE_DO_READDIRPLUS = 1 << 13
FUSE_READDIRPLUS_AUTO = 1 << 14
FUSE_ASYNC_DIO = 1 << 15
FUSE_NO_OPEN_SUPPORT = 1 << 17
FUSE_PARALLEL_DIROPS = 1 << 18
FUSE_MAX_PAGES = 1 << 22
FUSE_CACHE_SYMLINKS = 1 << 23
FUSE_NO_OPENDIR_SUPPORT = 1 << 24

# Flags of fuse_open_out.open_flags
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3

# enum fuse_notify_code: what stands for the error in the header of a message that answers nothing
FUSE_NOTIFY_INVAL_ENTRY = 3
FUSE_NOTIFY_STORE = 4

# struct fuse_in_header: len, opcode, unique, nodeid; uid, gid, pid, total_extlen, padding
IN_HEADER = Struct("=IIQQ16x")
# Its unique and pid
ASKER = Struct("=8xQ16xI")
# struct fuse_out_header: len, error, unique
OUT_HEADER = Struct("=IiQ")

# struct fuse_attr: ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec,
# mode, nlink, uid, gid, rdev, blksize; flags
_ATTR = "QQQqqqIIIIIIIII4x"
# struct fuse_entry_out: nodeid, entry_valid, attr_valid, attr; generation after nodeid,
# entry_valid_nsec and attr_valid_nsec before attr
_ENTRY_OUT = "Q8xQQ8x" + _ATTR
# struct fuse_attr_out: attr_valid, attr; attr_valid_nsec and dummy between them
_ATTR_OUT = "Q8x" + _ATTR
# struct fuse_dirent: ino, off, namelen, type; the name follows, padded to 8 bytes
_DIRENT = "QQII"

# Whole replies, struct fuse_out_header and what follows it, so that one call packs them.
ENTRY_REPLY = Struct("=IiQ" + _ENTRY_OUT)
ATTR_REPLY = Struct("=IiQ" + _ATTR_OUT)
# Of an entry reply: nodeid
ENTRY_NODE = Struct("=16xQ")
# An entry reply that says "no such name": nodeid (0), entry_valid; all the rest
NEGATIVE_REPLY = Struct("=IiQQ8xQ104x")

# Whole records of a directory: [n] holds a name of up to 8 * n bytes ("s" pads it with NUL).
DIRENT = tuple(Struct(f"={_DIRENT}{8 * n}s") for n in range(NAME_MAX // 8 + 2))
# struct fuse_direntplus: entry_out, dirent
DIRENTPLUS = tuple(Struct(f"={_ENTRY_OUT}{_DIRENT}{8 * n}s") for n in range(NAME_MAX // 8 + 2))
# Its nodeid and namelen
DIRENTPLUS_HEAD = Struct("=Q136xI")

# struct fuse_init_in up to 7.35: major, minor, max_readahead, flags (later ones add flags2)
INIT_IN = Struct("=IIII")
# struct fuse_init_out: major, minor, max_readahead, flags, max_background,
# congestion_threshold, max_write, time_gran, max_pages; map_alignment, flags2,
# max_stack_depth, request_timeout, unused
INIT_OUT = Struct("=IIIIHHIIH34x")

# struct fuse_forget_in: nlookup
FORGET_IN = Struct("=Q")
# struct fuse_batch_forget_in: count; dummy. So many fuse_forget_one follow: nodeid, nlookup
BATCH_FORGET_IN = Struct("=I4x")
FORGET_ONE = Struct("=QQ")
# struct fuse_interrupt_in: unique
INTERRUPT_IN = Struct("=Q")
# struct fuse_open_in: flags; open_flags
OPEN_IN = Struct("=I4x")
# struct fuse_open_out: fh, open_flags; padding
OPEN_OUT = Struct("=QI4x")
# struct fuse_read_in: offset, size; fh before them, read_flags, lock_owner, flags, padding
READ_IN = Struct("=8xQI20x")
# struct fuse_lseek_in: offset, whence; fh before them, padding
LSEEK_IN = Struct("=8xQI4x")
# struct fuse_lseek_out: offset
LSEEK_OUT = Struct("=Q")
# struct fuse_getxattr_in: size; padding. The attribute's name follows (not for LISTXATTR).
GETXATTR_IN = Struct("=I4x")
# struct fuse_getxattr_out: size; padding
GETXATTR_OUT = Struct("=I4x")
# struct fuse_access_in: mask; padding
ACCESS_IN = Struct("=I4x")
# struct fuse_statfs_out: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize;
# padding, spare[6]
STATFS_OUT = Struct("=QQQQQIII28x")

# Messages to the kernel, struct fuse_out_header and what follows it.
# struct fuse_notify_inval_entry_out: parent, namelen; flags. The name follows, with its NUL.
NOTIFY_INVAL_ENTRY = Struct("=IiQQI4x")
# struct fuse_notify_store_out: nodeid, offset, size; padding. The content follows.
NOTIFY_STORE = Struct("=IiQQQI4x")
