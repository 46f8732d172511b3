"""The budget of memory: who waits for whom, and that it comes back however its holders end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from imagefs.host.memory import BUDGET, SMALL, Share
from imagefs.store.prune import prune
from imagefs.store.store import Store

PART = BUDGET // 4


class Other(threading.Thread):
    """Another thread, that has a share until it is let go."""

    def __init__(self, place: Path, get: Callable[[Share], None]) -> None:
        super().__init__()
        self.has, self.let_go = threading.Event(), threading.Event()
        self._place, self._get = place, get
        self.start()

    def run(self) -> None:
        with Share(self._place) as share:
            self._get(share)
            self.has.set()
            self.let_go.wait(60)

    def end(self) -> None:
        self.let_go.set()
        self.join()


def test_room_is_waited_for(tmp_path: Path) -> None:
    """Who finds no room waits for some, and holds up nobody for whom there is some."""
    with Share(tmp_path) as first:
        first.take(BUDGET - PART)
        large = Other(tmp_path, lambda share: share.take(PART + 1))
        fitting = Other(tmp_path, lambda share: share.take(PART))
        assert fitting.has.wait(10)
        fitting.end()
        assert not large.has.wait(0.2)
    assert large.has.wait(10)
    large.end()


def test_one_at_a_time_goes_beyond(tmp_path: Path) -> None:
    """Who grows beyond a part of the budget waits until nobody else does, and then for nobody."""
    with Share(tmp_path) as first:
        first.grow(PART)
        first.grow(BUDGET * 2)
        other = Other(tmp_path, lambda share: share.grow(PART + 1))
        little = Other(tmp_path, lambda share: share.grow(PART))
        assert little.has.wait(10)
        little.end()
        first.grow(BUDGET * 5)
        assert not other.has.wait(0.2)
    assert other.has.wait(10)
    other.end()


def test_who_grows_where_there_is_no_room_goes_beyond(tmp_path: Path) -> None:
    """It does not wait for those who have room: they might wait for it."""
    with Share(tmp_path) as all_of_it, Share(tmp_path) as growing:
        all_of_it.take(BUDGET)
        growing.grow(SMALL + 1)


def test_what_is_small_is_not_asked_for(tmp_path: Path) -> None:
    """It touches no file, and waits for nobody."""
    with Share(tmp_path) as share:
        share.take(SMALL)
        share.grow(SMALL)
    assert not os.listdir(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from imagefs.host.memory import BUDGET, Share
with Share(Path(sys.argv[1])) as share:
    share.take(BUDGET)
    print(flush=True)
    time.sleep(600)
"""


def test_the_dead_have_nothing(tmp_path: Path) -> None:
    """What a process had is there for others once it is killed, and not before."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        other = Other(tmp_path, lambda share: share.take(PART))
        assert not other.has.wait(0.2)
        holder.send_signal(signal.SIGKILL)
    assert other.has.wait(10)
    other.end()


def test_forks_keep_nothing(tmp_path: Path) -> None:
    """A process that was forked meanwhile does not hold what is given back."""
    with Share(tmp_path) as share:
        share.take(BUDGET)
        pid = os.fork()
        if not pid:
            signal.pause()
            os._exit(0)
    try:
        other = Other(tmp_path, lambda share: share.take(BUDGET))
        assert other.has.wait(10)
        other.end()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_pruning_leaves_the_budget(tmp_path: Path) -> None:
    """The file is no index, and stays what those who hold a part of it have in common."""
    store = Store(tmp_path)
    with Share(store.index_dir) as share:
        share.take(BUDGET)
        before = os.listdir(store.index_dir)
        prune(store)
    assert os.listdir(store.index_dir) == before


@pytest.mark.parametrize("place", ["nowhere", "/proc"])
def test_without_locks_it_is_done_without(place: str, tmp_path: Path) -> None:
    """Where no file can be made or locked, nobody waits."""
    with Share(tmp_path / place) as share, Share(tmp_path / place) as other:
        share.take(BUDGET)
        other.take(BUDGET)
