"""`imagefs changes`: what was written on top of an image, as a list or as a layer."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from imagefs.cli import output
from imagefs.cli.mounting import registry
from imagefs.cli.options import json_option
from imagefs.errors import HostError, UsageError, shortage
from imagefs.host import mountinfo
from imagefs.overlay import layer, stack
from imagefs.overlay.changes import Change
from imagefs.overlay.changes import changes as found_changes
from imagefs.overlay.kept import Kept, open_kept
from imagefs.run import idmap
from imagefs.text import printable


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of changes, and where its image is mounted, if it is."""

    kept: Kept
    image: Path | None


@click.command(short_help="Show what was written on top of an image.")
@click.argument("where", type=Path)
@click.option(
    "--layer", "as_layer", metavar="FILE", help="Write it as a layer's tar; - for standard output."
)
@json_option
def changes(where: Path, *, as_layer: str | None, as_json: bool) -> None:
    """Show what was written on top of an image: at a mount, or in a directory that keeps it.

    A line each: A for added, C for changed, D for deleted.
    """
    with _failures(where):
        place = find(where)
        if as_layer is not None:
            write_layer(place, as_layer)
            return
        some = sorted(listed(place), key=lambda one: one.path)
    _show(some, as_json=as_json)


def show_at(mount: Path, *, as_json: bool) -> int | None:
    """Show what was written at a mount, and return how many changes there are.

    None where the mount is none of ours that can be written to.
    """
    found = mountinfo.at(mount)
    if found is None or found.fstype not in stack.FSTYPES:
        return None
    if not any(one.mountpoint == found.mountpoint and one.changes for one in registry().mounts()):
        return None
    with _failures(mount):
        some = sorted(listed(find(mount)), key=lambda one: one.path)
    _show(some, as_json=as_json)
    return len(some)


def _show(some: Sequence[Change], *, as_json: bool) -> None:
    if as_json:
        output.show_json([{"kind": one.kind, "path": os.fsdecode(one.path)} for one in some])
    else:
        output.show_lines([f"{one.kind} {printable(os.fsdecode(one.path))}" for one in some])


@contextlib.contextmanager
def _failures(where: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"{where}: {shortage(error)}") from error


def find(where: Path) -> Place:
    """Return the changes at a mount, or in a directory; UsageError if there are none."""
    mount = mountinfo.at(where)
    if mount is not None:
        known = [one for one in registry().mounts() if one.mountpoint == mount.mountpoint]
        if not known or known[-1].changes is None:
            raise UsageError(f"{where}: is no mount that was made with --writable")
        directory = Path(known[-1].changes)
        return Place(open_kept(directory), directory / stack.IMAGE)
    return Place(open_kept(where), None)


def listed(place: Place) -> Iterator[Change]:
    """Yield the changes of a place, as who made them sees them."""
    _owner_of(place.kept)
    return found_changes(place.kept, place.image)


def write_layer(place: Place, target: str) -> None:
    """Write the changes of a place as a layer's tar; it is there whole or not at all."""
    from imagefs.host.files import published  # noqa: PLC0415

    owner = _owner_of(place.kept)
    if target == "-":
        layer.write(place.kept, sys.stdout.buffer, owner)
        return
    with published(Path(target).absolute()) as out:
        layer.write(place.kept, out, owner)


def _owner_of(kept: Kept) -> Callable[[int], int]:
    """Be who may read all; return what turns the files' owners into those that were meant."""
    whose = kept.path.stat()
    if kept.record.way == stack.FUSE:
        return lambda number: 0 if number in (whose.st_uid, whose.st_gid) else number
    if kept.record.way == stack.USER and os.geteuid() != 0:
        idmap.enter(idmap.of_caller())
    elif kept.record.way == stack.USER and whose.st_uid != 0:
        raise UsageError(f"{kept.path}: belongs to uid {whose.st_uid}, who alone may look")
    return int
