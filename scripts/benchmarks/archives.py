"""The archives that the benchmark measures on, as `docker save` of Docker 1.10 to 24 writes them.

Owns the layout around the layers, and the synthetic layers of many small files and of members that
are hard to keep. What is in the real image is `layers.py`'s.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from benchmarks import layers
from benchmarks.workspace import Workspace, discard

Pack = Callable[[Path, Path], None]
"""Compresses one file into another."""

_EPOCH = 1_700_000_000
_CHUNK = 1 << 20
_PER_DIRECTORY = 200
BIG_FILE = "data/big.bin"
BIG_BYTES = 1 << 30


def real(space: Workspace) -> Path:
    """Return the archive of the real image: about 1 GB, over 60,000 members, 8 layers."""

    def make(path: Path) -> None:
        parts = path.with_suffix(".layers")
        parts.mkdir(exist_ok=True)
        save(path, "bench/real:latest", layers.write_all(parts))
        discard(parts)

    return space.once("images/real.tar", make)


def small_files(space: Workspace, count: int) -> Path:
    """Return the archive of an image of `count` small files in four layers."""

    def make(path: Path) -> None:
        written = []
        for number in range(4):
            layer = path.with_suffix(f".{number}")
            _write_small_files(layer, number, count // 4)
            written.append((layer, f"RUN make {count // 4} files"))
        save(path, f"bench/small-{count}:latest", written)
        for layer, _ in written:
            layer.unlink()

    return space.once(f"images/small-{count}.tar", make)


def one_big_file(space: Workspace) -> Path:
    """Return the archive of an image with one file of 1 GiB that does not compress."""

    def make(path: Path) -> None:
        layer = path.with_suffix(".0")
        with open(layer, "wb") as out:
            out.write(header("data", b"5", 0o755, 0) + header(BIG_FILE, b"0", 0o644, BIG_BYTES))
            for piece in _noise(BIG_BYTES):
                out.write(piece)
            out.write(bytes(1024))
        save(path, "bench/big:latest", [(layer, "COPY big.bin /data/")])
        layer.unlink()

    return space.once("images/big.tar", make)


def _noise(length: int) -> Iterator[bytes]:
    """Yield bytes that look random and are the same each time."""
    block = b"".join(sha256(number.to_bytes(4, "big")).digest() for number in range(_CHUNK // 32))
    for number in range(length // _CHUNK):
        yield number.to_bytes(8, "big") + block[8:]


def _write_small_files(path: Path, layer: int, count: int) -> None:
    with open(path, "wb", buffering=_CHUNK) as out:
        for number in range(count):
            directory = (
                f"tree{layer}/d{number // (_PER_DIRECTORY * 50)}/e{number // _PER_DIRECTORY}"
            )
            if number % _PER_DIRECTORY == 0:
                out.write(header(directory, b"5", 0o755, 0))
            content = f"file {number} of layer {layer}\n".encode() * (1 + number % 16)
            out.write(header(f"{directory}/file-{number}.txt", b"0", 0o644, len(content)))
            out.write(content + bytes(-len(content) % 512))
        out.write(bytes(1024))


def hard_layer(path: Path, kind: str, count: int) -> None:
    """Write a tar of `count` members, each of which has more to it than most files have."""
    member = HARD[kind]
    with open(path, "wb", buffering=_CHUNK) as out:
        if kind == "times in nanoseconds":
            # It holds for all members after it.
            said = b"%d mtime=%d.123456789\n" % (30, _EPOCH)
            out.write(header("pax", b"g", 0o644, len(said)) + said.ljust(512, b"\0"))
        for number in range(count):
            out.write(member(number))
        out.write(bytes(1024))


def _file(number: int, owner: int = 0) -> bytes:
    return header(f"d/file-{number:08}", b"0", 0o644, 0, owner=owner)


def _hard_link(number: int) -> bytes:
    target = number & ~1
    if number == target:
        return _file(number)
    return header(f"d/link-{number:08}", b"1", 0o644, 0, target=f"d/file-{target:08}")


def _directory(number: int) -> bytes:
    return header(f"d-{number:08}", b"5", 0o755, 0)


def _directory_or_file(number: int) -> bytes:
    if number % 2:
        return header(f"d-{number - 1:08}/file", b"0", 0o644, 0)
    return _directory(number)


def _symbolic_link(number: int) -> bytes:
    return header(f"d/link-{number:08}", b"2", 0o777, 0, target=f"../some/where/file-{number:08}")


HARD: dict[str, Callable[[int], bytes]] = {
    "names of 80 bytes": lambda number: header(f"d/{number:080}", b"0", 0o644, 0),
    "symbolic links": _symbolic_link,
    "files and hard links to them": _hard_link,
    "directories": _directory,
    "directories of one file": _directory_or_file,
    "owners": lambda number: _file(number, owner=number & 0x1FFFFF),
    "times in nanoseconds": _file,
}
"""Kinds of members of `hard_layer`: the header of each by its number."""


def header(
    name: str, kind: bytes, mode: int, size: int, *, owner: int = 0, target: str = ""
) -> bytes:
    """Return a ustar header (POSIX.1-1988); tarfile would take minutes for millions."""
    head = b"%-100b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.encode().ljust(100, b"\0"),
        mode,
        owner,
        owner,
        size,
        _EPOCH,
    )
    tail = (kind + target.encode().ljust(100, b"\0") + b"ustar\x0000").ljust(356, b"\0")
    checksum = sum(head) + sum(tail) + 8 * ord(" ")
    return head + b"%06o\0 " % checksum + tail


# The archive around the layers


def save(path: Path, name: str, written: list[tuple[Path, str]]) -> None:
    """Write an archive of an image from its layers' tars, bottom to top, and their build steps."""
    diff_ids = [_digest(layer) for layer, _ in written]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "created": "2023-11-14T22:13:20Z",
            "history": [
                {"created": "2023-11-14T22:13:20Z", "created_by": step} for _, step in written
            ],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one}" for one in diff_ids]},
        }
    ).encode()
    image_id = sha256(config).hexdigest()
    ids = _chain(diff_ids)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for at, one in sorted(enumerate(ids), key=lambda item: item[1]):
            _add(tar, one, None)
            about = {"id": one} | ({"parent": ids[at - 1]} if at else {})
            _add(tar, f"{one}/VERSION", b"1.0")
            _add(tar, f"{one}/json", json.dumps(about).encode())
            with open(written[at][0], "rb") as layer:
                info = _info(f"{one}/layer.tar")
                info.size = os.fstat(layer.fileno()).st_size
                tar.addfile(info, layer)
        _add(tar, f"{image_id}.json", config)
        entry = {
            "Config": f"{image_id}.json",
            "RepoTags": [name],
            "Layers": [f"{one}/layer.tar" for one in ids],
        }
        _add(tar, "manifest.json", json.dumps([entry]).encode())
        repository, _, tag = name.partition(":")
        _add(tar, "repositories", json.dumps({repository: {tag: ids[-1]}}).encode())


def packed_layers(space: Workspace, image: str, archive: Path, kind: str, pack: Pack) -> Path:
    """Return an OCI layout of an image's layers, each compressed by `pack`, of that kind."""

    def make(into: Path) -> None:
        _write_layout(archive, into, kind, pack)

    return space.once(f"images/{image}.oci-{kind}", make)


def _write_layout(archive: Path, into: Path, kind: str, pack: Pack) -> None:
    blobs = into / "blobs/sha256"
    blobs.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        [entry] = json.load(manifest)
        described = []
        for name in entry["Layers"]:
            plain, packed = into / "plain", into / "packed"
            plain.write_bytes(_content(tar, name))
            pack(plain, packed)
            described.append(_add_blob(blobs, packed, f"application/vnd.oci.image.layer.v1.{kind}"))
            plain.unlink()
        (into / "config").write_bytes(_content(tar, entry["Config"]))
    config = _add_blob(blobs, into / "config", "application/vnd.oci.image.config.v1+json")
    said = {"schemaVersion": 2, "config": config, "layers": described}
    (into / "manifest").write_text(json.dumps(said))
    top = _add_blob(blobs, into / "manifest", "application/vnd.oci.image.manifest.v1+json")
    (into / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (into / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def _add_blob(blobs: Path, path: Path, media_type: str) -> dict[str, object]:
    """Move a file to where its digest says; return its descriptor."""
    digits, size = _digest(path), path.stat().st_size
    path.rename(blobs / digits)
    return {"mediaType": media_type, "digest": f"sha256:{digits}", "size": size}


def layer_names(archive: Path) -> list[str]:
    """Return the names of the layers' tars inside an archive, bottom to top."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        names: list[str] = json.load(manifest)[0]["Layers"]
    return names


def compared_layer(archive: Path) -> int | None:
    """Return the layer whose snapshot is to be compared with the next one's, if there is one.

    In our own image, the next layer replaces files all over the tree.
    """
    count = len(layer_names(archive))
    return min(3, count - 2) if count > 1 else None


def _chain(diff_ids: list[str]) -> list[str]:
    ids: list[str] = []
    for one in diff_ids:
        ids.append(sha256(f"{ids[-1] if ids else ''} {one}".encode()).hexdigest())
    return ids


def _add(tar: tarfile.TarFile, name: str, content: bytes | None) -> None:
    info = _info(name)
    if content is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    info.size = len(content or b"")
    tar.addfile(info, io.BytesIO(content or b""))


def _info(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = 0o644, _EPOCH
    return info


def _digest(path: Path) -> str:
    total = sha256()
    with open(path, "rb") as file:
        read: Callable[[], bytes] = lambda: file.read(_CHUNK)  # noqa: E731
        for piece in iter(read, b""):
            total.update(piece)
    return total.hexdigest()
