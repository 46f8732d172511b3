"""An image while it is written: appended to, and changed where what to write is known late.

Owns the buffer in front of the file; what is changed may lie in either. One thread.
"""

import os

_FLUSHED = 1 << 20
"""Bytes that are held back before they are written."""


class Output:
    """An empty file, open for both ways, to append to in blocks of `1 << bits` bytes."""

    def __init__(self, fd: int, bits: int) -> None:
        self._fd = fd
        self._flushed = 0
        self._buffer = bytearray()
        self.bits = bits
        self.block = 1 << bits

    @property
    def end(self) -> int:
        """Where the next byte goes."""
        return self._flushed + len(self._buffer)

    def append(self, content: bytes | bytearray, unit: int = 1) -> int:
        """Add bytes, behind zeros up to a multiple of `unit`, and return where they lie."""
        if len(self._buffer) > _FLUSHED:
            self.flush()
        at = self._flushed + len(self._buffer)
        if at % unit:
            self._buffer += bytes(-at % unit)
            at += -at % unit
        self._buffer += content
        return at

    def align(self, unit: int) -> int:
        """Add zeros up to a multiple of `unit`, and return where that is."""
        return self.pad(-self.end % unit)

    def pad(self, count: int) -> int:
        """Add so many zeros, and return where they end."""
        self._buffer += bytes(count)
        return self.end

    def room(self, unit: int, length: int) -> int:
        """Align for something of a length that must lie in one block, and return where that is."""
        at = self.align(unit)
        return self.align(self.block) if at % self.block + length > self.block else at

    def change(self, at: int, content: bytes) -> None:
        """Write over bytes that have been added."""
        start = at - self._flushed
        if start < 0 < start + len(content):
            self.flush()
            start = at - self._flushed
        if start < 0:
            _write(self._fd, content, at)
        else:
            self._buffer[start : start + len(content)] = content

    def read(self, at: int, length: int) -> bytes:
        """Return bytes that have been added."""
        start = at - self._flushed
        if start < 0 < start + length:
            self.flush()
            start = at - self._flushed
        if start < 0:
            return os.pread(self._fd, length, at)
        return bytes(self._buffer[start : start + length])

    def flush(self) -> None:
        """Write all that is held back."""
        _write(self._fd, self._buffer, self._flushed)
        self._flushed += len(self._buffer)
        self._buffer = bytearray()


def _write(fd: int, content: bytes | bytearray, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written
