"""tests/README.md lists the limits that the code has, and a run of the tests prints them."""

import re
from pathlib import Path

import click

from imagefs.cli.main import cli
from imagefs.index import fold, rows
from imagefs.vfs import nodeid
from tests.support.limits import LIMITS, size

README = (Path(__file__).parent / "README.md").read_text()


def test_the_readme_has_the_limits_of_the_code() -> None:
    """Its table has a row for each limit, in order, with the value and the option."""
    table = README.partition("| At most | | Option |\n")[2].partition("\n\n")[0]
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in table.splitlines()]
    assert rows[1:] == [(limit.what, limit.value, shown(limit.option)) for limit in LIMITS]


def shown(option: str) -> str:
    return option if option.startswith("`--") else f"fixed: {option}"


def test_the_options_exist() -> None:
    """A limit that can be set is set by an option of every command that opens a source."""
    options = re.findall(r"`(--[a-z-]+)`", " ".join(limit.option for limit in LIMITS))
    assert options
    for option in options:
        for name in ("mount", "layers", "inspect", "fetch"):
            command = cli.get_command(click.Context(cli), name)
            assert command is not None
            assert option in {word for one in command.params for word in one.opts}


def test_sizes_are_exact() -> None:
    """No size is rounded."""
    assert [size(n) for n in (64 * 10**9, 1 << 30, 5 << 20, 4096)] == [
        "64 GB",
        "1 GiB",
        "5 MiB",
        "4,096 bytes",
    ]


def test_rows_have_numbers() -> None:
    """A node id tells all rows apart that a layer's members and implied directories can make."""
    assert 1 + fold.MAX_MEMBERS + fold.MAX_IMPLIED <= rows.MAX_ROWS == nodeid.MAX_ROWS
