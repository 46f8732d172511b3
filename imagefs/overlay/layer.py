"""Changes as a layer: a tar that, laid on the image that they were made to, gives what was there.

By the OCI image specification (layer.md): what is no more has a marker `.wh.NAME`, a directory of
which nothing below shows `.wh..wh..opq`. Of sparse files it holds the data alone. Equal changes
give equal bytes. For any thread.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

from imagefs.errors import HostError
from imagefs.host.trees import DIRECTORY
from imagefs.overlay import changes
from imagefs.overlay.changes import Written
from imagefs.overlay.kept import Kept
from imagefs.tar import header as tar_header
from imagefs.tar.write import END, TYPES, Member, head, padding

_DEVICES = (tar_header.CHRTYPE, tar_header.BLKTYPE)
_PIECE = 1 << 20


def write(kept: Kept, out: BinaryIO, owner: Callable[[int], int] = int) -> None:
    """Write what was written as a layer; `owner` turns its uids and gids into ours.

    Raises HostError for what no layer can hold, OSError where it cannot be read or written.
    """
    writer = _Writer(out, owner)
    for one in changes.walk(kept, None):
        if one.removed:
            above = one.path[: len(one.path) - len(one.name)]
            writer.marker(above + tar_header.WHITEOUT_PREFIX + one.name)
            continue
        if one.name.startswith(tar_header.WHITEOUT_PREFIX):
            raise HostError(f"/{os.fsdecode(one.path)}: no layer can hold a file of this name")
        if stat.S_IFMT(one.status.st_mode) in TYPES:  # a socket is of no use to anybody
            writer.add(one)
        if one.opaque:
            writer.marker(one.path + b"/" + tar_header.WHITEOUT_OPAQUE)
    out.write(END)


class _Writer:
    def __init__(self, out: BinaryIO, owner: Callable[[int], int]) -> None:
        self._out, self._owner = out, owner
        self._names: dict[tuple[int, int], bytes] = {}

    def marker(self, name: bytes) -> None:
        self._out.write(head(Member(name, tar_header.REGTYPE, 0o600)))

    def add(self, one: Written) -> None:
        kind = TYPES[stat.S_IFMT(one.status.st_mode)]
        if one.status.st_nlink > 1 and kind != tar_header.DIRTYPE:
            first = self._names.setdefault((one.status.st_dev, one.status.st_ino), one.path)
            if first != one.path:
                self._head(one, tar_header.LNKTYPE, target=first)
                return
        if kind == tar_header.REGTYPE:
            self._file(one)
        elif kind == tar_header.DIRTYPE:
            fd = os.open(one.name, DIRECTORY, dir_fd=one.parent)
            try:
                self._head(one, kind, fd)
            finally:
                os.close(fd)
        elif kind == tar_header.SYMTYPE:
            self._head(one, kind, target=os.readlink(one.name, dir_fd=one.parent))
        else:
            self._head(one, kind)

    def _file(self, one: Written) -> None:
        with changes.open_file(one.name, one.parent) as fd:
            if fd is None:
                raise HostError(f"/{os.fsdecode(one.path)}: cannot be read")
            size = os.fstat(fd).st_size
            runs = list(_runs(fd, size))
            is_whole = runs == [(0, size)] or not size
            self._head(one, tar_header.REGTYPE, fd, size=size, runs=None if is_whole else runs)
            for start, length in runs:
                self._copy(fd, start, start + length)
            self._out.write(bytes(padding(sum(length for _, length in runs))))

    def _copy(self, fd: int, at: int, end: int) -> None:
        while at < end:
            content = os.pread(fd, min(_PIECE, end - at), at)
            if not content:
                raise OSError(errno.ESTALE, "somebody changes what was written")
            self._out.write(content)
            at += len(content)

    def _head(
        self,
        one: Written,
        kind: bytes,
        fd: int | None = None,
        *,
        target: bytes = b"",
        size: int = 0,
        runs: list[tuple[int, int]] | None = None,
    ) -> None:
        """Write what comes before the content; with `fd`, its extended attributes are told."""
        status = one.status
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        found = {} if fd is None else changes.xattrs(fd)
        member = Member(
            one.path + (b"/" if kind == tar_header.DIRTYPE else b""),
            kind,
            stat.S_IMODE(status.st_mode),
            self._owner(status.st_uid),
            self._owner(status.st_gid),
            status.st_mtime_ns // 10**9,
            size=size,
            target=target,
            device=device if kind in _DEVICES else (0, 0),
            xattrs={os.fsencode(name): value for name, value in found.items()},
            runs=runs,
        )
        self._out.write(head(member))


def _runs(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of a file's data; all else of it is holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at - start
