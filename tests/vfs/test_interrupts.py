"""Work that takes long, and who waits for it: they may leave, and nothing is lost or cut short."""

import errno
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from imagefs.filesystem import asker
from imagefs.vfs import image_fs, lazy_listing, merge
from imagefs.vfs.errand import Errand
from tests.support.polling import soon
from tests.support.tars import Hard, fs_of, layer, resolve

LeaveAfter = Callable[[int], None]


@pytest.fixture
def leave_after(monkeypatch: pytest.MonkeyPatch) -> LeaveAfter:
    """Have who waits for this thread leave once it has looked so many times."""

    def after(looks: int) -> None:
        count = itertools.count()
        monkeypatch.setattr(asker, "has_left", lambda: next(count) >= looks)

    return after


def test_an_interrupted_listing_is_whole_for_the_next(
    tmp_path: Path, leave_after: LeaveAfter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was left off: who comes next sees every name once, in order."""
    monkeypatch.setattr(image_fs, "WIDE", 0)
    monkeypatch.setattr(merge, "_TOGETHER", 8)
    names = [f"d/{number:03}" for number in range(200)]
    layers = [layer(dict.fromkeys(names[at::3], "")) for at in range(3)]
    fs = fs_of(layers, tmp_path, "rootfs")
    directory = resolve(fs, "d")
    assert directory is not None
    left = 0
    for looks in range(60):
        entries = fs.listdir(directory.node)
        leave_after(looks)
        try:
            len(entries)
        except InterruptedError as error:
            assert error.errno == errno.EINTR  # noqa: PT017
            left += 1
        leave_after(1 << 30)
        assert [f"d/{entry.name.decode()}" for entry in entries] == names
    assert left > 20


def test_a_listing_that_failed_inside_is_whole_for_the_next() -> None:
    """Also where the search itself was left off in the middle, which ends a generator for good."""
    failing = [3, 2, 1]

    def numbers() -> Iterator[list[int]]:
        last = failing.pop() if failing else 9
        for at in range(9):
            if at == last:
                raise InterruptedError
            yield [2 * at, 2 * at + 1]

    made: Callable[..., Any] = list
    growing: Sequence[Any] = lazy_listing.Growing(numbers, made)
    for _ in range(3):
        with pytest.raises(InterruptedError):
            len(growing)
    assert list(growing) == list(range(18))


def test_counting_links_is_left_off_and_done_by_the_next(
    tmp_path: Path, leave_after: LeaveAfter
) -> None:
    """The names of a file are as many for who comes after one who left."""
    links = {f"l{number}": Hard("f") for number in range(50)}
    layers = [layer({"f": "", **links}), layer({f"m{number}": Hard("f") for number in range(50)})]
    expected = resolve(fs_of(layers, tmp_path, "rootfs"), "f")
    fs = fs_of(layers, tmp_path, "rootfs")
    for looks in (1, 20):
        leave_after(looks)
        with pytest.raises(InterruptedError):
            fs.lookup(1, b"f")
    leave_after(1 << 30)
    found = fs.lookup(1, b"f")
    assert expected is not None
    assert found is not None
    assert (found.nlink, expected.nlink) == (101, 101)


def test_an_errand_is_done_once_for_all(leave_after: LeaveAfter) -> None:
    """Whoever waits may leave; it goes on, and the others get what comes of it."""
    gate = threading.Event()
    runs: list[int] = []
    results: list[int] = []

    def work() -> None:
        runs.append(1)
        gate.wait(60)
        if len(runs) == 1:
            raise OSError(errno.EIO, "the first fails")

    def wait() -> None:
        try:
            errand.wait()
            results.append(0)
        except OSError as error:
            results.append(error.errno or 0)

    errand = Errand(work)
    waiters = [threading.Thread(target=wait) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    assert soon(lambda: bool(runs))
    leave_after(0)
    with pytest.raises(InterruptedError):
        errand.wait()
    gate.set()
    for waiter in waiters:
        waiter.join(30)
    assert (results, len(runs)) == ([errno.EIO] * 4, 1)
    leave_after(1 << 30)
    errand.wait()
    assert len(runs) == 2


def test_an_errand_is_done_where_there_can_be_no_more_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then by who asks for it."""

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    done: list[int] = []
    Errand(lambda: done.append(threading.get_ident())).wait()
    assert done == [threading.get_ident()]
