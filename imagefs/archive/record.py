"""An archive taken apart: layers in the store, plain and by their digests, the rest in a record.

Owns the record: one file of the store that holds the archive's small files and says where its
large ones went, so that the archive itself need not be read again.

    contents of small files | JSON: "small", "large", "links" | the JSON's length, 8 bytes | MAGIC

Any thread may call it.
"""

import json
import os
import posixpath
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import Any, Self

from imagefs.archive import compression
from imagefs.archive.members import (
    KEEP_GOING,
    MAX_LINKS,
    MAX_MEMBERS,
    circular,
    normal,
    shown,
)
from imagefs.archive.model import ArchiveFile, IngestContext
from imagefs.archive.uncompress import room, settle, too_large
from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import host_errors
from imagefs.image.model import Blob
from imagefs.store.hashed_file import HashedFile
from imagefs.store.store import Store
from imagefs.tar.header import LNKTYPE, REGTYPE, SYMTYPE
from imagefs.tar.scan import Member
from imagefs.tar.stream import members

SMALL = 256 << 10
"""Up to this many bytes a file stays in the record: JSON mostly, and layers not worth sharing."""
_SETTLING = 4
_UNSETTLED = 8
"""Layers that may wait to be seen to the disk: each of them keeps two files open."""
_MAGIC = b"imagefs parts 1\n"
_TRAILER = struct.Struct("<Q16s")


class SpooledFiles:
    """The files of an archive that was taken apart; see `members.Files`."""

    def __init__(self, place: str, record: Blob, store: Store, *, keep_going: bool = False) -> None:
        self.place = place
        self.keep_going = keep_going
        self.json_read = 0
        self._record = record
        self._store = store
        table = _table(record)
        self._small: dict[str, list[int]] = table["small"]
        self._large: dict[str, list[str]] = table["large"]
        self._links: dict[str, str] = table["links"]

    def whole(self) -> bool:
        """Tell whether the store still has all the layers."""
        return all(
            os.path.exists(self._store.layer_path(digest)) for digest, _ in self._large.values()
        )

    def names(self) -> Iterable[str]:
        """See Files."""
        return [*self._small, *self._large, *self._links]

    def find(self, name: str) -> ArchiveFile | None:
        """See Files."""
        path = normal(name)
        for _ in range(MAX_LINKS):
            if path in self._small:
                offset, length = self._small[path]
                return ArchiveFile(replace(self._record, offset=offset, length=length))
            if path in self._large:
                digest, damage = self._large[path]
                blob = self._store.layer(digest)
                if blob is None:
                    raise HostError(f"{self._store.root}: {digest} was removed while needed")
                return ArchiveFile(blob, damage, digest)
            if path not in self._links:
                return None
            path = self._links[path]
        raise circular(self.place, name)


def _table(record: Blob) -> dict[str, Any]:
    try:
        with record.path.open("rb", buffering=0) as file:
            fd = file.fileno()
            end = record.length - _TRAILER.size
            length, magic = _TRAILER.unpack(os.pread(fd, _TRAILER.size, end))
            if magic == _MAGIC:
                table: dict[str, Any] = json.loads(os.pread(fd, length, end - length))
                return table
    except (OSError, struct.error, ValueError) as error:
        raise HostError(f"{record.path}: cannot be read: {error}") from error
    raise HostError(f"{record.path}: is not what the cache took it for")


def take_apart(chunks: Iterator[bytes], context: IngestContext) -> tuple[str, str]:
    """Bring an archive that arrives in chunks into the store.

    Return the digest of its record, and what is wrong with the archive if it was to keep going.
    """
    damage = ""
    if context.indexer is not None:
        context.indexer.begin()
    with context.store.layer_writer(None) as record, _Taking(record, context) as taking:
        try:
            for count, (member, content) in enumerate(members(chunks)):
                if count >= MAX_MEMBERS:
                    raise CorruptArchive(f"it has more than {MAX_MEMBERS} members")
                taking.take(member, content)
        except compression.TooLargeError:
            raise
        except CorruptArchive as error:
            if not context.options.keep_going:
                raise CorruptArchive(f"{error}{KEEP_GOING}") from error
            damage = str(error)
        taking.finish()
    return record.digest, damage


class _Taking:
    """One archive being taken apart."""

    def __init__(self, record: HashedFile, context: IngestContext) -> None:
        self._record = record
        self._context = context
        self._store = context.store
        self._options = context.options
        self._small: dict[str, tuple[int, int]] = {}
        self._large: dict[str, tuple[HashedFile, str]] = {}
        self._links: dict[str, str] = {}
        # What has been written is seen to the disk while the next members are decompressed.
        self._settling = ThreadPoolExecutor(_SETTLING, "imagefs-settle")
        self._settled: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._settling.shutdown()

    def take(self, member: Member, content: Iterator[memoryview]) -> None:
        """Take a member in; of several with one name, the last counts."""
        name = normal(os.fsdecode(member.name))
        self._small.pop(name, None)
        self._large.pop(name, None)
        self._links.pop(name, None)
        if member.typeflag == SYMTYPE:
            target = posixpath.join("/", posixpath.dirname(name), os.fsdecode(member.linkname))
            self._links[name] = normal(target)
        elif member.typeflag == LNKTYPE:
            self._links[name] = normal(os.fsdecode(member.linkname))
        elif member.typeflag == REGTYPE:
            self._take_file(name, member.stored, content)

    def _take_file(self, name: str, size: int, content: Iterator[memoryview]) -> None:
        head = b""
        while len(head) < compression.MAGIC_BYTES and (more := next(content, None)):
            head += more
        pieces: Iterator[bytes | memoryview] = chain([head], content)
        kind = compression.recognise(head)
        if kind is None and size <= SMALL:
            start = self._record.size
            for piece in pieces:
                # A view would keep all of the chunk that it is of.
                self._record.write(bytes(piece))
            self._small[name] = (start, self._record.size - start)
            return
        limit = self._options.max_layer_bytes
        if kind is not None:
            bound = min(room(self._store), limit)
            read = lambda _size: bytes(next(pieces, b""))  # noqa: E731
            self._write(name, compression.plain(read, kind, bound))
        elif size > limit:
            raise too_large(shown(name), compression.TooLargeError(limit), self._options)
        else:
            self._write(name, pieces)

    def _write(self, name: str, pieces: Iterator[bytes | memoryview]) -> None:
        """Write a file into the store; how it ends is left to other threads."""
        damage = ""
        with ExitStack() as stack:
            work = stack.enter_context(self._store.workspace())
            stack.enter_context(host_errors(self._store.root))
            file = stack.enter_context(HashedFile(work / "layer"))
            try:
                for piece in pieces:
                    file.write(piece)
            except compression.TooLargeError as error:
                raise too_large(shown(name), error, self._options) from error
            except CorruptArchive as error:
                if not self._options.keep_going:
                    raise CorruptArchive(f"{shown(name)}: {error}") from error
                damage = str(error)
            self._large[name] = (file, damage)
            settling = self._settling.submit(self._settle, stack.pop_all(), file, not damage)
            self._settled.append(settling)
        if len(self._settled) > _UNSETTLED:
            self._settled[-_UNSETTLED].result()

    def _settle(self, stack: ExitStack, file: HashedFile, whole: bool) -> None:
        with stack:
            file.finish(sync=False)
            settle(file, self._context, whole=whole)

    def finish(self) -> None:
        """Wait until all layers are in the store, and end the record."""
        for settled in self._settled:
            settled.result()
        large = {name: (file.digest, damage) for name, (file, damage) in self._large.items()}
        table = {"small": self._small, "large": large, "links": self._links}
        content = json.dumps(table).encode()
        self._record.write(content)
        self._record.write(_TRAILER.pack(len(content), _MAGIC))
