"""The work of a scan that runs elsewhere: in a process of this machine, or a Dask worker of any.

Each function takes one value and returns one, both picklable, and reads through a store of its
own process. Images that were asked for last stay open, since tasks of one image come together.
"""

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from imagefs.errors import ImagefsError, shortage
from imagefs.image import reference
from imagefs.image.model import Image, Layer
from imagefs.image.reference import RegistryReference
from imagefs.index import cache as index_cache
from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.progress import Silent
from imagefs.scanning.model import Failure, File, Function
from imagefs.scanning.plan import PART_BYTES, Part, Place, PlannedImage, PlannedLayer
from imagefs.source import opening
from imagefs.source.opening import SourceRequest
from imagefs.store.store import Store
from imagefs.vfs.links import links_of
from imagefs.vfs.memory import Memory
from imagefs.vfs.names import Names
from imagefs.vfs.open_layer import Maps, OpenLayer

_MOST_OPEN, _MOST_INDEXES = 32, 128
_SORTED_TOGETHER = 1 << 16
_SKIPPED = rows.WHITEOUT | rows.FOREIGN


class Read(NamedTuple):
    """What came of a part of a layer: rows with the row number of their file, and its path."""

    found: list[tuple[int, str, Any]]
    failures: list[Failure]
    files: int
    bytes: int


class Question(NamedTuple):
    """Whether the final roots of some images show files of a layer, by their rows.

    The first of them is image number `first` of all that are asked about. To a scan, which has a
    name of its own, layers of one diff id are one.
    """

    scan: str
    places: tuple[Place, ...]
    rows: tuple[int, ...]
    first: int


_open: "OrderedDict[SourceRequest, tuple[Store, dict[str, Image]]]" = OrderedDict()
_indexes: "OrderedDict[tuple[str, str], Index]" = OrderedDict()
"""Those that questions needed last, by scan and diff id."""


def _images(request: SourceRequest) -> tuple[Store, dict[str, Image]]:
    """Return a source's images by id, and the store that has a claim on them."""
    found = _open.get(request)
    if found is None:
        store = Store()
        try:
            images = opening.open_images(request, store, Silent())
        except BaseException:
            store.close()
            raise
        found = _open[request] = store, {image.id: image for image in images}
        if len(_open) > _MOST_OPEN:
            _open.popitem(last=False)[1][0].close()
    _open.move_to_end(request)
    return found


def plan(request: SourceRequest) -> list[PlannedImage]:
    """Return the images of a source. Raises ImagefsError."""
    _, images = _images(request)
    return [
        PlannedImage(
            image.id,
            image.names[0] if image.names else "",
            tuple(
                PlannedLayer(layer.diff_id, layer.created_by, index_cache.blob_of(layer).length)
                for layer in image.layers
            ),
        )
        for image in images.values()
    ]


@contextmanager
def _failing(source: str, layer: str, path: str, failures: list[Failure]) -> Iterator[None]:
    """Note what goes wrong, instead of ending what is done."""
    try:
        yield
    except Exception as error:
        words = str(error) if isinstance(error, ImagefsError) else shortage(error)
        failures.append(Failure(source, layer, path, words or f"{type(error).__name__}: {error}"))


def read(function: Function, part: Part) -> Read:
    """Have the function look at each file of a part of a layer, in the order of the content."""
    failures: list[Failure] = []
    for place in part.places:
        with _failing(place.request.text, part.layer.diff_id, "", failures):
            with _layer(place) as (layer, store):
                index = index_cache.open_index(layer, store.index_dir)
                opened = OpenLayer(layer, index, Maps(Memory()))
                done = _read(function, part, opened, place.request.text)
            return done._replace(failures=failures + done.failures)
    return Read([], failures, 0, 0)


@contextmanager
def _layer(place: Place) -> Iterator[tuple[Layer, Store]]:
    """Have a layer at hand, and the store that has a claim on it.

    Where another worker opened a registry's image, its other layers are none of this one's.
    """
    request, number = place.request, place.layer
    wanted = reference.parse(request.text)
    if request not in _open and isinstance(wanted, RegistryReference):
        with closing(Store()) as store:
            yield opening.open_layer(request, place.image, number, store, Silent()), store
        return
    store, images = _images(request)
    yield images[place.image].layers[number], store


def _read(function: Function, part: Part, opened: OpenLayer, source: str) -> Read:
    index, paths = opened.index, _Paths(opened.index)
    found: list[tuple[int, str, Any]] = []
    failures: list[Failure] = []
    files = count = 0
    for number, row in _files(index, part.number):
        if row.flags & rows.HIDDEN and index.name(row).startswith(b".wh."):
            continue  # a marker, which stands for no file
        files += 1
        path = paths.of(row)
        with _failing(source, part.layer.diff_id, path, failures):
            content = _Content(opened, row)
            try:
                others = index.same_inode(number) if row.nlink > 1 else ()
                file = File(
                    path,
                    tuple(paths.of(index.row(at)) for at in others if at != number),
                    row.size,
                    stat.S_IMODE(row.mode),
                    row.uid,
                    row.gid,
                    row.mtime * 10**9 + row.mtimensec,
                    part.layer.diff_id,
                    part.layer.step,
                    content,
                )
                found += [(number, path, value) for value in function(file)]
            finally:
                count += content.bytes
    return Read(found, failures, files, count)


def _files(index: Index, part: int) -> Iterator[tuple[int, Row]]:
    """Yield the regular files whose content begins in a part, each by its inode's row."""
    for first in range(0, index.count, _SORTED_TOGETHER):
        batch = []
        end = min(first + _SORTED_TOGETHER, index.count)
        for number, row in enumerate(index.rows(first, end), first):
            _, _, flags, mode, _, _, _, inode, _, _, _, _, data, _ = row
            is_file = mode >> 12 == 8 and inode == number and not flags & _SKIPPED
            if is_file and data // PART_BYTES == part:
                batch.append((data, number, row))
        for _, number, row in sorted(batch):
            yield number, Row._make(row)


class _Paths:
    """Paths of rows, of which those of directories are kept for their siblings."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[int, bytes] = {0: b""}

    def of(self, row: Row) -> str:
        """Return a row's path, with a slash before it."""
        return os.fsdecode(self._directory(row.parent) + b"/" + self._index.name(row))

    def _directory(self, number: int) -> bytes:
        missing = []
        while number not in self._known:
            missing.append(number)
            number = self._index.row(number).parent
        path = self._known[number]
        if len(self._known) > _SORTED_TOGETHER:
            self._known = {0: b"", number: path}
        for one in reversed(missing):
            path = self._known[one] = path + b"/" + self._index.name(self._index.row(one))
        return path


class _Content:
    """A file's bytes, and how many of them were read."""

    def __init__(self, opened: OpenLayer, row: Row) -> None:
        self._opened, self._row = opened, row
        self.size = row.size
        self.bytes = 0

    def read(self, offset: int, size: int) -> bytes:
        found = self._opened.read(self._row, offset, size)
        self.bytes += len(found)
        return found

    def extents(self) -> Iterator[tuple[int, int]]:
        at, size = 0, self.size
        if not self._row.flags & rows.SPARSE:
            yield 0, size
            return
        while at < size:
            try:
                begin = self._opened.seek(self._row, at, os.SEEK_DATA)
            except OSError:
                return
            at = self._opened.seek(self._row, begin, os.SEEK_HOLE)
            yield begin, at

    def xattrs(self) -> dict[bytes, bytes]:
        return self._opened.index.xattrs(self._row)


def shown(question: Question) -> list[list[bool] | Failure]:
    """Tell for each image, and each of the files, whether its final root shows the file."""
    answers: list[list[bool] | Failure] = []
    for place in question.places:
        failures: list[Failure] = []
        with _failing(place.request.text, "", "", failures):
            store, images = _images(place.request)
            layers = images[place.image].layers
            indexes = [_index(question.scan, layer, store) for layer in layers]
            answers.append(_shown(indexes, place.layer, question.rows))
        answers += failures
    return answers


def _index(scan: str, layer: Layer, store: Store) -> Index:
    """Return a layer's index, of whichever image: archives that are read in place have each one."""
    key = scan, layer.diff_id
    found = _indexes.get(key)
    if found is None:
        found = _indexes[key] = index_cache.open_index(layer, store.index_dir)
        if len(_indexes) > _MOST_INDEXES:
            _indexes.popitem(last=False)
    _indexes.move_to_end(key)
    return found


def _shown(indexes: Sequence[Index], layer: int, numbers: Sequence[int]) -> list[bool]:
    names = Names(links_of(indexes))
    return [names.shows((layer + 1, number)) for number in numbers]
