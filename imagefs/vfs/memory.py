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
        """Put a value on a shelf; what has lain on the heaviest for longest makes room."""
        with self._lock:
            before = shelf.heavy.get(key, SMALL) if key in shelf.known else 0
            shelf.known[key] = value
            if weight != SMALL:
                shelf.heavy[key] = weight
            shelf.weight += weight - before
            self.weight += weight - before
            while self.weight > self._most and self._make_room(shelf):
                pass

    def _make_room(self, last: "Shelf[Any, Any]") -> bool:
        """Drop a quarter of the heaviest shelf, but for what was put on one last."""
        shelf = max(self._shelves, key=lambda one: one.weight if one.known else -1)
        if shelf is last and len(shelf.known) == 1:
            others = [one for one in self._shelves if one is not last and one.known]
            if not others:
                return False
            shelf = max(others, key=lambda one: one.weight)
        for key in list(islice(shelf.known, (len(shelf.known) + 3) // 4)):
            del shelf.known[key]
            weight = shelf.heavy.pop(key, SMALL)
            shelf.weight -= weight
            self.weight -= weight
        return True


class Shelf(Generic[K, V]):
    """What is remembered of one kind; `known` is for looking alone.

    `heavy` has what those of its entries weigh that are not SMALL.
    """

    def __init__(self, memory: Memory) -> None:
        self.known: dict[K, V] = {}
        self.heavy: dict[K, int] = {}
        self.weight = 0
        self._memory = memory
        memory.add(self)

    def keep(self, key: K, value: V, weight: int = SMALL) -> None:
        """Remember a value, for as long as there is room."""
        self._memory.keep(self, key, value, weight)
