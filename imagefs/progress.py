"""How long work says what it does while it runs: its phase, its bytes, notes about what happened.

Owns the interface, and the way to say nothing but warnings. Knows nothing of the work. `advance`
may be called from any thread, and often; so may `part` and `note`; the rest belongs to the thread
that runs the work.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from imagefs.text import printable


class Progress(Protocol):
    """Somebody who is told how work goes on."""

    def phase(self, text: str, total: int | None = None) -> None:
        """Begin a phase of the work, of about `total` bytes if that is known."""

    def advance(self, count: int) -> None:
        """Note that `count` more bytes of the phase are done."""

    def part(self, text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show a part of the phase while the block runs; `total` bytes of the phase are its own.

        What the block is given notes that so many more of them are done.
        """

    def note(self, text: str) -> None:
        """Pass on something that is worth knowing, such as waiting for another process."""

    def warn(self, text: str) -> None:
        """Pass on something that the user should act on or be aware of."""


def say(stream: TextIO, text: str) -> None:
    """Write a line; where nobody can be told, the work goes on all the same."""
    try:
        stream.write(f"imagefs: {printable(text)}\n")
        stream.flush()
    except OSError:
        # The line is still in the stream, and would fail whoever flushes that next.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Silent:
    """Says nothing but warnings."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def phase(self, text: str, total: int | None = None) -> None:
        """Say nothing."""

    def advance(self, count: int) -> None:
        """Say nothing."""

    @contextmanager
    def part(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Say nothing of the part; its bytes are the phase's."""
        yield self.advance

    def note(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Write the warning as a line, if there is a stream to write to."""
        if self._stream is not None:
            say(self._stream, f"warning: {text}")
