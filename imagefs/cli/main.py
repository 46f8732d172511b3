"""The command line: parse, wire, print.

Owns the names and options of the commands, exit statuses and how errors are shown; everything
else is imported by the command that needs it, so that each starts as fast as it can.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import click

from imagefs import __version__
from imagefs.cli import mount_helper
from imagefs.errors import HostError, ImagefsError, UsageError, shortage
from imagefs.fuse.kernel_flags import KERNEL_FLAGS

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
_LEVELS = ("debug", "info", "warning", "error")

_debug = False


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0, 1 for image, engine or host, 2 for usage, 130 for Ctrl-C."""
    _have_standard_files()
    sys.exit(run(args))


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


def run(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; an error is one line on standard error."""
    words = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, TextIOWrapper):
        # As standard error does: a letter that the terminal's encoding lacks is no error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if words[:1] == ["--mount-helper"] or mount_helper.is_call(words):
            words = mount_helper.words([word for word in words if word != "--mount-helper"])
        status = cli.main(words, prog_name="imagefs", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return _USAGE
    except (Exception, KeyboardInterrupt) as error:
        status = _fail(*_judged(error))
        _let_go_of_streams()
        return status
    return status if isinstance(status, int) else 0


def _judged(error: BaseException) -> tuple[str, int]:
    """Return an error's line and exit status."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted", _INTERRUPTED
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        return error.format_message() + hint, _USAGE
    if isinstance(error, ImagefsError):
        return str(error), _USAGE if isinstance(error, UsageError) else _FAILED
    return shortage(error) or f"unexpected {type(error).__name__}: {error}", _FAILED


def _flush_output() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"standard output: {error.strerror}") from error


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


Command = Callable[..., Any]


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_ENGINE_OPTIONS = _options(
    click.option("--host", metavar="URL", help="Engine to ask, as DOCKER_HOST writes it."),
    click.option(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="Platform, where there are several."
    ),
    click.option(
        "--max-layer-bytes",
        metavar="SIZE",
        help="What a layer may come to in the cache; 64G by default.",
    ),
)
_LOOKING_OPTIONS = _options(
    _ENGINE_OPTIONS,
    click.option("--keep-going", is_flag=True, help="Make do with damaged or missing layers."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
)
_SOURCE_OPTIONS = _options(
    _LOOKING_OPTIONS,
    click.option("--image", metavar="NAME", help="Image of an archive: tag, id or position."),
    click.option("--verify", is_flag=True, help="Check the digests of layers read in place."),
)
_SERVE_OPTIONS = _options(
    click.option("-f", "--foreground", is_flag=True, help="Do not leave a daemon behind."),
    click.option(
        "--driver",
        type=click.Choice(["native", "libfuse"]),
        help="How to speak FUSE; native by default on Linux.",
    ),
    click.option(
        "--option",
        "flags",
        multiple=True,
        type=click.Choice(tuple(KERNEL_FLAGS)),
        help="What else the kernel is to keep, as mount(8) has it.",
    ),
    click.option("--allow-other", is_flag=True, help="Let all users in; the kernel checks modes."),
    click.option(
        "--log-level",
        type=click.Choice(_LEVELS),
        default="info",
        show_default=True,
        help="What the daemon logs.",
    ),
)
# Not click.Path, which looks at the path: a dead mount fails then, and one that hangs, hangs.
_MOUNTPOINT = click.argument("mountpoint", type=Path)


class _Commands(click.Group):
    """The commands, of which each may lose its reader."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            status = super().invoke(ctx)
            _flush_output()
            return status
        except BrokenPipeError:
            # Whoever read our output has seen enough; nothing is left to flush. Caught here, as
            # click itself would make it exit status 1.
            sys.stdout = None
            return 0


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks and what is going on inside.")
def cli(debug: bool) -> None:
    """Mount container images as read-only directory trees, without extracting them.

    SOURCE is an archive (docker save, OCI, ...), a directory with an OCI layout, - for standard
    input, or the name or id of an image of the engine.
    """
    global _debug  # noqa: PLW0603 - how errors are shown is the process's own
    _debug = debug
    if debug:
        from imagefs.host.daemon import log_to_terminal  # noqa: PLC0415

        log_to_terminal(logging.DEBUG)


@cli.command()
@click.argument("source")
@_MOUNTPOINT
@click.option(
    "--view",
    metavar="VIEW",
    help="Only this view: rootfs, layers, snapshots, or a layer by its directory's name.",
)
@click.option(
    "--all", "all_images", is_flag=True, help="Every image of an archive, each in a directory."
)
@_SERVE_OPTIONS
@_SOURCE_OPTIONS
def mount(
    source: str, mountpoint: Path, view: str | None, all_images: bool, **options: Any
) -> None:
    """Mount an image on a directory.

    Returns when the mount answers, and leaves a daemon behind that serves it.
    """
    from imagefs.cli import commands  # noqa: PLC0415

    commands.mount(
        commands.source_of(source, options),
        commands.serving_of(source, mountpoint, options),
        view,
        all_images=all_images,
    )


@cli.command(short_help="Show all images of the engine as directories.")
@_MOUNTPOINT
@_SERVE_OPTIONS
@_ENGINE_OPTIONS
def serve(mountpoint: Path, **options: Any) -> None:
    """Show all images of the engine as directories, each fetched when first entered."""
    from imagefs.cli import commands  # noqa: PLC0415

    commands.serve_engine(mountpoint, options)


@cli.command()
@click.argument("mountpoints", nargs=-1, metavar="[MOUNTPOINT]...", type=Path)
@click.option("-l", "--lazy", is_flag=True, help="Detach a busy mount now; it ends when unused.")
@click.option(
    "-a",
    "--all",
    "everything",
    is_flag=True,
    help="Unmount all mounts of yours; as root, everybody's.",
)
def unmount(mountpoints: tuple[Path, ...], lazy: bool, everything: bool) -> None:
    """Take mounts away, dead ones too."""
    from imagefs.cli import commands  # noqa: PLC0415

    if bool(mountpoints) == everything:
        raise UsageError("name the mount points, or say --all")
    commands.unmount(mountpoints, lazy=lazy)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def mounts(as_json: bool) -> None:
    """List the mounts of imagefs."""
    from imagefs.cli import commands  # noqa: PLC0415

    commands.list_mounts(as_json=as_json)


@cli.command()
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_SOURCE_OPTIONS
def layers(source: str, as_json: bool, **options: Any) -> None:
    """List an image's layers, bottom to top."""
    from imagefs.cli import commands  # noqa: PLC0415

    commands.list_layers(commands.source_of(source, options), as_json=as_json)


@cli.command(short_help="Show what a source holds.")
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_LOOKING_OPTIONS
def inspect(source: str, as_json: bool, **options: Any) -> None:
    """Show what a source holds: format, images, platforms, labels, layers and their digests."""
    from imagefs.cli import commands  # noqa: PLC0415

    commands.inspect(commands.source_of(source, options), as_json=as_json)


@cli.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_SOURCE_OPTIONS
def fetch(images: tuple[str, ...], **options: Any) -> None:
    """Fetch images into the cache, to mount them quickly later."""
    from imagefs.cli import commands  # noqa: PLC0415

    commands.fetch([commands.source_of(image, options) for image in images])


_VIEW = click.option(
    "--view",
    default="rootfs",
    show_default=True,
    metavar="VIEW",
    help="What to look into: rootfs, snapshots/NN or layers/NN.",
)


@cli.command(short_help="List what is in an image, without a mount.")
@click.argument("source")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("-l", "long", is_flag=True, help="Show mode, owner, size, time and link target.")
@click.option("-R", "recursive", is_flag=True, help="List directories with all below them.")
@click.option("-a", "everything", is_flag=True, help="List names that start with a dot, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
@_VIEW
@_SOURCE_OPTIONS
def ls(source: str, paths: tuple[str, ...], view: str, **options: Any) -> None:
    """List what is in an image, without a mount. Times are in UTC."""
    from imagefs.cli import commands, look  # noqa: PLC0415

    style = look.Style(*(options[name] for name in ("long", "recursive", "everything", "as_json")))
    look.ls(commands.source_of(source, options), view, paths, style)


@cli.command(short_help="Write files of an image to standard output.")
@click.argument("source")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@_VIEW
@_SOURCE_OPTIONS
def cat(source: str, paths: tuple[str, ...], view: str, **options: Any) -> None:
    """Write files of an image to standard output; links are followed inside the image."""
    from imagefs.cli import commands, look  # noqa: PLC0415

    look.cat(commands.source_of(source, options), view, paths)


@cli.group()
def cache() -> None:
    """Look after the cache."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cache_list(as_json: bool) -> None:
    """List what is in the cache, what was used last coming first."""
    from imagefs.cli import cache as cache_commands  # noqa: PLC0415

    cache_commands.list_contents(as_json=as_json)


@cache.command("verify")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def cache_verify(quiet: bool) -> None:
    """Check every digest; what is damaged is removed, and fetched anew when next wanted."""
    from imagefs.cli import cache as cache_commands  # noqa: PLC0415

    cache_commands.verify(quiet=quiet)


@cache.command("prune")
@click.option(
    "--keep-bytes", metavar="SIZE", help="Stop when at most this is left, as 500M or 20G."
)
@click.option(
    "--unused-for", metavar="TIME", help="Only what was not used for so long, as 12h or 30d."
)
def cache_prune(keep_bytes: str | None, unused_for: str | None) -> None:
    """Remove what no live mount uses, what was used longest ago going first."""
    from imagefs.cli import cache as cache_commands  # noqa: PLC0415

    cache_commands.prune(keep_bytes, unused_for)
