"""Directories through which many layers show: what all of them say of a name, found at once.

A name that the bottom layer holds would be looked for in each layer above it, for each name anew.
Here a run of such layers is read once, and remembered by name, when looking in them one by one has
taken as long as that takes. So what looking costs is bounded by what the layers hold. What was
read serves every snapshot that the run is part of, and grows with the layers that are laid on it.
May be used by many threads.
"""

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

from imagefs.filesystem import check_asker
from imagefs.index import rows
from imagefs.tar import header as tar_header
from imagefs.vfs import merge, nodeid
from imagefs.vfs.chain import Spot, key_of
from imagefs.vfs.memory import MOST_BYTES, SMALL, Memory, Shelf

DEEP = 8
"""So many layers, one after the other, are looked in at once without a second thought."""
_NAME = SMALL + 112
"""What a name in a run weighs, beside its bytes."""
_MOST = MOST_BYTES // 4
"""What a run may weigh, about; it takes part of what is remembered of all else."""
_SHIFT, _MASK = nodeid.ROW_BITS, nodeid.ROW_MASK


class Run:
    """Directories that show through each other, the lowest first: `keys` are their numbers.

    `below` is the number of what shows through all of them, or 0. `weight` is in bytes.
    """

    __slots__ = ("_said", "below", "keys", "weight")

    def __init__(self, below: int) -> None:
        self.below = below
        self.keys: list[int] = []
        self.weight = SMALL
        # By name, ascending: the level that says something, and the row of what it has, or 0.
        self._said: dict[bytes, list[int]] = {}

    def add(self, spot: Spot, said: dict[bytes, int]) -> None:
        """Lay a directory on the others; `said` has what it holds, by name, and 0 for deleted."""
        level = len(self.keys) << _SHIFT
        self.keys.append(key_of(spot))
        for name, row in said.items():
            self._said.setdefault(name, []).append(level | row)
        self.weight += weight_of(said)

    def find(self, level: int, name: bytes) -> int | None:
        """Return the number of what a level shows under a name: 0 if deleted, None if unsaid."""
        said = self._said.get(name)
        at = bisect_left(said, level + 1 << _SHIFT) if said else 0
        if not said or not at:
            return None
        row = said[at - 1] & _MASK
        return self.keys[said[at - 1] >> _SHIFT] & ~_MASK | row if row else 0


class Within(NamedTuple):
    """A directory's place in a run, by its level."""

    run: Run
    level: int


class Runs:
    """The runs of a mount, as many as there is memory for."""

    def __init__(self, memory: Memory) -> None:
        self._serials = itertools.count(1)
        self._lock = Lock()
        self._runs: Shelf[int, Run] = Shelf(memory)
        self._within: Shelf[int, int] = Shelf(memory)
        self._spent: Shelf[int, int] = Shelf(memory)
        self.known = self._runs.known
        """By a number of their own; empty where there is none to look in."""

    def of(self, spot: Spot) -> Within | None:
        """Return where in a run a directory is; None if it is in none."""
        within = self._within.known.get(spot[0].number << _SHIFT | spot[1])
        run = self._runs.known.get(within >> _SHIFT) if within else None
        return Within(run, within & _MASK) if within and run else None

    def worth(self, spots: Sequence[Spot]) -> bool:
        """Tell whether to read directories that were looked in, topmost first, for one name.

        It is when looking in them has come to as much as they hold.
        """
        if len(spots) <= DEEP:
            return False
        key = key_of(spots[-1])
        spent = self._spent.known.get(key, 0) + len(spots)
        enough = spent >= merge.size(spots) + len(spots)
        self._spent.keep(key, 0 if enough else spent)
        return enough

    def read(self, spots: Sequence[Spot], onto: Spot | None) -> None:
        """Have directories be part of a run, but for those that hold too much.

        They show through each other, and through the last one shows `onto`.
        """
        with self._lock:
            self._read(spots, onto)

    def _read(self, spots: Sequence[Spot], onto: Spot | None) -> None:
        within = self.of(onto) if onto else None
        serial, run = 0, None
        if onto and within and len(within.run.keys) == within.level + 1:
            serial, run = self._within.known[key_of(onto)] >> _SHIFT, within.run
        below = key_of(onto)
        for spot in reversed(spots):
            key = key_of(spot)
            check_asker()
            if self.of(spot) or spot[0].index.row(spot[1]).size * _NAME > _MOST:
                run = None
            else:
                if run is None or run.weight > _MOST:
                    serial, run = next(self._serials), Run(below)
                run.add(spot, _said_by(spot))
                self._runs.keep(serial, run, run.weight)
                # Last: whoever finds a level finds all that it says.
                self._within.keep(key, serial << _SHIFT | len(run.keys) - 1)
            below = key


def weight_of(said: dict[bytes, int]) -> int:
    """Return what names weigh in a run."""
    return SMALL + len(said) * _NAME + sum(map(len, said))


def _said_by(spot: Spot) -> dict[bytes, int]:
    """Return what a layer's directory says of names: the row of what it has, or 0 for deleted."""
    chain, number = spot
    said: dict[bytes, int] = {}
    for name, _, at, row in merge.entries_of(chain.index, chain.layer, number):
        if row[2] & rows.WHITEOUT:
            said.setdefault(name[len(tar_header.WHITEOUT_PREFIX) :], 0)
        if not row[2] & rows.HIDDEN:
            said[name] = at
    return said
