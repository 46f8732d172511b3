"""Changes as a layer: a tar that, laid on the image that they were made to, gives what was there.

By the OCI image specification (layer.md): what is no more has a marker `.wh.NAME`, a directory of
which nothing below shows `.wh..wh..opq`. Equal changes give equal bytes. For any thread.
"""

import os
import stat
import tarfile
from collections.abc import Callable
from typing import BinaryIO

from imagefs.errors import HostError
from imagefs.overlay import changes
from imagefs.overlay.changes import Written
from imagefs.overlay.kept import Kept

_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def write(kept: Kept, out: BinaryIO, owner: Callable[[int], int] = int) -> None:
    """Write what was written as a layer; `owner` turns its uids and gids into ours.

    Raises HostError for what no layer can hold, OSError where it cannot be read or written.
    """
    links: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for one in changes.walk(kept, None):
            if one.removed:
                above = one.path[: len(one.path) - len(one.name)]
                tar.addfile(_member(above + _WHITEOUT + one.name))
                continue
            if one.name.startswith(_WHITEOUT):
                raise HostError(f"/{os.fsdecode(one.path)}: no layer can hold a file of this name")
            if stat.S_IFMT(one.status.st_mode) in _TYPES:  # a socket is of no use to anybody
                _add(tar, one, links, owner)
            if one.opaque:
                tar.addfile(_member(one.path + b"/" + _OPAQUE))


def _member(path: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(os.fsdecode(path))
    info.mode = 0o600
    return info


def _add(
    tar: tarfile.TarFile,
    one: Written,
    links: dict[tuple[int, int], str],
    owner: Callable[[int], int],
) -> None:
    status = one.status
    info = _member(one.path)
    info.type = _TYPES[stat.S_IFMT(status.st_mode)]
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid, info.gid = owner(status.st_uid), owner(status.st_gid)
    info.mtime = status.st_mtime_ns // 10**9
    if info.islnk() or info.issym():
        info.linkname = os.fsdecode(os.readlink(one.name, dir_fd=one.parent))
    if info.ischr() or info.isblk():
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    first = links.setdefault((status.st_dev, status.st_ino), info.name)
    if first != info.name and not info.isdir():
        info.type, info.linkname = tarfile.LNKTYPE, first
        tar.addfile(info)
    elif info.isreg():
        _add_file(tar, one, info)
    elif info.isdir():
        fd = os.open(one.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=one.parent)
        try:
            info.pax_headers = _headers(fd)
        finally:
            os.close(fd)
        tar.addfile(info)
    else:
        tar.addfile(info)


def _add_file(tar: tarfile.TarFile, one: Written, info: tarfile.TarInfo) -> None:
    with changes.open_file(one.name, one.parent) as fd:
        if fd is None:
            raise HostError(f"/{info.name}: cannot be read")
        info.size = os.fstat(fd).st_size
        info.pax_headers = _headers(fd)
        with open(fd, "rb", closefd=False) as content:
            tar.addfile(info, content)


def _headers(fd: int) -> dict[str, str]:
    return {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
        for name, value in sorted(changes.xattrs(fd).items())
    }
