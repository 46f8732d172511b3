"""What the kernel may be asked to keep to on a mount. Data only, for whoever starts."""

KERNEL_FLAGS = {
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "nosymfollow": 256,
    "noatime": 1 << 10,
    "nodiratime": 1 << 11,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}
"""Options of mount(8) that are the kernel's own to keep, with their bits in <sys/mount.h>."""
