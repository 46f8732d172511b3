"""Images of metadata on disk: which images of layers have which, and how they come to be.

Owns the files of their directory: their names, that each is there whole or not at all, and what is
noted in them beside what the kernel reads. The kernel is given none that was not written here: it
must be this user's, as long as it was written, and of the key that was asked for. Any thread may
call it.

EROFS leaves the first 1,024 bytes free: a header lies there. Behind the image there are notes, as
JSON.
"""

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from imagefs.errors import HostError
from imagefs.host.files import host_errors, open_blob, published
from imagefs.image.model import Image, Layer
from imagefs.index.cache import blob_of, key_of

if TYPE_CHECKING:
    from imagefs.vfs.image_fs import ImageFs

BITS = 9
"""Blocks of 512 bytes, as members of tars begin at multiples of that."""
_WRITER = 2
"""What the key holds of the code: other bytes for the same images make it another."""
_VERSION = 1
"""Of header and notes, by which mounts are known that an older imagefs has made."""
_MAGIC = b"imagefs\x1b"
# magic, version, key, length of the image, length of the notes, CRC-32 of both
_HEADER = Struct("<8sI32sQII")
_CHECKSUM = Struct("<I")
_PIECE = 1 << 20


class Named(NamedTuple):
    """An image, and what its directory is called; the only one has none."""

    directory: bytes
    image: Image


@dataclass(frozen=True, slots=True)
class Device:
    """A file of bytes: where it lies, and its digest, as `layer`, if it is one of the store.

    For one that is read in place, `stamp` tells what it was, as `_stamp` does.
    """

    path: str
    layer: str | None = None
    stamp: tuple[int, ...] = ()

    def is_changed(self) -> bool:
        """Tell whether the file is another than it was, or gone."""
        if not self.stamp:
            return False
        try:
            return _stamp(os.stat(self.path)) != self.stamp
        except OSError:
            return True


@dataclass(frozen=True, slots=True)
class Kept:
    """An image of metadata: its file, the ids of what it shows, and the files that it leads to.

    `loses` tells that some content is lost: its device comes behind the others.
    """

    path: Path
    images: tuple[str, ...]
    devices: tuple[Device, ...]
    loses: bool

    def ids(self) -> set[str]:
        """Return what of the store it needs: the ids of images and layers."""
        return {*self.images, *(one.layer for one in self.devices if one.layer)}


@contextmanager
def opened(kept: Kept, images: Sequence[Named]) -> Iterator[list[int]]:
    """Open the files of bytes; HostError where one is not what it was."""
    files: list[int] = []
    try:
        for path, layer in _files(images).items():
            with host_errors(path):
                files.append(open_blob(blob_of(layer)))
        check(kept, files)
        yield files
    finally:
        for fd in files:
            os.close(fd)


def check(kept: Kept, files: Sequence[int]) -> None:
    """Raise HostError if an open file of bytes is not what it was when it was indexed."""
    for device, fd in zip(kept.devices, files, strict=True):
        if device.stamp and _stamp(os.fstat(fd)) != device.stamp:
            raise HostError(f"{device.path}: was changed while it was to be mounted; try again")


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def devices_of(images: Sequence[Named]) -> tuple[Device, ...]:
    """Return the files of bytes of images, in their layers' order, each once."""
    found = []
    for path, layer in _files(images).items():
        digest = blob_of(layer).digest or (layer.diff_id if layer.stored else None)
        with host_errors(path):
            stamp = _stamp(os.stat(path)) if digest is None else ()
        found.append(Device(os.fspath(path), digest, stamp))
    return tuple(found)


def _files(images: Sequence[Named]) -> dict[Path, Layer]:
    """Return the files of bytes, in their layers' order, and the first layer in each."""
    found: dict[Path, Layer] = {}
    for layer in (layer for one in images for layer in one.image.layers):
        found.setdefault(blob_of(layer).path, layer)
    return found


def key(images: Sequence[Named], view: str | None) -> bytes:
    """Return the key of the metadata of images: all that it is made of."""
    said = [
        (
            directory,
            image.id,
            image.config,
            image.manifest,
            [
                (key_of(one), one.diff_id, one.created_by, one.damage, one.keep_going)
                for one in image.layers
            ],
        )
        for directory, image in images
    ]
    return hashlib.sha256(repr((_WRITER, view, said)).encode("utf-8", "surrogatepass")).digest()


def path_of(directory: Path, wanted: bytes) -> Path:
    """Return where the metadata of a key lies."""
    return directory / f"{wanted.hex()}.erofs"


def ensure(
    images: Sequence[Named], view: str | None, directory: Path, make: Callable[[], "ImageFs"]
) -> Kept:
    """Return the metadata of images, written if it is not there: `make` returns what it is to show.

    Raises HostError where it cannot be written, and what `make` raises.
    """
    wanted = key(images, view)
    path = path_of(directory, wanted)
    found = read(path, wanted)
    if found is None:
        _write(make(), [one.image.id for one in images], devices_of(images), path, wanted)
        found = read(path, wanted)
    if found is None:
        raise HostError(f"{path}: is not what was written; is the disk failing?")
    return found


def _write(
    fs: "ImageFs", ids: Sequence[str], devices: Sequence[Device], path: Path, wanted: bytes
) -> None:
    from imagefs.erofs.build import write  # noqa: PLC0415
    from imagefs.erofs.content import Elsewhere  # noqa: PLC0415

    content = Elsewhere([Path(one.path) for one in devices], BITS)
    with host_errors(path, "cannot write the metadata "), published(path) as out:
        fd = out.fileno()
        length = write(fs, content, fd, BITS, wanted[:16])
        notes = {
            "images": ids,
            "devices": [asdict(one) for one in devices],
            "loses": content.loses,
        }
        said = json.dumps(notes).encode()
        os.pwrite(fd, said, length)
        checksum = _sum(fd, length + len(said))
        head = _HEADER.pack(_MAGIC, _VERSION, wanted, length, len(said), checksum)
        os.pwrite(fd, head + _CHECKSUM.pack(crc32(head)), 0)
        # The kernel reads it as it is: a file that a crash has torn must not get its name.
        os.fsync(fd)


def _sum(fd: int, end: int) -> int:
    """Return the CRC-32 of all behind the header's kilobyte."""
    checksum = 0
    for at in range(1024, end, _PIECE):
        checksum = crc32(os.pread(fd, min(_PIECE, end - at), at), checksum)
    return checksum


def read(path: Path, wanted: bytes | None = None) -> Kept | None:
    """Return what a file of metadata says of itself; None where it is none, or not of the key."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = _header(fd)
        if found is None or (wanted is not None and found[0] != wanted):
            return None
        _, length, noted, _ = found
        notes = json.loads(os.pread(fd, noted, length))
        devices = tuple(
            Device(one["path"], one["layer"], tuple(one["stamp"])) for one in notes["devices"]
        )
        return Kept(path, tuple(notes["images"]), devices, notes["loses"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    finally:
        os.close(fd)


def _header(fd: int) -> tuple[bytes, int, int, int] | None:
    """Return key, lengths of image and notes, and check sum, if it is a file of ours, and whole."""
    status = os.fstat(fd)
    head = os.pread(fd, _HEADER.size, 0)
    sealed = os.pread(fd, _CHECKSUM.size, _HEADER.size)
    if len(head) + len(sealed) < _HEADER.size + _CHECKSUM.size:
        return None
    magic, version, own, length, noted, checksum = _HEADER.unpack(head)
    if (magic, version) != (_MAGIC, _VERSION) or sealed != _CHECKSUM.pack(crc32(head)):
        return None
    ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    return (own, length, noted, checksum) if ours and status.st_size == length + noted else None


def is_whole(path: Path) -> bool:
    """Tell whether a file of metadata is as it was written; one that is gone is."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        found = _header(fd)
        return found is not None and _sum(fd, found[1] + found[2]) == found[3]
    finally:
        os.close(fd)


@contextmanager
def in_use(kept: Kept) -> Iterator[None]:
    """Keep a file of metadata from being pruned; HostError where that has happened."""
    with host_errors(kept.path):
        fd = os.open(kept.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        with suppress(OSError):
            os.utime(fd)
        yield
    finally:
        os.close(fd)
