"""What long work says, to a terminal, to a file and to nobody."""

import io
import os
import pty
import re
import threading
from collections.abc import Callable

import pytest

from imagefs.cli.progress_bars import reporter
from imagefs.progress import Progress
from imagefs.text import size_text


def work(report: Progress) -> None:
    report.phase("the engine is preparing the export")
    report.phase("fetching", 3_000_000)
    report.advance(1_000_000)
    report.advance(2_000_000)
    report.note("another process waits")
    report.warn("the engine is down")
    report.phase("checking")


def on_a_terminal(run: Callable[[io.TextIOWrapper], None]) -> str:
    """Return what `run` writes to a terminal."""
    ours, theirs = pty.openpty()
    said = bytearray()

    def read() -> None:
        while True:
            try:
                said.extend(os.read(ours, 65536))
            except OSError:
                return

    reading = threading.Thread(target=read)
    reading.start()
    with open(theirs, "w", encoding="utf-8") as stream:
        run(stream)
    reading.join(10)
    os.close(ours)
    return said.decode()


def test_plain_lines() -> None:
    """A line for each phase, and what it moved, without anything that moves a cursor."""
    stream = io.StringIO()
    with reporter(stream=stream) as report:
        work(report)
    lines = stream.getvalue().splitlines()
    moved = lines.pop(4)
    assert re.fullmatch(r"imagefs: fetching: 3.0 MB of about 3.0 MB, .* .B/s", moved)
    assert lines == [
        "imagefs: the engine is preparing the export",
        "imagefs: fetching",
        "imagefs: another process waits",
        "imagefs: warning: the engine is down",
        "imagefs: checking",
    ]


def test_long_work_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase that lasts gets a line every few seconds, not one for each step."""
    now = [0.0]
    monkeypatch.setattr("imagefs.cli.progress_bars.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with reporter(stream=stream) as report:
        report.phase("fetching")
        for _ in range(48):
            now[0] += 0.25
            report.advance(500_000)
    assert stream.getvalue().splitlines() == [
        "imagefs: fetching",
        "imagefs: fetching: 10.0 MB, 2.0 MB/s",
        "imagefs: fetching: 20.0 MB, 2.0 MB/s",
        "imagefs: fetching: 24.0 MB, 2.0 MB/s",
    ]


def test_quiet() -> None:
    """Nothing but warnings."""
    stream = io.StringIO()
    with reporter(quiet=True, stream=stream) as report:
        work(report)
    assert stream.getvalue() == "imagefs: warning: the engine is down\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase, bytes and notes are drawn; the bar is gone in the end, the notes stay."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def run(stream: io.TextIOWrapper) -> None:
        with reporter(stream=stream) as report:
            work(report)

    said = on_a_terminal(run)
    assert "checking" in said
    assert "imagefs: another process waits" in said
    assert "imagefs: warning: the engine is down" in said
    assert said.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in said


def test_names_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square brackets in what is reported are square brackets."""
    monkeypatch.setenv("TERM", "xterm")

    def run(stream: io.TextIOWrapper) -> None:
        with reporter(stream=stream) as report:
            report.phase("fetching [red]a[/]")
            report.note("[bold]")

    assert "imagefs: [bold]" in on_a_terminal(run)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_499, "99.5 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_500_000_000, "1.5 GB"),
        (2_000_000_000_000, "2.0 TB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    """Decimal units, at most three digits."""
    assert size_text(count) == text
