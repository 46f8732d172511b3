"""`imagefs report`: an image, or two beside each other, as a page to look at."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from imagefs.cli.options import completed, source_argument, source_options
from imagefs.cli.output import write_bytes
from imagefs.cli.progress_bars import reporter
from imagefs.errors import HostError, UsageError, lacking
from imagefs.image.options import SourceOptions
from imagefs.progress import Progress
from imagefs.source.opening import SourceRequest
from imagefs.store.store import Store
from imagefs.tree import waste
from imagefs.tree.opening import open_tree, open_two
from imagefs.tree.tree import Tree


@click.command(short_help="Write a page that shows what makes an image big.")
@source_argument
@click.argument("other", required=False, metavar="[SOURCE]", **completed("sources"))
@click.option("-o", "--output", metavar="FILE", help="Where to write; standard output by default.")
@source_options
def report(
    source: str, other: str | None, output: str | None, options: SourceOptions, *, quiet: bool
) -> None:
    """Write a page that shows what makes an image big; of two, also what differs.

    The page is one file of HTML that needs nothing else, and asks nobody for anything.
    """
    if output in (None, "-") and sys.stdout.isatty():
        raise UsageError("a terminal does not show the page; say where to write it: -o FILE.html")
    try:
        from imagefs.report import differences, page, survey  # noqa: PLC0415 - jinja2, for who has it
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe", "squarify"):
            raise
        raise lacking("`imagefs report`", error.name, "report") from error
    if other == source == "-":
        raise UsageError("standard input can be read once")
    store = Store()
    with reporter(quiet=quiet) as progress:
        trees = _opened(source, other, options, progress)
        examined = [waste.examine(tree.image, store.index_dir) for tree in trees]
    differs = differences.differences(*trees) if len(trees) == 2 else None
    made = page.page([survey.survey(one) for one in examined], differs).encode()
    if output in (None, "-"):
        write_bytes(made)
    else:
        _write(Path(str(output)), made)


def _opened(
    source: str, other: str | None, options: SourceOptions, progress: Progress
) -> Sequence[Tree]:
    request = SourceRequest(source, options)
    if other is None:
        return (open_tree(request, "rootfs", progress),)
    return open_two(request, SourceRequest(other, options), "rootfs", progress)


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all; what is no file is written into."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
