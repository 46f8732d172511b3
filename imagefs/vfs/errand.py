"""Work that several may wait for, done once and in a thread of its own, so that they may leave.

Owns the question who starts it. It goes on when nobody waits for it any more. For any thread.
"""

import threading
from collections.abc import Callable

from imagefs.filesystem import check_asker

_LOOK = 0.05
"""Seconds between two looks whether a waiting asker has left."""


class _Run:
    def __init__(self) -> None:
        self.ended = threading.Event()
        self.failure: BaseException | None = None


class Errand:
    """Something that `work` does, and may have to do again."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._run: _Run | None = None

    def wait(self) -> None:
        """Have it done, by whoever is about it already, or else anew; raise what that raises."""
        with self._lock:
            known, run = self._run, self._run or _Run()
            self._run = run
        if known is None:
            try:
                threading.Thread(target=self._do, args=(run,), daemon=True).start()
            except RuntimeError:  # there can be no more threads
                self._do(run)
        while not run.ended.wait(_LOOK):
            check_asker()
        if run.failure is not None:
            raise run.failure

    def _do(self, run: _Run) -> None:
        try:
            self._work()
        except BaseException as failure:
            run.failure = failure
        with self._lock:
            self._run = None
        run.ended.set()
