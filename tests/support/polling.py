"""Waiting for what takes its time."""

import time
from collections.abc import Callable


def soon(condition: Callable[[], bool], within: float = 60.0) -> bool:
    """Poll until the condition holds; tell whether it came to."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def eventually(condition: Callable[[], bool], within: float = 60.0) -> None:
    """Wait until the condition holds; fail if it does not in time."""
    assert soon(condition, within), "waited in vain"
