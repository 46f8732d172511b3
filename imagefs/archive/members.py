"""An archive's files by name, whatever it is: a tar on the disk, or a directory.

Owns how a name that some JSON uses becomes bytes: spelling, links inside the archive, bounds.
Names never become paths of this host but for those below a directory that is the archive, and
there symbolic links that lead out of it are refused. Knows no format. Any thread may call it.
"""

import errno
import os
import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from imagefs.archive import beneath
from imagefs.archive.model import ArchiveFile
from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import identity_of, open_blob
from imagefs.image import safe_json
from imagefs.image.model import Blob
from imagefs.tar.header import BLOCK, DIRTYPE, LNKTYPE, REGTYPE, SYMTYPE
from imagefs.tar.numbers import padded
from imagefs.tar.scan import NO_END, Member, scan

MAX_JSON = 16 << 20
"""Longest JSON file that is read, in bytes; the longest seen in the wild have some hundred kB."""
MAX_JSON_READ = 128 << 20
"""Most bytes of JSON that are read of one archive, whose files may refer to one again and again."""
MAX_IMAGES = 10_000
"""Most images of one archive."""
KEEP_GOING = "; --keep-going mounts what is left"
"""What to do about damage, at the end of a message."""
MAX_LINKS = 40
"""Links inside an archive that are followed from one name."""
MAX_MEMBERS = 1_000_000
"""Members of an archive of images that are looked at; a flat root may have more."""
_ID = re.compile("[0-9a-f]{64}")
_BESIDE_LAYER = ("VERSION", "json", "layer.tar")
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class Files(Protocol):
    """The files of an archive; `place` names the archive in messages.

    `json_read` counts the bytes of its small files that were read, each time that one was.
    With `keep_going`, readers of formats make do with what can be read.
    """

    json_read: int
    keep_going: bool

    @property
    def place(self) -> str:
        """What to call the archive in messages."""

    def names(self) -> Iterable[str]:
        """Return the names of all files, in one spelling each."""

    def find(self, name: str) -> ArchiveFile | None:
        """Return the file of that name, through links, or None if there is none."""


def normal(name: str) -> str:
    """Return a name in the one spelling that `Files` use: clean, relative, never above the top."""
    return posixpath.normpath("/" + name).lstrip("/")


def read(files: Files, name: str) -> bytes:
    """Return a small file's content, or raise CorruptArchive."""
    piece = files.find(name)
    if piece is None:
        raise CorruptArchive(f"{files.place}: {shown(name)} is missing")
    return content(files, name, piece)


def content(files: Files, name: str, piece: ArchiveFile) -> bytes:
    """Return the content of a small file that was found.

    Raises CorruptArchive beyond the limits, or HostError.
    """
    if piece.blob.length > MAX_JSON:
        raise CorruptArchive(
            f"{files.place}: {shown(name)} has {piece.blob.length} bytes;"
            f" JSON of more than {MAX_JSON} is not read"
        )
    files.json_read += piece.blob.length
    if files.json_read > MAX_JSON_READ:
        raise CorruptArchive(
            f"{files.place}: its JSON refers to more than {MAX_JSON_READ} bytes of JSON"
        )
    try:
        with open(open_blob(piece.blob), "rb", buffering=0) as file:
            data = os.pread(file.fileno(), piece.blob.length, piece.blob.offset)
    except OSError as error:
        raise HostError(f"{piece.blob.path}: {error.strerror}") from error
    if piece.damage or len(data) < piece.blob.length:
        raise CorruptArchive(f"{files.place}: {shown(name)} is cut short")
    return data


def parse(files: Files, name: str, data: bytes) -> Any:
    """Return what a file's JSON says, or raise CorruptArchive."""
    try:
        return safe_json.loads(data)
    except safe_json.BadJsonError as error:
        raise CorruptArchive(f"{files.place}: {shown(name)} is not JSON: {error}") from error


def shown(name: object) -> str:
    """Return a name of the archive's for a message: escaped, and not too long."""
    text = str(name)
    if len(text) > 200:
        text = text[:200] + "..."
    return text if text and text.isprintable() else ascii(text)


def bounded(files: Files, images: int) -> None:
    """Raise CorruptArchive for more images than any archive has."""
    if images > MAX_IMAGES:
        raise CorruptArchive(f"{files.place}: lists {images} images; {MAX_IMAGES} are read")


def circular(place: str, name: str) -> CorruptArchive:
    """Return the error for a name that links lead round and round."""
    return CorruptArchive(f"{place}: {shown(name)} is a symbolic link that goes in a circle")


class TarFiles:
    """The files of a tar in `blob`, which is not compressed; `place` is its name in messages.

    With `keep_going`, a tar that is cut off yields what is left of it.
    """

    def __init__(
        self,
        blob: Blob,
        place: str,
        *,
        keep_going: bool = False,
        enough: Callable[[int, str], bool] = lambda _count, _name: False,
    ) -> None:
        self.blob = blob
        self.place = place
        self.json_read = 0
        self.keep_going = keep_going
        self.truncated = ""
        self._found: dict[str, ArchiveFile] = {}
        self._links: dict[str, str] = {}
        self._sparse: set[str] = set()
        self.directories: set[str] = set()
        self.whole = True
        self._behind_last = blob.offset
        self._scan(keep_going, enough)

    def _scan(self, keep_going: bool, enough: Callable[[int, str], bool]) -> None:
        end = self.blob.offset + self.blob.length
        fd = open_blob(self.blob)
        try:
            members = scan(
                lambda count, at: os.pread(fd, min(count, max(0, end - at)), at),
                self.blob.offset,
                NO_END if keep_going else end,
            )
            for count, member in enumerate(members):
                name = self._take(member, end)
                if count >= MAX_MEMBERS or enough(count, name):
                    self.whole = False
                    break
        except CorruptArchive as error:
            if not (self._found or self._links or self.directories):
                raise CorruptArchive(f"{self.place}: is not a tar archive: {error}") from error
            if not keep_going:
                raise CorruptArchive(f"{self.place}: {error}{KEEP_GOING}") from error
            self.truncated = str(error)
        finally:
            os.close(fd)

    def _take(self, member: Member, end: int) -> str:
        """Note a member; of several with one name, the last counts."""
        name = normal(os.fsdecode(member.name))
        self._behind_last = member.offset + padded(member.stored)
        self._found.pop(name, None)
        self._links.pop(name, None)
        self._sparse.discard(name)
        if member.typeflag == DIRTYPE:
            self.directories.add(name)
        elif member.typeflag == SYMTYPE:
            target = posixpath.join("/", posixpath.dirname(name), os.fsdecode(member.linkname))
            self._links[name] = normal(target)
        elif member.typeflag == LNKTYPE:
            self._links[name] = normal(os.fsdecode(member.linkname))
        elif member.sparse is not None:
            self._sparse.add(name)
        elif member.typeflag == REGTYPE:
            left = max(0, min(member.stored, end - member.offset))
            blob = replace(self.blob, offset=min(member.offset, end), length=left)
            lost = member.stored - left
            damage = f"the last {lost} of its {member.stored} bytes are missing" if lost else ""
            self._found[name] = ArchiveFile(blob, damage)
        return name

    def is_ended(self) -> bool:
        """Tell whether a block of zeros, the end-of-archive marker, follows the last member.

        Of a tar that was not read to its end, the last block is looked at.
        """
        end = self.blob.offset + self.blob.length
        at = self._behind_last if self.whole else end - BLOCK
        with open(open_blob(self.blob), "rb", buffering=0) as file:
            block = os.pread(file.fileno(), max(0, min(BLOCK, end - at)), at)
        return bool(block) and not block.strip(b"\0")

    def names(self) -> Iterable[str]:
        """See Files."""
        return [*self._found, *self._links]

    def find(self, name: str) -> ArchiveFile | None:
        """See Files. Raises CorruptArchive for a sparse file, or links in a circle."""
        path = normal(name)
        for _ in range(MAX_LINKS):
            if path in self._sparse:
                raise CorruptArchive(
                    f"{self.place}: {shown(name)} is stored as a sparse file;"
                    " pack the archive without tar's -S"
                )
            if path not in self._links:
                return self._found.get(path)
            path = self._links[path]
        raise circular(self.place, name)


class DirectoryFiles:
    """The files of a directory of this host, which `fd` has open while they are looked for.

    Nothing outside of it is ever opened.
    """

    def __init__(self, path: Path, fd: int, *, keep_going: bool = False) -> None:
        self.place = str(path)
        self.keep_going = keep_going
        self.json_read = 0
        self._fd = fd
        self._top = os.path.realpath(path)

    def names(self) -> Iterable[str]:
        """See Files; of what lies deeper, only what is in a directory named by an id.

        A directory may be anything, such as the root of a machine: no format of images is told
        by names from further below.
        """
        with os.scandir(self._fd) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    yield entry.name
                elif _ID.fullmatch(entry.name):
                    names = (f"{entry.name}/{name}" for name in _BESIDE_LAYER)
                    yield from (name for name in names if self.find(name) is not None)

    def find(self, name: str) -> ArchiveFile | None:
        """See Files. Raises CorruptArchive for what leads out of the directory, or HostError."""
        try:
            found = beneath.find(self._fd, self._top, normal(name))
        except beneath.LeadsOutError:
            raise CorruptArchive(
                f"{self.place}: {shown(name)} leads out of the directory"
            ) from None
        except ValueError:
            return None  # a name that no file can have: it holds a NUL, or no valid text
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise HostError(f"{self.place}: {shown(name)}: {error.strerror}") from error
        if found is None:
            return None
        path, status = Path(self._top, found.path), found.status
        return ArchiveFile(Blob(path, 0, status.st_size, identity_of(status)))
