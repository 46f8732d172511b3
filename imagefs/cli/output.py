"""Tables and other words for people, on standard output.

Whatever comes out of an image is shown escaped: a terminal obeys none of it.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from imagefs.errors import HostError
from imagefs.text import printable, size_text

_WIDE = 10_000
_GAP = 2
_LEAST = 8
"""Columns of a terminal that the last column has, however little room is left."""
_BARS = (("█", "░"), ("#", "-"))


def show_table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Print a table; a number is set to the right, and the last column takes what room is left.

    No other column is ever cut: in a terminal that is too narrow for them, lines wrap.
    """
    from rich import box  # noqa: PLC0415 - 60 ms, for those who see a table
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = [list(line) for line in lines]
    cells = [[Text(printable(str(cell))) for cell in row] for row in rows]
    widths = [
        max(len(column), *(row[at].cell_len for row in cells), 0)
        for at, column in enumerate(columns)
    ]
    before = sum(widths[:-1]) + _GAP * (len(columns) - 1)
    # In a pipe nothing is cut: there is no width to fit.
    room = Console().width if sys.stdout.isatty() else _WIDE
    widths[-1] = min(widths[-1], max(room - before, _LEAST))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    for at, (column, width) in enumerate(zip(columns, widths, strict=True)):
        numbers = bool(rows) and all(isinstance(row[at], int | Size) for row in rows)
        table.add_column(
            column,
            justify="right" if numbers else "left",
            width=width,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in cells:
        table.add_row(*row)
    console = Console(width=before + widths[-1], highlight=False)
    # Not printed by the console itself, which makes an error of a reader that has gone.
    with console.capture() as printed:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))


class Size(int):
    """A number of bytes, which a table shows as people write it."""

    def __str__(self) -> str:
        return size_text(self)


def bar(solid: int, light: int, most: int, width: int) -> str:
    """Return a bar of two parts, which has its full width where they come to `most`.

    A part that is not nothing is seen where there is room, if need be at the cost of the other.
    """
    total = _cells(solid + light, most, width)
    second = min(_cells(light, most, width), total)
    if second == total and solid > (0 if total > 1 else light):
        second -= 1
    one, other = next((pair for pair in _BARS if _can_print(pair[0] + pair[1])), _BARS[-1])
    return one * (total - second) + other * second


def _cells(count: int, most: int, width: int) -> int:
    return max(1, round(width * count / most)) if count else 0


def _can_print(words: str) -> bool:
    try:
        words.encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def show_lines(lines: Iterable[str]) -> None:
    """Print lines as they are, however wide."""
    for line in lines:
        write_text(printable(line) + "\n")


def show_json(value: Any) -> None:
    """Print a value as JSON, in ASCII."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def write_text(text: str) -> None:
    """Write text as it is; HostError where standard output cannot take it."""
    with written():
        sys.stdout.write(text)


def write_bytes(content: bytes) -> None:
    """Write bytes as they are; HostError where standard output cannot take them."""
    with written():
        sys.stdout.buffer.write(content)


@contextmanager
def written() -> Iterator[None]:
    """Say of what that goes wrong that it is standard output's; but a reader may leave."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"standard output: {error.strerror}") from error
