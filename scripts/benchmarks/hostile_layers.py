"""Small archives that would cost much if nothing bounded what parsing and decompressing take.

Owns the writing of them, each a docker-archive of under 10 MB, made in seconds and in little
memory. What is measured with them, and how, is the business of whoever calls.
"""

import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from pathlib import Path

from imagefs.tar.header import BLOCK

_END = bytes(2 * BLOCK)
_MIB = 1 << 20


def _header(name: bytes, kind: bytes = b"0", size: int = 0, target: bytes = b"") -> bytes:
    """Return an ustar header."""
    numbers = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 0
    block = name.ljust(100, b"\0") + numbers + b" " * 8 + kind + target.ljust(100, b"\0")
    block = (block + b"ustar\x0000").ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _said(name: bytes, kind: bytes, content: bytes) -> bytes:
    """Return a member with content."""
    return _header(name, kind, len(content)) + content + bytes(-len(content) % BLOCK)


def _records(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return pax records; a length counts its own digits."""
    found = []
    for key, value in pairs:
        rest = len(key) + len(value) + 3
        length = rest + len(str(rest))
        length = rest + len(str(length))
        found.append(b"%d %s=%s\n" % (length, key, value))
    return b"".join(found)


def _archive(path: Path, layers: list[tuple[str, bytes]]) -> None:
    """Write an archive of layers that are packed, each with its plain digest."""
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest, _ in layers]}
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["hostile:v1"], "Layers": names}]
    files = {
        "config.json": json.dumps({"os": "linux", "rootfs": rootfs}).encode(),
        **dict(zip(names, (packed for _, packed in layers), strict=True)),
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _gzipped(pieces: Iterable[bytes]) -> tuple[str, bytes]:
    """Return the digest of a tar of these pieces, which need not fit in memory, and it packed."""
    digest, out = hashlib.sha256(), io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as packed:
        for piece in chain(pieces, [_END]):
            digest.update(piece)
            packed.write(piece)
    return digest.hexdigest(), out.getvalue()


def _claiming(packed: bytes, bits: int = 35) -> bytes:
    """Return an xz stream whose block claims another dictionary, in the format's bits.

    To make one that has it would take gigabytes (.xz file format, section 3.1).
    """
    block = bytearray(packed[12:20])
    block[4] = bits
    return packed[:12] + block + zlib.crc32(block).to_bytes(4, "little") + packed[24:]


def _xz_dictionaries(path: Path) -> None:
    layers = []
    for number in range(4):
        plain = _said(b"f%d" % number, b"0", bytes(256 * _MIB)) + _END
        packed = _claiming(lzma.compress(plain, preset=0))
        layers.append((hashlib.sha256(plain).hexdigest(), packed))
    _archive(path, layers)


def _attributes(path: Path) -> None:
    said = _said(b"pax", b"x", _records([(b"SCHILY.xattr.user.a", b"v" * 65_000)])) + _header(b"f")
    layers = (chain([_header(b"%d" % at)], repeat(said, 4100)) for at in range(4))
    _archive(path, list(map(_gzipped, layers)))


def _tiny_records(path: Path) -> None:
    turn = _said(b"pax", b"x", b"5 a=\n" * 200_000) + _header(b"f")
    _archive(path, [_gzipped(repeat(turn, 400))])


def _empty_runs(path: Path) -> None:
    said = [(b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b",".join([b"0,0"] * 200_000))]
    turn = _said(b"pax", b"x", _records(said)) + _header(b"f")
    _archive(path, [_gzipped(repeat(turn, 300))])


def _deep_paths(path: Path) -> None:
    link = _header(b"a", b"2", target=b"x")
    turn = link + _said(b"L", b"L", b"d/" * 2000 + b"f\0") + _header(b"f")
    _archive(path, [_gzipped(repeat(turn, 60_000))])


def _deep_layers(path: Path) -> None:
    turn = _said(b"L", b"L", b"d/" * 1990 + b"f\0") + _header(b"f")
    layers = (chain([_header(b"%d" % at)], repeat(turn, 1950)) for at in range(40))
    _archive(path, list(map(_gzipped, layers)))


def _chains_of_links(path: Path) -> None:
    dots = b"./" * 2000
    targets = [b"d", *(b"%sl%d" % (dots, number) for number in range(38))]
    links = [
        _said(b"pax", b"x", _records([(b"linkpath", target)])) + _header(b"l%d" % number, b"2")
        for number, target in enumerate(targets)
    ]
    files = (_header(b"l38/%d/f" % number) for number in range(200_000))
    _archive(path, [_gzipped(chain([_header(b"d", b"5")], links, files))])


def _values_of_json(path: Path) -> None:
    plain = _header(b"f") + _END
    digest = hashlib.sha256(plain).hexdigest()
    config = b'{"rootfs":{"diff_ids":["sha256:%s"]},"x":[' % digest.encode()
    manifest = [{"Config": "config.json", "RepoTags": ["hostile:v1"], "Layers": ["layer.tar"]}]
    files = {
        "config.json": config + b"{}," * (5 * _MIB) + b"0]}",
        "layer.tar": plain,
        "manifest.json": json.dumps(manifest).encode(),
    }
    members = (_said(name.encode(), b"0", content) for name, content in files.items())
    path.write_bytes(_gzipped(members)[1])


CASES: dict[str, Callable[[Path], None]] = {
    "four layers of xz that claim dictionaries of 768 MiB": _xz_dictionaries,
    "four layers near the limit of attributes": _attributes,
    "members with a mebibyte of tiny pax records": _tiny_records,
    "sparse maps of empty runs": _empty_runs,
    "replaced links above deep paths": _deep_paths,
    "40 layers of deep paths": _deep_layers,
    "paths through chains of links": _chains_of_links,
    "five million values of JSON": _values_of_json,
}
"""What writes each archive, by what it is."""
