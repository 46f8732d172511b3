"""The targets: what is fed, what must hold, and from which inputs to set out.

Bounds are lowered where inputs are too small to reach them, here and in `bounds.py`.
"""

import atexit
import bz2
import contextlib
import copy
import errno
import functools
import io
import json
import logging
import lzma
import shutil
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import requests

from imagefs.archive import compression, spool, windows
from imagefs.archive.model import IngestContext
from imagefs.engine import export, fetch
from imagefs.engine.api import EngineImage, ListedImage
from imagefs.errors import (
    CorruptArchive,
    EngineError,
    HostError,
    ImagefsError,
    RegistryError,
    UsageError,
)
from imagefs.filesystem import ROOT_ID
from imagefs.fuse.session import Session
from imagefs.image import reference
from imagefs.image.model import Blob, Image, Layer
from imagefs.image.options import SourceOptions
from imagefs.index import cache as index_cache
from imagefs.index import fold, records, rows, workers
from imagefs.index.reader import Index
from imagefs.progress import Silent
from imagefs.registry import answers, challenge, manifests
from imagefs.registry.api import Blob as RemoteBlob
from imagefs.registry.api import Registry
from imagefs.registry.manifests import Finder
from imagefs.store.store import Store
from imagefs.tar import header as tar_header
from imagefs.tar import pax
from imagefs.tar import sparse as sparse_maps
from imagefs.tar import stream as tar_stream
from imagefs.tar.scan import Member, scan
from imagefs.tar.stream import members
from imagefs.vfs import engine_fs
from imagefs.vfs.image_fs import ImageFs, image_fs
from tests.fuzz import beyond, bounds
from tests.support import samples
from tests.support.headers import END, GNU, content, file, header, long_name, record
from tests.support.headers import pax as extended
from tests.support.looking import walk
from tests.support.opening import opened
from tests.support.tars import Dir, File, Hard, Sym, layer

_KINDS = frozenset(b"\x001234567xgXLKSDVMN")
_MEMBERS = 5000
_RUNS = 4
"""So few runs may all sparse files of a tar have here."""
_EXTENDED, _RECORDS = 900, 3
"""So many bytes may extended headers of a member have here, and so many records beyond the first of
each header all of a tar."""
_FOLDED = 600
"""So many members, and implied directories, may a layer have here whose tree is watched."""
_STEPS, _DEPTH = 2 * _FOLDED, 4
"""So many steps may links take there, and paths that are deeper than so."""
_NAMES = 3 * _FOLDED - 300
"""So many names may it and another one have together."""
_ATTRIBUTES = 16 << 10
"""So many bytes may its targets and attributes have."""
_REMEMBERED = 600
"""So many bytes may a mount remember here."""
_ATTRIBUTE, _ATTRIBUTE_NAME, _ATTRIBUTE_NAMES = 100, 50, 60
"""So many bytes may an extended attribute have, its name, and the names of all of a file."""
_PADDING, _IDLE = 4096, 8192
"""So many bytes may follow the end of a tar that arrives, and so many of it may leave nothing."""
_DIRECTORIES = 8
"""So many directories may the names of an engine's images make up, about."""
_ANSWER = 2000
"""So many bytes may a small answer of a registry have."""
_UNTOLD = 128 << 10
"""Bytes that a tree may take unsaid: for its beginning, for members in turn, for paths it knows."""
_SMALL = samples.SampleImage((samples.TOP,))


class Target(NamedTuple):
    """A function that raises where its promise is broken, and inputs to set out from."""

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


@functools.cache
def folder() -> Path:
    """A directory for what targets write; in memory where there is such."""
    room = "/dev/shm" if Path("/dev/shm").is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="imagefs-fuzz-", dir=room))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def repaired(data: bytes) -> bytes:
    """Return the bytes with the checksum put right of each block that looks like a header.

    It has a number where the checksum is, unlike JSON.
    """
    tar = bytearray(data)
    for at in range(0, len(tar) - tar_header.BLOCK + 1, tar_header.BLOCK):
        block = tar[at : at + tar_header.BLOCK]
        number = not block[148:156].strip(b"01234567 \0")
        if number and block[156] in _KINDS and block[:1] != b"\0":
            block[148:156] = b" " * 8
            tar[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(tar)


def clear(error: ImagefsError) -> None:
    """Check that an error is one line, and says something."""
    assert str(error)
    assert "\n" not in str(error)


# Tars


def check_tar(data: bytes) -> None:
    """A tar is members in order that lie within it and that Linux could hold, or CorruptArchive.

    All together have no more runs than a tar may have.
    """
    for tar in (data, repaired(data)):
        runs = 0
        try:
            with mock.patch.object(sparse_maps, "MAX_RUNS", _RUNS):
                for member in islice(members_of(tar), _MEMBERS):
                    check_member(member, len(tar))
                    runs += len(member.sparse or ())
                    assert runs <= _RUNS
        except CorruptArchive as error:
            clear(error)


def members_of(tar: bytes) -> Iterator[Member]:
    return scan(lambda length, offset: tar[offset : offset + length], 0, len(tar))


def check_member(member: Member, end: int) -> None:
    for name in (member.name, member.linkname):
        assert len(name) <= tar_header.PATH_MAX
        assert b"\0" not in name
    assert member.typeflag in b"0123456"
    assert 0 <= member.mode <= 0o7777
    assert 0 <= member.uid < 1 << 32
    assert 0 <= member.gid < 1 << 32
    assert 0 <= member.rdev < 1 << 32
    assert -(1 << 63) <= member.mtime < 1 << 63
    assert 0 <= member.mtimensec < 10**9
    assert 0 <= member.size < 1 << 63
    assert 0 < member.offset <= member.offset + member.stored <= end
    if member.sparse is None:
        assert member.size == member.stored
    reached = total = 0
    for offset, length in member.sparse or ():
        assert reached <= offset
        assert length > 0
        reached, total = offset + length, total + length
    assert reached <= max(member.size, total)
    assert total <= member.stored
    assert all(0 < len(name) <= 255 for name, _ in member.xattrs)


def tar_seeds() -> list[bytes]:
    sparse = [(b"GNU.sparse.size", b"900"), (b"GNU.sparse.map", b"100,3,500,4")]
    version_1 = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"900")]
    pairs = (b"%011o\0%011o\0" % (100, 7)).ljust(96, b"\0")
    tail = bytes(41) + pairs + b"\0" + b"%011o\0" % 4096
    return [
        layer({"d/": Dir(0o700), "d/f": "content", "l": Sym("d/f"), "h": Hard("d/f")}),
        layer({"d/.wh.f": "", "d/.wh..wh..opq": "", "l/f": File("x", xattrs={"user.k": b"v"})}),
        layer({"l": Sym("m"), "m": Sym("l"), "l/f": "", "s": Sym("/d/.."), "s/d/f": "", "d": ""}),
        layer([("h", Hard("i")), ("i", Hard("j")), ("j", "x"), ("k", Hard("../k")), ("i", "")]),
        long_name(b"n" * 150) + long_name(b"t" * 150, b"K") + header(b"n", b"2", magic=GNU) + END,
        extended([(b"path", b"p/q"), (b"mtime", b"-1.5"), (b"size", b"3")])
        + file(b"f", b"x")
        + END,
        extended([(b"uid", b"1"), (b"comment", b"c")], b"g") + file(b"f") + END,
        extended(sparse) + file(b"f", b"x" * 7) + END,
        (extended(sparse) + file(b"f", b"x" * 7)) * _RUNS + END,
        extended(version_1) + file(b"f", b"1\n100\n3\n".ljust(512, b"\0") + b"abc") + END,
        header(b"f", b"S", size=7, magic=GNU, tail=tail) + content(b"x" * 7) + END,
        header(b"c", b"3", device=(1, 3)) + header(b"d", b"5", mtime=-1, uid=1 << 21) + END,
        long_name(b"p/" * 2100) + header(b"n", magic=GNU) + END,
        long_name(b"t/" * 2100, b"K") + header(b"n", b"2", magic=GNU) + END,
    ]


def fold_seeds() -> list[bytes]:
    deep = "d/" * 30
    costly = [
        layer({"l": Sym(deep), "l/f": "", "m": Sym(deep + "/.."), "m/f": ""}),
        layer({deep + "f": "", deep + "g": ""}),
        layer({"f": File("", xattrs={"user.k": b"v" * 3000})}),
        layer({"l": Sym("t" * 3000)}),
    ]
    return [seed + bytes(odd) for seed in tar_seeds() + costly for odd in range(2)]


def check_layer(data: bytes) -> None:
    """A layer on top of another is shown whole, in every view, or refused as CorruptArchive.

    An odd number of bytes is shown where next to nothing is remembered, counted or followed.
    """
    low = bool(len(data) % 2)
    with bounds.of_mounts() if low else contextlib.nullcontext():
        tar = repaired(data)
        path = folder() / "layer.tar"
        path.write_bytes(tar)
        upper = Layer("sha256:upper", Blob(path, 0, len(tar)))
        try:
            index_cache.build(upper, folder())
        except CorruptArchive as error:
            clear(error)
            return
        try:
            fs = image_fs(Image("sha256:0", (), b"", b"", (lower_layer(), upper)), folder())
            if low:
                bounds.check_index(index_cache.open_index(upper, folder()))
                walk_bounded(fs)
            else:
                walk(fs)
        finally:
            index_cache.path_of(folder(), index_cache.key_of(upper)).unlink()


def walk_bounded(fs: ImageFs) -> None:
    """Look at all there is; what is remembered stays in its bound."""
    memory = fs._memory
    memory._most = _REMEMBERED
    walk(fs)
    bounds.check_nodes(fs, ROOT_ID, bounds.VIEWS, 2)
    shelves = memory._shelves
    assert memory.weight == sum(shelf.weight for shelf in shelves)
    assert memory.weight <= _REMEMBERED or sum(len(shelf.known) for shelf in shelves) == 1


def layer_seeds() -> list[bytes]:
    names = [b"%d" % number + b"n" * 249 for number in range(3)]
    numbered = [b"h%d" % number for number in range(20)]
    rows_beyond = bounds.ENTRIES + bounds.IMPLIED + 1
    costly = [
        *(long_name(b"n" * 300 + rest) + header(b"n", magic=GNU) + END for rest in (b"", b"/f")),
        b"".join(long_name(name) + header(b"n", magic=GNU) for name in names) + END,
        b"".join(header(name, b"1", linkname=b"d/f") for name in numbered) + END,
        file(b"a") + b"".join(header(name, b"1", linkname=b"a") for name in numbered) + END,
        header(b"h", b"1", linkname=b"f/g") + header(b"i", b"1", linkname=b"r/g") + END,
        b"".join(header(b"%d" % number) for number in range(rows_beyond)) + END,
        header(b"d/" * rows_beyond + b"f") + END,
    ]
    # Low bounds go first: without them, what leads on and on does so for long.
    return [seed + bytes(odd) for seed in tar_seeds() + costly for odd in (1, 0)]


def check_fold(data: bytes) -> None:
    """A layer's tree takes no more than it tells, and is refused beyond its bounds.

    What the tar holds comes again and again, in one directory after the other. The bounds are so
    low that they are met; an odd number of bytes goes beyond them. All layers together, of which
    another has some names already, are counted as processes count them.
    """
    found: list[Member] = []
    with contextlib.suppress(CorruptArchive):
        found.extend(islice(members_of(repaired(data)), _FOLDED))
    if not found:
        return
    turns = _FOLDED // len(found) + len(data) % 2
    told = [(0, 0)]
    others = len(data) % _FOLDED
    tally = workers.Tally(2, _NAMES, 0)
    tally.count(1, others)

    def took(names: int, memory: int) -> None:
        assert names <= 2 * _FOLDED
        assert tracemalloc.get_traced_memory()[0] - before <= 1.5 * memory + _UNTOLD
        told.append((names, memory))
        tally.count(0, names)

    lowered: dict[str, Any] = {
        "MAX_MEMBERS": _FOLDED,
        "MAX_IMPLIED": _FOLDED,
        "MAX_FOLLOWED": _STEPS,
        "_DEEP": _DEPTH,
        "_TOGETHER": 64,
    }
    tree = _Walked(took)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with (
            mock.patch.multiple(fold, **lowered),
            mock.patch.object(records, "MAX_ATTRIBUTES", _ATTRIBUTES),
        ):
            tree.add(
                member._replace(name=b"%x/%b" % (turn, member.name))
                for turn in range(turns)
                for member in found
            )
            folded = tree.finish()
    except CorruptArchive as error:
        clear(error)
        return
    finally:
        tracemalloc.stop()
        spelled = sum(member.linkname.count(b"/") + 1 for member in found)
        assert tree.walked <= _STEPS + turns * (_DEPTH * len(found) + spelled)
    assert turns * len(found) <= _FOLDED
    names, memory = told[-1]
    assert len(folded.entries) + others <= _NAMES
    runs = sum(len(member.sparse or ()) for member in found)
    assert folded.members.details_bytes <= 2 * _ATTRIBUTES + turns * (300 * len(found) + 16 * runs)
    assert len(folded.entries) <= names
    assert sum(map(len, folded.entries)) <= memory


class _Walked(fold.Fold):
    """A tree that counts the names that it looks up on the way to others."""

    walked = 0

    def _child(self, key: bytes) -> bytes | None:
        self.walked += 1
        return super()._child(key)


@functools.cache
def lower_layer() -> Layer:
    path = folder() / "lower.tar"
    files = {"d/f": "lower", "d/g": "", "l/f": "", "p/q": ""}
    path.write_bytes(layer({**files, "f": Sym("d"), "r": Sym("r")}))
    lower = Layer("sha256:lower", Blob(path, 0, path.stat().st_size))
    index_cache.build(lower, folder())
    return lower


def check_pax(data: bytes) -> None:
    """Extended headers give values that Linux could hold, ValueError or CorruptArchive.

    All together have no more bytes and records than they may have.
    """
    lowered: dict[str, Any] = {
        "MAX_EXTENDED": _EXTENDED,
        "MAX_RECORDS": _RECORDS,
        "_ORDINARY": 1,
        "_XATTR_NAME_MAX": _ATTRIBUTE_NAME,
        "_XATTR_SIZE_MAX": _ATTRIBUTE,
        "_XATTR_LIST_MAX": _ATTRIBUTE_NAMES,
    }
    with mock.patch.multiple(pax, **lowered):
        check_overrides(data)


def check_overrides(data: bytes) -> None:
    overrides = pax.Overrides()
    kinds = sorted(pax.EXTENSIONS)
    unusual = together = 0
    try:
        while data:
            kind, length, data = kinds[data[0] % len(kinds)], data[1:2], data[2:]
            size = length[0] * 4 if length else 0
            said, data = data[:size], data[size:]
            overrides.add(kind, said, 512)
            together = 0 if kind == tar_header.XGLTYPE else together + len(said)
            assert together <= _EXTENDED
            if kind not in (tar_header.GNUTYPE_LONGNAME, tar_header.GNUTYPE_LONGLINK):
                unusual += max(0, records_in(said) - 1)
                assert unusual <= _RECORDS
        for name in (overrides.name(b"x"), overrides.linkname(b"x")):
            assert len(name) <= tar_header.PATH_MAX
            assert b"\0" not in name
        seconds, nanoseconds = overrides.time("mtime", 0)
        assert -(1 << 63) <= seconds < 1 << 63
        assert 0 <= nanoseconds < 10**9
        xattrs = overrides.xattrs()
        assert all(len(name) <= _ATTRIBUTE_NAME for name, _ in xattrs)
        assert all(len(value) <= _ATTRIBUTE for _, value in xattrs)
        assert sum(len(name) + 1 for name, _ in xattrs) <= _ATTRIBUTE_NAMES
        assert 0 <= overrides.number("size", 0) < 1 << 63
        sparse = overrides.sparse(99)
        if sparse and sparse.pairs is not None:
            assert all(offset + size <= sparse.size for offset, size in sparse.checked(99, 0))
    except (CorruptArchive, ValueError):
        pass


def records_in(said: bytes) -> int:
    """Count the records of an extended header that has been found right."""
    number = 0
    while said.strip(b"\0"):
        said = said[int(said.partition(b" ")[0]) :]
        number += 1
    return number


def pax_seeds() -> list[bytes]:
    texts = [
        record(b"path", b"p") + record(b"mtime", b"-1.5") + record(b"size", b"12"),
        *(record(b"SCHILY.xattr.user." + b"k" * long, b"v") for long in (40, 50)),
        record(b"SCHILY.xattr.user.k", b"v" * 200) + record(b"SCHILY.xattr.user.l", b"v"),
        b"".join(record(b"SCHILY.xattr.user." + b"%d" % one * 20, b"") for one in range(3)),
        record(b"SCHILY.xattr.user.k", b"v\0w") + record(b"LIBARCHIVE.xattr.user.a%3D", b"dg=="),
        record(b"GNU.sparse.size", b"9") + record(b"GNU.sparse.map", b"1,2,5,1"),
        record(b"GNU.sparse.size", b"9")
        + record(b"GNU.sparse.offset", b"1")
        + record(b"GNU.sparse.numbytes", b"2"),
        record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.realsize", b"12"),
        b"name\0",
    ]
    padded = [text + bytes(-len(text) % 4) for text in texts]
    each = [bytes([kind, len(text) // 4]) + text for kind in range(5) for text in padded]
    return [*each, *(one * 9 for one in each)]


# Index files


@functools.cache
def indexed() -> tuple[Layer, bytes, tuple[object, ...]]:
    """A layer, its index, and all that the index says."""
    path = folder() / "indexed.tar"
    path.write_bytes(layer({"d/f": "x", "d/g": Hard("d/f"), "l": Sym("d"), "m": Hard("n")}))
    one = Layer("sha256:indexed", Blob(path, 0, path.stat().st_size))
    index_cache.build(one, folder())
    right = index_cache.path_of(folder(), index_cache.key_of(one)).read_bytes()
    return one, right, said(index_cache.open_index(one, folder()))


def said(opened_index: Index) -> tuple[object, ...]:
    """Return all that an index says."""
    found: list[object] = []
    queue = [opened_index.row(0)]
    for directory in queue:
        for child in opened_index.children(directory):
            found.append((child, opened_index.target(child.row), opened_index.xattrs(child.row)))
            if child.row.mode >> 12 == 4:
                queue.append(child.row)
    found += [list(opened_index.foreign()), opened_index.notes(), opened_index.same_inode(3)]
    return (*found, opened_index.count, opened_index.content_bytes, opened_index.whiteouts)


def check_index(data: bytes) -> None:
    """Whatever an index file holds, what is read is right, or an error if nothing can renew it."""
    one, right, says = indexed()
    path = folder() / "fuzzed.idx"
    path.write_bytes(data)

    def renew() -> None:
        path.write_bytes(right)

    def fail() -> None:
        raise HostError("no")

    assert said(Index(path, index_cache.key_of(one), renew)) == says
    path.write_bytes(data)
    try:
        assert said(Index(path, index_cache.key_of(one), fail)) == says
    except (HostError, OSError):
        assert data != right


def index_seeds() -> list[bytes]:
    right = indexed()[1]
    return [right, right[: rows.HEADER_BYTES], right[:-4]]


# Archives


@functools.cache
def store() -> Store:
    return Store(folder() / "store")


def check_archive(data: bytes) -> None:
    """Whatever a file holds, it is an image whose layers can be walked, or one clear error.

    An odd number of bytes has low bounds.
    """
    look_at(repaired(data), low=bool(len(data) % 2))


def look_at(data: bytes, *, low: bool) -> None:
    path = folder() / "archive"
    path.write_bytes(data)
    try:
        with bounds.of_archives() if low else contextlib.nullcontext():
            image = opened(path, store())
        for one in image.layers:
            index_cache.build(one, store().index_dir)
        walk(image_fs(image, store().index_dir))
    except ImagefsError as error:
        clear(error)


def archive_seeds() -> list[bytes]:
    layouts = (
        samples.docker_20(_SMALL),
        samples.docker_1_9(_SMALL),
        samples.docker_25(_SMALL),
        samples.podman(_SMALL),
        samples.oci_layout(_SMALL),
    )
    whole = [*map(samples.tar_of, layouts), samples.TOP, samples.gz(samples.TOP)]
    return [*whole, *(one + bytes(1 - len(one) % 2) for one in (*whole, *beyond.archives()))]


DOCUMENTS = ("manifest.json", "config", "repositories", "index.json", "manifest")
_DEEP = b"[" * 9000
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 2**70, 0.5, "", "..", "/etc/passwd", "\0", "\ud800", "x" * 9000, "sha256:"),
    *("sha256:" + "0" * 64, [], {}, [None], {"digest": 1}, [[]], {"": {}}),
)


def check_document(data: bytes) -> None:
    """Whatever a manifest, configuration or index says, it is an image or one clear error.

    Bits of the first byte say that it is edited, and that bounds are low.
    """
    which, said = data[0] if data else 0, data[1:]
    number = (which & 0x3F) % len(DOCUMENTS)
    if which & 0x80:
        said = edited(said, number)
    look_at(samples.tar_of(with_document(DOCUMENTS[number], said)), low=bool(which & 0x40))


def edited(edits: bytes, number: int) -> bytes:
    """Return a document with other values in some places: pairs of bytes say what goes where."""
    said = [json.loads(document_seeds()[number][1:])]
    for where, what in zip(edits[:8:2], edits[1:8:2], strict=False):
        places = list(places_in(said))
        container, key = places[where % len(places)]
        container[key] = copy.deepcopy(_VALUES[what % len(_VALUES)])
    return json.dumps(said[0]).encode()


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a JSON value with each of its keys or positions."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from places_in(inner)


def with_document(which: str, said: bytes) -> samples.Layout:
    """Return an archive of which one document is replaced."""
    if which == "index.json":
        return {**samples.oci_layout(_SMALL), "index.json": said}
    if which == "manifest":
        described = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": samples.digest(said),
            "size": len(said),
        }
        return {
            **samples.oci_layout(_SMALL),
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [described]}).encode(),
            f"blobs/sha256/{samples.hexdigest(said)}": said,
        }
    if which == "repositories":
        return {**samples.docker_1_9(_SMALL), "repositories": said}
    layout = dict(samples.docker_20(_SMALL))
    if which == "manifest.json":
        return {**layout, "manifest.json": said}
    old = f"{samples.hexdigest(_SMALL.config)}.json"
    manifest = layout["manifest.json"]
    assert isinstance(manifest, bytes)
    new = f"{samples.hexdigest(said)}.json"
    renamed = manifest.replace(old.encode(), new.encode())
    return {**layout, new: said, "manifest.json": renamed}


def document_seeds() -> list[bytes]:
    docker, old = samples.docker_20(_SMALL), samples.docker_1_9(_SMALL)
    documents = (
        docker["manifest.json"],
        _SMALL.config,
        old["repositories"],
        samples.oci_layout(_SMALL)["index.json"],
        samples.oci_manifest(_SMALL),
    )
    whole = [
        bytes([number]) + said for number, said in enumerate(documents) if isinstance(said, bytes)
    ]
    return [
        *whole,
        *(bytes([one[0] | 0x40]) + one[1:] for one in whole),
        *(bytes([number]) + _DEEP for number in range(5)),
        *(b"\x80\1\2", b"\x81\3\7", b"\xc3\1\2"),
    ]


def check_compressed(data: bytes) -> None:
    """Whatever claims to be compressed gives no more bytes than allowed, or CorruptArchive.

    It is read no further than twice as far, and gives back the memory that it took. An odd number
    of bytes may take little.
    """
    kind = compression.recognise(data[:512])
    if kind is None:
        return
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        part = data[at : at + size]
        at += len(part)
        return part

    low = bool(len(data) % 2)
    total, most = 0, 1 << (8 if low else 20)
    try:
        with (
            mock.patch.multiple(compression, _PADDING=256, _INPUT=256),
            bounds.of_windows() if low else contextlib.nullcontext(),
        ):
            for part in compression.plain(read, kind, most, folder()):
                total += len(part)
                assert total <= most
    except CorruptArchive as error:
        clear(error)
    assert at <= 2 * most + 512
    assert not any(windows._taken.values())


def compressed_seeds() -> list[bytes]:
    packs = (samples.gz, samples.zstd, lzma.compress, bz2.compress)
    contents = (samples.TOP, bytes(3 << 20), b"")
    packed = [pack(data) for pack in packs for data in contents]
    # With padding, so that their number is odd.
    packed += [one + b"\0" for one in packed if not len(one) % 2]
    empty = [(pack(b"x") + pack(b"") * 99)[: 5000 - odd] for pack in packs for odd in range(2)]
    return [*packed, *empty, samples.gz(b"") * 3, samples.gz(samples.TOP) + samples.gz(samples.TOP)]


# What is typed, sent and asked


def check_reference(data: bytes) -> None:
    """Whatever a user types is a reference or a UsageError that repeats it in one line.

    It is no longer than a path may be, and a repository's name than registries take.
    """
    said = data.decode("utf-8", "surrogateescape").replace("\0", "")
    try:
        found = reference.parse(said)
    except UsageError as error:
        clear(error)
        return
    assert len(said.encode("utf-8", "surrogatepass")) < tar_header.PATH_MAX
    if isinstance(found, reference.RegistryReference):
        assert len(f"{found.domain}/{found.repository}") <= 255


def reference_seeds() -> list[bytes]:
    return [
        b"app:v1",
        b"docker-archive:a.tar:app:v1",
        b"oci:dir:tag",
        b"docker://reg.example:5000/a/b:c@sha256:" + b"0" * 64,
        b"engine:reg.example:5000/a/b@sha256:" + b"0" * 64,
        b"./x",
        b"./" + b"x/" * 2100,
        b"docker://" + b"a/" * 140 + b"b",
        b"-",
        b"0123456789ab",
    ]


def check_registry(data: bytes) -> None:
    """Whatever a registry says is an image, an error of one line, or words of a challenge.

    An odd number of bytes has low bounds. No more is asked than may be to find an image.
    """
    which, said = data[:1], data[1:]
    asked = reference.parse("docker://registry.example/app:v1")
    assert isinstance(asked, reference.RegistryReference)
    registry = _Saying(asked, said)
    low = bool(len(data) % 2)
    finder = Finder(registry)
    try:
        with bounds.of_registries() if low else contextlib.nullcontext():
            if which == b"c":
                finder.find("", samples.oci_manifest(_SMALL), None, None)
            else:
                found = finder.find("", registry.manifest()[1], None, "linux/amd64")
                assert len(found.layers) == len(found.facts.diff_ids)
                assert not low or len(found.layers) <= bounds.LAYERS
    except ImagefsError as error:
        clear(error)
    if low:
        assert registry.asked <= 1 + bounds.ASKED + bounds.INDEXES
    assert registry.asked <= 1 + manifests.MAX_ASKED + manifests.MAX_DEPTH
    challenge.chosen(said.decode("latin-1"))
    with contextlib.suppress(RegistryError):
        assert len(answers.small(answer(said), _ANSWER, "it")) <= _ANSWER


def answer(said: bytes) -> requests.Response:
    """Return what a registry has begun to answer."""
    response, body = requests.Response(), io.BytesIO(said)
    response.raw = SimpleNamespace(read1=lambda size, decode_content: body.read1(size))
    return response


class _Saying(Registry):
    """A registry that has the same to say to every question; or more, with NULs between, in turn.

    `asked` is how often it was.
    """

    def __init__(self, asked: reference.RegistryReference, said: bytes) -> None:
        self.reference = asked
        self.asked = 0
        self._said = said.split(b"\0")

    def manifest(self, digest: str = "") -> tuple[str, bytes]:
        said = self._said[min(self.asked, len(self._said) - 1)]
        self.asked += 1
        return digest, said

    def small_blob(self, blob: RemoteBlob) -> bytes:
        return next((one for one in self._said if b"rootfs" in one), _SMALL.config)


def registry_seeds() -> list[bytes]:
    described = {"digest": samples.digest(b""), "size": 7, "platform": {"os": "linux"}}
    index = {"schemaVersion": 2, "manifests": [described, {"digest": samples.digest(b"x")}]}
    said = [
        b"m" + samples.oci_manifest(_SMALL),
        b"m" + samples.dumped(index),
        b"m" + samples.artifact()[1][2],
        b"c" + _SMALL.config,
        b'h Bearer realm="https://a/b",service=c, Basic realm="x\\"y"',
    ]
    # A blank behind JSON means nothing.
    return [one + b" " * odd for one in said + beyond.indexes() for odd in range(2)]


def check_export(data: bytes) -> None:
    """Whatever an engine sends is members with their contents, or an EngineError.

    Behind the last one there is no more than may follow, and all is no more than the image's size
    allows.
    """
    told = EngineImage("", (), (), "", data[0] % 4 if data else 0)
    step = 1 + (data[0] if data else 0) * 7
    stream = repaired(data[1:])
    at = ended = came = 0

    def parts() -> Iterator[bytes]:
        nonlocal at
        while at < len(stream):
            at += step
            yield stream[at - step : at]

    def expected() -> Iterator[bytes]:
        nonlocal came
        for part in fetch._told(parts(), told, Silent()):
            came += len(part)
            assert not told.size or came <= fetch.SIZES * told.size + _PADDING
            yield part

    try:
        with (
            bounds.of_headers(),
            mock.patch.object(tar_stream, "_MAX_PADDING", _PADDING),
            mock.patch.object(fetch, "MORE_BYTES", _PADDING),
            export.watched(expected()) as chunks,
        ):
            for member, stored in islice(members(chunks), _MEMBERS):
                assert sum(map(len, stored)) <= len(stream)
                assert member.size >= 0
                ended = at
    except EngineError as error:
        clear(error)
    else:
        # A label of the tar itself is passed over, with all that it holds.
        labels = set(b"VMN") & set(stream)
        assert labels or at - ended <= _PADDING + 4 * tar_header.BLOCK + 2 * step


@functools.cache
def spooling_store() -> Store:
    return Store(folder() / "spooling")


def check_spool(data: bytes) -> None:
    """Whatever arrives becomes files, or what does not is little, or it is one clear error."""
    step = 1 + (data[0] if data else 0) * 7
    stream = repaired(data[1:])
    parts = (stream[at : at + step] for at in range(0, len(stream), step))
    context = IngestContext(
        spooling_store(), Silent(), SourceOptions(keep_going=bool(len(data) % 2))
    )
    try:
        with bounds.of_arriving(_IDLE), spool.spooling(context) as taken:
            damage = taken.take(parts)
            kept = sum(path.stat().st_size for path in taken._record.path.parent.iterdir())
    except ImagefsError as error:
        clear(error)
        return
    assert damage or len(stream) <= kept + _IDLE + step


def spool_seeds() -> list[bytes]:
    packed = file(b"a", samples.gz(b"x")) + file(b"b", samples.gz(b"") * 400)
    again = b"".join(file(b"%d" % number, bytes(2000)) for number in range(5))
    many = b"".join(file(b"%d" % number, b"x" * 512) for number in range(bounds.ARRIVING + 1))
    named = [header(b"%d" % number + b"n" * 90, b"2", linkname=b"t" * 90) for number in range(3)]
    tars = (packed, again, many, b"".join(named), header(b"l", b"V", size=9000))
    return [b"\x20" + tar + END for tar in tars] + [
        one + bytes(odd) for one in export_seeds()[:2] for odd in range(2)
    ]


def check_names(data: bytes) -> None:
    """Whatever images are called, their names are few directories, and none too deep.

    Those that are looked into, where there is an odd number of bytes, have few views and layers
    together.
    """
    said = data.decode("utf-8", "replace").split("\n")
    listed = [
        ListedImage(f"sha256:{number:064x}", tuple(names.split(" ")), number)
        for number, names in enumerate(said)
    ]
    with (
        mock.patch.multiple(engine_fs, MAX_DEPTH=4, MAX_DIRECTORIES=_DIRECTORIES, _log=mock.Mock()),
        bounds.of_many_images(),
    ):
        fs = engine_fs.Catalog(lambda: listed, load_some, folder())
        queue = [(fs.root, 0)]
        by_id = fs.lookup(fs.root, engine_fs.BY_ID)
        assert by_id is not None
        assert len(fs.listdir(by_id.node)) == len(listed)
        for node, depth in queue:
            entries = fs.listdir(node)
            assert len({name for name, _ in entries}) == len(entries)
            for name, attr in entries:
                assert 0 < len(name) <= 255
                if attr.mode >> 12 == 4 and attr.node != by_id.node:
                    queue.append((attr.node, depth + 1))
                elif attr.mode >> 12 == 0o12:
                    assert (
                        fs.readlink(attr.node)
                        == b"../" * depth + fs.readlink(attr.node)[3 * depth :]
                    )
        if len(data) % 2:
            look_into_images(fs, by_id.node)
    assert len(queue) <= _DIRECTORIES + 4
    assert max(depth for _, depth in queue) < 4


def look_into_images(fs: engine_fs.Catalog, by_id: int) -> None:
    """Look into some images; those for which there are no numbers fail as a whole."""
    for image in fs.listdir(by_id)[:8]:
        try:
            assert fs.lookup(image.attr.node, b"rootfs") is not None
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017
            continue
        bounds.check_nodes(fs, image.attr.node, bounds.MANY_VIEWS, bounds.MANY_LAYERS)


def load_some(image_id: str) -> Image:
    """Return an image of one to three layers, which others may have at the same place."""
    number = int(image_id[7:], 16)
    layers = (lower_layer(), indexed()[0])
    some = tuple(layers[(number + place) % 2] for place in range(number % 3 + 1))
    return Image(image_id, (), b"{}", b"[]", some)


def names_seeds() -> list[bytes]:
    many = b"\n".join(b"%d/%d/a:1" % (number, number) for number in range(20))
    return [
        b"app:v1 app:v2\nreg.example/team/app:v1",
        b"a/b/c/d:1 a/b/c:1 a/b/c/d/e/f/g:1\n../x:1 a//b:1 /a:1",
        *(many + b" " * odd for odd in range(2)),
    ]


def export_seeds() -> list[bytes]:
    tar = samples.tar_of(samples.docker_20(_SMALL))
    told = long_name(b"n") * bounds.EXTENSIONS + file(b"f") + END
    wide = long_name(b"n" * 9 * bounds.EXTENDED) + file(b"f") + END
    return [
        b"\x20" + tar,
        b"\xff" + tar[:3000] + b'{"message":"broken"}',
        b"\x21" + tar,
        b"\x20" + file(b"f") + END + bytes(2 * _PADDING),
        *(b"\x20" + one for one in (told, long_name(b"n") * 6 + told, wide)),
        *tar_seeds(),
    ]


@functools.cache
def shown_image() -> ImageFs:
    return image_fs(Image("sha256:0", ("a",), b"{}", b"[]", (lower_layer(),)), folder())


def check_request(data: bytes) -> None:
    """Whatever the kernel sends gets a reply of proper form or none, and runs into no bug of ours.

    A session makes EIO of any exception; only that a request is too short may be one.
    """
    session = Session(shown_image())
    for one in (data, struct.pack("<I", len(data)) + data[4:]):
        with unexpected() as bugs:
            reply = b"".join(session.handle(one))
        assert not bugs, bugs
        if reply:
            length, error, unique = struct.unpack_from("<IiQ", reply)
            assert length == len(reply)
            assert -512 < error <= 0
            assert unique == struct.unpack_from("<Q", one, 8)[0]


@contextlib.contextmanager
def unexpected() -> Iterator[list[BaseException]]:
    """Gather what a session logs instead, but for the errors of requests that are too short."""
    found: list[BaseException] = []

    class Gathering(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            if error is not None and not isinstance(error, struct.error):
                found.append(error)

    log, handler = logging.getLogger("imagefs.fuse.session"), Gathering()
    log.addHandler(handler)
    log.propagate = False
    try:
        yield found
    finally:
        log.removeHandler(handler)
        log.propagate = True


def request_seeds() -> list[bytes]:
    bodies = {
        1: b"rootfs\0",
        3: bytes(16),
        5: b"",
        15: bytes(8) + struct.pack("<QIIQII", 0, 4096, 0, 0, 0, 0),
        17: b"",
        22: struct.pack("<II", 255, 0) + b"user.imagefs.layer\0",
        23: struct.pack("<II", 255, 0),
        26: struct.pack("<IIIIII", 7, 40, 1 << 17, 0xFFFFFFFF, 0, 0) + bytes(40),
        28: bytes(8) + struct.pack("<QIIQII", 0, 4096, 0, 0, 0, 0),
        34: bytes(8),
        36: bytes(8),
        44: bytes(8) + struct.pack("<QIIQII", 0, 4096, 0, 0, 0, 0),
        46: bytes(24),
    }
    return [
        struct.pack("<IIQQIIII", 40 + len(body), opcode, 7, node, 0, 0, 0, 0) + body
        for opcode, body in bodies.items()
        for node in (1, 2, 1 << 44 | 1 << 28, 1 << 28 | 3)
    ]


TARGETS = {
    "tar": Target(check_tar, tar_seeds),
    "layer": Target(check_layer, layer_seeds),
    "fold": Target(check_fold, fold_seeds),
    "pax": Target(check_pax, pax_seeds),
    "index": Target(check_index, index_seeds),
    "archive": Target(check_archive, archive_seeds),
    "document": Target(check_document, document_seeds),
    "compressed": Target(check_compressed, compressed_seeds),
    "reference": Target(check_reference, reference_seeds),
    "registry": Target(check_registry, registry_seeds),
    "export": Target(check_export, export_seeds),
    "spool": Target(check_spool, spool_seeds),
    "names": Target(check_names, names_seeds),
    "request": Target(check_request, request_seeds),
}
