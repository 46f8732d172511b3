"""What long work says on a terminal, and where there is none.

Owns the bar on a terminal and the plain lines elsewhere; none says what a terminal would obey. A
bar is drawn by a thread, which rests while the process forks: what a thread holds just then, the
other process would have for good.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from imagefs.host import processes
from imagefs.progress import Progress, Silent, say
from imagefs.text import duration_text, printable, size_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_DRAWINGS = 0.1
_BAR = 16
"""Columns of a bar."""


class _Work:
    """How far work of `total` bytes, if that is known, has come since it began."""

    def __init__(self, total: int | None) -> None:
        self.done, self._total = 0, total
        self._since = time.monotonic()

    def words(self, about: str = "") -> str:
        """Return it for people, with a word before what is not known for certain."""
        seconds = max(time.monotonic() - self._since, 0.001)
        of = f" of {about}{size_text(self._total)}" if self._total else ""
        rate = size_text(int(self.done / seconds))
        rest = max(0, (self._total or 0) - self.done) * seconds / max(self.done, 1)
        left = f", {about}{duration_text(rest)} left" if rest >= 1 else ""
        return f"{size_text(self.done)}{of}, {rate}/s{left}"


class Lines(Silent):
    """Writes a line for each phase, and one every few seconds of a long one."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._out = stream
        self._text = ""
        self._begin(None)

    def _begin(self, total: int | None) -> None:
        self._work = _Work(total)
        self._said = time.monotonic()

    def phase(self, text: str, total: int | None = None) -> None:
        """Write the end of the former phase, if it moved bytes, and the new phase's name."""
        self.finish()
        self._text = text
        self._begin(total)
        self._line(text)

    def advance(self, count: int) -> None:
        """Count, and write a line if none was written for some seconds."""
        self._work.done += count
        if time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
            self._report()

    @contextmanager
    def part(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Write a line when the part is done."""
        since = time.monotonic()
        yield self.advance
        rate = size_text(int(total / max(time.monotonic() - since, 0.001)))
        self._line(f"{self._text}: {text}, {size_text(total)}, {rate}/s")

    def note(self, text: str) -> None:
        """Write the note as a line."""
        self._line(text)

    def finish(self) -> None:
        """Write how much was done in the phase, if it moved bytes."""
        if self._work.done:
            self._report()
            self._work.done = 0

    def _report(self) -> None:
        self._said = time.monotonic()
        self._line(f"{self._text}: {self._work.words('about ')}")

    def _line(self, text: str) -> None:
        say(self._out, text)


class Bar:
    """Draws bars of rich's on a terminal."""

    def __init__(self, bars: "RichProgress") -> None:
        self._bars = bars
        self._advance: Callable[[int], None] = lambda count: None
        self._task: TaskID | None = None

    def phase(self, text: str, total: int | None = None) -> None:
        """Replace the bar by that of a new phase."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task, self._advance = self._bar(text, total)

    def _bar(self, text: str, total: int | None) -> "tuple[TaskID, Callable[[int], None]]":
        """Add a bar; return it, and what moves it."""
        work = _Work(total)
        task = self._bars.add_task(printable(text), total=total, moved="")

        def advance(count: int) -> None:
            work.done += count
            self._bars.update(task, advance=count, moved=work.words())

        return task, advance

    def advance(self, count: int) -> None:
        """Move the bar."""
        self._advance(count)

    @contextmanager
    def part(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Draw a bar of its own below that of the phase."""
        task, move = self._bar(text, total)

        def advance(count: int) -> None:
            move(count)
            self.advance(count)

        try:
            yield advance
        finally:
            self._bars.remove_task(task)

    def note(self, text: str) -> None:
        """Write the note above the bar."""
        words = f"imagefs: {printable(text)}"
        self._bars.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Write the warning above the bar."""
        self.note(f"warning: {text}")


@contextmanager
def reporter(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[Progress]:
    """Report on `stream` (standard error) while the block runs, in the way that suits it."""
    stream = stream or sys.stderr
    if quiet:
        yield Silent(stream)
    elif stream.isatty():
        yield from _bar(stream)
    else:
        lines = Lines(stream)
        yield lines
        lines.finish()


def _bar(stream: TextIO) -> Iterator[Progress]:
    from rich import progress as rich  # noqa: PLC0415 - 60 ms, and only on terminals
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Column  # noqa: PLC0415

    # Each bar has one line, as two could not be drawn anew: where it is too long, the name is cut.
    name = Column(ratio=1, no_wrap=True)
    columns = (
        rich.SpinnerColumn(),
        rich.BarColumn(_BAR),
        rich.TextColumn("{task.description}", markup=False, table_column=name),
        rich.TextColumn("{task.fields[moved]}", markup=False),
    )
    console = Console(file=stream)
    with rich.Progress(
        *columns, console=console, auto_refresh=False, transient=True, expand=True
    ) as bars:
        drawing = _Drawing(bars)
        _at_work.add(drawing)
        drawing.begin()
        try:
            yield Bar(bars)
        finally:
            _at_work.discard(drawing)
            drawing.rest()


class _Drawing:
    """Draws bars anew again and again, in a thread of its own."""

    def __init__(self, bars: "RichProgress") -> None:
        self._bars = bars

    def begin(self) -> None:
        """Draw from now on."""
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imagefs-bar", daemon=True)
        processes.RESTING.add(self._thread)
        self._thread.start()

    def rest(self) -> None:
        """Draw no more; the thread has ended behind this."""
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(_SECONDS_BETWEEN_DRAWINGS):
            self._bars.refresh()


_at_work: set[_Drawing] = set()


def _all_rest() -> None:
    for drawing in _at_work:
        drawing.rest()


def _all_begin() -> None:
    for drawing in _at_work:
        drawing.begin()


os.register_at_fork(before=_all_rest, after_in_parent=_all_begin, after_in_child=_at_work.clear)
