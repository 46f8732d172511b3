"""The memory of decompressors: what streams ask for, and that all together stay in one budget."""

import lzma
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from backports import zstd

from imagefs.archive import compression
from imagefs.archive.compression import Compression
from imagefs.archive.windows import budget, of_window, of_xz, of_zstd
from imagefs.errors import CorruptArchive
from imagefs.host.memory import BUDGET
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


def plain(data: bytes, memory: Path) -> Iterator[bytes]:
    left = [data]
    return compression.plain(lambda _: left.pop() if left else b"", Compression.XZ, 1 << 40, memory)


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


def test_a_dictionary_beyond_the_budget_is_refused(tmp_path: Path) -> None:
    """What can never fit is refused before any memory is taken for it."""
    with pytest.raises(CorruptArchive, match="its xz stream needs 769 MiB of memory"):
        list(plain(claiming(35), tmp_path))
    assert b"".join(plain(xz(64 * MIB), tmp_path)) == b"content"


def test_streams_take_turns(tmp_path: Path) -> None:
    """Two streams that do not fit side by side are decompressed one after the other."""
    stream = xz(200 * MIB)
    first = plain(stream, tmp_path)
    assert next(first) == b"content"
    got: list[bytes] = []
    other = threading.Thread(target=lambda: got.extend(plain(stream, tmp_path)))
    other.start()
    small = threading.Thread(target=lambda: got.extend(plain(xz(4096), tmp_path)))
    small.start()
    assert soon(lambda: not small.is_alive())
    assert got == [b"content"]
    first.close()  # type: ignore[attr-defined]
    assert soon(lambda: not other.is_alive())
    assert got == [b"content"] * 2


TAKEN = """
import os, sys, threading, time
from pathlib import Path
from imagefs.archive.compression import Compression, plain

place = Path(sys.argv[1])
log = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def run(size):
    left = [(place / f"{size}.xz").read_bytes()]
    for _ in plain(lambda _: left.pop() if left else b"", Compression.XZ, 1 << 40, place):
        os.write(log, b"%d\\n" % size)
        time.sleep(0.02)
        os.write(log, b"%d\\n" % -size)

threads = [threading.Thread(target=run, args=(int(size),)) for size in sys.argv[2:]]
for one in threads:
    one.start()
for one in threads:
    one.join()
"""
"""Decompresses a file in each of some threads, and notes how many MiB each has meanwhile."""


def test_the_budget_is_one_for_all_processes(tmp_path: Path) -> None:
    """However many processes decompress, what they have together stays in the budget."""
    sizes = [40, 64, 96, 128, 200]
    for size in sizes:
        (tmp_path / f"{size}.xz").write_bytes(xz(size * MIB))
    words = [sys.executable, "-c", TAKEN, str(tmp_path), *map(str, sizes)]
    processes = [subprocess.Popen(words) for _ in range(4)]
    assert [one.wait(120) for one in processes] == [0] * len(processes)
    noted = list(map(int, (tmp_path / "log").read_text().split()))
    assert sorted(noted) == sorted([*sizes, *(-size for size in sizes)] * len(processes))
    together = list(accumulate(noted))
    assert max(together) <= BUDGET // MIB
    assert max(together) > max(sizes), "some go side by side"


def test_streams_in_streams_do_not_wait_for_themselves(tmp_path: Path) -> None:
    """A thread that holds memory is refused what goes beyond the budget, and waits for no room."""
    with budget("outer", tmp_path) as outer:
        outer(200 * MIB)
        with budget("inner", tmp_path) as inner:
            with pytest.raises(CorruptArchive, match="inner needs 321 MiB"):
                inner(121 * MIB)
            inner(120 * MIB)
    with budget("again", tmp_path) as again:
        for size in (10, 320, 200):
            again(size * MIB)


def test_the_budget_comes_back_whole(tmp_path: Path) -> None:
    """Whatever became of a stream, what it took is there for the next."""
    assert list(plain(xz(256 * MIB), tmp_path)) == [b"content"]
    for damaged in (xz(256 * MIB)[:-20], claiming(35)):
        with pytest.raises(CorruptArchive):
            list(plain(damaged, tmp_path))
    with budget("all", tmp_path) as ask:
        ask(BUDGET)
