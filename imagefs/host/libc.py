"""Calls of the C library that Python has no words for, and the kernel's numbers they take.

Stateless, for any thread.
"""

# <sys/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8
# <sched.h>
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWPID = 1 << 17, 1 << 25, 1 << 28, 1 << 29


def call(function: str, *args: bytes | int | None) -> int:
    """Call a function that takes strings and flags; return its errno, or 0."""
    import ctypes  # noqa: PLC0415 - root alone needs it to mount

    libc = ctypes.CDLL(None, use_errno=True)
    typed = [ctypes.c_ulong(arg) if isinstance(arg, int) else ctypes.c_char_p(arg) for arg in args]
    return ctypes.get_errno() if getattr(libc, function)(*typed) else 0
