"""Counts and limits that a run of the tests prints at its end, for the table in tests/README.md."""

from collections import Counter
from collections.abc import Callable

import pytest
from _pytest.terminal import TerminalReporter

from tests.support.limits import LIMITS

_PREFIX = "count: "


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Give a test the means to say how many of what it checked, as `topic: kind`."""
    return lambda what, number: record_property(_PREFIX + what, number)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the sums of what all tests counted, by topic."""
    sums: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name.startswith(_PREFIX):
                        sums[name.removeprefix(_PREFIX)] += value
    if sums:
        terminalreporter.section("trust")
    for topic in sorted({what.partition(": ")[0] for what in sums}):
        kinds = {k.partition(": ")[2]: n for k, n in sums.items() if k.startswith(f"{topic}: ")}
        listed = ", ".join(f"{kind} {number:,}" for kind, number in sorted(kinds.items()))
        terminalreporter.line(f"{topic}: {sum(kinds.values()):,} ({listed})")
    if sums:
        listed = ", ".join(f"{limit.what} {limit.value}" for limit in LIMITS)
        terminalreporter.line(f"limits: {listed}")
