"""Layers that lie on each other, as a chain of them, and the directories in it, as numbers.

Owns how a directory of a snapshot is named where nothing may hold its layer open. Pure values.
"""

from typing import TypeAlias, Union

from imagefs.index.reader import Index
from imagefs.vfs import nodeid


class Chain:
    """A layer and, in `below`, the layers under it; `number` is never given again.

    `jump` is some chain further below, or None at the bottom: so far that from any chain each
    other one is a few steps away, the logarithm of how many lie between (Myers, An applicative
    random-access stack, 1983).
    """

    __slots__ = ("__weakref__", "below", "depth", "index", "jump", "layer", "number")

    def __init__(self, number: int, layer: int, index: Index, below: Union["Chain", None]) -> None:
        self.number = number
        self.layer = layer
        self.index = index
        self.below = below
        self.depth = 0
        self.jump: Chain | None = None
        if below is not None:
            self.depth = below.depth + 1
            far = below.jump or below
            farther = far.jump or far
            even = below.depth - far.depth == far.depth - farther.depth
            self.jump = farther if even else below

    def at(self, key: int) -> "Spot":
        """Return the directory that a number stands for; it is of this chain or of one below."""
        chain: Chain | None = self
        number = key >> nodeid.ROW_BITS
        while chain is not None and chain.number != number:
            # Whatever lies further below came first, and has the lower number.
            far = chain.jump
            chain = far if far is not None and far.number >= number else chain.below
        assert chain is not None
        return chain, key & nodeid.ROW_MASK


Spot: TypeAlias = tuple[Chain, int]
"""A directory: the chain whose topmost layer has it, and its row there."""


def key_of(spot: Spot | None) -> int:
    """Return the number that stands for a directory; 0 for None."""
    return 0 if spot is None else spot[0].number << nodeid.ROW_BITS | spot[1]
