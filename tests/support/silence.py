"""Silence in the log, for tests that fail by the thousand on purpose."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def nothing_logged() -> Iterator[None]:
    """Log nothing for as long as the context lasts."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
