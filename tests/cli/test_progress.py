"""What long work says, to a terminal, to a file and to nobody."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from imagefs.cli.progress_bars import reporter
from imagefs.progress import Progress
from imagefs.text import duration_text, size_text


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
    reading.join(60)
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


def in_parts(report: Progress) -> None:
    report.phase("pulling", 5_000_000)
    parts = (report.part("layer 0 012345", 3_000_000), report.part("layer 1 [red]", 2_000_000))
    with parts[0] as first, parts[1] as second:
        second(1_000_000)
        first(3_000_000)
        second(1_000_000)


def test_parts_of_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that is done gets a line with its rate, and the phase says what is left of it."""
    now = [0.0]
    monkeypatch.setattr("imagefs.cli.progress_bars.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with reporter(stream=stream) as report:
        report.phase("pulling", 100_000_000)
        with report.part("layer 0 0123456789ab", 20_000_000) as took:
            now[0] = 10.0
            took(20_000_000)
    assert stream.getvalue().splitlines() == [
        "imagefs: pulling",
        "imagefs: pulling: 20.0 MB of about 100 MB, 2.0 MB/s, about 40 s left",
        "imagefs: pulling: layer 0 0123456789ab, 20.0 MB, 2.0 MB/s",
        "imagefs: pulling: 20.0 MB of about 100 MB, 2.0 MB/s, about 40 s left",
    ]


def test_parts_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a bar of its own while it lasts."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")

    def run(stream: io.TextIOWrapper) -> None:
        with reporter(stream=stream) as report:
            in_parts(report)
            assert [task.completed for task in report._bars.tasks] == [5_000_000]  # type: ignore[attr-defined]

    assert "pulling" in on_a_terminal(run)


def test_no_bar_is_drawn_while_the_process_forks() -> None:
    """Of two threads a fork takes one, and what the other held; the bar goes on behind it."""
    script = """
import os, pty, threading
seen = []
os.register_at_fork(before=lambda: seen.append(threading.active_count()))
from imagefs.cli.progress_bars import reporter
from imagefs.host.processes import may_fork
ours, theirs = pty.openpty()
with open(theirs, "w") as stream, reporter(stream=stream) as report:
    report.phase("indexing")
    for _ in range(3):
        assert threading.active_count() == 2
        assert may_fork()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    os.read(ours, 65536)
    report.phase("checking")
    said = b""
    while b"checking" not in said:
        said += os.read(ours, 65536)
assert seen == [1, 1, 1], seen
assert threading.active_count() == 1
"""
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", script], env=environment, timeout=120, check=True)


def test_a_bar_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal is: what moved is shown, and the name cut."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")

    def run(stream: io.TextIOWrapper) -> None:
        with reporter(stream=stream) as report:
            report.phase("fetching an image of a name that is long", 3_000_000_000)
            report.advance(1_500_000_000)

    drawn = on_a_terminal(run).partition("\x1b[?25h")[0]
    assert "1.5 GB of 3.0 GB" in drawn
    assert "\n" not in drawn.rstrip("\r\n")


@pytest.mark.parametrize("quiet", [False, True])
def test_work_goes_on_where_nobody_can_be_told(quiet: bool) -> None:
    """And whoever flushes the stream later, as those do who start processes, comes to no harm."""
    with open("/dev/full", "w") as stream:
        with reporter(quiet=quiet, stream=stream) as report:
            work(report)
        stream.flush()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "2 h")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    """In the unit that says it shortest."""
    assert duration_text(seconds) == text


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
