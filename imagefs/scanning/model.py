"""What a scan hands to its function, and what it gives back.

All of it can be pickled but for `File`, which is made where the layer is read.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Content(Protocol):
    """The bytes of a file of a layer."""

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer only at the end. Raises OSError."""

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield where the file has data, as offset and end; between them are zeros."""

    def xattrs(self) -> dict[bytes, bytes]:
        """Return the extended attributes."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of a layer, as a scan's function gets it; nothing of it is read yet.

    `path` and the `names` of other hard links to it begin at the layer's root with a slash; bytes
    that are no UTF-8 are surrogates, as of os.fsdecode. `mtime_ns` is in nanoseconds. `layer` is
    the diff id, `step` what made the layer.
    """

    path: str
    names: tuple[str, ...]
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    layer: str
    step: str
    content: Content

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes."""
        return self.content.xattrs()

    def open(self) -> io.BufferedReader:
        """Open the file, as a seekable binary file; what is not asked for is not read."""
        return io.BufferedReader(_Reader(self.content), 1 << 16)

    def read(self, size: int = -1, offset: int = 0) -> bytes:
        """Return `size` bytes from `offset`, or all. Raises OSError for content that is lost."""
        return self.content.read(offset, self.size if size < 0 else size)

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield where the file has data, as offset and end; between them are zeros."""
        return self.content.extents()


class _Reader(io.RawIOBase):
    def __init__(self, content: Content) -> None:
        super().__init__()
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        found = self._content.read(self._at, len(room))
        room[: len(found)] = found
        self._at += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        to = (0, self._at, self._content.size)[whence] + offset
        if to < 0:
            raise ValueError(f"negative seek position {to}")
        self._at = to
        return to


Function = Callable[[File], Iterable[Any]]
"""What a scan asks of each file: any number of rows, of any kind that can be pickled."""


@dataclass(frozen=True, slots=True)
class Holder:
    """An image that has a layer: the source as it was given, the image's id and name there.

    `directory` is the layer's in a mount of that image, `NN-<12 hex>`.
    """

    source: str
    image: str
    name: str
    directory: str


class Found(NamedTuple):
    """A row of the scan's function, and where it is from.

    `holders` are the images that have the layer, `shown` tells for each whether its final root
    shows the file, under whatever name.
    """

    layer: str
    step: str
    path: str
    value: Any
    holders: tuple[Holder, ...]
    shown: tuple[bool, ...]

    @property
    def showing(self) -> list[Holder]:
        """The images whose final root shows the file."""
        return [holder for holder, shown in zip(self.holders, self.shown, strict=True) if shown]


class Failure(NamedTuple):
    """What could not be read, and why: a source, or a layer of it, or a file of that."""

    source: str
    layer: str
    path: str
    reason: str
