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
from imagefs.cli.output import Size
from imagefs.cli.progress_bars import reporter
from imagefs.errors import HostError, ImagefsError
from imagefs.host.files import NoHomeError
from imagefs.image import reference
from imagefs.image.model import Image, Layer
from imagefs.image.options import SourceOptions
from imagefs.image.reference import ArchiveReference
from imagefs.index import cache as index_cache
from imagefs.source import opening
from imagefs.source.opening import SourceRequest
from imagefs.store.directory import default_root
from imagefs.store.store import Store
from imagefs.text import size_text
from imagefs.vfs import layers_txt
from imagefs.vfs.layers_txt import LayerSummary

_BAR = 8


@click.command(short_help="List an image's layers, bottom to top.")
@source_argument
@json_option
@source_options
def layers(source: str, options: SourceOptions, *, as_json: bool, quiet: bool) -> None:
    """List an image's layers, bottom to top.

    HIDDEN is what of a layer's bytes later ones hide; `imagefs waste` tells why.
    """
    request, store = SourceRequest(source, options), Store()
    hidden: list[int | None]
    with reporter(quiet=quiet) as progress:
        described = opening.not_pulled(request, store, progress)
        if described is not None:
            found, hidden = _foreseen(described), [None] * len(described.layers)
        else:
            image = opening.open_image(request, store, progress)
            found, hidden = _layers_of(image, store)
    if as_json:
        output.show_json(
            [{**one._asdict(), "hidden": lost} for one, lost in zip(found, hidden, strict=True)]
        )
        return
    if described is not None:
        _show_foreseen(described, found)
        return
    most = max((one.size or 0 for one in found), default=0)
    output.show_table(
        ("DIRECTORY", "SIZE", "HIDDEN", "", "FILES", "WHITEOUTS", "CREATED BY"),
        [
            (
                one.directory,
                Size(one.size or 0),
                Size(lost or 0),
                output.bar((one.size or 0) - (lost or 0), lost or 0, most, _BAR),
                one.files,
                one.whiteouts,
                one.created_by,
            )
            for one, lost in zip(found, hidden, strict=True)
        ],
    )


def _layers_of(image: Image, store: Store) -> tuple[list[LayerSummary], list[int | None]]:
    """Return what is known of an image's layers, and the bytes of each that later ones hide."""
    from imagefs.tree import waste  # noqa: PLC0415

    hiding = waste.examine(image, store.index_dir).hiding
    return list(layers_txt.summaries(image, hiding.links)), list(waste.hidden_bytes(hiding))


def _show_foreseen(image: opening.InspectedImage, found: Sequence[LayerSummary]) -> None:
    """Print what a manifest tells of layers that are not here yet."""
    output.show_table(
        ("DIRECTORY", "PACKED", "CREATED BY"),
        [
            (one.directory, Size(layer.size or 0), one.created_by)
            for one, layer in zip(found, image.layers, strict=True)
        ],
    )
    output.show_lines(["", "The rest is known once `imagefs fetch` has pulled it."])


def _foreseen(image: opening.InspectedImage) -> list[LayerSummary]:
    """Return what is known of the layers of an image that is not here yet."""
    layers = tuple(Layer(one.diff_id, None, created_by=one.created_by) for one in image.layers)
    names = Image(image.id, image.names, b"", b"", layers).layer_names()
    return [
        LayerSummary(
            *(name, one.diff_id, None, None, None, one.created_by),
            notes=(f"not pulled: {one.size} bytes, packed as {one.digest}",),
        )
        for name, one in zip(names, image.layers, strict=True)
    ]


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
    if found.others:
        output.show_lines(["", *(_listed(one) for one in found.others)])


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


def _listed(one: opening.ListedManifest) -> str:
    return f"Also: {one.digest}, {one.artifact or one.platform or 'unknown platform'}"


def _layers_described(layers: Sequence[opening.InspectedLayer]) -> Iterator[str]:
    for number, one in enumerate(layers):
        size = "missing" if one.size is None else size_text(one.size)
        yield f"Layer {number:02}: {size}, {one.created_by or '-'}"
        yield f"  {one.diff_id or 'unknown'}"
        if one.digest and one.digest != one.diff_id:
            yield f"  {one.digest} packed"


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", **completed("sources"))
@source_options
def fetch(images: tuple[str, ...], options: SourceOptions, *, quiet: bool) -> None:
    """Fetch images into the cache, to mount them quickly later."""
    store = Store()
    failures = []
    for name in images:
        try:
            with reporter(quiet=quiet) as progress:
                image = opening.open_image(SourceRequest(name, options), store, progress)
                index_cache.ensure(image.layers, store.index_dir, image.packed)
        except ImagefsError as error:
            if len(images) == 1:
                raise
            failures.append(f"{name}: {error}")
    if failures:
        raise HostError("; ".join(failures))
