"""`imagefs cp` and `imagefs export`: taking files out of an image, without a mount.

Owns where the bytes go: to files that are whole or not there, or to standard output.
"""

import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from imagefs.cli import output
from imagefs.cli.look import opened
from imagefs.cli.options import completed, source_argument, source_options, view_option
from imagefs.cli.progress_bars import reporter
from imagefs.errors import HostError, UsageError
from imagefs.host.files import published
from imagefs.image.options import SourceOptions
from imagefs.progress import Progress
from imagefs.source.opening import SourceRequest
from imagefs.tree import extract
from imagefs.tree.export import write_tar
from imagefs.tree.tree import Tree


@click.command(short_help="Copy files of an image to a directory.")
@source_argument
@click.argument("path", **completed("paths"))
@click.argument("dest", **completed("directories"))
@view_option
@source_options
def cp(
    source: str, path: str, dest: str, view: str, options: SourceOptions, *, quiet: bool
) -> None:
    """Copy a file or a directory of an image to DEST, or as a tar to - for standard output.

    Modes, times, links, hard links, holes and extended attributes are kept; as root, owners and
    devices are, too.
    """
    if dest == "-":
        _refuse_terminal()
    request = SourceRequest(source, options)
    with opened(request, view, quiet=quiet) as tree, _told("copying", quiet) as progress:
        if dest == "-":
            write_tar(tree, path, output.write_bytes, progress)
        else:
            extract.copy(tree, path, dest, progress)


@click.command(short_help="Write an image's merged root as one file.")
@source_argument
@click.option(
    "-o", "--output", "to", metavar="FILE", default="-", help="Where to; - is standard output."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["tar", "erofs"]),
    default="tar",
    show_default=True,
    help="A tar, or an EROFS image, which any kernel mounts.",
)
@view_option
@source_options
def export(
    source: str, to: str, kind: str, view: str, options: SourceOptions, *, quiet: bool
) -> None:
    """Write an image's merged root as one file, the same bytes each time."""
    if kind == "erofs" and to == "-":
        raise UsageError("an EROFS image is not written front to back: name a file with -o")
    if to == "-":
        _refuse_terminal()
    request = SourceRequest(source, options)
    with opened(request, view, quiet=quiet) as tree, _told("exporting", quiet) as progress:
        if kind == "erofs":
            from imagefs.erofs.export import export as write_erofs  # noqa: PLC0415

            tree.fs.show_only(tree.view)
            path = Path(to).resolve()
            write_erofs(tree.fs, path)
            path.chmod(0o666 & ~_umask())
        elif to == "-":
            write_tar(tree, "/", output.write_bytes, progress)
        else:
            _write_file(tree, Path(to), progress)


def _refuse_terminal() -> None:
    if sys.stdout.isatty():
        raise UsageError("a tar is nothing for a terminal: name a file, or use a pipe")


@contextmanager
def _told(doing: str, quiet: bool) -> Iterator[Progress]:
    """Have a bar on a terminal; elsewhere the work speaks for itself.

    Who ends it by a signal is heard like who presses Ctrl-C: what is half-made goes first.
    """
    before = {one: signal.signal(one, _end) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with reporter(quiet=quiet or not sys.stderr.isatty()) as progress:
            progress.phase(doing)
            yield progress
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _write_file(tree: Tree, path: Path, progress: Progress) -> None:
    """Write the root's tar to a file, which is whole or not there; as it comes to a device."""
    with _named(path):
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as out:
                write_tar(tree, "/", out.write, progress)
            return
        # What a link leads to is replaced, and not the link.
        with published(path.resolve()) as out:
            os.fchmod(out.fileno(), 0o666 & ~_umask())
            write_tar(tree, "/", out.write, progress)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What of an image cannot be read is another error by then."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error


def _umask() -> int:
    """Return the bits that files of ours have not; a process has no other way to know."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
