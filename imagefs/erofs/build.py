"""From a file system of images to the bytes of an EROFS image: the head, and the order of the rest.

What is large is written at the end, so that names and attributes lie together.
"""

import os
from collections import Counter

from imagefs.erofs import format as fmt
from imagefs.erofs.content import Content
from imagefs.erofs.directories import Directories
from imagefs.erofs.inodes import Epoch, attribute
from imagefs.erofs.leaves import Leaves
from imagefs.erofs.output import Output
from imagefs.errors import HostError
from imagefs.vfs.image_fs import LAYER_XATTR, ImageFs

_SAMPLE = 2048
"""Rows of each layer whose times are looked at for the most common one."""
_VOLUME = b"imagefs"


def write(fs: ImageFs, content: Content, fd: int, bits: int, uuid: bytes = bytes(16)) -> int:
    """Write a file system into an empty file as an image; return its length.

    Blocks have `1 << bits` bytes. Raises HostError where the format has no room for something,
    OSError of the disk or of what is read, and what `content` raises.
    """
    out = Output(fd, bits)
    out.append(bytes(fmt.SUPER_OFFSET + fmt.SUPER.size))
    shared = _write_shared(fs, out)
    root = out.align(1 << fmt.SLOT_BITS) >> fmt.SLOT_BITS
    if root > fmt.MAX_ROOT_NID:
        # The superblock has 16 bits for it.
        raise HostError(f"{len(shared)} layers are too many for the kernel's driver")
    epoch = _common_time(fs)
    leaves = Leaves(fs, content, out, epoch, shared)
    directories = Directories(fs, leaves, out, epoch)
    directories.begin()
    devices_at = _write_devices(content, out)
    directories.write(root)
    leaves.copy()
    out.align(out.block)
    devices = len(content.devices) + content.loses
    # fmt: off
    _write_super(
        out, root, leaves.count + directories.count, *epoch, out.end >> out.bits, 0, 0, uuid,
        _VOLUME, fmt.CHUNKED_FILE | (fmt.DEVICE_TABLE if devices else 0), 0, devices,
        devices_at // fmt.DEVICE.size if devices else 0,
    )
    # fmt: on
    out.flush()
    return out.end


def _common_time(fs: ImageFs) -> Epoch:
    """Return the time that most files have, as far as the first of each layer tell."""
    times: Counter[Epoch] = Counter()
    for layer in fs.layers.values():
        some = layer.index.rows(0, min(_SAMPLE, layer.index.count))
        times.update(Epoch(row[10], row[9]) for row in some)
    return times.most_common(1)[0][0] if times else Epoch(0, 0)


def _write_shared(fs: ImageFs, out: Output) -> dict[bytes, int]:
    """Write the attributes that say which layer it is; return their ids: their places, by 4."""
    names = sorted(set(fs.layer_names.values()))
    return {name: out.append(attribute(LAYER_XATTR, name)) // fmt.XATTR_UNIT for name in names}


def _write_devices(content: Content, out: Output) -> int:
    """Write the table of devices, a slot for what is lost behind them; return where it is."""
    at = out.align(fmt.DEVICE.size)
    if len(content.devices) >= fmt.MAX_DEVICES:
        raise HostError(f"{len(content.devices)} layers are too many for the kernel's driver")
    for number, path in enumerate(content.devices, 1):
        blocks = -(-os.stat(path).st_size >> out.bits)
        if blocks > fmt.MAX_ADDRESS:
            raise HostError(f"{path}: is too long for the kernel's driver")
        out.append(fmt.DEVICE.pack(b"%d" % number, blocks, 0))
    out.append(fmt.DEVICE.pack(b"lost", 0, 0))
    return at


def _write_super(out: Output, root: int, *fields: int | bytes) -> None:
    if out.end >> out.bits > fmt.MAX_ADDRESS:
        raise HostError("the image is too large for EROFS")
    compatible = fmt.SUPER_CHECKSUM | fmt.MTIME
    head = fmt.SUPER.pack(fmt.MAGIC, 0, compatible, out.bits, 0, root, *fields)
    out.change(fmt.SUPER_OFFSET, head)
    # What is summed goes from the superblock to the end of a block.
    summed = out.read(fmt.SUPER_OFFSET, out.block - fmt.SUPER_OFFSET % out.block)
    out.change(fmt.CHECKSUM_AT, fmt.crc32c(summed).to_bytes(4, "little"))
