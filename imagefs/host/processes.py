"""Processes: when there may be helpers, that these end with the one they help, and how to tell that
one is about to end.

Knows nothing of what they do.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from threading import Thread

RESTING: "WeakSet[Thread]" = WeakSet()
"""Threads that hold nothing while the process forks, as they have ended by then."""

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def _bit(number: signal.Signals) -> int:
    return 1 << number - 1


_ENDING = sum(
    map(
        _bit,
        (
            signal.SIGHUP,
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGABRT,
            signal.SIGTERM,
            signal.SIGKILL,  # the kernel adds it to any other that ends a process
        ),
    )
)


def is_to_end(thread: int) -> bool:
    """Tell whether a thread has been sent a signal that asks to end and has yet to act upon it.

    Of a thread that cannot be looked at, 0 among them, it is assumed.
    """
    return bool(_pending(f"{thread}/status") & _ENDING)


def is_killed(pid: int) -> bool:
    """Tell whether a process is being ended, though something in the kernel may hold it up."""
    return bool(_pending(f"{pid}/task/*/status") & _bit(signal.SIGKILL))


def _pending(pattern: str) -> int:
    """Return the signals that threads have yet to act upon, a bit each; of no thread, all."""
    found = 0
    try:
        texts = [path.read_text() for path in Path("/proc").glob(pattern)]
    except OSError:
        return -1
    for text in texts:
        fields = dict(line.split(":", 1) for line in text.splitlines())
        found |= int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return found if texts else -1


def wait_for_end(process: int, seconds: float) -> None:
    """Wait until the process that a descriptor is of (pidfd_open(2)) has ended, or so long."""
    import select  # noqa: PLC0415

    ended = select.poll()
    ended.register(process, select.POLLIN)
    ended.poll(seconds * 1000)


def may_fork() -> bool:
    """Tell whether a fork finds no lock held for good: no other thread is there that takes any."""
    import threading  # noqa: PLC0415

    here = threading.current_thread()
    return all(one is here or one in RESTING for one in threading.enumerate())


def end_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, or its process.

    To be called by the helper, first of all.
    """
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
