"""Where a scan's work runs: processes of this machine, or a Dask cluster.

A pool takes tasks, each with a key, and gives back what came of them as they end, in any order.
Owns what becomes of a task whose worker dies: it is done again, a few times.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, NamedTuple, Protocol

RETRIES = 3
"""How often a task is done again whose worker died."""


class Task(NamedTuple):
    """What is to be done, a function that pickles and its argument; `about` stays with the caller.

    The key tells tasks apart wherever they run.
    """

    key: str
    work: Callable[[Any], Any]
    argument: Any
    about: Any = None


Source = Callable[[], Task | None]
"""Gives the next task; None while there is none, which may change when one has ended."""


class Pool(Protocol):
    """Somebody who does tasks."""

    def each(self, following: Source) -> Iterator[tuple[Task, Any]]:
        """Do tasks, and yield each with its result, or the exception that it raised.

        No more of them are taken than keep the workers busy. It ends when all have ended and none
        follows.
        """

    def close(self) -> None:
        """Let go of the workers."""


class Processes:
    """Processes of this machine, as many as it has processors unless told otherwise."""

    def __init__(self, count: int | None = None) -> None:
        self._count = count or len(os.sched_getaffinity(0))
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        # Not forked: this process may have threads, and an older fork other variables.
        return ProcessPoolExecutor(self._count, mp_context=get_context("spawn"))

    def each(self, following: Source) -> Iterator[tuple[Task, Any]]:
        """Do tasks, and yield each with its result, or the exception that it raised."""
        again: list[Task] = []
        tries: Counter[str] = Counter()
        running: dict[Future[Any], Task] = {}
        while True:
            while len(running) < 2 * self._count:
                task = again.pop() if again else following()
                if task is None:
                    break
                running[self._submit(task)] = task
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                # A process was killed, and nobody knows which task it had: all end, and those
                # that were not done are done again.
                done, _ = wait(running)
                self._pool.shutdown(wait=False)
                self._pool = self._started()
            for future in done:
                task, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool) and tries[task.key] < RETRIES:
                    tries[task.key] += 1
                    again.append(task)
                else:
                    yield task, error or future.result()

    def _submit(self, task: Task) -> "Future[Any]":
        try:
            return self._pool.submit(task.work, task.argument)
        except BrokenProcessPool as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def close(self) -> None:
        """End the processes, when they have done what they are at."""
        self._pool.shutdown(cancel_futures=True)


class Cluster:
    """The workers of a Dask cluster; `client` is a dask.distributed.Client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def each(self, following: Source) -> Iterator[tuple[Task, Any]]:
        """Do tasks, and yield each with its result, or the exception that it raised."""
        import distributed  # noqa: PLC0415

        running: dict[str, Task] = {}
        ended: Any = distributed.as_completed(loop=self._client.loop)
        while True:
            # Workers may come and go meanwhile.
            while len(running) < 4 * max(1, sum(self._client.nthreads().values())):
                task = following()
                if task is None:
                    break
                key = f"imagefs-{task.key}"
                ended.add(
                    self._client.submit(
                        task.work, task.argument, key=key, retries=RETRIES, pure=False
                    )
                )
                running[key] = task
            if not running:
                return
            future = next(ended)
            error = future.exception()
            yield running.pop(future.key), error or future.result()

    def close(self) -> None:
        """Leave the cluster to its owner."""
