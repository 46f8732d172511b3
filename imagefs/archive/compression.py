"""Compressed streams made plain: gzip, zstd, xz and bzip2, told by their first bytes.

Owns the choice of a decompressor and what every one of them must cope with: several streams in a
row, padding behind the last, an end that comes too early, and output without end. Names of files
say nothing here. Knows nothing of layers or archives. Any thread may call it; the decompressors
work without the interpreter lock.
"""

import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from imagefs.archive import windows
from imagefs.errors import CorruptArchive

Read = Callable[[int], bytes]
"""`read(size)` returns the next bytes, at most `size`; none at the end."""

MAGIC_BYTES = 10
"""How many of a stream's first bytes tell what it is."""
_INPUT = 64 << 10
_OUTPUT = 64 << 10
"""Pieces beyond 128 KiB would each be mapped, and faulted in, anew by malloc(3): that takes a
tenth of the whole time."""
_GZIP_FIXED, _GZIP_FLAGS = 10, 3
_GZIP_HEADER = 128 << 10
"""isal takes a gzip header for something else if it comes in two parts and has a checksum, or
more than one optional field. This is more than a header can have, but for absurd names."""
_PADDING = 1 << 20
"""Bytes of headers and padding that any stream may have."""
_ZSTD_WINDOW_LOG = 27
"""What `zstd -d` allows by itself: a decompressor takes this much memory, 128 MiB."""
_EMPTY_ZSTD_FRAMES = re.compile(
    rb"(?:\x28\xb5\x2f\xfd(?:\x20\0|\0.)\x01\0\0|\x28\xb5\x2f\xfd(?:\x24\0|\x04.)\x01\0\0.{4}"
    rb"|[\x50-\x5f]\x2a\x4d\x18\0{4})+",
    re.DOTALL,
)
"""Frames without content, with and without a checksum. A decompressor for each would cost minutes
where some megabytes hold nothing else; RFC 8878 section 3.1.1."""


class TooLargeError(CorruptArchive):
    """A stream goes on beyond the bound that its reader set."""

    def __init__(self, max_bytes: int, what: str = "") -> None:
        super().__init__(what or f"it decompresses to more than {max_bytes} bytes")
        self.max_bytes = max_bytes


class Compression(Enum):
    """A kind of compression; the value is its name."""

    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


# RFC 1952 section 2.3.1, RFC 8878 sections 3.1.1 and 3.1.2, the .xz file format section 2.1.1.1;
# of bzip2, since a tar may begin with a file's name of the letters BZh, its block size as well and
# what comes before a block, or before the end where there is none: digits of pi, or of its root.
# The others have bytes that no name of a sane tar has, and engines go by no more of them.
_MAGIC = {
    Compression.GZIP: re.compile(rb"\x1f\x8b\x08"),
    Compression.ZSTD: re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    Compression.XZ: re.compile(rb"\xfd7zXZ\0"),
    Compression.BZIP2: re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)"),
}


def recognise(head: bytes) -> Compression | None:
    """Return what a stream that begins with `head` is compressed with, or None."""
    return next((kind for kind, magic in _MAGIC.items() if magic.match(head)), None)


def plain(read: Read, kind: Compression, max_bytes: int, memory: Path) -> Iterator[bytes]:
    """Yield the content of a compressed stream in pieces.

    `memory` is the directory of the budget that decompressors share. Raises CorruptArchive, behind
    all that could be read, if the stream is damaged or cut, TooLargeError if it goes on beyond
    `max_bytes`, be it that it packs nothing.
    """
    make, failure = _decompressor(kind)
    produced = 0
    data = b""
    read = _bounded(read, max_bytes)
    with windows.budget(f"its {kind.value} stream", memory) as ask:
        while data := data or read(_INPUT):
            data = _with_whole_header(data, read, kind)
            need = _need(kind, data)
            ask(need)
            current = make(need)
            for piece in _pieces(current, data, read, failure, kind):
                produced += len(piece)
                if produced > max_bytes:
                    raise TooLargeError(max_bytes)
                yield piece
            data = current.unused_data
            # Before the next one takes memory of its own.
            del current
            data = _behind_stream(data, read, kind)


def most_packed(max_bytes: int) -> int:
    """Return how many bytes a stream may have that packs at most `max_bytes`: far more than any."""
    return 2 * max_bytes + _PADDING


def _bounded(read: Read, max_bytes: int) -> Read:
    """Return a function that reads on until there is more than `most_packed` bytes."""
    left = most_packed(max_bytes)

    def bounded(size: int) -> bytes:
        nonlocal left
        data = read(size)
        left -= len(data)
        if left < 0:
            raise TooLargeError(
                max_bytes, f"it packs at most {max_bytes} bytes into more than twice as many"
            )
        return data

    return bounded


def _need(kind: Compression, head: bytes) -> int:
    """Return how much memory a stream takes that begins so."""
    need = windows.NEEDS[kind.value](head) if kind.value in windows.NEEDS else 0
    if kind is Compression.ZSTD and need > windows.of_window(1 << _ZSTD_WINDOW_LOG):
        raise _too_wide()
    return need


def _pieces(
    current: "_Decompressor",
    data: bytes,
    read: Read,
    failure: type[Exception],
    kind: Compression,
) -> Iterator[bytes]:
    """Yield the content of one stream that begins with `data`."""
    while not current.eof:
        if current.needs_input and not data:
            data = read(_INPUT)
            if not data:
                raise CorruptArchive(f"its {kind.value} stream is cut short")
        try:
            piece = current.decompress(data, _OUTPUT)
        except failure as error:
            raise _damaged(kind, error) from error
        data = b""
        if piece:
            yield piece


class _Decompressor(Protocol):
    """What the decompressors of all kinds have in common (as bz2.BZ2Decompressor does it)."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decompressor(kind: Compression) -> tuple[Callable[[int], _Decompressor], type[Exception]]:
    """Return how to make a decompressor that may take so much, and what it raises at bad data."""
    if kind is Compression.GZIP:
        from isal import igzip_lib  # noqa: PLC0415

        # The stubs that come with isal take the class for an instance.
        failure: Any = igzip_lib.IsalError
        return lambda _: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), failure
    if kind is Compression.ZSTD:
        zstd = _zstd()
        options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        return lambda _: zstd.ZstdDecompressor(options=options), zstd.ZstdError
    if kind is Compression.XZ:
        import lzma  # noqa: PLC0415

        return lambda need: lzma.LZMADecompressor(lzma.FORMAT_XZ, need), lzma.LZMAError
    import bz2  # noqa: PLC0415

    return lambda _: bz2.BZ2Decompressor(), OSError


def _damaged(kind: Compression, error: Exception) -> CorruptArchive:
    if kind is Compression.ZSTD and "too much memory" in str(error):
        return _too_wide()
    if kind is Compression.XZ and "Memory usage limit" in str(error):
        return CorruptArchive("a block of its xz stream needs more memory than the first one")
    return CorruptArchive(f"its {kind.value} stream is damaged: {error}")


def _too_wide() -> CorruptArchive:
    return CorruptArchive(
        f"its zstd stream needs a window of more than {1 << (_ZSTD_WINDOW_LOG - 20)} MiB;"
        " pack it with --long=27 or less"
    )


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    return zstd


def _with_whole_header(data: bytes, read: Read, kind: Compression) -> bytes:
    """Return the beginning of a stream with what follows it, its header in one piece."""
    enough = windows.HEAD if kind.value in windows.NEEDS else _GZIP_FIXED
    while len(data) < enough and (more := read(_INPUT)):
        data += more
    if kind is Compression.GZIP and data[_GZIP_FLAGS : _GZIP_FLAGS + 1].strip(b"\0"):
        gathered = bytearray(data)
        while len(gathered) < _GZIP_HEADER and (more := read(_INPUT)):
            gathered += more
        data = bytes(gathered)
    return data


def _behind_stream(data: bytes, read: Read, kind: Compression) -> bytes:
    """Return the beginning of the next stream, or nothing at the end; zeros are padding."""
    while True:
        data = data.lstrip(b"\0")
        if kind is Compression.ZSTD and (empty := _EMPTY_ZSTD_FRAMES.match(data)):
            data = data[empty.end() :]
        if len(data) < MAGIC_BYTES:
            more = read(_INPUT)
            data += more
            if more:
                continue
        if data and recognise(data) is not kind:
            raise CorruptArchive(f"something that is not {kind.value} follows its {kind.value}")
        return data
