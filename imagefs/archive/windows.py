"""How much memory a compressed stream asks for, and one budget for all that are at work.

Owns the reading of what xz and zstd say of their windows, before a decompressor takes memory for
them, and the sum over all threads of this process: a stream that does not fit beside the others
waits, whatever the number of processors. Knows nothing of decompressing. Any thread may call it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, get_ident

from imagefs.errors import CorruptArchive

BUDGET = 320 << 20
"""Bytes that all decompressors may take together; `xz -9` takes 65 MiB, `zstd -d` at most 128."""
HEAD = 12 + 1024
"""How many of a stream's first bytes say what it needs: xz's own header and that of a block."""
_REST = 1 << 20
"""More than a decompressor takes beside its window."""

_XZ_STREAM = 12
_XZ_LZMA2 = 0x21
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_DICTIONARY_BYTES = (0, 1, 2, 4)


class Budget:
    """Memory that threads take and give back."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._changed = Condition()
        self._taken: Counter[int] = Counter()

    @contextmanager
    def held(self, need: int, what: str) -> Iterator[None]:
        """Wait until `need` bytes are free, and have them. CorruptArchive if they never can be.

        A thread that has some already, as for layers in a packed archive, does not wait: it might
        be for one that waits for it. So it goes beyond the budget at most once.
        """
        me = get_ident()
        with self._changed:
            mine = self._taken[me]
            if mine + need > self._total:
                raise CorruptArchive(
                    f"{what} needs {mine + need >> 20} MiB of memory to decompress;"
                    f" pack it so that it needs at most {self._total >> 20}"
                )
            while not mine and self._taken.total() + need > self._total:
                self._changed.wait()
            self._taken[me] += need
        try:
            yield
        finally:
            with self._changed:
                self._taken[me] -= need
                if not self._taken[me]:
                    del self._taken[me]
                self._changed.notify_all()


ALL = Budget(BUDGET)
"""The budget of this process."""


def of_window(size: int) -> int:
    """Return what a decompressor needs that has a window of so many bytes."""
    return size + _REST


def of_xz(head: bytes) -> int:
    """Return what the first block of an xz stream needs (.xz file format, section 3.1)."""
    try:
        block = memoryview(head)[_XZ_STREAM:]
        flags, at = block[1], 2
        for sizes in (0x40, 0x80):
            if flags & sizes:
                _, at = _xz_number(block, at)
        for _ in range((flags & 3) + 1):
            kind, at = _xz_number(block, at)
            length, at = _xz_number(block, at)
            if kind == _XZ_LZMA2:
                bits = block[at] & 0x3F
                return of_window((2 | bits & 1) << (bits // 2 + 11))
            at += length
    except IndexError:
        pass
    # Without a block there is nothing to decompress, and what is no header will be refused.
    return _REST


def _xz_number(block: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a place, of seven bits a byte, and where it ends (section 1.2)."""
    value = shift = 0
    while True:
        value |= (block[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not block[at - 1] & 0x80:
            return value, at


def of_zstd(head: bytes) -> int:
    """Return what a frame needs (RFC 8878, section 3.1.1.1); of one to be skipped, nothing."""
    if not head.startswith(_ZSTD_MAGIC) or len(head) < 6:
        return 0
    flags = head[4]
    if not flags & 0x20:
        exponent, mantissa = divmod(head[5], 8)
        return of_window(8 + mantissa << exponent + 7)
    # A frame in one piece: its window is all of its content.
    at = 5 + _ZSTD_DICTIONARY_BYTES[flags & 3]
    length = 1 << (flags >> 6)
    content = int.from_bytes(head[at : at + length], "little")
    return of_window(content + (256 if length == 2 else 0))


NEEDS: dict[str, Callable[[bytes], int]] = {"xz": of_xz, "zstd": of_zstd}
"""What reads a kind's needs; the other kinds take less than 10 MB."""
