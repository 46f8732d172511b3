"""Tables and other words for people, on standard output.

Whatever comes out of an image is shown escaped: a terminal obeys none of it.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from imagefs.errors import HostError
from imagefs.text import printable, size_text

_WIDE = 10_000
_GAP = 2
_LEAST = 10
"""Columns of a terminal that the last column has, however little room is left."""
_BARS = (("█", "░"), ("#", "-"))


def show_table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Print a table; a number is set to the right, and the last column takes what room is left.

    In a terminal that is too narrow, columns without a head, which are for the eye, are left out.
    No other column but the last is ever cut: lines wrap.
    """
    from shutil import get_terminal_size  # noqa: PLC0415

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
    # In a pipe nothing is cut: there is no width to fit.
    room = get_terminal_size().columns if sys.stdout.isatty() else _WIDE
    kept = _kept(columns, widths, room)
    before = sum(widths[at] + _GAP for at in kept[:-1])
    widths[-1] = min(widths[-1], max(room - before, _LEAST))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    for at in kept:
        numbers = bool(rows) and all(isinstance(row[at], int | Size) for row in rows)
        table.add_column(
            columns[at],
            justify="right" if numbers else "left",
            width=widths[at],
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in cells:
        table.add_row(*(row[at] for at in kept))
    console = Console(width=before + widths[-1], highlight=False)
    # Not printed by the console itself, which makes an error of a reader that has gone. It flushes.
    with written(), console.capture() as printed:
        console.print(table)
    write_text("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))


def _kept(columns: Sequence[str], widths: Sequence[int], room: int) -> list[int]:
    """Return which columns are shown."""
    last = len(columns) - 1
    if sum(widths[:-1]) + _GAP * last + _LEAST <= room:
        return list(range(last + 1))
    return [at for at, column in enumerate(columns) if column or at == last]


def moment(seconds: float) -> str:
    """Return a time, in seconds since 1970, as people here write it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


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
    write_text(json.dumps(value, indent=2) + "\n")


def write_text(text: str) -> None:
    """Write text as it is; HostError where standard output cannot take it."""
    with written():
        sys.stdout.write(text)


def write_bytes(content: bytes) -> None:
    """Write bytes as they are; HostError where standard output cannot take them."""
    with written():
        sys.stdout.buffer.write(content)


def flush() -> None:
    """Have all that was written be where it is to go; HostError where that cannot take it."""
    with written():
        sys.stdout.flush()


@contextmanager
def written() -> Iterator[None]:
    """Say of what that goes wrong that it is standard output's; but a reader may leave."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"standard output: {error.strerror}") from error
