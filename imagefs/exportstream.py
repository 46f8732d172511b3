"""A tar that arrives as a stream of chunks, split into members while it arrives.

Owns the framing: headers are gathered block by block and read by `tarscan`, contents are passed
on in the pieces in which they come. A stream that ends before the end-of-archive marker, or that
an engine's error message cuts short or follows, is an EngineError. Keeps at most a header and a
chunk; belongs to one thread.
"""

from collections.abc import Iterator

from imagefs import tarfmt
from imagefs.answers import error_message
from imagefs.errors import CorruptArchive, EngineError
from imagefs.pax import EXTENSIONS
from imagefs.tarfmt import BLOCK
from imagefs.tarnumber import number
from imagefs.tarscan import MAX_EXTENDED_HEADER, Member, scan

_NO_END = 1 << 62
_TAIL = 4096
_ZERO_BLOCK = bytes(BLOCK)
_MAX_EXTENSIONS = 16
_MAX_PADDING = 64 << 20
_MAX_BRACES = 100


def members(chunks: Iterator[bytes]) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    """Yield each member with its content; what is left of a content is skipped."""
    stream = _Stream(chunks)
    while (header := _header(stream)) is not None:
        try:
            member = _parse(header)
        except CorruptArchive as error:
            raise stream.broken("it is not a tar archive") from error
        if member.sparse is not None:
            raise stream.broken("it holds a sparse member")
        content = stream.pieces(member.stored)
        yield member, content
        for _ in content:
            pass
        stream.take(-member.stored % BLOCK)
    stream.expect_nothing_more()


def _parse(header: bytes) -> Member:
    return next(scan(lambda size, at: header[at : at + size], 0, _NO_END))


def _header(stream: "_Stream") -> bytes | None:
    """Return the next header with the extended headers before it, or None at the end marker."""
    gathered = b""
    for _ in range(_MAX_EXTENSIONS):
        block = stream.take(BLOCK)
        if block == _ZERO_BLOCK:
            if gathered:
                raise stream.broken("it ends behind an extended header")
            return None
        gathered += block
        if block[tarfmt.TYPEFLAG] not in EXTENSIONS:
            return gathered
        try:
            size = number(block[tarfmt.SIZE])
        except ValueError as error:
            raise stream.broken("it is not a tar archive") from error
        if not 0 <= size <= MAX_EXTENDED_HEADER:
            raise stream.broken(f"an extended header of {size} bytes")
        gathered += stream.take(size + -size % BLOCK)
    raise stream.broken("too many extended headers")


class _Stream:
    """Chunks as a byte stream that is read forward, with its last bytes kept for a diagnosis."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._tail = b""

    def _more(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._rest = memoryview(chunk)
                self._tail = (self._tail + chunk[-_TAIL:])[-_TAIL:]
                return True
        return False

    def pieces(self, count: int) -> Iterator[memoryview]:
        """Yield the next `count` bytes in pieces, none empty."""
        while count:
            if not self._rest and not self._more():
                raise self.broken("it ended early")
            piece = self._rest[:count]
            self._rest = self._rest[count:]
            count -= len(piece)
            yield piece

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        return b"".join(self.pieces(count))

    def expect_nothing_more(self) -> None:
        """Read to the end of the stream: only padding may follow the end-of-archive marker."""
        padding = 0
        while self._rest or self._more():
            padding += len(self._rest)
            if bytes(self._rest).strip(b"\0"):
                raise self.broken("something follows its end")
            if padding > _MAX_PADDING:
                raise self.broken("it does not end")
            self._rest = memoryview(b"")

    def broken(self, reason: str) -> EngineError:
        """Return the error for a stream that is no whole tar, with the engine's words if any.

        An engine that fails behind the first byte can no longer change its status, so it appends
        its error object to the stream.
        """
        at = len(self._tail)
        for _ in range(_MAX_BRACES):
            at = self._tail.rfind(b"{", 0, at)
            if at < 0:
                break
            message = error_message(self._tail[at:])
            if message is not None:
                return EngineError(f"the engine broke off the export: {message}")
        return EngineError(f"the engine's export is broken: {reason}")
