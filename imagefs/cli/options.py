"""The options that several commands take, each group handed to the command as one frozen value.

A decorator adds click's options and folds what they bring into the value: `options`, which is a
SourceOptions, with `quiet` beside it, or `serving`, which is ServeOptions.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from imagefs.cli.quantities import owner, size
from imagefs.fuse.kernel_flags import KERNEL_FLAGS
from imagefs.image.options import SourceOptions

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve a mount: in sight or not, by which driver, for whom, and how watched.

    `driver` None is the one that suits the system; `flags` are what else the kernel is to keep.
    `uid` and `gid` are who all files are shown to belong to, None where it is as the image says.
    """

    foreground: bool
    driver: str | None
    flags: tuple[str, ...]
    allow_other: bool
    log_level: str
    uid: int | None = None
    gid: int | None = None


def completed(kind: str) -> dict[str, Any]:
    """Return the argument of click's that has a shell complete a value, by the module for that."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from imagefs.cli import completion  # noqa: PLC0415

        found: list[Any] = getattr(completion, kind)(ctx, param, incomplete)
        return found

    return {"shell_complete": complete}


def _group(name: str, value: type, *options: Decorator) -> Decorator:
    """Return a decorator for these options, of which those that `value` has come as `name`."""
    own = {field.name for field in fields(value)}

    def decorate(command: Command) -> Command:
        @wraps(command)
        def called(**given: Any) -> Any:
            # What was not said is left to the value's own defaults.
            said = {key: given.pop(key) for key in own & set(given)}
            return command(**given, **{name: value(**_said(said))})

        decorated: Command = called
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None or key == "driver"}


_ENGINE = (
    click.option("--host", metavar="URL", help="Engine to ask, as DOCKER_HOST writes it."),
    click.option(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="Platform, where there are several."
    ),
    click.option(
        "--max-layer-bytes",
        type=size,
        metavar="SIZE",
        help="What a layer may come to in the cache; 64G by default.",
    ),
)
_REGISTRY = (
    click.option(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="More authorities that may vouch for a registry (PEM).",
        **completed("files"),
    ),
    click.option("--plain-http", is_flag=True, help="Speak to a registry without TLS."),
    click.option("--insecure", is_flag=True, help="Do not verify a registry's certificate."),
)
_LOOKING = (
    *_ENGINE,
    *_REGISTRY,
    click.option("--keep-going", is_flag=True, help="Make do with damaged or missing layers."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
)
engine_options = _group("options", SourceOptions, *_ENGINE)
looking_options = _group("options", SourceOptions, *_LOOKING)
source_options = _group(
    "options",
    SourceOptions,
    *_LOOKING,
    click.option("--image", metavar="NAME", help="Image of an archive: tag, id or position."),
    click.option("--verify", is_flag=True, help="Check the digests of layers read in place."),
)
serve_options = _group(
    "serving",
    ServeOptions,
    click.option("-f", "--foreground", is_flag=True, help="Do not leave a daemon behind."),
    click.option(
        "--driver",
        type=click.Choice(["native", "libfuse", "kernel"]),
        help="Speak FUSE, native by default on Linux, by libfuse 2 or 3; kernel needs no daemon.",
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
    click.option(
        "--uid",
        type=owner(os.getuid),
        metavar="UID|mine",
        help="Show all files as owned by this user; modes stay as they are.",
    ),
    click.option(
        "--gid",
        type=owner(os.getgid),
        metavar="GID|mine",
        help="Show all files as this group's.",
    ),
)

view_option = click.option(
    "--view",
    default="rootfs",
    show_default=True,
    metavar="VIEW",
    help="What to look into: rootfs, snapshots/NN or layers/NN.",
    **completed("views"),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
source_argument = click.argument("source", **completed("sources"))
# Not click.Path, which looks at the path: a dead mount fails then, and one that hangs, hangs.
mountpoint_argument = click.argument("mountpoint", type=Path, **completed("directories"))
