"""The processes that index layers, which give back to the system the memory that the trees took.

Owns how many there are, and that they can be had at all. Knows nothing of layers.
"""

import os
from typing import TYPE_CHECKING

from imagefs.host import processes

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

_MOST = 8
"""What each may take beside a layer's tree does not grow with the processors beyond these."""
_THREADS_EACH, _DESCRIPTORS_EACH = 3, 10
"""What an executor of processes takes for itself, and something to spare."""


def most() -> int:
    """Return how many may be at work side by side."""
    count = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    return min(count or 1, _MOST)


def executor(count: int) -> "ProcessPoolExecutor":
    """Return that many processes, which end with this one: outliving it they held its locks."""
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415
    from multiprocessing import get_context  # noqa: PLC0415

    _check_room(count)
    return ProcessPoolExecutor(count, get_context("fork"), processes.end_with, (os.getpid(),))


def _check_room(count: int) -> None:
    """Raise OSError or RuntimeError where an executor would get no threads or descriptors.

    It takes them in a thread of its own, whose failure its caller would wait for without end.
    """
    import threading  # noqa: PLC0415

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
