"""Bounds of imagefs that inputs of the fuzzer are too small to reach: lowered, and watched.

In each context nothing that is accepted goes beyond them. What that was is counted here once more,
where what comes out does not show it.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

from imagefs.archive import (
    choice,
    compression,
    docker,
    docker_v1,
    members,
    oci,
    record,
    spool,
    windows,
)
from imagefs.archive import model as archive_model
from imagefs.archive.descriptors import Descriptor, Json
from imagefs.archive.model import ArchiveContents, ArchivedImage, ArchiveFile
from imagefs.filesystem import NAME_MAX
from imagefs.host.memory import Share
from imagefs.image import config as image_config
from imagefs.image import safe_json
from imagefs.index import fold, writer
from imagefs.index.reader import Index
from imagefs.registry import manifests
from imagefs.tar import header as tar_header
from imagefs.tar import stream as tar_stream
from imagefs.tar.scan import Member
from imagefs.vfs import links, names, nodeid
from imagefs.vfs.chain import Chain, Spot
from imagefs.vfs.image_fs import ImageFs
from imagefs.vfs.merge import Place
from imagefs.vfs.names import Names
from imagefs.vfs.pile import Pile

VALUES, DEPTH = 200, 10
"""So many values may JSON have, and so deep may they lie."""
JSON, JSON_READ = 2500, 6000
"""So many bytes may a file of JSON have, and all that is read of an archive."""
IMAGES, LAYERS, CHAINED, NESTED = 3, 4, 5, 2
"""So many images may an archive have, layers an image, and all images from before Docker 1.10; so
deep may its indexes lie in each other."""
MEMBERS, LINKS, NAME = 30, 4, 30
"""So many members may an archive of images have, links from a name, and letters an image's name."""
ASKED, LISTED, INDEXES, SAID = 3, 14, 2, 5000
"""So many manifests are asked for to learn platforms; so many may a registry list, so deep may its
indexes lie in each other, and so many bytes of JSON may they refer to."""
EXTENSIONS, EXTENDED = 4, 1024
"""So many headers may a member of a stream have, and so many bytes each extended one."""
ARRIVING, CHARACTERS = 12, 300
"""So many members may an archive have that arrives, and characters all their names."""
COUNTED, STEPS, FOLLOWED, VIEWS = 2, 12, 4, 5
"""So many names of a file are counted; so many steps taken to count links, and components that
symbolic links add to one's path; so many views may a mount have: what two layers take."""
ENTRIES, IMPLIED, NAMES = 30, 10, 400
"""So many members and implied directories may a layer have, and so many bytes all its names."""
MANY_VIEWS, MANY_LAYERS = 17, 4
"""So many views and layers may a mount of many images have."""
BUDGET, WINDOW_LOG = 8 << 20, 20
"""So much memory may all decompressors take, and the window of one for zstd."""


# JSON, and archives


@contextlib.contextmanager
def of_json() -> Iterator[None]:
    """JSON has few values, and they do not lie deep."""
    loads = safe_json.loads

    def watched(data: bytes) -> Any:
        said = loads(data)
        values, depth = extent(said)
        # Of few commas, colons and brackets, nothing is counted.
        assert values <= max(VALUES, DEPTH) + 1
        assert depth <= DEPTH
        return said

    with mock.patch.multiple(safe_json, MAX_VALUES=VALUES, MAX_DEPTH=DEPTH, loads=watched):
        yield


def extent(said: Any) -> tuple[int, int]:
    """Return how many values there are in one, which counts as well, and how deep they lie."""
    queue = [(said, 1)]
    for value, depth in queue:
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            queue.extend((one, depth + 1) for one in inner)
    deepest = max((depth for value, depth in queue if isinstance(value, dict | list)), default=0)
    return len(queue), deepest


@contextlib.contextmanager
def of_archives() -> Iterator[None]:
    """An archive is small, refers to little, and holds few images of few layers."""
    with of_json(), of_files(), of_images():
        yield


@contextlib.contextmanager
def of_files() -> Iterator[None]:
    """An archive has few members, its links do not go far, and little of it is read as JSON."""
    content, take = members.content, members.TarFiles._take
    taken: Counter[members.TarFiles] = Counter()
    read = 0

    def reading(files: members.Files, name: str, piece: ArchiveFile) -> bytes:
        nonlocal read
        data = content(files, name, piece)
        read += len(data)
        assert len(data) <= JSON
        assert read <= JSON_READ
        return data

    def taking(self: members.TarFiles, member: Member, end: int) -> str:
        taken[self] += 1
        # It is one more that tells that they are too many.
        assert taken[self] <= MEMBERS + 1
        return take(self, member, end)

    with (
        mock.patch.multiple(members, MAX_JSON=JSON, MAX_JSON_READ=JSON_READ, content=reading),
        mock.patch.multiple(members, MAX_MEMBERS=MEMBERS, MAX_LINKS=LINKS),
        mock.patch.object(record, "MAX_LINKS", LINKS),
        mock.patch.object(members.TarFiles, "_take", taking),
        found_by_few_links(members.TarFiles, lambda files: files._links),
        found_by_few_links(record.SpooledFiles, lambda files: files._table.links),
    ):
        yield


@contextlib.contextmanager
def found_by_few_links(kind: type, links_of: Callable[[Any], dict[str, str]]) -> Iterator[None]:
    """What an archive's files find is not behind more links than are followed."""
    find = kind.find  # type: ignore[attr-defined]

    def found(self: Any, name: str) -> ArchiveFile | None:
        file: ArchiveFile | None = find(self, name)
        path, followed = members.normal(name), 0
        while path in links_of(self):
            path, followed = links_of(self)[path], followed + 1
            assert followed < LINKS
        return file

    with mock.patch.object(kind, "find", found):
        yield


@contextlib.contextmanager
def of_images() -> Iterator[None]:
    """An archive has few images of few layers, with short names, and its indexes are not deep."""
    one, read, images_of = choice.one, docker.read, oci._Reader._images

    def listed(files: members.Files, manifest: bytes, *, make_do: bool = False) -> Any:
        found = read(files, manifest, make_do=make_do)
        assert len(found) <= IMAGES
        return found

    def chosen(contents: ArchiveContents, image: str | None, platform: str | None) -> ArchivedImage:
        check_contents(contents)
        return one(contents, image, platform)

    def images(
        self: oci._Reader, descriptor: Descriptor, inside: tuple[str, ...]
    ) -> Iterator[ArchivedImage]:
        # Who is as deep as that says so itself.
        assert len(inside) <= NESTED
        yield from images_of(self, descriptor, inside)

    with (
        mock.patch.object(members, "MAX_IMAGES", IMAGES),
        mock.patch.object(image_config, "MAX_LAYERS", LAYERS),
        mock.patch.multiple(docker_v1, MAX_LAYERS=LAYERS, MAX_CHAINED=CHAINED),
        mock.patch.object(docker, "read", listed),
        mock.patch.object(oci, "_MAX_DEPTH", NESTED),
        mock.patch.object(oci._Reader, "_images", images),
        mock.patch.object(archive_model, "_MAX_NAME", NAME),
        mock.patch.object(choice, "one", chosen),
    ):
        yield


def check_contents(contents: ArchiveContents) -> None:
    """Check that an archive's images are no more, and have no more, than `of_images` allows."""
    assert len(contents.images) <= IMAGES
    for image in contents.images:
        assert len(image.layers) <= LAYERS
        assert all(len(name) <= NAME for name in image.names)
    chained = [one.diff_id for image in contents.images for one in image.layers]
    assert sum(diff_id.startswith("v1:") for diff_id in chained) <= CHAINED


@contextlib.contextmanager
def of_registries() -> Iterator[None]:
    """An index of a registry lists little, and not deep; an image has few layers."""
    candidates, manifest_of = manifests.Finder._candidates, manifests.Finder._manifest
    read = 0

    def manifest(self: manifests.Finder, digest: str) -> tuple[str, bytes]:
        nonlocal read
        found, said = manifest_of(self, digest)
        read += len(said)
        assert read <= SAID
        return found, said

    def watched(
        self: manifests.Finder, index: Json, where: str, depth: int
    ) -> Iterator[ArchivedImage]:
        # Who is as deep as that says so itself.
        assert depth <= INDEXES
        yield from candidates(self, index, where, depth)
        assert len(self.listed) <= LISTED

    with (
        of_json(),
        mock.patch.multiple(manifests, MAX_DEPTH=INDEXES, MAX_ASKED=ASKED),
        mock.patch.multiple(manifests, MAX_IMAGES=LISTED, MAX_JSON_READ=SAID),
        mock.patch.object(manifests.Finder, "_candidates", watched),
        mock.patch.object(manifests.Finder, "_manifest", manifest),
        mock.patch.object(image_config, "MAX_LAYERS", LAYERS),
    ):
        yield


# What arrives


@contextlib.contextmanager
def of_headers() -> Iterator[None]:
    """What goes before a member of a stream is short."""
    header_of, block = tar_stream._header, tar_header.BLOCK

    def watched(stream: tar_stream._Stream) -> bytes | None:
        gathered = header_of(stream)
        if gathered is not None:
            assert len(gathered) <= (EXTENSIONS - 1) * (block + EXTENDED) + block
        return gathered

    bounds: dict[str, Any] = {
        "_MAX_EXTENSIONS": EXTENSIONS,
        "MAX_EXTENDED_HEADER": EXTENDED,
        "_header": watched,
    }
    with mock.patch.multiple(tar_stream, **bounds):
        yield


@contextlib.contextmanager
def of_arriving(idle: int) -> Iterator[None]:
    """What arrives has few members and short names, and at most `idle` bytes that leave nothing."""
    read = tar_stream.members

    def watched(chunks: Iterator[bytes]) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        characters = 0
        for number, (member, stored) in enumerate(read(chunks)):
            yield member, stored
            # It has been taken in.
            assert number < ARRIVING
            characters += len(members.normal(member.name.decode("utf-8", "surrogateescape")))
            characters += len(member.linkname)
            assert characters <= CHARACTERS

    bounds: dict[str, Any] = {
        "MAX_IDLE": idle,
        "SMALL": 600,
        "MAX_MEMBERS": ARRIVING,
        "MAX_NAMES": CHARACTERS,
        "members": watched,
    }
    with mock.patch.multiple(spool, **bounds):
        yield


@contextlib.contextmanager
def of_windows() -> Iterator[None]:
    """Decompressors take little memory."""

    class Watched(Share):
        def take(self, need: int) -> None:
            assert need <= BUDGET
            super().take(need)

    need_of = compression._need

    def need(kind: compression.Compression, head: bytes) -> int:
        found = need_of(kind, head)
        if kind is compression.Compression.ZSTD:
            assert found <= windows.of_window(1 << WINDOW_LOG)
        return found

    with (
        mock.patch.multiple(windows, BUDGET=BUDGET, Share=Watched),
        mock.patch.multiple(compression, _ZSTD_WINDOW_LOG=WINDOW_LOG, _need=need),
    ):
        yield


# What a mount shows


@contextlib.contextmanager
def of_mounts() -> Iterator[None]:
    """A mount has few views, and next to nothing is counted or followed; layers have few names.

    No more names of a file are looked for than may be, no link is begun with when the steps have
    been taken, and symbolic links lead no path further than they may.
    """
    resolve, visible = links.Links._resolve, Names._visible

    def resolved(
        self: links.Links,
        walk: "_Walk",
        place: Place,
        known: Callable[[Place], int | None],
        passed: dict[Place, int],
    ) -> int:
        assert walk.taken <= walk.most
        return resolve(self, walk, place, known, passed)

    def seen(self: Names, top: Chain, places: Iterable[Place]) -> Iterator[bool]:
        found = list(places)
        assert len(found) <= COUNTED
        return visible(self, top, found)

    bounds: dict[str, Any] = {"MAX_STEPS": STEPS, "_MAX_FOLLOWED": FOLLOWED, "_Walk": _Walk}
    with (
        mock.patch.multiple(links, **bounds),
        mock.patch.object(links.Links, "_resolve", resolved),
        mock.patch.object(names, "MAX_COUNTED", COUNTED),
        mock.patch.object(Names, "_visible", seen),
        mock.patch.object(nodeid, "MAX_VIEWS", VIEWS),
        mock.patch.multiple(fold, MAX_MEMBERS=ENTRIES, MAX_IMPLIED=IMPLIED),
        mock.patch.object(writer, "_MAX_NAMES", NAMES),
    ):
        yield


class _Walk(links._Walk):
    """A walk that counts for itself what is looked up on the way, which is a step or more."""

    def __init__(self, pile: Pile, steps: int = 1 << 62) -> None:
        super().__init__(pile, steps)
        self.most, self.taken = steps, 0
        self._left = 1 << 62

    def to(self, chain: Chain | None, path: bytes) -> Spot | None:
        self.taken += 1
        return super().to(chain, path)

    def named(self, directory: Spot, name: bytes) -> Any:
        self.taken += (directory, name) != self._found[:2]
        self._left -= 1
        assert self._left >= 0
        return super().named(directory, name)

    def _follow(self, chain: Chain, path: list[bytes]) -> Spot | None:
        self._left = len(path) + FOLLOWED
        try:
            return super()._follow(chain, path)
        finally:
            self._left = 1 << 62


def check_index(index: Index) -> None:
    """Check that a layer has no more rows and names than `of_mounts` allows.

    No name is longer than Linux allows; a whiteout may be called as what it hides.
    """
    assert index.count <= 1 + ENTRIES + IMPLIED
    found = [index.name(index.row(number)) for number in range(index.count)]
    assert sum(map(len, found)) <= NAMES
    assert all(len(name.removeprefix(tar_header.WHITEOUT_PREFIX)) <= NAME_MAX for name in found)


def check_nodes(fs: ImageFs, top: int, views: int, layers: int) -> None:
    """Check that a mount has no more views and layers, and what is below `top` none but these.

    A row is one that its layer has; a leaf's view may be how many names it has.
    """
    assert len(fs._views) <= views
    assert len(fs.layers) <= layers
    queue = [top]
    for directory in queue:
        for _, attr in fs.listdir(directory):
            view, layer, row = nodeid.unpack(attr.node)
            assert view <= views
            assert layer <= layers
            assert not layer or row < fs._indexes[layer].count
            if attr.mode >> 12 == 4:
                queue.append(attr.node)


@contextlib.contextmanager
def of_many_images() -> Iterator[None]:
    """All images of a mount have few views and layers together."""
    with mock.patch.multiple(nodeid, MAX_VIEWS=MANY_VIEWS, MAX_LAYERS=MANY_LAYERS):
        yield
