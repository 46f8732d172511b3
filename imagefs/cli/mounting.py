"""`imagefs mount`, `serve`, `unmount` and `mounts`."""

import contextlib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagefs.cli import output
from imagefs.cli.options import (
    ServeOptions,
    completed,
    engine_options,
    json_option,
    mountpoint_argument,
    serve_options,
    source_argument,
    source_options,
)
from imagefs.cli.progress_bars import reporter
from imagefs.errors import MountError, UsageError
from imagefs.filesystem import FileSystem
from imagefs.host.files import NoHomeError
from imagefs.host.mount_point import MountPoint, hold
from imagefs.image.model import Image
from imagefs.image.options import SourceOptions
from imagefs.mounts import registry as mount_registry
from imagefs.mounts import serve as server
from imagefs.mounts.registry import LiveMount, Registry
from imagefs.mounts.serve import Serving, check_host, default_driver
from imagefs.mounts.writable import serve_writable
from imagefs.overlay import stack
from imagefs.overlay.kept import take_up, thrown_away
from imagefs.progress import Progress
from imagefs.store.directory import default_root
from imagefs.store.store import Store

if TYPE_CHECKING:
    from imagefs.vfs.image_fs import ImageFs

_WORTH_A_WORD = 256 << 20
"""Bytes of layers that are indexed without a word: it takes a moment."""


class _Mount(click.Command):
    """`mount`, with an option that may have a value, which click would take the next word for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        options = [re.sub("^--writable=", "--written=", word) for word in args[:end]]
        return super().parse_args(ctx, options + args[end:])


@click.command(cls=_Mount)
@source_argument
@mountpoint_argument
@click.option(
    "--writable",
    is_flag=True,
    help="Let the root be written to; what is written goes at unmount. With --writable=DIR it is"
    " kept there.",
)
@click.option("--written", type=Path, hidden=True)
@click.option(
    "--view",
    metavar="VIEW",
    help="Only this view: rootfs, layers, snapshots, or a layer by its directory's name.",
    **completed("views"),
)
@click.option(
    "--all", "all_images", is_flag=True, help="Every image of an archive, each in a directory."
)
@click.option(
    "--trust-archive",
    is_flag=True,
    help="With --driver kernel: take an archive that others may write to.",
)
@serve_options
@source_options
def mount(
    source: str,
    mountpoint: Path,
    options: SourceOptions,
    serving: ServeOptions,
    *,
    view: str | None,
    all_images: bool,
    trust_archive: bool,
    writable: bool,
    written: Path | None,
    quiet: bool,
) -> None:
    """Mount an image on a directory.

    Returns when the mount answers, and leaves a daemon behind that serves it. With --driver kernel
    none is needed: then all users may enter, and an archive that is changed meanwhile shows changed
    bytes, as there is nobody to notice.
    """
    from imagefs.source import opening  # noqa: PLC0415
    from imagefs.vfs.owned import owned  # noqa: PLC0415

    if all_images and view is not None:
        raise UsageError("--view is of one image: choose it with --image, or leave out --all")
    if serving.driver == "kernel":
        _check_kernel(serving, written=writable or written is not None)
    request = opening.SourceRequest(source, options)
    wanted = _serving(source, mountpoint, serving)
    if writable or written is not None:
        _check_writable(wanted, view, all_images=all_images)
        view = "rootfs"
        serving = _writable_as(serving)
    point = _prepare(wanted)
    store = Store()
    with reporter(quiet=quiet) as progress:
        if all_images:
            images = opening.open_images(request, store, progress)
        else:
            images = [opening.open_image(request, store, progress)]

        def make() -> "ImageFs":
            return _file_system(images, view, store, progress, all_images=all_images)

        if wanted.driver == "kernel":
            from imagefs.mounts import kernel  # noqa: PLC0415

            if not trust_archive:
                kernel.check_trust(images)
            shown = kernel.Shown(images, view, all_images)
            kernel.mount(shown, store.erofs_dir, make, point, wanted)
            return
        shown_as = partial(owned, make(), serving.uid, serving.gid)
    if not writable and written is None:
        server.serve(shown_as, point, wanted)
        return
    layers = [layer.diff_id for layer in images[0].layers]
    if written is not None:
        kept = take_up(written, layers, _way())
    else:
        kept = thrown_away(*store.lasting_workspace(), layers, _way())
    serve_writable(shown_as, point, wanted, kept, temporary=written is None)


def _check_kernel(serving: ServeOptions, *, written: bool) -> None:
    """Raise UsageError for what the kernel's own driver cannot do."""
    if serving.foreground:
        raise UsageError("--driver kernel has no process to keep in the foreground")
    if serving.uid is not None or serving.gid is not None:
        raise UsageError("--driver kernel shows owners as they are: leave out --uid and --gid")
    if written:
        raise UsageError("--writable needs a driver that serves: choose native")


def _way() -> str:
    return stack.TRUSTED if os.geteuid() == 0 else stack.FUSE


def _check_writable(serving: Serving, view: str | None, *, all_images: bool) -> None:
    if all_images or view not in (None, "rootfs"):
        raise UsageError("--writable is of an image's rootfs: leave out --view and --all")
    if serving.foreground:
        raise UsageError("--writable leaves a daemon behind: leave out --foreground")
    if os.geteuid() != 0:
        stack.program()


def _writable_as(options: ServeOptions) -> ServeOptions:
    """An ordinary user owns all files: what belongs to others could not be written."""
    if os.geteuid() == 0:
        return options
    return replace(options, uid=os.geteuid(), gid=os.getegid())


def _file_system(
    images: Sequence[Image], view: str | None, store: Store, progress: Progress, *, all_images: bool
) -> "ImageFs":
    """Index what is not, and return what is to be shown."""
    from imagefs.index import cache as index_cache  # noqa: PLC0415
    from imagefs.vfs.image_fs import image_fs, images_fs  # noqa: PLC0415

    if all_images:
        return images_fs(images, store.index_dir)
    waiting = index_cache.missing(images[0].layers, store.index_dir)
    if sum(index_cache.blob_of(layer).length for layer in waiting) > _WORTH_A_WORD:
        progress.phase("indexing")
    return image_fs(images[0], store.index_dir, view)


@click.command(short_help="Show all images of the engine as directories.")
@mountpoint_argument
@serve_options
@engine_options
def serve(mountpoint: Path, options: SourceOptions, serving: ServeOptions) -> None:
    """Show all images of the engine as directories, each fetched when first entered."""
    from imagefs.engine import addresses  # noqa: PLC0415
    from imagefs.engine.api import Engine  # noqa: PLC0415
    from imagefs.source.loader import Loader, LoaderConfig  # noqa: PLC0415
    from imagefs.vfs.engine_fs import Catalog  # noqa: PLC0415
    from imagefs.vfs.owned import owned  # noqa: PLC0415

    if serving.driver == "kernel":
        raise UsageError("what an engine has changes, which only FUSE can show: choose native")
    engine = Engine(addresses.find(options.host))
    wanted = _serving(engine.host, mountpoint, serving)
    point = _prepare(wanted)
    engine.version()
    store = Store()
    loader = Loader(LoaderConfig(engine.endpoint, store.root, options))

    def make() -> FileSystem:
        fs = Catalog(engine.images, loader.load, store.index_dir, loader.unload)
        return owned(fs, serving.uid, serving.gid)

    server.serve(make, point, wanted)


def _serving(source: str, mountpoint: Path, options: ServeOptions) -> Serving:
    return Serving(
        source=source,
        mountpoint=mountpoint,
        driver=options.driver or default_driver(),
        registry=registry(),
        allow_other=options.allow_other,
        foreground=options.foreground,
        log_level=getattr(logging, options.log_level.upper()),
        flags=options.flags,
    )


def registry() -> Registry:
    """Return the records of this user's daemons, of which there are none without a home."""
    try:
        return Registry(default_root() / "mounts")
    except NoHomeError:
        return Registry(None)


def _prepare(serving: Serving) -> MountPoint:
    """Find out before the work whether what follows it can succeed; hold the place to mount."""
    point = hold(serving.mountpoint)
    check_host(serving)
    _open_many()
    if serving.foreground:
        from imagefs.host.daemon import log_to_terminal  # noqa: PLC0415

        log_to_terminal(serving.log_level)
    return point


def _open_many() -> None:
    """Have as many files open as the system lets us: each layer takes two for as long as it is."""
    import resource  # noqa: PLC0415

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Where "without limit" is not taken, as on macOS, what there is must do.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@click.command()
@click.argument(
    "mountpoints", nargs=-1, metavar="[MOUNTPOINT]...", type=Path, **completed("mountpoints")
)
@click.option("-l", "--lazy", is_flag=True, help="Detach a busy mount now; it ends when unused.")
@click.option(
    "-a",
    "--all",
    "everything",
    is_flag=True,
    help="Unmount all mounts of yours; as root, everybody's.",
)
def unmount(mountpoints: Sequence[Path], *, lazy: bool, everything: bool) -> None:
    """Take mounts away, dead ones too."""
    if bool(mountpoints) == everything:
        raise UsageError("name the mount points, or say --all")
    known = registry()
    own = [Path(one.mountpoint) for one in known.mounts() if mount_registry.is_own(one.owner)]
    # Go on after a failure, and fail in the end.
    failures = []
    for place in mountpoints or own[::-1]:
        try:
            known.unmount(place, lazy=lazy)
        except MountError as error:
            failures.append(str(error))
    if failures:
        raise MountError("; ".join(failures))


@click.command()
@json_option
def mounts(*, as_json: bool) -> None:
    """List the mounts of imagefs."""
    found = registry().mounts()
    if as_json:
        output.show_json([asdict(one) for one in found])
        return
    output.show_table(
        ("SOURCE", "MOUNTPOINT", "PID", "SINCE", "STATE"),
        [(one.source, one.mountpoint, one.pid or "-", _since(one), _state(one)) for one in found],
    )


def _since(mount: LiveMount) -> str:
    if mount.since is None:
        return "-"
    return output.moment(datetime.fromisoformat(mount.since).timestamp())


def _state(mount: LiveMount) -> str:
    if mount.changed:
        return "its archive has changed: unmount it"
    return "mounted" if mount.alive else "dead: unmount it"
