"""`imagefs completion`, and what a shell completes with it: images, mounts, views, paths in images.

Owns the bound on its time. Nothing is brought in or indexed to answer, an error is no answer, and
who takes longer than a moment is not waited for.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from imagefs.cli.output import write_text
from imagefs.image.options import SourceOptions
from imagefs.image.reference import REGISTRY_TRANSPORT
from imagefs.progress import Silent

if TYPE_CHECKING:
    from imagefs.source.opening import SourceRequest

_SECONDS = 0.2
_FILES = CompletionItem("", type="file")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    It completes commands, options, images, mounts, views, and paths inside an image.
    """
    from imagefs.cli.main import cli  # noqa: PLC0415

    made = get_completion_class(shell)
    assert made is not None
    write_text(made(cli, {}, "imagefs", "_IMAGEFS_COMPLETE").source() + "\n")


class _TakesLong(Exception):
    """Work was about to begin that nobody may wait for."""


class _Hasty(Silent):
    """Ends what wants to do anything that is worth a word."""

    def phase(self, text: str, total: int | None = None) -> None:
        """Raise _TakesLong."""
        raise _TakesLong


def _in_time(find: Callable[[], Iterable[str]], incomplete: str) -> list[CompletionItem]:
    """Return those of the found that begin as asked, or nothing if they cannot be had at once."""
    found: list[str] = []

    def work() -> None:
        try:
            found.extend(sorted(set(find())))
        except Exception:
            found.clear()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if thread.is_alive():
        return []
    # A shell reads an item a line.
    return [
        CompletionItem(one) for one in found if one.startswith(incomplete) and one.isprintable()
    ]


def sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a SOURCE: an image of the engine by name, or else a path."""
    if incomplete.startswith((".", "/", "~")):
        return [_FILES]

    def find() -> Iterable[str]:
        from imagefs.engine import addresses  # noqa: PLC0415
        from imagefs.engine.api import Engine  # noqa: PLC0415

        engine = Engine(addresses.find(ctx.params.get("host")))
        return [name for image in engine.images() for name in image.names]

    return _in_time(find, incomplete) or [_FILES]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a file of this machine."""
    return [_FILES]


def directories(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a directory of this machine."""
    return [CompletionItem("", type="dir")]


def mountpoints(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the mount point of a mount that is there."""

    def find() -> Iterable[str]:
        from imagefs.cli.mounting import registry  # noqa: PLC0415

        return [one.mountpoint for one in registry().mounts()]

    return _in_time(find, incomplete) or [_FILES]


def views(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a view's name: of any image, and the layers' directories of an image at hand."""

    def find() -> Iterable[str]:
        from imagefs.source import opening  # noqa: PLC0415
        from imagefs.store.store import Store  # noqa: PLC0415

        image = opening.open_image(_request(ctx), Store(), _Hasty())
        return [
            f"{kind}/{name}" for kind in ("layers", "snapshots") for name in image.layer_names()
        ]

    whole = ["rootfs", "layers", "snapshots"]
    return [CompletionItem(one) for one in whole if one.startswith(incomplete)] + _in_time(
        find, incomplete
    )


def paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a path inside an image that is at hand."""
    folder = incomplete[: incomplete.rfind("/") + 1]

    def find() -> Iterable[str]:
        from imagefs.index import cache as index_cache  # noqa: PLC0415
        from imagefs.source import opening  # noqa: PLC0415
        from imagefs.store.store import Store  # noqa: PLC0415
        from imagefs.tree.opening import open_tree  # noqa: PLC0415

        request, store = _request(ctx), Store()
        layers = opening.open_image(request, store, _Hasty()).layers
        if index_cache.missing(layers, store.index_dir):
            raise _TakesLong
        with open_tree(request, ctx.params.get("view") or "rootfs", _Hasty()) as tree:
            return [
                folder + os.fsdecode(name) + "/" * stat.S_ISDIR(attr.mode)
                for name, attr in tree.listdir(folder or "/")
            ]

    return _in_time(find, incomplete)


def _request(ctx: click.Context) -> "SourceRequest":
    from imagefs.source.opening import SourceRequest  # noqa: PLC0415

    given = {field.name: ctx.params.get(field.name) for field in fields(SourceOptions)}
    # While an option's value is being typed, click has not told arguments apart yet.
    source = ctx.params.get("source") or ctx.args[0]
    # Nobody wants a registry asked, or a helper that keeps passwords, at each key.
    if source == "-" or source.startswith(REGISTRY_TRANSPORT):
        raise _TakesLong
    options = SourceOptions(**{name: one for name, one in given.items() if one is not None})
    return SourceRequest(source, options)
