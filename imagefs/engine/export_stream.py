"""An engine's export, split into members while it arrives; what breaks it is the engine's fault.

Owns the diagnosis: a stream that is no whole tar, or that an engine's error message cuts short or
follows, is an EngineError with the engine's words if there are any. Keeps the stream's last bytes
for that; belongs to one thread.
"""

from collections.abc import Iterator

from imagefs.errors import CorruptArchive, EngineError
from imagefs.image.json_shape import error_message
from imagefs.tar import stream
from imagefs.tar.scan import Member

_TAIL = 4096
_MAX_BRACES = 100


def members(chunks: Iterator[bytes]) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    """Yield each member with its content; what is left of a content is skipped."""
    watched = _Watched(chunks)
    try:
        for member, content in stream.members(watched.chunks()):
            yield member, watched.told(content)
    except CorruptArchive as error:
        raise watched.broken(str(error)) from error


class _Watched:
    """A stream whose last bytes are kept for a diagnosis."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._tail = b""

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks as they come."""
        for chunk in self._chunks:
            self._tail = (self._tail + chunk[-_TAIL:])[-_TAIL:]
            yield chunk

    def told(self, content: Iterator[memoryview]) -> Iterator[memoryview]:
        """Yield a member's content; its end is diagnosed where it is read."""
        try:
            yield from content
        except CorruptArchive as error:
            raise self.broken(str(error)) from error

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
