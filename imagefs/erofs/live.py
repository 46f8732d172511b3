"""The mounts that the kernel serves: found in its table of mounts, as no process knows of them."""

from collections.abc import Iterator
from pathlib import Path

from imagefs.erofs import kept
from imagefs.erofs.kept import Kept
from imagefs.host import mountinfo

FSTYPE = "erofs"
_BLOCK = Path("/sys/block")


def of(mount: mountinfo.Mount) -> Kept | None:
    """Return the metadata that a mount shows, if it is ours."""
    if mount.fstype != FSTYPE:
        return None
    source = Path(mount.source)
    if source.parent == Path("/dev"):
        try:
            told = (_BLOCK / source.name / "loop" / "backing_file").read_text()
        except OSError:
            return None
        source = Path(told.removesuffix("\n"))
    return kept.read(source)


def all_kept() -> Iterator[Kept]:
    """Yield the metadata of all mounts, once for each."""
    for mount in mountinfo.mounts():
        found = of(mount)
        if found is not None:
            yield found
