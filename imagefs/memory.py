"""What a mount remembers so as to be quick: one bound for all of its views and layers, by weight.

Whatever is kept here can be found again, so it may go at any time, the oldest first. Nothing kept
may hold a layer open: values are numbers, or made of them. May be used by many threads.
"""

from collections.abc import Hashable
from itertools import islice
from threading import Lock
from typing import Any, Generic, TypeVar

MOST_BYTES = 24 << 20
"""What all that is remembered may weigh."""
SMALL = 144
"""What an entry weighs whose key and value are numbers."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory:
    """The bound on all shelves that are made with it."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._lock = Lock()
        self._shelves: list[Shelf[Any, Any]] = []
        self.weight = 0

    def add(self, shelf: "Shelf[Any, Any]") -> None:
        """Have a shelf share the bound."""
        self._shelves.append(shelf)

    def keep(self, shelf: "Shelf[K, V]", key: K, value: V, weight: int) -> None:
        """Put a value on a shelf; what has lain on all of them for longest makes room."""
        with self._lock:
            if key not in shelf.known:
                self.weight += weight
                if weight != SMALL:
                    shelf.heavy[key] = weight
            shelf.known[key] = value
            while self.weight > self._most:
                self._make_room()

    def _make_room(self) -> None:
        for shelf in self._shelves:
            for key in list(islice(shelf.known, len(shelf.known) // 4 + 1)):
                del shelf.known[key]
                self.weight -= shelf.heavy.pop(key, SMALL)


class Shelf(Generic[K, V]):
    """What is remembered of one kind; `known` is for looking alone."""

    def __init__(self, memory: Memory) -> None:
        self.known: dict[K, V] = {}
        self.heavy: dict[K, int] = {}
        self._memory = memory
        memory.add(self)

    def keep(self, key: K, value: V, weight: int = SMALL) -> None:
        """Remember a value, for as long as there is room."""
        self._memory.keep(self, key, value, weight)
