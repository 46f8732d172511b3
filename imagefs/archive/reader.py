"""An archive of this host, opened: a file, a directory or a pipe, and which images it holds.

Owns what is done before a format can be told: that there is something to read, whether it has to
be decompressed or spooled first, and what a path that is neither file nor directory means. Any
thread may call it.
"""

import os
import stat
from pathlib import Path

from imagefs.archive import compression, detect
from imagefs.archive.members import DirectoryFiles, TarFiles
from imagefs.archive.model import ArchiveContents, ArchiveFile, IngestContext
from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import host_errors, identity_of
from imagefs.image.model import Blob

STANDARD_INPUT = 0


def read(path: Path, context: IngestContext) -> ArchiveContents:
    """Return what the archive at a path holds."""
    with host_errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read(fd, path, context)
        finally:
            os.close(fd)


def _read(fd: int, path: Path, context: IngestContext) -> ArchiveContents:
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        return detect.read_directory(
            DirectoryFiles(path, fd, keep_going=context.options.keep_going)
        )
    if stat.S_ISFIFO(status.st_mode):
        return _spooled(fd, str(path), context)
    if not stat.S_ISREG(status.st_mode):
        raise HostError(f"{path}: is neither a file nor a directory")
    if not status.st_size:
        raise CorruptArchive(f"{path}: is an empty file")
    if compression.recognise(os.pread(fd, compression.MAGIC_BYTES, 0)) is not None:
        from imagefs.archive import ingest  # noqa: PLC0415

        return ingest.compressed(fd, path, context)
    blob = Blob(path.absolute(), 0, status.st_size, identity_of(status))
    files = TarFiles(blob, str(path), keep_going=context.options.keep_going, enough=detect.enough())
    return detect.read_tar(files, ArchiveFile(blob, files.truncated))


def read_stdin(context: IngestContext) -> ArchiveContents:
    """Return what the archive on standard input holds, once all of it is in the store.

    Raises HostError for a terminal.
    """
    if os.isatty(STANDARD_INPUT):
        raise HostError("standard input is a terminal; pipe an archive into it")
    status = os.fstat(STANDARD_INPUT)
    if stat.S_ISREG(status.st_mode):
        path = Path(os.path.realpath(f"/proc/self/fd/{STANDARD_INPUT}"))
        named = path.exists() and os.path.samestat(path.stat(), status)
        if named and not os.lseek(STANDARD_INPUT, 0, os.SEEK_CUR):
            with host_errors(path):
                return _read(STANDARD_INPUT, path, context)
    place = "standard input"
    with host_errors(Path(place)):
        return _spooled(STANDARD_INPUT, place, context)


def _spooled(fd: int, place: str, context: IngestContext) -> ArchiveContents:
    from imagefs.archive import ingest  # noqa: PLC0415

    return ingest.stream(fd, place, context)
