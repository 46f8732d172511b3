"""Processes: helpers that end with the one they help, and how to tell that one is about to end.

Knows nothing of what they do.
"""

import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


_ENDING = sum(
    1 << number - 1
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGABRT,
        signal.SIGTERM,
        signal.SIGKILL,  # the kernel adds it to any other that ends a process
    )
)


def is_to_end(thread: int) -> bool:
    """Tell whether a thread has been sent a signal that asks to end and has yet to act upon it.

    Of a thread that cannot be looked at, 0 among them, it is assumed.
    """
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return True
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return bool((int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)) & _ENDING)


def end_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, or its process.

    To be called by the helper, first of all.
    """
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
