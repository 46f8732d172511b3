"""Listings of wide directories: entries that are made when somebody asks for them.

A directory of a million entries would take hundreds of megabytes for as long as one reader is in
the middle of it. Nothing is kept here but what the caller needs to make the entries anew. May be
used by many threads.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import overload

from imagefs.filesystem import Entry, check_asker

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


class Growing(Sequence[Entry]):
    """Entries that are looked for when somebody asks for them, and kept as numbers.

    `numbers` begins to yield those of some entries at a time, `make` returns the entries of
    numbers. Where the search fails or is interrupted, the next one begins anew, and passes over
    what is known.
    """

    def __init__(
        self,
        numbers: Callable[[], Iterator[list[int]]],
        make: Callable[[Sequence[int]], list[Entry]],
    ) -> None:
        self._numbers = numbers
        self._more: Iterator[list[int]] | None = numbers()
        self._known = array("Q")
        self._make = make
        self._lock = Lock()

    def _grow(self, until: int | None) -> None:
        """Have so many entries be known, if there are as many; without a number, all."""
        with self._lock:
            while self._more is not None and (until is None or len(self._known) < until):
                check_asker()
                try:
                    some = next(self._more, None)
                except BaseException:
                    self._more = _beyond(len(self._known), self._numbers())
                    raise
                if some is None:
                    self._more = None
                else:
                    self._known.extend(some)

    def __len__(self) -> int:
        self._grow(None)
        return len(self._known)

    @overload
    def __getitem__(self, wanted: int) -> Entry: ...

    @overload
    def __getitem__(self, wanted: slice) -> Sequence[Entry]: ...

    def __getitem__(self, wanted: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(wanted, int):
            self._grow(wanted + 1 if wanted >= 0 else None)
            return self._make([self._known[wanted]])[0]
        stop = wanted.stop
        self._grow(stop if stop is not None and stop >= 0 and (wanted.step or 1) > 0 else None)
        return self._make(self._known[wanted])

    def __iter__(self) -> Iterator[Entry]:
        at = 0
        while some := self[at : at + WIDE]:
            yield from some
            at += len(some)


def _beyond(count: int, parts: Iterator[list[int]]) -> Iterator[list[int]]:
    """Yield what parts hold behind the first numbers."""
    for some in parts:
        yield some[count:]
        count = max(count - len(some), 0)
