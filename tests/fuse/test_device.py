"""How the driver waits for requests, with a pipe in the place of the device."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import pytest

from imagefs.fuse.device import Requests
from imagefs.fuse.signals import Stop
from tests.support.polling import soon

PATIENCE = 60


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def stop() -> Iterator[Stop]:
    with contextlib.closing(Stop()) as it:
        yield it


def nothing() -> bool:
    return False


def test_a_request_that_is_there_comes_before_what_may_be_asked_for(
    pipe: tuple[int, int], stop: Stop
) -> None:
    """Nothing is prepared while somebody waits."""
    prepared: list[int] = []

    def prepare() -> bool:
        prepared.append(1)
        return False

    requests = Requests(pipe[0], stop, prepare)
    os.write(pipe[1], b"request")
    assert requests.next() == b"request"
    assert prepared == []


def test_preparing_goes_on_for_as_long_as_there_is_something(
    pipe: tuple[int, int], stop: Stop
) -> None:
    """Between two looks at the device one step is done, and no time is spent waiting."""
    steps: list[int] = []

    def prepare() -> bool:
        steps.append(len(steps))
        if len(steps) == 100:
            os.write(pipe[1], b"request")
        return len(steps) < 100

    requests = Requests(pipe[0], stop, prepare)
    assert requests.next() == b"request"
    assert len(steps) == 100


def test_whoever_has_nothing_to_do_sleeps(pipe: tuple[int, int], stop: Stop) -> None:
    """A mount that nobody uses takes no processor time; the next request still comes through."""
    requests = Requests(pipe[0], stop, nothing)
    found: list[bytes | None] = []
    waiter = threading.Thread(target=lambda: found.append(requests.next()))
    waiter.start()
    try:
        clock = time.pthread_getcpuclockid(waiter.ident or 0)
        end = time.monotonic() + PATIENCE
        while not _sleeps(waiter, clock):
            assert time.monotonic() < end, "it keeps looking"
    finally:
        os.write(pipe[1], b"request")
        waiter.join(PATIENCE)
    assert found == [b"request"]


@pytest.mark.parametrize("asleep", [False, True], ids=["busy", "asleep"])
def test_who_is_told_to_end_does(asleep: bool, pipe: tuple[int, int], stop: Stop) -> None:
    """A sleeper is woken; one who never sleeps, as there is always a request, leaves as well."""
    requests = Requests(pipe[0], stop, nothing)
    found: list[bytes | None] = []

    def serve() -> None:
        while request := requests.next():
            found.append(request)
            if not asleep:
                os.write(pipe[1], b"request")

    if not asleep:
        os.write(pipe[1], b"request")
    waiter = threading.Thread(target=serve)
    waiter.start()
    if asleep:
        clock = time.pthread_getcpuclockid(waiter.ident or 0)
        assert soon(lambda: _sleeps(waiter, clock), PATIENCE)
    stop.ask()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    assert bool(found) != asleep


def _sleeps(waiter: threading.Thread, clock: int) -> bool:
    """Tell whether the thread used no time at all in a tenth of a second."""
    before = time.clock_gettime_ns(clock)
    threading.Event().wait(0.1)
    return waiter.is_alive() and time.clock_gettime_ns(clock) == before
