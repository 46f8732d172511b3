"""An export stream taken in: layers written, hashed and indexed while they arrive, then bound.

Owns the files of one fetch in its workspace, and the rule that binds them: manifest.json names
the configuration and the layers, the configuration names their digests, and every digest must be
that of the bytes which came. The members' names say nothing until then, since Docker sends
manifest.json last. A Receiver belongs to one thread, and has two of its own until it is closed.
"""

import json
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imagefs.archive.compression import (
    MAGIC_BYTES,
    Compression,
    TooLargeError,
    plain,
    recognise,
)
from imagefs.engine.export_stream import members
from imagefs.errors import CorruptArchive, EngineError, HostError
from imagefs.image import config as image_config
from imagefs.image.model import Blob, Layer
from imagefs.image.platform import parse
from imagefs.store.hashed_file import HashedFile
from imagefs.store.store import Store
from imagefs.tar.header import LNKTYPE, REGTYPE, SYMTYPE
from imagefs.text import one_line

_MAX_JSON = 16 << 20
_MAX_LINKS = 16
_CHUNK = 1 << 20
_WORKERS = 2
_NOTHING = memoryview(b"")
# What Docker keeps beside each layer for versions before 1.10, and what nobody needs here.
_UNUSED = frozenset({"VERSION", "json", "repositories", "oci-layout", "index.json"})


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a stream held: the image, and the files of those layers that the store lacks."""

    image_id: str
    config: bytes
    manifest: bytes
    layers: dict[str, Path]


@dataclass(frozen=True, slots=True)
class _Part:
    """A member's content: where it is, and its digest; `stored` where the store has it already.

    `plain` is what it decompresses to, where it is compressed.
    """

    blob: Blob
    digest: str
    stored: bool = False
    plain: "Future[_Part] | None" = None


class Receiver:
    """Takes in one export; `expected` are the diff ids that the engine announced.

    Raises HostError for a layer of more than `max_layer_bytes`, as soon as that is known.
    """

    def __init__(
        self,
        work: Path,
        store: Store,
        indexer: Callable[[Layer, Path, Path], None] | None,
        expected: Sequence[str],
        max_layer_bytes: int,
    ) -> None:
        self.index_dir = work / "index"
        self.index_dir.mkdir()
        self._work = work
        self._indexer = indexer
        self._turns = store.index_dir
        self._expected = frozenset(expected)
        self._max_layer_bytes = max_layer_bytes
        found = {diff_id: store.layer(diff_id) for diff_id in self._expected}
        self._present = {diff_id: blob for diff_id, blob in found.items() if blob is not None}
        self._numbers = count()
        self._parts: dict[str, _Part] = {}
        self._links: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(_WORKERS, "imagefs-settle")
        self._settled: dict[str, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=error is not None)

    def receive(self, chunks: Iterator[bytes]) -> None:
        """Take in a whole stream."""
        for member, content in members(chunks):
            name = _normal(os.fsdecode(member.name))
            if member.typeflag == SYMTYPE:
                target = posixpath.join(posixpath.dirname(name), os.fsdecode(member.linkname))
                self._links[name] = _normal(target)
            elif member.typeflag == LNKTYPE:
                self._links[name] = _normal(os.fsdecode(member.linkname))
            elif member.typeflag == REGTYPE and posixpath.basename(name) not in _UNUSED:
                # What is so large is a layer, and compressed it would come to still more.
                if member.size > max(self._max_layer_bytes, _MAX_JSON):
                    raise self._too_large(name)
                self._parts[name] = self._take(member.size, content)

    def _take(self, size: int, content: Iterator[memoryview]) -> _Part:
        """Take a member's content in; it is not written again if the store turns out to have it."""
        same, rest = 0, _NOTHING
        likely = next((item for item in self._present.items() if item[1].length == size), None)
        if likely is not None:
            diff_id, blob = likely
            same, rest = _compare(blob.path, content)
            if same == size:
                return _Part(blob, diff_id, stored=True)
        with HashedFile(self._work / f"part{next(self._numbers)}") as file:
            if likely is not None:
                _copy(likely[1].path, same, file)
            file.write(rest)
            for piece in content:
                file.write(piece)
            blob = file.finish(sync=False)
        return self._taken(blob, file.digest)

    def _taken(self, blob: Blob, digest: str) -> _Part:
        """Let the threads of the pool do what has to be done with a new file."""
        present = self._present.get(digest)
        if present is not None and present.length == blob.length:
            blob.path.unlink()
            return _Part(present, digest, stored=True)
        part = _Part(blob, digest)
        if digest in self._expected:
            self._settled[digest] = self._pool.submit(self._settle, part)
        elif (kind := _compression(blob.path)) is not None:
            return replace(part, plain=self._pool.submit(self._expand, part, kind))
        return part

    def _expand(self, part: _Part, kind: Compression) -> _Part:
        """Decompress a layer, as the containerd image store sends it."""
        path = part.blob.path
        with path.open("rb", buffering=0) as source, HashedFile(path.with_suffix(".tar")) as out:
            for piece in plain(source.read, kind, self._max_layer_bytes):
                out.write(piece)
            blob = out.finish(sync=False)
        path.unlink()
        return self._taken(blob, out.digest)

    def _settle(self, part: _Part) -> None:
        """Index a layer while its bytes are in memory, and see them to the disk."""
        if self._indexer is not None:
            layer = Layer(part.digest, part.blob, stored=True)
            self._indexer(layer, self.index_dir, self._turns)
        fd = os.open(part.blob.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def bundle(self, engine_id: str, platform: str | None) -> Bundle:
        """Bind what came together, or raise EngineError if it is not the image asked for."""
        try:
            entry, manifest = self._manifest()
            config_part, config = self._small(_string(entry, "Config"))
            facts = image_config.parse(config)
            layers = self._layers(entry.get("Layers"), facts.diff_ids)
        except CorruptArchive as error:
            raise EngineError(f"the engine's export is broken: {error}") from error
        # In the containerd image store, an id is the digest of an index or manifest in the export,
        # but for a single platform's, which comes without the index.
        known = {config_part.digest, *(part.digest for part in self._parts.values())}
        fits = parse(platform).rank(facts.platform) if platform is not None else None
        if engine_id not in known and fits is None:
            raise EngineError(
                f"the engine was asked for image {engine_id} and exported {config_part.digest}"
            )
        for future in self._settled.values():
            future.result()
        return Bundle(config_part.digest, config, manifest, layers)

    def _manifest(self) -> tuple[dict[str, Any], bytes]:
        """Return the one entry of manifest.json, parsed and as it was written."""
        _, content = self._small("manifest.json")
        try:
            text = content.decode()
            entries = json.loads(text)
            start = text.index("[") + 1
            start += len(text[start:]) - len(text[start:].lstrip())
            entry, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise CorruptArchive(f"manifest.json: {error}") from error
        if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entry, dict):
            raise CorruptArchive("manifest.json does not list one image")
        return entry, text[start:end].encode()

    def _layers(self, names: Any, diff_ids: tuple[str, ...]) -> dict[str, Path]:
        """Check each layer's digest; return the files of those that the store lacks."""
        if not isinstance(names, list) or len(names) != len(diff_ids):
            raise CorruptArchive("manifest.json and the configuration count different layers")
        new = {}
        for number, (name, diff_id) in enumerate(zip(names, diff_ids, strict=True)):
            part = self._find(name)
            if part.digest != diff_id and part.plain is not None:
                part = self._expanded(name, part.plain)
            if part.digest != diff_id:
                raise CorruptArchive(
                    f"layer {number} should have the digest {diff_id}, and has {part.digest}"
                )
            if not part.stored:
                if part.blob.length > self._max_layer_bytes:
                    raise self._too_large(name)
                new[diff_id] = part.blob.path
                if diff_id not in self._settled:
                    self._settled[diff_id] = self._pool.submit(self._settle, part)
        return new

    def _expanded(self, name: str, expansion: "Future[_Part]") -> _Part:
        try:
            return expansion.result()
        except TooLargeError as error:
            raise self._too_large(name) from error

    def _too_large(self, name: str) -> HostError:
        return HostError(
            f"layer {one_line(name)} of the engine's export comes to more than"
            f" {self._max_layer_bytes} bytes; --max-layer-bytes sets this limit"
        )

    def _small(self, name: str) -> tuple[_Part, bytes]:
        part = self._find(name)
        if part.blob.length > _MAX_JSON:
            raise CorruptArchive(f"{name} has {part.blob.length} bytes; {_MAX_JSON} are read")
        return part, part.blob.path.read_bytes()

    def _find(self, name: Any) -> _Part:
        """Return the member of a name that manifest.json uses, through links if need be."""
        if not isinstance(name, str):
            raise CorruptArchive("manifest.json names a member by something that is no string")
        path = _normal(name)
        for _ in range(_MAX_LINKS):
            if path not in self._links:
                break
            path = self._links[path]
        if path not in self._parts:
            raise CorruptArchive(f"it lacks {name}")
        return self._parts[path]


def _compression(path: Path) -> Compression | None:
    with path.open("rb", buffering=0) as file:
        return recognise(file.read(MAGIC_BYTES))


def _compare(path: Path, content: Iterator[memoryview]) -> tuple[int, memoryview]:
    """Compare content with a file; return how much is the same, and the piece that is not."""
    same = 0
    with path.open("rb", buffering=0) as file:
        for piece in content:
            if file.read(len(piece)) != piece:
                return same, piece
            same += len(piece)
    return same, _NOTHING


def _copy(path: Path, length: int, target: HashedFile) -> None:
    with path.open("rb", buffering=0) as file:
        while length:
            chunk = file.read(min(length, _CHUNK))
            if not chunk:
                raise CorruptArchive(f"{path} was truncated")
            target.write(chunk)
            length -= len(chunk)


def _normal(name: str) -> str:
    """Return a member's name in one spelling; it never becomes a path of this host."""
    return posixpath.normpath("/" + name).lstrip("/")


def _string(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise CorruptArchive(f"manifest.json has no {key}")
    return value
