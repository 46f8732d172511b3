"""What `imagefs cache` prints and asks of the store."""

import re
import time
from dataclasses import asdict
from decimal import Decimal

from imagefs.cli import output
from imagefs.cli.progress_bars import reporter
from imagefs.errors import CorruptArchive, UsageError
from imagefs.image.short_id import short_ids
from imagefs.index import cache as index_cache
from imagefs.store import inventory
from imagefs.store import verify as store_verify
from imagefs.store.prune import prune as prune_store
from imagefs.store.store import Store
from imagefs.text import size_text

_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,18})?|\.[0-9]{1,18})"
_POWERS = ("", "k", "m", "g", "t", "p", "e")
_SIZE = re.compile(rf"{_NUMBER}\s*(?:([kmgtpe]?)(?:b|bytes?)?|([kmgtpe])ib?)")
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNIT = "(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)"
_TIME_PART = re.compile(rf"{_NUMBER}\s*{_UNIT}\s*")
_TIME = re.compile(rf"(?:{_TIME_PART.pattern})+")


def list_contents(*, as_json: bool) -> None:
    """Print the images of the cache, and what it takes on the disk."""
    found = inventory.contents(Store())
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
                time.strftime("%Y-%m-%d %H:%M", time.localtime(image.last_used)),
                "in use" if image.in_use else "whole" if image.whole else "incomplete",
                ", ".join(image.names) or "-",
            )
            for image in found.images
        ],
    )
    print_line(
        f"{len(found.layers)} layers, {size_text(found.total_bytes)} in all, indexes included"
    )


def print_line(words: str) -> None:
    """Print a line."""
    import click  # noqa: PLC0415

    click.echo(words)


def verify(*, quiet: bool) -> None:
    """Check the cache; raise CorruptArchive if something was damaged."""
    store = Store()
    with reporter(quiet=quiet) as progress:
        damaged = store_verify.verify(store, progress)
    if damaged:
        listed = "; ".join(f"{one.name} (its bytes are {one.found})" for one in damaged)
        raise CorruptArchive(f"damaged and removed from the cache: {listed}")
    if not quiet:
        print_line("every digest is right")


def prune(keep_bytes: str | None, unused_for: str | None) -> None:
    """Remove what is not used, and say what went."""
    store = Store()
    pruned = prune_store(
        store,
        keep_bytes=None if keep_bytes is None else size(keep_bytes),
        unused_for=None if unused_for is None else seconds(unused_for),
        index_path=lambda layer: index_cache.path_of(store.index_dir, index_cache.key_of(layer)),
    )
    gone = f"{len(pruned.images)} images and {len(pruned.layers)} layers"
    print_line(f"removed {gone}: {size_text(pruned.bytes)}")


def size(text: str) -> int:
    """Return the bytes that a size means as people write it: 500M, 1.5 GB, 20GiB."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(
            f"{text!r} is no size; write a number with K, M, G or T, which count by 1000,"
            " or with KiB, MiB, GiB or TiB, which count by 1024"
        )
    number, by_1000, by_1024 = match.groups()
    unit = 1024 ** _POWERS.index(by_1024) if by_1024 else 1000 ** _POWERS.index(by_1000)
    return int(Decimal(number) * unit)


def seconds(text: str) -> float:
    """Return the seconds that a time means as people write it: 90s, 36 hours, 1h30m, 2w."""
    words = text.strip().lower()
    if not _TIME.fullmatch(words):
        raise UsageError(f"{text!r} is no time; write a number with s, m, h, d or w")
    return float(
        sum(Decimal(number) * _TIMES[unit[0]] for number, unit in _TIME_PART.findall(words))
    )
