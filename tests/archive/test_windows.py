"""The memory of decompressors: what streams ask for, and that all together stay in one budget."""

import lzma
import threading
from collections.abc import Iterator

import pytest
from backports import zstd

from imagefs.archive import compression, windows
from imagefs.archive.compression import Compression
from imagefs.archive.windows import Budget, of_window, of_xz, of_zstd
from imagefs.errors import CorruptArchive
from tests.support.polling import soon

MIB = 1 << 20


def xz(dictionary: int, *before: int) -> bytes:
    """Return a stream with that dictionary, behind filters that come before."""
    filters = [*({"id": one} for one in before), {"id": lzma.FILTER_LZMA2, "dict_size": dictionary}]
    return lzma.compress(b"content", lzma.FORMAT_XZ, filters=filters)


def claiming(bits: int) -> bytes:
    """Return the beginning of a stream whose block claims a dictionary, in the format's bits."""
    head = bytearray(xz(4096))
    head[12 + 4] = bits
    return bytes(head)


def plain(data: bytes, kind: Compression = Compression.XZ) -> Iterator[bytes]:
    left = [data]
    return compression.plain(lambda _: left.pop() if left else b"", kind, 1 << 40)


@pytest.mark.parametrize("size", [4096, MIB, 6 * MIB, 64 * MIB, 96 * MIB])
def test_what_xz_needs(size: int) -> None:
    """A dictionary's size is found behind other filters, and liblzma is content with it."""
    for stream in (xz(size), xz(size, lzma.FILTER_X86), xz(size, lzma.FILTER_X86, lzma.FILTER_ARM)):
        assert of_xz(stream) == of_window(size)
        lzma.LZMADecompressor(lzma.FORMAT_XZ, of_xz(stream)).decompress(stream)


@pytest.mark.parametrize("size", [10, 300, 100_000])
def test_what_zstd_needs(size: int) -> None:
    """A frame in one piece needs its content's size, any other its window's."""
    assert of_zstd(zstd.compress(b"a" * size)) == of_window(size)
    made = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 21})
    assert of_zstd(made.compress(b"a" * size) + made.flush()) == of_window(2 * MIB)


def test_heads_of_any_bytes_have_an_answer() -> None:
    """What is cut or is no header needs next to nothing; decompressing it will say what it is."""
    for stream in (xz(64 * MIB), zstd.compress(b"a" * 70_000)):
        for end in range(len(stream)):
            assert of_xz(stream[:end]) >= 0
            assert of_zstd(stream[:end]) >= 0


def test_a_dictionary_beyond_the_budget_is_refused() -> None:
    """What can never fit is refused before any memory is taken for it."""
    with pytest.raises(CorruptArchive, match="its xz stream needs 769 MiB of memory"):
        list(plain(claiming(35)))
    assert b"".join(plain(xz(64 * MIB))) == b"content"


def test_streams_take_turns() -> None:
    """Two streams that do not fit side by side are decompressed one after the other."""
    stream = xz(200 * MIB)
    first = plain(stream)
    assert next(first) == b"content"
    got: list[bytes] = []
    other = threading.Thread(target=lambda: got.extend(plain(stream)))
    other.start()
    small = threading.Thread(target=lambda: got.extend(plain(xz(4096))))
    small.start()
    assert soon(lambda: not small.is_alive())
    assert got == [b"content"]
    first.close()  # type: ignore[attr-defined]
    assert soon(lambda: not other.is_alive())
    assert got == [b"content"] * 2


def test_streams_in_streams_do_not_wait_for_themselves() -> None:
    """A thread that holds memory is refused what goes beyond the budget; it never waits."""
    budget = Budget(100)
    with budget.held(60, "outer"):
        with pytest.raises(CorruptArchive, match="inner"), budget.held(60, "inner"):
            pass
        with budget.held(40, "inner"):
            pass
    with budget.held(100, "again"):
        pass


def test_the_budget_comes_back_whole() -> None:
    """Whatever became of a stream, what it took is there for the next."""
    assert list(plain(xz(256 * MIB))) == [b"content"]
    for damaged in (xz(256 * MIB)[:-20], claiming(35)):
        with pytest.raises(CorruptArchive):
            list(plain(damaged))
    with windows.ALL.held(windows.BUDGET, "all"):
        pass
