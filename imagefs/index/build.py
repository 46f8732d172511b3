"""From a layer's bytes to its index's: scan, fold, lay out. The one place where the three meet."""

import gc
import os
from collections.abc import Iterator
from typing import BinaryIO

from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import open_blob
from imagefs.image.model import Blob
from imagefs.index.fold import Fold, Took
from imagefs.index.writer import IndexWriter
from imagefs.tar.scan import NO_END, Member, scan


def write_index(
    blob: Blob,
    key: bytes,
    out: BinaryIO,
    took: Took = lambda _names, _memory: None,
    *,
    marked: bool = False,
    keep_going: bool = False,
) -> None:
    """Write the index of the layer whose plain tar `blob` holds to a new file.

    `took` is told of the tree while it grows, as `Fold` does it.

    A tar that is `marked` has an end-of-archive marker, or it was cut. For others the archive
    around them tells where they end, and some writers leave the marker out.
    With `keep_going`, what was read before the damage is kept, also a file whose content is cut,
    and the damage noted; else CorruptArchive is raised.
    """
    # Nothing made here forms a cycle, and walking a million live tuples takes longer than
    # parsing them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        fold = Fold(took)
        damage = ""
        try:
            _scan(blob, fold, marked=marked, keep_going=keep_going)
        except CorruptArchive as error:
            if not keep_going:
                raise
            damage = str(error)
        IndexWriter(fold.finish(), key, blob.length).write(out, damage)
    finally:
        if collecting:
            gc.enable()


def _scan(blob: Blob, fold: Fold, *, marked: bool, keep_going: bool) -> None:
    """Scan a layer from its beginning: what an error calls a byte is one of the layer."""
    base, end = blob.offset, blob.length
    try:
        fd = open_blob(blob)
        try:
            if keep_going:
                members = scan(
                    lambda n, at: os.pread(fd, min(n, max(0, end - at)), base + at), 0, NO_END
                )
                fold.add(_until_cut(members, end))
            else:
                fold.add(scan(lambda n, at: os.pread(fd, n, base + at), 0, end, marked=marked))
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"cannot read {blob.path}: {error.strerror}") from error


def _until_cut(members: Iterator[Member], end: int) -> Iterator[Member]:
    """Pass the members on, also the one that goes beyond the end; behind it, say so."""
    for member in members:
        yield member
        if member.offset + member.stored > end:
            name = member.name.decode("utf-8", "backslashreplace")
            raise CorruptArchive(f"truncated tar: it ends inside {name!r}, the last member read")
