"""The layers of a large and real image, taken from this machine's own /usr.

Owns what goes into which layer: lower layers copy, upper ones replace, delete, cover and
describe anew, as builds do. The same machine gives the same layers.
"""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

SOURCES = ("usr/share", "usr/include", "usr/lib", "usr/bin", "usr/local", "opt")
MEMBERS = 64_000
BYTES = 1_000_000_000
_LARGEST = 64 << 20
_BUILT = 1_700_000_000
"""When the upper layers say that they were made (seconds since 1970)."""

Names = dict[str, os.stat_result]


class LayerTar:
    """A layer in the writing; parents are entered before what lies in them, as docker does."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._parents: set[str] = set()

    def copy(self, name: str) -> None:
        """Enter what this machine has under `/name`."""
        self._enter_parents(name)
        info = self._tar.gettarinfo(f"/{name}", name)
        info.mtime = int(info.mtime)
        if info.isreg():
            with open(f"/{name}", "rb") as content:
                self._tar.addfile(info, content)
        else:
            self._parents.add(name)
            self._tar.addfile(info)

    def file(
        self, name: str, content: bytes = b"", mode: int = 0o644, note: str | None = None
    ) -> None:
        """Enter a regular file; `note` is the value of an extended attribute."""
        info = self._info(name, tarfile.REGTYPE, mode)
        info.size = len(content)
        if note is not None:
            info.pax_headers = {"SCHILY.xattr.user.note": note}
        self._tar.addfile(info, io.BytesIO(content))

    def other(self, name: str, kind: bytes, target: str = "", mode: int = 0o755) -> None:
        """Enter a directory, a link, a fifo or a device (of number 1:3)."""
        info = self._info(name, kind, mode)
        info.linkname = target
        if kind == tarfile.CHRTYPE:
            info.devmajor, info.devminor = 1, 3
        self._tar.addfile(info)

    def delete(self, name: str) -> None:
        """Enter a whiteout."""
        head, _, base = name.rpartition("/")
        self.file(f"{head}/.wh.{base}")

    def close(self) -> None:
        """End the archive."""
        self._tar.close()

    def _info(self, name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        self._enter_parents(name)
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime = kind, mode, _BUILT
        info.uname = info.gname = "root"
        return info

    def _enter_parents(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            if parent not in self._parents:
                self._parents.add(parent)
                info = tarfile.TarInfo(parent)
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, _BUILT
                self._tar.addfile(info)


def write_all(directory: Path) -> list[tuple[Path, str]]:
    """Write the layers into a directory; return each with the build step that it stands for."""
    parts = _split(_chosen())
    everything = {name: status for part in parts for name, status in part.items()}
    files = [name for name, status in everything.items() if stat.S_ISREG(status.st_mode)]
    directories = [name for name, status in everything.items() if stat.S_ISDIR(status.st_mode)]
    steps: list[tuple[str, Callable[[LayerTar], None]]] = [
        (f"COPY {len(part)} entries of /usr, part {at}", _copying(part))
        for at, part in enumerate(parts)
    ]
    steps += [
        ("RUN sed -i on every 40th small file", lambda tar: _replace(tar, files, everything)),
        (
            "RUN rm of every 60th file and some directories",
            lambda tar: _delete(tar, files, directories),
        ),
        ("RUN rm -r and make anew some directories", lambda tar: _cover(tar, directories)),
        ("RUN chmod, chown, ln and mknod", lambda tar: _describe(tar, directories)),
    ]
    written = []
    for at, (step, fill) in enumerate(steps):
        path = directory / f"{at:02}.tar"
        tar = LayerTar(path)
        fill(tar)
        tar.close()
        written.append((path, step))
    return written


def _chosen() -> Names:
    """Choose entries of this machine until they are enough; few machines lack them."""
    chosen: Names = {}
    size = 0
    for source in SOURCES:
        for name, status in _walk(source):
            if size >= BYTES and len(chosen) >= MEMBERS:
                return chosen
            # Once one of the two is reached, only what serves the other is taken.
            lean = status.st_size < 4096 if size >= BYTES else status.st_size > 65536
            if (size >= BYTES or len(chosen) >= MEMBERS) and not lean:
                continue
            chosen[name] = status
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return chosen


def _walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    for at, directories, files in os.walk(f"/{top}"):
        directories.sort()
        links = [name for name in directories if os.path.islink(os.path.join(at, name))]
        yield at[1:], os.lstat(at)
        for file in sorted(files + links):
            path = os.path.join(at, file)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode) or (
                stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST
            ):
                yield path[1:], status


def _split(names: Names) -> list[Names]:
    """Cut what was chosen into four layers, of which all but the first are of one size."""
    items = list(names.items())
    cuts = [0, len(items) // 2, len(items) * 2 // 3, len(items) * 5 // 6, len(items)]
    return [dict(items[a:b]) for a, b in pairwise(cuts)]


def _copying(part: Names) -> Callable[[LayerTar], None]:
    def fill(tar: LayerTar) -> None:
        for name in part:
            tar.copy(name)

    return fill


def _replace(tar: LayerTar, files: list[str], everything: Names) -> None:
    for name in files[7::40]:
        if everything[name].st_size < 1 << 20:
            mode = stat.S_IMODE(everything[name].st_mode)
            tar.file(name, Path(f"/{name}").read_bytes() + b"\n# patched\n", mode)


def _delete(tar: LayerTar, files: list[str], directories: list[str]) -> None:
    gone = [name for name in directories if name.count("/") > 2][5::97]
    for name in gone:
        if not _within(name, [other for other in gone if other != name]):
            tar.delete(name)
    for name in files[11::60]:
        if not _within(name, gone):
            tar.delete(name)


def _cover(tar: LayerTar, directories: list[str]) -> None:
    for name in [name for name in directories if name.count("/") == 3][3::211]:
        tar.file(f"{name}/.wh..wh..opq")
        for number in range(3):
            tar.file(f"{name}/made-anew-{number}", b"anew\n" * 100 * number)


def _describe(tar: LayerTar, directories: list[str]) -> None:
    for name in [name for name in directories if name.count("/") == 2][1::50]:
        tar.other(name, tarfile.DIRTYPE, mode=0o2751)
    tar.file("srv/original", b"one inode, three names\n", 0o4755)
    tar.other("srv/second", tarfile.LNKTYPE, "srv/original")
    tar.other("srv/third", tarfile.LNKTYPE, "srv/original")
    tar.other("srv/link", tarfile.SYMTYPE, "original")
    tar.other("srv/fifo", tarfile.FIFOTYPE, mode=0o600)
    tar.other("srv/null", tarfile.CHRTYPE, mode=0o666)
    tar.file("srv/labelled", b"with an attribute\n", note="kept")
    tar.file("srv/" + "long-name-" * 20 + "end", b"a name over 100 bytes\n")


def _within(name: str, tops: list[str]) -> bool:
    return any(name.startswith(top + "/") for top in tops)
