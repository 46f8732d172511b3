"""`imagefs layers`, `imagefs inspect` and `imagefs fetch`: what a source is, and bringing it in."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from imagefs.cli import output
from imagefs.cli.options import (
    completed,
    json_option,
    looking_options,
    source_argument,
    source_options,
)
from imagefs.cli.progress_bars import reporter
from imagefs.errors import HostError, ImagefsError
from imagefs.host.files import NoHomeError
from imagefs.image import reference
from imagefs.image.options import SourceOptions
from imagefs.image.reference import ArchiveReference
from imagefs.index import cache as index_cache
from imagefs.source import opening
from imagefs.source.opening import SourceRequest
from imagefs.store.store import Store, default_root
from imagefs.text import size_text


@click.command()
@source_argument
@json_option
@source_options
def layers(source: str, options: SourceOptions, *, as_json: bool, quiet: bool) -> None:
    """List an image's layers, bottom to top."""
    from imagefs.vfs import layers_txt  # noqa: PLC0415
    from imagefs.vfs.links import links_of  # noqa: PLC0415

    store = Store()
    with reporter(quiet=quiet) as progress:
        image = opening.open_image(SourceRequest(source, options), store, progress)
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


@click.command(short_help="Show what a source holds.")
@source_argument
@json_option
@looking_options
def inspect(source: str, options: SourceOptions, *, as_json: bool, quiet: bool) -> None:
    """Show what a source holds: format, images, platforms, labels, layers and their digests."""
    request = SourceRequest(source, options)

    with reporter(quiet=quiet) as progress, _store_to_look(request) as store:
        found = opening.inspect(request, store, progress)
    if as_json:
        output.show_json(asdict(found))
        return
    output.show_lines([f"Format: {found.format}"])
    for image in found.images:
        output.show_lines(["", *_described(image), *_layers_described(image.layers)])


@contextlib.contextmanager
def _store_to_look(request: SourceRequest) -> Iterator[Store]:
    """Have the cache; without a home, for an archive, one that goes again."""
    try:
        root = default_root()
    except NoHomeError:
        if not isinstance(reference.parse(request.text), ArchiveReference):
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

    for number, one in enumerate(layers):
        size = "missing" if one.size is None else size_text(one.size)
        yield f"Layer {number:02}: {one.diff_id or 'unknown'}, {size}, {one.created_by or '-'}"
        if one.digest and one.digest != one.diff_id:
            yield f"  packed as {one.digest}"


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", **completed("sources"))
@source_options
def fetch(images: tuple[str, ...], options: SourceOptions, *, quiet: bool) -> None:
    """Fetch images into the cache, to mount them quickly later."""
    # Go on after a failure, and fail in the end.

    store = Store()
    failures = []
    for name in images:
        try:
            with reporter(quiet=quiet) as progress:
                image = opening.open_image(SourceRequest(name, options), store, progress)
                index_cache.ensure(image.layers, store.index_dir)
        except ImagefsError as error:
            if len(images) == 1:
                raise
            failures.append(f"{name}: {error}")
    if failures:
        raise HostError("; ".join(failures))
