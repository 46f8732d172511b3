"""A tar that arrives as a stream of chunks, split into members while it arrives.

Owns the framing: headers are gathered block by block and read by `scan`, contents are passed
on in the pieces in which they come. A stream that ends before the end-of-archive marker is a
CorruptArchive. Keeps at most a header and a chunk; belongs to one thread.
"""

from collections.abc import Iterator

from imagefs.errors import CorruptArchive
from imagefs.tar import header as tar_header
from imagefs.tar.header import BLOCK
from imagefs.tar.numbers import number, padded
from imagefs.tar.pax import EXTENSIONS
from imagefs.tar.scan import MAX_EXTENDED_HEADER, NO_END, Member, scan

_ZERO_BLOCK = bytes(BLOCK)
_MAX_EXTENSIONS = 16
_MAX_PADDING = 64 << 20


def members(chunks: Iterator[bytes]) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    """Yield each member with its content; what is left of a content is skipped.

    Raises CorruptArchive for what is no tar, or not a whole one.
    """
    stream = _Stream(chunks)
    while (header := _header(stream)) is not None:
        try:
            member = next(scan(lambda size, at: header[at : at + size], 0, NO_END), None)
        except CorruptArchive as error:
            raise CorruptArchive("it is not a tar archive") from error
        if member is None:
            # Of a kind that describes the tar itself, such as a volume label.
            size = number(header[-BLOCK:][tar_header.SIZE])
            stream.skip(padded(size))
            continue
        if member.sparse is not None:
            raise CorruptArchive("it holds a sparse member")
        content = stream.pieces(member.stored)
        yield member, content
        for _ in content:
            pass
        stream.skip(padded(member.stored) - member.stored)
    stream.expect_nothing_more()


def _header(stream: "_Stream") -> bytes | None:
    """Return the next header with the extended headers before it, or None at the end marker."""
    gathered = b""
    for _ in range(_MAX_EXTENSIONS):
        block = stream.take(BLOCK)
        if block == _ZERO_BLOCK:
            if gathered:
                raise CorruptArchive("it ends behind an extended header")
            return None
        gathered += block
        if block[tar_header.TYPEFLAG] not in EXTENSIONS:
            return gathered
        try:
            size = number(block[tar_header.SIZE])
        except ValueError as error:
            raise CorruptArchive("it is not a tar archive") from error
        if not 0 <= size <= MAX_EXTENDED_HEADER:
            raise CorruptArchive(f"an extended header of {size} bytes")
        gathered += stream.take(padded(size))
    raise CorruptArchive("too many extended headers")


class _Stream:
    """Chunks as a byte stream that is read forward."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def _more(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._rest = memoryview(chunk)
                return True
        return False

    def pieces(self, count: int) -> Iterator[memoryview]:
        """Yield the next `count` bytes in pieces, none empty."""
        while count:
            if not self._rest and not self._more():
                raise CorruptArchive("it ended early")
            piece = self._rest[:count]
            self._rest = self._rest[count:]
            count -= len(piece)
            yield piece

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        return b"".join(self.pieces(count))

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes."""
        for _ in self.pieces(count):
            pass

    def expect_nothing_more(self) -> None:
        """Read to the end of the stream: only padding may follow the end-of-archive marker."""
        padding = 0
        while self._rest or self._more():
            padding += len(self._rest)
            if bytes(self._rest).strip(b"\0"):
                raise CorruptArchive("something follows its end")
            if padding > _MAX_PADDING:
                raise CorruptArchive("it does not end")
            self._rest = memoryview(b"")
