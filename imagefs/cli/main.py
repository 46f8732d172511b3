"""The command line: parse, wire, print.

Owns which commands there are, exit statuses and how errors are shown. A command's options and
what it does are in the module of its topic, which is loaded when it is called.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from imagefs import __version__
from imagefs.cli import mount_helper
from imagefs.cli.output import flush, written
from imagefs.errors import RunError, UsageError, in_words

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130

_debug = False


Translation = Callable[[Sequence[str]], list[str]]
"""From the words of a program that calls us as it calls others to the words of our commands."""


def main(args: Sequence[str] | None = None, translate: Translation | None = None) -> NoReturn:
    """Run a command and exit: 0, 1 for image, engine or host, 2 for usage, 130 for Ctrl-C."""
    _have_standard_files()
    sys.exit(run(args, translate))


def _have_standard_files() -> None:
    """Open what our caller has closed, so that no file of ours comes to be standard output.

    To read or write what was closed fails all the same; only errors go nowhere.
    """
    for fd, way in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, way)
            os.set_inheritable(fd, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process is
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def run(args: Sequence[str] | None = None, translate: Translation | None = None) -> int:
    """Run a command and return its exit status; an error is one line on standard error."""
    words = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, TextIOWrapper):
        # As standard error does: a letter that the terminal's encoding lacks is no error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if translate is None and mount_helper.is_call(words, _COMMANDS):
            translate = mount_helper.words
        if translate is not None:
            words = translate(words)
        status = cli.main(words, prog_name="imagefs", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return _USAGE
    except (Exception, KeyboardInterrupt) as error:
        status = _fail(*_judged(error))
    _let_go_of_streams()
    return status if isinstance(status, int) else 0


def _judged(error: BaseException) -> tuple[str, int]:
    """Return an error's line and exit status."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted", _INTERRUPTED
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        return error.format_message().removesuffix(".") + hint, _USAGE
    if isinstance(error, RunError):
        return str(error), error.status
    return in_words(error), _USAGE if isinstance(error, UsageError) else _FAILED


def _let_go_of_streams() -> None:
    """Leave nothing to the interpreter's end, which would complain of it once more."""
    for name in ("stdout", "stderr"):
        try:
            if getattr(sys, name) is not None:
                getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, None)


def _fail(words: str, status: int) -> int:
    from imagefs.text import printable  # noqa: PLC0415

    if _debug and sys.exc_info()[0] is not None:
        logging.getLogger(__name__).error("traceback", exc_info=True)
    with contextlib.suppress(OSError):  # then there is nobody to be told
        click.echo(f"imagefs: {printable(' '.join(words.split()))}", err=True)
    return status


_COMMANDS = {
    "mount": ("mounting", "Mount an image on a directory."),
    "serve": ("mounting", "Show all images of the engine as directories."),
    "unmount": ("mounting", "Take mounts away, dead ones too."),
    "mounts": ("mounting", "List the mounts of imagefs."),
    "run": ("run", "Run a command of an image."),
    "changes": ("changes", "Show what was written on top of an image."),
    "ls": ("look", "List what is in an image, without a mount."),
    "cat": ("look", "Write files of an image to standard output."),
    "cp": ("copying", "Copy files of an image to a directory."),
    "export": ("copying", "Write an image's merged root as one file."),
    "diff": ("differing", "Show what differs between two images, or what a layer did."),
    "layers": ("sources", "List an image's layers, bottom to top."),
    "waste": ("waste", "Tell what of its layers an image does not show, and why."),
    "report": ("report", "Write a page that shows what makes an image big."),
    "inspect": ("sources", "Show what a source holds."),
    "fetch": ("sources", "Fetch images into the cache, to mount them quickly later."),
    "scan": ("scan", "Search or catalogue many images, each layer once."),
    "cache": ("cache", "Look after the cache."),
    "completion": ("completion", "Print a shell's completion script."),
}
"""The commands as the help lists them, each with its module of this package and what it is for.

A module is loaded when its command is called, so that each starts as fast as it can.
"""


class _Commands(click.Group):
    """The commands, of which each may lose its reader, or be interrupted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"imagefs.cli.{_COMMANDS[cmd_name][0]}")
        found = getattr(module, cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _COMMANDS.items()])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _leaving(), written():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _leaving():
            status = super().invoke(ctx)
            if sys.stdout is not None:
                flush()
            return status


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """End well where whoever read our output has seen enough; click would make it status 1.

    Where we are interrupted, click would print an empty line; on a terminal it ends the ^C's.
    """
    try:
        yield
    except BrokenPipeError:
        sys.stdout = None  # nothing is left to flush
        raise click.exceptions.Exit(0) from None
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            click.echo(err=True)
        raise click.Abort from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks and what is going on inside.")
def cli(debug: bool) -> None:
    """Mount container images as read-only directory trees, without extracting them.

    SOURCE is an archive (docker save, OCI, ...), a directory with an OCI layout, - for standard
    input, the name or id of an image of the engine, or docker://NAME for one of a registry.
    """
    global _debug  # noqa: PLW0603 - how errors are shown is the process's own
    _debug = debug
    if debug:
        from imagefs.host.daemon import log_to_terminal  # noqa: PLC0415

        log_to_terminal(logging.DEBUG)
