"""A short run of each target with the suite; the seed changes with the day, and is printed."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.fuzz.mutation import mutations
from tests.fuzz.targets import TARGETS

SECONDS = 1.0


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str, count: Callable[[str, int], None]) -> None:
    """What each target promises holds for its seeds and for what chance makes of them."""
    target = TARGETS[name]
    seed = datetime.now(UTC).date().isoformat()
    end = time.monotonic() + SECONDS
    done = 0
    for data in mutations(target.seeds(), random.Random(seed)):
        try:
            target.check(data)
        except BaseException as error:
            error.add_note(f"seed {seed}, input {done}: {data!r}")
            raise
        done += 1
        if time.monotonic() > end and done >= len(target.seeds()):
            break
    count(f"fuzz executions: {name}", done)
