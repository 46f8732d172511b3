"""The processes that index layers, which give back to the system the memory that the trees took.

Owns how many there are, that they can be had at all, and what all of them together may come
across. Knows nothing of layers.
"""

import os
import threading
from mmap import mmap
from typing import TYPE_CHECKING

from imagefs.errors import CorruptArchive, HostError
from imagefs.host import processes
from imagefs.host.files import NO_MORE_FILES

if TYPE_CHECKING:
    from concurrent.futures import Executor

_MOST = 8
"""What each may take beside a layer's tree does not grow with the processors beyond these."""
_THREADS_EACH, _DESCRIPTORS_EACH = 3, 10
"""What an executor of processes takes for itself, and something to spare."""


def most() -> int:
    """Return how many may be at work side by side."""
    count = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    return min(count or 1, _MOST)


class Tally:
    """How many names some processes have come across by now, each in its task; `most` are allowed.

    `packed` is the bytes of the archive that they are all of, for the error. Processes have it in
    common that were forked when it was there.
    """

    def __init__(self, tasks: int, most: int, packed: int) -> None:
        self._most, self._packed = most, packed
        self._counts = memoryview(mmap(-1, 8 * tasks)).cast("Q")

    def count(self, task: int, names: int) -> None:
        """Say how many a task has come across. CorruptArchive where all are too many."""
        self._counts[task] = names
        if sum(self._counts) > self._most:
            raise CorruptArchive(
                f"the image's layers have more than {self._most} names, too many for"
                f" {self._packed} bytes, where steps through links and deep directories count"
                " as well; if the archive is compressed, decompress it and try that"
            )


class _Here(threading.local):
    tally: Tally | None = None


_here = _Here()


def own_tally() -> Tally | None:
    """Return what the worker that asks counts for, if it counts."""
    return _here.tally


def _begin(parent: int, tally: Tally | None) -> None:
    processes.end_with(parent)
    _count_for(tally)


def _count_for(tally: Tally | None) -> None:
    _here.tally = tally


def executor(count: int, tally: Tally | None = None) -> "Executor":
    """Return that many processes, which end with this one: outliving it they held its locks.

    A thread must do for a daemon of multiprocessing's, as workers of others are, which may have no
    processes, and for a program that has threads, whose locks a fork would find held for good.
    Raises HostError where the machine has no place for semaphores.
    """
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor  # noqa: PLC0415
    from multiprocessing import current_process, get_context  # noqa: PLC0415

    if current_process().daemon or not processes.may_fork():
        return ThreadPoolExecutor(1, initializer=_count_for, initargs=(tally,))
    _check_room(count)
    try:
        return ProcessPoolExecutor(count, get_context("fork"), _begin, (os.getpid(), tally))
    except OSError as error:
        if error.filename is not None or error.errno in NO_MORE_FILES:
            raise
        # Semaphores, which are files of no name; a bare chroot or container may have no place.
        raise HostError(
            f"layers cannot be indexed by processes: /dev/shm: {error.strerror};"
            " it has to be a tmpfs that all users may write to"
        ) from error


def _check_room(count: int) -> None:
    """Raise OSError or RuntimeError where an executor would get no threads or descriptors.

    It takes them in a thread of its own, whose failure its caller would wait for without end.
    """
    enough = threading.Event()
    threads: list[threading.Thread] = []
    descriptors: list[int] = []
    try:
        for _ in range(_THREADS_EACH):
            threads.append(threading.Thread(target=enough.wait, daemon=True))
            threads[-1].start()
        for _ in range(_DESCRIPTORS_EACH + 4 * count):
            descriptors.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise OSError(error.errno, error.strerror) from None  # whatever file it was
    finally:
        enough.set()
        for descriptor in descriptors:
            os.close(descriptor)
        for thread in threads:
            if thread.ident is not None:
                thread.join()
