"""`imagefs cache`: what it prints and asks of the store."""

import os
from dataclasses import asdict

import click

from imagefs.cli import output
from imagefs.cli.options import json_option
from imagefs.cli.progress_bars import reporter
from imagefs.cli.quantities import seconds, size
from imagefs.erofs import kept, live
from imagefs.errors import CorruptArchive
from imagefs.image.short_id import short_ids
from imagefs.index import cache as index_cache
from imagefs.store import inventory
from imagefs.store import verify as store_verify
from imagefs.store.prune import prune as prune_store
from imagefs.store.store import Store
from imagefs.text import counted, size_text


@click.group()
def cache() -> None:
    """Look after the cache."""


@cache.command("list")
@json_option
def cache_list(as_json: bool) -> None:
    """List what is in the cache, what was used last coming first."""
    store = Store()
    found = inventory.contents(store, _mounted(store))
    if as_json:
        output.show_json(asdict(found) | {"total_bytes": found.total_bytes})
        return
    short = short_ids(image.id for image in found.images)
    output.show_table(
        ("IMAGE", "SIZE", "LAYERS", "LAST USED", "STATE", "NAMES"),
        [
            (
                short[image.id],
                size_text(image.size),
                len(image.diff_ids),
                output.moment(image.last_used),
                "in use" if image.in_use else "whole" if image.whole else "incomplete",
                ", ".join(image.names) or "-",
            )
            for image in found.images
        ],
    )
    layers = counted(len(found.layers), "layer")
    output.show_lines([f"{layers}, {size_text(found.total_bytes)} in all, indexes included"])


def _mounted(store: Store) -> set[str]:
    """Return what of a store the kernel has mounted by itself: ids, and the names of metadata."""
    found: set[str] = set()
    for one in live.all_kept():
        if os.path.samefile(one.path.parent, store.erofs_dir):
            found |= {one.path.name, *one.ids()}
    return found


@cache.command("verify")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def cache_verify(quiet: bool) -> None:
    """Check every digest; what is damaged is removed, and fetched anew when next wanted."""
    store = Store()
    with reporter(quiet=quiet) as progress:
        damaged = store_verify.verify(store, progress, kept.is_whole)
    if damaged:
        listed = "; ".join(f"{one.name} (its bytes are {one.found})" for one in damaged)
        raise CorruptArchive(f"damaged and removed from the cache: {listed}")
    if not quiet:
        output.show_lines(["every digest is right"])


@cache.command("prune")
@click.option(
    "--keep-bytes",
    type=size,
    metavar="SIZE",
    help="Stop when at most this is left, as 500M or 20G.",
)
@click.option(
    "--unused-for",
    type=seconds,
    metavar="TIME",
    help="Only what was not used for so long, as 12h or 30d.",
)
def cache_prune(keep_bytes: int | None, unused_for: float | None) -> None:
    """Remove what no live mount uses, what was used longest ago going first."""
    store = Store()
    pruned = prune_store(
        store,
        keep_bytes=keep_bytes,
        unused_for=unused_for,
        index_path=lambda layer: index_cache.path_of(store.index_dir, index_cache.key_of(layer)),
        mounted=_mounted(store),
    )
    gone = f"{counted(len(pruned.images), 'image')} and {counted(len(pruned.layers), 'layer')}"
    output.show_lines([f"removed {gone}: {size_text(pruned.bytes)}"])
