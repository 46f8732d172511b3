"""Compressed streams: told by content, whole or an error, and never more than was asked for."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from imagefs.archive import compression
from imagefs.archive.compression import MAGIC_BYTES, Compression, TooLargeError, recognise
from imagefs.errors import CorruptArchive
from tests.support.effort import at_most
from tests.support.samples import zstd
from tests.support.tars import layer

PACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: zstd,
    Compression.XZ: lzma.compress,
    Compression.BZIP2: bz2.compress,
}
plain = partial(compression.plain, memory=Path("/nowhere"))
"""Streams of these tests share their memory with nobody."""
KINDS = pytest.mark.parametrize("kind", Compression)
CONTENT = os.urandom(3000) * 300
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
SKIPPABLE = bytes.fromhex("5a2a4d18 04000000 00112233")
"""A zstd frame for the user's own data (RFC 8878 section 3.1.2)."""


def unpacked(data: bytes, kind: Compression, max_bytes: int = 1 << 40) -> bytes:
    return b"".join(plain(io.BytesIO(data).read, kind, max_bytes))


def in_parts(parts: Iterable[bytes]) -> Callable[[int], bytes]:
    """Return a read() that hands out these parts, as a pipe might."""
    left = iter(parts)
    return lambda _size: next(left, b"")


@KINDS
def test_streams_are_told_by_their_first_bytes(kind: Compression) -> None:
    """The first bytes tell what a stream is compressed with; nothing else passes for it."""
    head = PACK[kind](b"")[:MAGIC_BYTES]
    assert recognise(head) is recognise(PACK[kind](CONTENT)[:MAGIC_BYTES]) is kind
    assert recognise(b"\0" + head) is None
    assert recognise(head[:2]) is None


def test_what_is_not_compressed_is_not_recognised() -> None:
    """A tar, zeros, text, nothing: none is compressed. A skippable frame begins zstd's."""
    names = ("bin/tool", "BZh", "BZhang/notes", "BZh9.tar.bz2", "(zstd)", "7zXZ")
    heads = [
        layer({name: ""}, tar_format)[:MAGIC_BYTES] for name in names for tar_format in FORMATS
    ]
    for head in (b"", b"\0" * 6, b"\x1f\x8b", b"PK\x03\x04", *heads):
        assert recognise(head) is None
    assert recognise(SKIPPABLE) is Compression.ZSTD


@KINDS
def test_content_comes_back(kind: Compression) -> None:
    """What was packed comes out, whatever the size of the pieces in which it comes in."""
    packed = PACK[kind](CONTENT)
    assert unpacked(packed, kind) == CONTENT
    assert b"".join(plain(in_parts(bytes([byte]) for byte in packed), kind, 1 << 40)) == CONTENT
    assert unpacked(PACK[kind](b""), kind) == b""


@KINDS
def test_streams_in_a_row_are_one(kind: Compression) -> None:
    """Several streams behind each other are read to the last, with zeros at the end or none."""
    packed = PACK[kind](b"first ") + PACK[kind](b"") + PACK[kind](CONTENT)
    assert unpacked(packed, kind) == b"first " + CONTENT
    assert unpacked(packed + bytes(700), kind) == b"first " + CONTENT


def test_skippable_frames_hold_nothing() -> None:
    """zstd:chunked keeps its table of contents in skippable frames, which are no content."""
    packed = SKIPPABLE + zstd(b"a") + SKIPPABLE + zstd(b"b") + SKIPPABLE
    assert unpacked(packed, Compression.ZSTD) == b"ab"


EMPTY_FRAMES = [
    bytes.fromhex("28b52ffd 2000 010000"),
    bytes.fromhex("28b52ffd 0000 010000"),
    bytes.fromhex("28b52ffd 2400 010000 99e9d851"),
    bytes.fromhex("502a4d18 00000000"),
]


@pytest.mark.parametrize("frame", EMPTY_FRAMES)
def test_empty_zstd_frames_cost_nothing(frame: bytes) -> None:
    """A megabyte of frames that hold nothing is passed over in one go, wherever it is cut."""
    packed = zstd(b"a") + frame * (1_000_000 // len(frame)) + zstd(b"b")
    with at_most(5000):
        assert unpacked(packed, Compression.ZSTD) == b"ab"


def test_zstd_windows_are_bounded() -> None:
    """A frame may not have us take gigabytes of memory; what zstd -d takes by itself is taken."""
    block = bytes.fromhex("010000")
    for window_log, taken in ((27, True), (28, False), (31, False)):
        frame = bytes.fromhex("28b52ffd00") + bytes([(window_log - 10) << 3]) + block
        if taken:
            assert unpacked(frame, Compression.ZSTD) == b""
        else:
            with pytest.raises(CorruptArchive, match="window of more than 128 MiB"):
                unpacked(frame, Compression.ZSTD)


@KINDS
def test_a_stream_that_is_cut_anywhere_is_an_error(kind: Compression) -> None:
    """However much is missing, what comes out is not passed off as all of it."""
    packed = PACK[kind](b"some content")
    for end in range(1, len(packed)):
        with pytest.raises(CorruptArchive, match="cut short"):
            unpacked(packed[:end], kind)


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.XZ, Compression.BZIP2])
def test_checksums_are_checked(kind: Compression) -> None:
    """A bit that flips in the content or in its checksum does not go unnoticed."""
    packed = bytearray(PACK[kind](b"some content that is long enough" * 9))
    for at in (len(packed) // 2, len(packed) - 5):
        damaged = bytearray(packed)
        damaged[at] ^= 16
        with pytest.raises(CorruptArchive, match="damaged"):
            unpacked(bytes(damaged), kind)


@KINDS
def test_what_follows_must_be_of_the_same_kind(kind: Compression) -> None:
    """Something else behind a stream is an error, as it is to the engines."""
    for other in (b"garbage", b"\0\0garbage", PACK[_another(kind)](b"x")):
        with pytest.raises(CorruptArchive, match="follows"):
            unpacked(PACK[kind](b"x") + other, kind)


def _another(kind: Compression) -> Compression:
    return next(other for other in Compression if other is not kind)


@KINDS
def test_output_is_bounded(kind: Compression) -> None:
    """A bomb goes off no further than the bound, within one stream or over many."""
    bomb = PACK[kind](bytes(50 << 20))
    with pytest.raises(TooLargeError, match="more than 1000000 bytes"):
        unpacked(bomb, kind, 1_000_000)
    with pytest.raises(TooLargeError):
        unpacked(PACK[kind](bytes(600)) * 2, kind, 1000)
    assert len(unpacked(PACK[kind](bytes(1000)), kind, 1000)) == 1000


EMPTY = {
    Compression.GZIP: gzip.compress(b""),
    Compression.ZSTD: SKIPPABLE,
    Compression.XZ: bytes(64 << 10),
    Compression.BZIP2: bytes(64 << 10),
}
"""What a stream may have behind it, again and again, that holds nothing."""


@KINDS
def test_what_holds_nothing_is_bounded(kind: Compression) -> None:
    """A stream that goes on without content ends at twice the bound and some padding."""
    took = 0
    begun = PACK[kind](b"x")

    def read(_size: int) -> bytes:
        nonlocal took
        piece = EMPTY[kind] * (65536 // len(EMPTY[kind])) if took else begun
        took += len(piece)
        return piece

    with pytest.raises(TooLargeError, match="packs at most 1000000 bytes into more than twice"):
        list(plain(read, kind, 1_000_000))
    assert took < 4 << 20


@KINDS
def test_pieces_stay_small(kind: Compression) -> None:
    """However well a stream packs, no more than a mebibyte of it is in memory at a time."""
    read = io.BytesIO(PACK[kind](bytes(20 << 20))).read
    assert max(map(len, plain(read, kind, 1 << 40))) <= 1 << 20


@KINDS
def test_what_could_be_read_comes_before_the_error(kind: Compression) -> None:
    """Who makes do with a damaged stream gets all that lies before the damage."""
    packed = PACK[kind](CONTENT) + PACK[kind](CONTENT)[:-5]
    pieces = plain(io.BytesIO(packed).read, kind, 1 << 40)
    got = bytearray()

    def collect() -> None:
        for piece in pieces:
            got.extend(piece)

    with pytest.raises(CorruptArchive):
        collect()
    assert got.startswith(CONTENT)


FHCRC, FEXTRA, FNAME, FCOMMENT = 2, 4, 8, 16


def gzip_header(flags: int) -> bytes:
    """Return a header with the optional fields of RFC 1952 that `flags` names."""
    header = bytes([0x1F, 0x8B, 8, flags, 0, 0, 0, 0, 0, 3])
    header += b"\x06\0SG\x02\0ab" if flags & FEXTRA else b""
    header += b"layer.tar\0" if flags & FNAME else b""
    header += b"a comment\0" if flags & FCOMMENT else b""
    return header + (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little") * bool(flags & FHCRC)


@pytest.mark.parametrize("flags", range(0, 32, 2))
def test_gzip_headers_may_come_in_parts(flags: int) -> None:
    """Every optional field is skipped, wherever the input is divided, in any member."""
    packed = gzip_header(flags) + gzip.compress(b"content", mtime=0)[10:]
    for before in (b"", packed):
        for cut in range(len(before) + 1, len(before) + len(gzip_header(flags)) + 1):
            whole = before + packed
            parts = in_parts([whole[:cut], whole[cut:]])
            assert b"".join(plain(parts, Compression.GZIP, 100)).endswith(b"content")
