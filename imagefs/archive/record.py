"""The record of an archive that was taken apart: its small files, and where its large ones went.

Owns the record's form: one file, so that the archive itself need not be read again. Any thread may
call it.

    contents of small files | JSON: "small", "large", "links" | the JSON's length, 8 bytes | mark
"""

import json
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from imagefs.archive.members import MAX_LINKS, circular, normal
from imagefs.archive.model import ArchiveFile
from imagefs.errors import HostError
from imagefs.image.model import Blob
from imagefs.store.store import ARCHIVE_MARK

_TRAILER = struct.Struct(f"<Q{len(ARCHIVE_MARK)}s")


@dataclass(frozen=True, slots=True)
class Table:
    """Where an archive's files are, by name.

    `small` has offset and length in the record, `large` the digest of the plain bytes and what is
    wrong with them, `links` the name that a link leads to.
    """

    small: dict[str, tuple[int, int]] = field(default_factory=dict)
    large: dict[str, tuple[str, str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """Take a name out: of several files of one name, the last counts."""
        self.small.pop(name, None)
        self.large.pop(name, None)
        self.links.pop(name, None)

    def encoded(self) -> bytes:
        """Return what a record ends with."""
        said = {"small": self.small, "large": self.large, "links": self.links}
        content = json.dumps(said).encode()
        return content + _TRAILER.pack(len(content), ARCHIVE_MARK)


def read_table(record: Blob) -> Table:
    """Return the table of a record. Raises HostError if the file is none, or cannot be read."""
    try:
        with record.path.open("rb", buffering=0) as file:
            fd = file.fileno()
            end = record.length - _TRAILER.size
            length, mark = _TRAILER.unpack(os.pread(fd, _TRAILER.size, end))
            if mark == ARCHIVE_MARK:
                said: dict[str, Any] = json.loads(os.pread(fd, length, end - length))
                return Table(**said)
    except (OSError, struct.error, TypeError, ValueError) as error:
        raise HostError(f"{record.path}: cannot be read: {error}") from error
    raise HostError(f"{record.path}: is not what the cache took it for")


class SpooledFiles:
    """The files of an archive that was taken apart; see `members.Files`.

    `layer` finds a large file by its digest.
    """

    def __init__(
        self, place: str, record: Blob, layer: Callable[[str], Blob | None], *, keep_going: bool
    ) -> None:
        self.place = place
        self.keep_going = keep_going
        self.json_read = 0
        self._record = record
        self._layer = layer
        self._table = read_table(record)

    def whole(self) -> bool:
        """Tell whether all the large files are still there."""
        return all(self._layer(digest) is not None for digest, _ in self._table.large.values())

    def names(self) -> Iterable[str]:
        """See Files."""
        return [*self._table.small, *self._table.large, *self._table.links]

    def find(self, name: str) -> ArchiveFile | None:
        """See Files. Raises HostError for a large file that is not there any more."""
        table, path = self._table, normal(name)
        for _ in range(MAX_LINKS):
            if path in table.small:
                offset, length = table.small[path]
                return ArchiveFile(replace(self._record, offset=offset, length=length))
            if path in table.large:
                digest, damage = table.large[path]
                blob = self._layer(digest)
                if blob is None:
                    raise HostError(f"{self._record.path}: {digest} was removed while needed")
                return ArchiveFile(blob, damage, digest)
            if path not in table.links:
                return None
            path = table.links[path]
        raise circular(self.place, name)
