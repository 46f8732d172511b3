"""What takes part in the benchmark: imagefs, the extracted tree, and what others have to offer.

Owns the verbs that everybody is behind. `make` starts from nothing but the archive and keeps what
it needs in `home`; `mount` uses what was made, and gives a mount that has answered nothing yet.
The others are in `peers.py`.
"""

import json
import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from benchmarks import unpack
from benchmarks.host import call, find_program, processes_of
from benchmarks.workspace import discard


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs that are not on everybody's PATH: the imagefs to measure, the tools' environment."""

    imagefs: Path
    environment: Path


class Contestant(ABC):
    """One way to read the image in `archive`; `home` is its own directory."""

    name: str
    needs: tuple[str, ...] = ()
    package = ""

    def __init__(self, archive: Path, home: Path, programs: Programs) -> None:
        self.archive = archive
        self.home = home
        self.programs = programs
        self.mountpoint = home / "mnt"

    def missing(self) -> str | None:
        """Return why it cannot take part, or None."""
        lacking = [name for name in self.needs if not find_program(name)]
        return f"{', '.join(lacking)} is missing: apt install {self.package}" if lacking else None

    def make_anew(self) -> None:
        """Forget all that was made, and make it from the archive."""
        self.clear()
        self.mountpoint.mkdir(parents=True)
        self.make()
        (self.home / "made").touch()

    def prepare(self) -> None:
        """Make it, unless an earlier run has."""
        if not (self.home / "made").exists():
            self.make_anew()

    def clear(self) -> None:
        """Forget all that was made."""
        discard(self.home)

    def make(self) -> None:  # noqa: B027 - some need nothing
        """Make from the archive what `mount` needs."""

    @abstractmethod
    def mount(self) -> Path:
        """Mount; return the merged root."""

    def unmount(self) -> None:
        """Take the mount away."""
        call(["umount", self.mountpoint])

    def processes(self) -> list[int]:
        """Return the processes that serve the mount."""
        return processes_of(self.mountpoint)

    def kept(self) -> list[Path]:
        """Return what it has put on the disk, besides the archive."""
        return [self.home]

    def backing(self) -> list[Path]:
        """Return the files and directories that its reads end in."""
        return [self.home]

    def backing_of_snapshots(self, _below: int) -> list[Path]:
        """Return what reads of the two snapshots end in."""
        return self.backing()

    def snapshots(self, _below: int) -> tuple[Path, Path] | None:
        """Return the roots as they stood after a layer and after the next, if it can show them."""
        return None


class ImagefsNative(Contestant):
    """imagefs with its own FUSE driver."""

    name = "imagefs"
    driver = "native"

    def mount(self) -> Path:
        """See Contestant."""
        self.mountpoint.mkdir(parents=True, exist_ok=True)
        self.command("mount", "--driver", self.driver, self.archive, self.mountpoint)
        return self.mountpoint / "rootfs"

    def unmount(self) -> None:
        """See Contestant."""
        call([self.programs.imagefs, "unmount", self.mountpoint])

    def command(self, *words: str | Path) -> str:
        """Run imagefs with the cache of this contestant."""
        return call(
            [self.programs.imagefs, *words], env={"IMAGEFS_CACHE": str(self.home / "cache")}
        )

    def kept(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "cache"]

    def backing(self) -> list[Path]:
        """See Contestant."""
        return [self.archive]

    def snapshots(self, below: int) -> tuple[Path, Path] | None:
        """See Contestant."""
        # Names only: looking into the mount would warm it.
        names = [f"{at:02}-" for at in (below, below + 1)]
        listed = json.loads(self.command("layers", "--json", self.archive))
        found = [one["directory"] for one in listed if one["directory"].startswith(tuple(names))]
        return self.mountpoint / "snapshots" / found[0], self.mountpoint / "snapshots" / found[1]


class ImagefsLibfuse(ImagefsNative):
    """imagefs by way of libfuse."""

    name = "imagefs, libfuse"
    driver = "libfuse"


class Extracted(Contestant):
    """The image unpacked into a directory: the floor, on whatever disk the workspace is."""

    name = "extracted tree"
    needs = ("tar",)
    package = "tar"

    def make(self) -> None:
        """See Contestant."""
        tars = unpack.layers(self.archive, self.home / "layers")
        unpack.merged(tars, self.home / "root")
        discard(self.home / "layers")

    def mount(self) -> Path:
        """See Contestant."""
        return self.home / "root"

    def unmount(self) -> None:
        """See Contestant."""

    def snapshots(self, below: int) -> tuple[Path, Path] | None:
        """See Contestant."""
        roots = tuple(self.home / f"snapshot-{at}" for at in (below, below + 1))
        if not all(root.exists() for root in roots):
            tars = unpack.layers(self.archive, self.home / "layers")
            for at, root in enumerate(roots):
                unpack.merged(tars[: below + 1 + at], root)
            discard(self.home / "layers")
        return roots[0], roots[1]

    def kept(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "root"]

    def backing(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "root"]

    def backing_of_snapshots(self, below: int) -> list[Path]:
        """See Contestant."""
        return list(self.snapshots(below) or ())


def own_imagefs() -> Path:
    """Return the imagefs of the environment that runs this."""
    return Path(os.path.dirname(sys.executable)) / "imagefs"
