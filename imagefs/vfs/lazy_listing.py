"""Listings of wide directories: entries that are made when somebody asks for them.

A directory of a million entries would take hundreds of megabytes for as long as one reader is in
the middle of it. Nothing is kept here but what the caller needs to make the entries anew. May be
used by many threads.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from imagefs.filesystem import Entry

WIDE = 4096
"""Entries from which on a directory is worth it."""


class Wide(Sequence[Entry]):
    """A directory's `count` entries; `make` returns those from one number up to another."""

    def __init__(self, count: int, make: Callable[[int, int], Sequence[Entry]]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, wanted: int) -> Entry: ...

    @overload
    def __getitem__(self, wanted: slice) -> Sequence[Entry]: ...

    def __getitem__(self, wanted: int | slice) -> Entry | Sequence[Entry]:
        places = range(self._count)[wanted]
        if isinstance(places, int):
            return self._make(places, places + 1)[0]
        if places.step == 1:
            return self._make(places.start, max(places.start, places.stop))
        return [self._make(at, at + 1)[0] for at in places]

    def __iter__(self) -> Iterator[Entry]:
        for at in range(0, self._count, WIDE):
            yield from self._make(at, min(at + WIDE, self._count))
