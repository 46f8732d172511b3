"""Tables and other words for people, on standard output.

Whatever comes out of an image is shown escaped: a terminal obeys none of it.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from imagefs.text import printable

_WIDE = 10_000


def show_table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Print a table; a number is set to the right, and the last column takes what room is left."""
    from rich import box  # noqa: PLC0415 - 60 ms, for those who see a table
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = [list(line) for line in lines]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[at], int) for row in rows)
        last = at == len(columns) - 1
        table.add_column(
            column,
            justify="right" if numbers else "left",
            no_wrap=True,
            overflow="ellipsis" if last else "fold",
        )
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    # In a pipe nothing is cut: there is no width to fit.
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _WIDE, highlight=False)
    # Not printed by the console itself, which makes an error of a reader that has gone.
    with console.capture() as printed:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))


def show_lines(lines: Iterable[str]) -> None:
    """Print lines as they are, however wide."""
    for line in lines:
        sys.stdout.write(printable(line) + "\n")


def show_json(value: Any) -> None:
    """Print a value as JSON, in ASCII."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
