"""Work that is counted instead of timed: it is the same on every machine, however busy."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Effort:
    """How many calls of functions, Python's and C's, there have been."""

    def __init__(self) -> None:
        self.calls = 0


@contextmanager
def at_most(calls: int) -> Iterator[Effort]:
    """Fail as soon as this thread makes more calls than that, which also ends what has no end.

    What a single call of a C function takes is not seen.
    """
    effort = Effort()

    def seen(_frame: FrameType, event: str, _arg: object) -> None:
        if event in ("call", "c_call"):
            effort.calls += 1
            assert effort.calls <= calls, f"more than {calls} calls"

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        yield effort
    finally:
        sys.setprofile(before)
