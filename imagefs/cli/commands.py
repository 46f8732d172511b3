"""What the commands do, in terms of the library.

Owns the order of steps and what is printed; `main.py` says how the commands are called.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagefs.cli.progress_bars import reporter
from imagefs.errors import HostError, ImagefsError, MountError, UsageError
from imagefs.host.files import NoHomeError
from imagefs.host.mount_point import MountPoint, hold
from imagefs.image import reference
from imagefs.image.model import MAX_LAYER_BYTES, directory_names
from imagefs.image.reference import ArchiveReference
from imagefs.mounts.registry import Registry
from imagefs.mounts.serve import Serving, check_host, default_driver
from imagefs.source import opening
from imagefs.source.opening import SourceRequest
from imagefs.store.store import Store, default_root

_WORTH_A_WORD = 256 << 20
"""Bytes of layers that are indexed without a word: it takes a moment."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A source, and whether to be quiet about it."""

    request: SourceRequest
    quiet: bool


def source_of(text: str, options: Mapping[str, Any]) -> Asked:
    """Return the source that a command's arguments mean."""
    request = SourceRequest(
        text=text,
        host=options["host"],
        platform=options["platform"],
        image=options.get("image"),
        keep_going=options["keep_going"],
        verify=options.get("verify", False),
        max_layer_bytes=_layer_limit(options["max_layer_bytes"]),
    )
    return Asked(request, options["quiet"])


def _layer_limit(text: str | None) -> int:
    if text is None:
        return MAX_LAYER_BYTES
    from imagefs.cli import cache as cache_commands  # noqa: PLC0415

    return cache_commands.size(text)


def serving_of(source_text: str, mountpoint: Path, options: Mapping[str, Any]) -> Serving:
    """Return how a command's options say to serve."""
    return Serving(
        source=source_text,
        mountpoint=mountpoint,
        driver=options["driver"] or default_driver(),
        registry=registry(),
        allow_other=options["allow_other"],
        foreground=options["foreground"],
        log_level=getattr(logging, options["log_level"].upper()),
        flags=options["flags"],
    )


def registry() -> Registry:
    """Return the records of this user's daemons, of which there are none without a home."""
    try:
        return Registry(default_root() / "mounts")
    except NoHomeError:
        return Registry(None)


def mount(asked: Asked, serving: Serving, view: str | None, *, all_images: bool = False) -> None:
    """Mount one image, or all of an archive."""
    from imagefs.index import cache as index_cache  # noqa: PLC0415
    from imagefs.mounts import serve as server  # noqa: PLC0415
    from imagefs.vfs.image_fs import ImageFs, image_fs  # noqa: PLC0415

    if all_images and view is not None:
        raise UsageError("--view is of one image: choose it with --image, or leave out --all")
    point = _prepare(serving)
    store = Store()
    with reporter(quiet=asked.quiet) as progress:
        if all_images:
            fs = ImageFs()
            images = opening.open_images(asked.request, store, progress)
            for name, image in zip(directory_names(images), images, strict=True):
                directory = fs.synthetic.directory(1)
                fs.synthetic.link(1, name, directory.node)
                fs.add_image(image, store.index_dir, directory.node)
            root = fs.synthetic.get(1)
            root.mtime = max(
                fs.synthetic.get(node).mtime for node in (root.children or {}).values()
            )
        else:
            image = opening.open_image(asked.request, store, progress)
            waiting = index_cache.missing(image.layers, store.index_dir)
            if sum(index_cache.blob_of(layer).length for layer in waiting) > _WORTH_A_WORD:
                progress.phase("indexing")
            fs = image_fs(image, store.index_dir, view)
    server.serve(lambda: fs, point, serving)


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


def serve_engine(mountpoint: Path, options: Mapping[str, Any]) -> None:
    """Mount all images of an engine."""
    from imagefs.engine import addresses  # noqa: PLC0415
    from imagefs.engine.api import Engine  # noqa: PLC0415
    from imagefs.mounts import serve as server  # noqa: PLC0415
    from imagefs.source.loader import Loader, LoaderConfig  # noqa: PLC0415
    from imagefs.vfs.engine_fs import Catalog  # noqa: PLC0415

    engine = Engine(addresses.find(options["host"]))
    serving = serving_of(engine.host, mountpoint, options)
    point = _prepare(serving)
    engine.version()
    store = Store()
    limit = _layer_limit(options["max_layer_bytes"])
    loader = Loader(LoaderConfig(engine.endpoint, store.root, options["platform"], limit))

    def make() -> Catalog:
        return Catalog(engine.images, loader.load, store.index_dir, loader.unload)

    server.serve(make, point, serving)


def fetch(images: Sequence[Asked]) -> None:
    """Fetch images into the store, and index them; go on after a failure, and fail in the end."""
    from imagefs.index import cache as index_cache  # noqa: PLC0415

    store = Store()
    failures = []
    for asked in images:
        try:
            with reporter(quiet=asked.quiet) as progress:
                image = opening.open_image(asked.request, store, progress)
                index_cache.ensure(image.layers, store.index_dir)
        except ImagefsError as error:
            if len(images) == 1:
                raise
            failures.append(f"{asked.request.text}: {error}")
    if failures:
        raise HostError("; ".join(failures))


def unmount(mountpoints: Sequence[Path], *, lazy: bool) -> None:
    """Unmount these, or all of ours; go on after a failure, and fail in the end."""
    from imagefs.mounts import registry as mount_registry  # noqa: PLC0415

    known = registry()
    own = [Path(one.mountpoint) for one in known.mounts() if mount_registry.is_own(one.owner)]
    failures = []
    for place in mountpoints or own[::-1]:
        try:
            known.unmount(place, lazy=lazy)
        except MountError as error:
            failures.append(str(error))
    if failures:
        raise MountError("; ".join(failures))


def list_mounts(*, as_json: bool) -> None:
    """Print the mounts."""
    from imagefs.cli import output  # noqa: PLC0415

    found = registry().mounts()
    if as_json:
        output.show_json([asdict(one) for one in found])
        return
    output.show_table(
        ("SOURCE", "MOUNTPOINT", "PID", "SINCE", "STATE"),
        [
            (one.source, one.mountpoint, one.pid or "-", one.since or "-", _state(one.alive))
            for one in found
        ],
    )


def _state(alive: bool) -> str:
    return "mounted" if alive else "dead: unmount it"


def list_layers(asked: Asked, *, as_json: bool) -> None:
    """Print an image's layers."""
    from imagefs.cli import output  # noqa: PLC0415
    from imagefs.index import cache as index_cache  # noqa: PLC0415
    from imagefs.text import size_text  # noqa: PLC0415
    from imagefs.vfs import layers_txt  # noqa: PLC0415
    from imagefs.vfs.links import links_of  # noqa: PLC0415

    store = Store()
    with reporter(quiet=asked.quiet) as progress:
        image = opening.open_image(asked.request, store, progress)
        index_cache.ensure(image.layers, store.index_dir)
    indexes = [index_cache.open_index(layer, store.index_dir) for layer in image.layers]
    found = layers_txt.summaries(image, links_of(indexes))
    if as_json:
        output.show_json([one._asdict() for one in found])
        return
    output.show_table(
        ("DIRECTORY", "SIZE", "FILES", "WHITEOUTS", "CREATED BY"),
        [
            (one.directory, size_text(one.size), one.files, one.whiteouts, one.created_by)
            for one in found
        ],
    )


def inspect(asked: Asked, *, as_json: bool) -> None:
    """Print what a source holds: its format, then each image with its layers, bottom to top."""
    from imagefs.cli import output  # noqa: PLC0415

    with reporter(quiet=asked.quiet) as progress, _store_to_look(asked) as store:
        found = opening.inspect(asked.request, store, progress)
    if as_json:
        output.show_json(asdict(found))
        return
    output.show_lines([f"Format: {found.format}"])
    for image in found.images:
        output.show_lines(["", *_described(image), *_layers_described(image.layers)])


@contextlib.contextmanager
def _store_to_look(asked: Asked) -> Iterator[Store]:
    """Have the cache; without a home, for an archive, one that goes again."""
    try:
        root = default_root()
    except NoHomeError:
        if not isinstance(reference.parse(asked.request.text), ArchiveReference):
            raise
        from tempfile import TemporaryDirectory  # noqa: PLC0415

        with TemporaryDirectory(prefix="imagefs-") as place:
            yield Store(Path(place))
    else:
        yield Store(root)


def _described(image: opening.InspectedImage) -> Iterator[str]:
    yield f"Image: {', '.join(image.names) or '(no name)'}"
    yield f"Id: {image.id}"
    yield f"Platform: {image.platform}"
    yield from (f"Label: {name}={value}" for name, value in image.labels.items())
    if image.problem:
        yield f"Problem: {image.problem}"


def _layers_described(layers: Sequence[opening.InspectedLayer]) -> Iterator[str]:
    from imagefs.text import size_text  # noqa: PLC0415

    for number, one in enumerate(layers):
        size = "missing" if one.size is None else size_text(one.size)
        yield f"Layer {number:02}: {one.diff_id or 'unknown'}, {size}, {one.created_by or '-'}"
        if one.digest and one.digest != one.diff_id:
            yield f"  packed as {one.digest}"
