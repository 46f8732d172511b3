"""A saved image unpacked onto the disk, with tar and by hand: what imagefs is compared with.

Owns the extraction and what whiteouts do there. Shares no code with imagefs, so that agreement
means something.
"""

import os
import stat
import tarfile
from pathlib import Path

from benchmarks import archives
from benchmarks.host import call

_OPAQUE = ".wh..wh..opq"
_TAR = (
    "tar",
    "--extract",
    "--same-permissions",
    "--same-owner",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
    "--delay-directory-restore",
)


def layers(archive: Path, into: Path) -> list[Path]:
    """Take the layers' tars out of an archive; return them, bottom to top."""
    into.mkdir(parents=True, exist_ok=True)
    call(["tar", "-x", "-f", archive, "-C", into])
    return [into / name for name in archives.layer_names(archive)]


def merged(tars: list[Path], root: Path) -> None:
    """Unpack layers on top of each other, deleting what their whiteouts say."""
    root.mkdir(parents=True, exist_ok=True)
    for layer in tars:
        _make_way(layer, root)
        call([*_TAR, "--exclude=.wh.*", "-f", layer, "-C", root])


def for_overlay(tars: list[Path], into: Path) -> list[Path]:
    """Unpack each layer into a directory with overlayfs' own whiteouts; return them."""
    roots = []
    for at, layer in enumerate(tars):
        root = into / f"{at:02}"
        root.mkdir(parents=True, exist_ok=True)
        call([*_TAR, "-f", layer, "-C", root])
        _translate_whiteouts(root)
        roots.append(root)
    return roots


def _make_way(layer: Path, root: Path) -> None:
    """Remove what a layer deletes, and directories that it replaces with something else."""
    with tarfile.open(layer) as tar:
        members = [(member.name, member.isdir()) for member in tar]
    for name, is_directory in members:
        head, _, base = name.rpartition("/")
        there = root / head
        if base == _OPAQUE:
            if _is_directory(there):
                call(["rm", "-rf", "--", *there.iterdir()])
        elif base.startswith(".wh."):
            call(["rm", "-rf", "--", there / base[4:]])
        elif not is_directory and _is_directory(there / base):
            call(["rm", "-rf", "--", there / base])


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _translate_whiteouts(root: Path) -> None:
    for at, _, files in os.walk(root):
        times = os.stat(at)
        markers = [name for name in files if name.startswith(".wh.")]
        for name in markers:
            os.unlink(os.path.join(at, name))
            if name == _OPAQUE:
                os.setxattr(at, "trusted.overlay.opaque", b"y")
            else:
                os.mknod(os.path.join(at, name[4:]), stat.S_IFCHR, os.makedev(0, 0))
        if markers:
            os.utime(at, ns=(times.st_atime_ns, times.st_mtime_ns))
