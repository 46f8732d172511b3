"""Two images whose ids share their first 12 hex digits, which is all that people are shown."""

import functools

from tests.support.badengine import Export
from tests.support.tars import layer

_SALTS = {"one": 7748056, "other": 23631181}
"""What makes the ids begin alike, of 45 million numbers that were tried."""


@functools.cache
def alike() -> tuple[Export, Export]:
    """Return the images one:1 and other:1, whose file `f` holds the name before the colon."""
    one, other = (
        Export([layer({"f": name})], f"{name}:1", salt=salt) for name, salt in _SALTS.items()
    )
    assert one.id[7:19] == other.id[7:19], "their configurations are not what they were"
    return one, other
