"""Small archives whose merging costs much, as `docker save` would write them.

Owns what is in each: layers that come many times, deep chains of directories, hard links to lower
layers, sparse files of many runs, wide directories. Headers are made here: Python's tarfile takes
too long for millions of them.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

_BLOCK = 512
_END = bytes(2 * _BLOCK)


def header(name: bytes, kind: bytes = b"0", *, size: int = 0, target: bytes = b"") -> bytes:
    """Return the headers of a member; long names take GNU's way."""
    out = b""
    for long, what in ((target, b"K"), (name, b"L")):
        if len(long) > 99:
            out += _plain(b"././@LongLink", what, len(long) + 1, b"")
            out += _padded(long + b"\0")
    return out + _plain(name[:100], kind, size, target[:100])


@cache
def _after_size(kind: bytes, target: bytes) -> bytes:
    rest = b"14000000000\0" + b" " * 8 + kind + target.ljust(100, b"\0") + b"ustar  \0"
    return rest.ljust(_BLOCK - 136, b"\0")


def _plain(name: bytes, kind: bytes, size: int, target: bytes) -> bytes:
    mode = b"0000755\0" if kind == b"5" else b"0000644\0"
    head = name.ljust(100, b"\0") + mode + b"0000000\0" * 2 + b"%011o\0" % size
    rest = _after_size(kind, target)
    # As a checksum goes over its own field's spaces, it is known before it is put in.
    total = sum(head) + sum(rest)
    return head + rest[:12] + b"%06o\0 " % total + rest[20:]


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _BLOCK)


def file(name: bytes, content: bytes) -> bytes:
    """Return a member that is a file."""
    return header(name, size=len(content)) + _padded(content)


def write_image(
    path: Path, layers: Iterable[bytes], order: Sequence[int] | None = None, *, packed: bool = False
) -> None:
    """Write an archive of layers; `order` lists them as the manifest does, if that is not once."""
    names, ids = [], []
    with tarfile.open(path, "w") as tar:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for content in layers:
            ids.append("sha256:" + hashlib.sha256(content).hexdigest())
            names.append(f"{len(names)}/layer.tar")
            add(names[-1], gzip.compress(content, 1, mtime=0) if packed else content)
        used = range(len(names)) if order is None else order
        rootfs = {"type": "layers", "diff_ids": [ids[at] for at in used]}
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
        called = hashlib.sha256(config).hexdigest() + ".json"
        add(called, config)
        manifest = [{"Config": called, "RepoTags": None, "Layers": [names[at] for at in used]}]
        add("manifest.json", json.dumps(manifest).encode())


def _deep_links(path: Path, layers: int = 80, depth: int = 1000, links: int = 20) -> None:
    chain = b"d/" * depth
    made = [header(chain + b"f") + _END]
    for number in range(1, layers):
        content = header(chain + b"g%d" % number)
        for link in range(links):
            content += header(b"l%d-%d" % (number, link), b"1", target=chain + b"f")
        made.append(content + _END)
    write_image(path, made)


def _chained_links(path: Path, layers: int = 600, depth: int = 1000) -> None:
    """Each layer links to the link of the one below."""
    chain = b"d/" * depth
    made = [header(chain + b"0") + _END]
    for number in range(1, layers):
        link = header(chain + b"%d" % number, b"1", target=chain + b"%d" % (number - 1))
        made.append(link + _END)
    write_image(path, made)


def _many_links(path: Path, count: int = 100_000) -> None:
    """Hard links to one lower file each, and further layers above, each of which shows them."""
    names = [b"f/%06d" % number for number in range(count // 10)]
    lower = b"".join(map(header, names)) + _END
    links = [header(b"l/%06d" % at, b"1", target=names[at // 10]) for at in range(count)]
    upper = [header(b"u%d" % number) + _END for number in range(8)]
    write_image(path, [lower, b"".join(links) + _END, *upper], packed=True)


def _directories(count: int, mark: bytes = b"") -> bytes:
    return b"".join(header(b"d%05d/" % number, b"5") for number in range(count)) + mark + _END


def _repeated(path: Path, count: int, times: int) -> None:
    write_image(path, [_directories(count)], [0] * times)


def _alternating(path: Path, count: int, times: int) -> None:
    write_image(path, [_directories(count), _directories(count, header(b"x"))], [0, 1] * times)


def _sparse_layer(runs: int) -> bytes:
    pairs = b"".join(b"%d\n1\n" % (at * 4096) for at in range(runs))
    sparse = _padded(b"%d\n" % runs + pairs) + _padded(bytes(runs))
    records = b"".join(
        _record(key, value)
        for key, value in (
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"s"),
            (b"GNU.sparse.realsize", b"%d" % (runs * 4096)),
        )
    )
    extended = header(b"x", b"x", size=len(records)) + _padded(records)
    return extended + header(b"GNUSparseFile.0/s", size=len(sparse)) + sparse + _END


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def _sparse(path: Path, runs: int, times: int) -> None:
    write_image(path, [_sparse_layer(runs)], [0] * times)


def _honest(path: Path, layers: int = 60, directories: int = 16_000) -> None:
    """A base system and updates: each layer changes some files in some directories."""

    def names(number: int) -> bytes:
        return b"usr/%02d/%03d/" % (number % 40, number // 40)

    base = b"".join(header(names(at), b"5") + header(names(at) + b"f") for at in range(directories))
    made = [base + _END]
    for layer in range(1, layers):
        changed = range(layer * 37 % 500, directories, 500 // 8)
        parts = [header(names(at), b"5") + file(names(at) + b"g", b"%d" % layer) for at in changed]
        made.append(b"".join(parts) + _END)
    write_image(path, made)


def _wide(path: Path, count: int, layers: int, prefix: bytes) -> None:
    """As many names in one directory, of each layer."""

    def parts(layer: int) -> Iterator[bytes]:
        for number in range(count):
            yield header(prefix + b"%08d-%d" % (number, layer))
        yield _END

    write_image(path, [b"".join(parts(layer)) for layer in range(layers)], packed=True)


CASES: dict[str, Callable[[Path], None]] = {
    "80 layers, links to the end of deep chains": _deep_links,
    "600 layers, each a link to the link below": _chained_links,
    "100,000 links to lower files, in 9 snapshots": _many_links,
    "a layer of 16,000 directories, 100 times": partial(_repeated, count=16_000, times=100),
    "a layer of 16,000 directories, 1,000 times": partial(_repeated, count=16_000, times=1000),
    "two layers of 8,000 directories, in turn": partial(_alternating, count=8_000, times=500),
    "a sparse file of a million runs, 60 times": partial(_sparse, runs=1_000_000, times=60),
    "60 honest layers, 16,000 directories": _honest,
    "1,000,000 names of 2 layers in a directory": partial(
        _wide, count=500_000, layers=2, prefix=b"d/"
    ),
    "2,000,000 names of 2 layers in a directory": partial(
        _wide, count=1_000_000, layers=2, prefix=b"d/"
    ),
    "4,000,000 names in one root": partial(_wide, count=4_000_000, layers=1, prefix=b""),
}
"""What each is called, and what writes it to a path."""

LOOKS: dict[str, str] = {
    "100,000 links to lower files, in 9 snapshots": "snapshots",
    "a sparse file of a million runs, 60 times": "layers",
    "60 honest layers, 16,000 directories": "snapshots",
}
"""What is listed whole of each; of all others `rootfs`."""
