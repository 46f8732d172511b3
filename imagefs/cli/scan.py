"""`imagefs scan`: many images searched or catalogued, each layer once.

Owns what is printed of what a scan finds, and the exit status, which is grep(1)'s.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from imagefs.cli.options import completed, source_options
from imagefs.cli.output import flush, write_text
from imagefs.cli.progress_bars import reporter
from imagefs.cli.quantities import size
from imagefs.cli.trouble import trouble
from imagefs.errors import HostError, UsageError, lacking
from imagefs.image.options import SourceOptions
from imagefs.progress import say
from imagefs.scanning.model import Found
from imagefs.scanning.patterns import Catalogue, Entry, Grep, Match, Which
from imagefs.scanning.pools import Cluster, Pool, Processes
from imagefs.scanning.scan import Scan
from imagefs.scanning.state import State
from imagefs.source.opening import SourceRequest
from imagefs.text import counted, printable

_FOUND, _NOTHING, _TROUBLE = 0, 1, 2


@click.command(short_help="Search or catalogue many images, each layer once.")
@click.argument("words", nargs=-1, metavar="PATTERN SOURCE...", **completed("sources"))
@click.option("-e", "patterns", multiple=True, metavar="PATTERN", help="Look for this as well.")
@click.option(
    "-f",
    "pattern_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Look for each line of FILE.",
)
@click.option("-i", "ignore_case", is_flag=True, help="Ignore case.")
@click.option("-a", "text", is_flag=True, help="Show lines of binary files, too.")
@click.option("--path", "globs", multiple=True, metavar="GLOB", help="Only files of that name.")
@click.option("--max-size", type=size, metavar="SIZE", help="Only files up to that size.")
@click.option("--files", is_flag=True, help="List all files with SHA-256, and look for nothing.")
@click.option("--deleted", is_flag=True, help="Only what no image's final root shows.")
@click.option(
    "--sources",
    "source_file",
    metavar="FILE",
    help="Read more sources from FILE, one a line; - is standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
@click.option(
    "-o", "output", type=click.Path(path_type=Path), metavar="FILE", help="Write Parquet to FILE."
)
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="Remember layers.")
@click.option("--dask", metavar="ADDRESS", help="Have the workers of this scheduler do it.")
@click.option("-j", "processes", type=click.IntRange(1), metavar="N", help="That many processes.")
@source_options
@trouble()
def scan(
    words: tuple[str, ...],
    patterns: tuple[str, ...],
    pattern_file: Path | None,
    options: SourceOptions,
    *,
    files: bool,
    deleted: bool,
    source_file: str | None,
    as_json: bool,
    output: Path | None,
    state: Path | None,
    dask: str | None,
    processes: int | None,
    quiet: bool,
    **how: Any,
) -> int:
    """Search or catalogue many images: each layer that they share is read once.

    PATTERN is a regular expression of Python's, over bytes, by line. A line of output is
    IMAGE:LAYER/PATH:TEXT, for the first image that holds the layer; --json names all, and whether
    their final roots show the file. The exit status is 0 if something was found, 1 if nothing
    was, and 2 if something could not be read.
    """
    looked_for = [os.fsencode(one) for one in patterns]
    if pattern_file is not None:
        looked_for += _lines_of(pattern_file)
    rest = list(words)
    if not looked_for and not files:
        if not rest:
            raise UsageError("say what to look for: PATTERN, -e, -f or --files")
        looked_for.append(os.fsencode(rest.pop(0)))
    sources = [*rest, *(_sources_of(source_file) if source_file else ())]
    if not sources:
        raise UsageError("name the sources to look into, or --sources FILE")
    which = Which(how["globs"], how["max_size"])
    function: Grep | Catalogue = Catalogue(which)
    if not files:
        function = Grep(tuple(looked_for), how["ignore_case"], how["text"], which)
        function.search()
    requests = [SourceRequest(source, options) for source in sources]
    kept = State(state, repr(function)) if state is not None else None
    writing = _parquet(output, files) if output else _printing(_json if as_json else _line)
    count = 0
    with _pool(dask, processes) as pool, reporter(quiet=quiet) as progress, writing as write:
        done = Scan(requests, function, pool, kept, progress)
        for found in done:
            if not deleted or not any(found.shown):
                count += 1
                write(found)
    flush()
    for failure in done.failures:
        where = "".join(f": {one}" for one in (failure.layer, failure.path) if one)
        line = f"{failure.source}{where}: {failure.reason}"
        say(sys.stderr, " ".join(line.split()))
    if not quiet:
        progress.note(
            f"{counted(done.images, 'image')}, {counted(done.layers_read, 'layer')} read and"
            f" {done.layers_known} known, {counted(done.files_read, 'file')},"
            f" {counted(done.bytes_read, 'byte')}"
        )
    return _TROUBLE if done.failures else _FOUND if count else _NOTHING


def _lines_of(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(b"\n") if line]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _sources_of(name: str) -> list[str]:
    lines = sys.stdin.buffer.read().split(b"\n") if name == "-" else _lines_of(Path(name))
    return [os.fsdecode(line.strip()) for line in lines if line.strip()]


@contextmanager
def _pool(address: str | None, processes: int | None) -> Iterator[Pool]:
    if address is None:
        yield Processes(processes)
        return
    if processes is not None:
        raise UsageError("-j is for processes of this machine: leave it out, or --dask")
    try:
        import distributed  # noqa: PLC0415
    except ImportError as error:
        raise lacking("--dask", "Dask", "dask") from error
    try:
        client: Any = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise HostError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        yield Cluster(client)


Writer = Callable[[Found], None]


@contextmanager
def _printing(line: Callable[[Found], str]) -> Iterator[Writer]:
    def write(found: Found) -> None:
        write_text(line(found) + "\n")

    yield write


def _line(found: Found) -> str:
    """Return a line as grep prints it; a terminal obeys nothing of it."""
    holder, value = found.holders[0], found.value
    place = f"{holder.name or holder.source}:{holder.directory}{found.path}"
    if isinstance(value, Entry):
        return printable(f"{value.sha256}  {value.size:>12}  {place}")
    if value.line is None:
        return printable(f"Binary file {place} matches")
    text = value.line.decode("utf-8", "backslashreplace").rstrip("\r")
    return f"{printable(place)}:{printable(text)}"


def _json(found: Found) -> str:
    return json.dumps(_flat(found))


def _flat(found: Found) -> dict[str, Any]:
    value: Match | Entry = found.value
    row: dict[str, Any] = {"layer": found.layer, "path": found.path, **value._asdict()}
    if isinstance(value, Match):
        row["line"] = None if value.line is None else os.fsdecode(value.line)
    row["step"] = found.step
    row["images"] = [
        {**asdict(holder), "shown": shown}
        for holder, shown in zip(found.holders, found.shown, strict=True)
    ]
    return row


_TOGETHER = 10_000


@contextmanager
def _parquet(path: Path, files: bool) -> Iterator[Writer]:
    """Write rows to a file, which is there when all of them are in it."""
    try:
        import pyarrow as arrow  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise lacking("-o", "PyArrow", "parquet") from error
    text, number = arrow.string(), arrow.int64()
    held = dict.fromkeys(("source", "image", "name", "directory"), text)
    fields = dict.fromkeys(("size", "mode", "uid", "gid"), number) | {"sha256": text}
    if not files:
        fields = {"offset": number, "number": number, "line": arrow.binary()}
    schema = arrow.schema(
        {
            "layer": text,
            "path": text,
            **fields,
            "step": text,
            "images": arrow.list_(arrow.struct({**held, "shown": arrow.bool_()})),
        }
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    waiting: list[dict[str, Any]] = []

    def flush() -> None:
        writer.write_table(arrow.Table.from_pylist(waiting, schema))
        waiting.clear()

    def write(found: Found) -> None:
        row = _flat(found)
        if not files:
            row["line"] = found.value.line
        row["path"] = os.fsencode(found.path).decode("utf-8", "backslashreplace")
        waiting.append(row)
        if len(waiting) >= _TOGETHER:
            flush()

    try:
        with temporary.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
            yield write
            flush()
        temporary.rename(path)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
