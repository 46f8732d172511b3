"""How much memory a compressed stream asks for, and where it is taken from.

Owns the reading of what xz and zstd say of their windows, before a decompressor takes memory for
them. It comes from the budget that all have together (`host/memory.py`): a stream that does not fit
beside the others waits, whatever the number of processors and of processes. Knows nothing of
decompressing. Any thread may call it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

from imagefs.errors import CorruptArchive
from imagefs.host.memory import BUDGET, SMALL, Share

HEAD = 12 + 1024
"""How many of a stream's first bytes say what it needs: xz's own header and that of a block."""
_REST = 1 << 20
"""More than a decompressor takes beside its window."""

_XZ_STREAM = 12
_XZ_LZMA2 = 0x21
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_DICTIONARY_BYTES = (0, 1, 2, 4)


_taken: Counter[int] = Counter()
"""What each thread has."""


@contextmanager
def budget(what: str, directory: Path) -> Iterator[Callable[[int], None]]:
    """Lend memory to a file's streams, one behind the other; what is yielded asks for a stream's.

    It waits until there is room, in what all have in common who name the same `directory`, and
    raises CorruptArchive where there never can be. A thread that has some already, as for layers in
    a packed archive, waits for none that others have: they might wait for what it has.
    """
    me, has = get_ident(), 0

    def ask(need: int) -> None:
        nonlocal has
        if need <= max(has, SMALL):
            return
        others = _taken[me] - has
        if others + need > BUDGET:
            raise CorruptArchive(
                f"{what} needs {others + need >> 20} MiB of memory to decompress;"
                f" pack it so that it needs at most {BUDGET >> 20}"
            )
        (share.grow if others else share.take)(need)
        _taken[me] += need - has
        has = need

    with Share(directory) as share:
        try:
            yield ask
        finally:
            _taken[me] -= has


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
