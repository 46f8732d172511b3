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

from benchmarks import archives, unpack
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

    makes_the_image_usable = True
    """Whether the time it takes to be ready is worth comparing."""

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

    def backing_of_snapshots(self) -> list[Path]:
        """Return what reads of the two snapshots end in."""
        return self.backing()

    def snapshots(self) -> tuple[Path, Path] | None:
        """Return the roots after the layer to compare and after the next, if it can show them.

        They are there while it is mounted.
        """
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

    def snapshots(self) -> tuple[Path, Path] | None:
        """See Contestant."""
        below = archives.compared_layer(self.archive)
        if below is None:
            return None
        # Not by looking into the mount, which would warm it.
        layers = json.loads(self.command("layers", "--json", self.archive))
        one, other = (layer["directory"] for layer in layers[below : below + 2])
        return self.mountpoint / "snapshots" / one, self.mountpoint / "snapshots" / other


class ImagefsLibfuse(ImagefsNative):
    """imagefs by way of libfuse."""

    name = "imagefs, libfuse"
    driver = "libfuse"


class ImagefsKernel(ImagefsNative):
    """imagefs with the kernel's EROFS, which reads the archive without a daemon."""

    name = "imagefs, kernel"
    driver = "kernel"

    def make(self) -> None:
        """See Contestant; the kernel takes no archive that others may write to."""
        os.chown(self.archive, 0, 0)
        self.archive.chmod(0o644)


class Extracted(Contestant):
    """The image unpacked into a directory, on whatever disk the workspace is.

    It is never mounted anew: what its files hold stays in the page cache, where nobody else has
    it after a fresh mount.
    """

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

    def snapshots(self) -> tuple[Path, Path] | None:
        """See Contestant."""
        below = archives.compared_layer(self.archive)
        if below is None:
            return None
        roots = (self.home / "one", self.home / "other")
        if not roots[1].exists():
            tars = unpack.layers(self.archive, self.home / "layers")
            for at, root in enumerate(roots):
                discard(root)
                unpack.merged(tars[: below + 1 + at], root)
            discard(self.home / "layers")
        return roots

    def kept(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "root"]

    def backing(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "root"]

    def backing_of_snapshots(self) -> list[Path]:
        """See Contestant."""
        return list(self.snapshots() or ())


def own_imagefs() -> Path:
    """Return the imagefs of the environment that runs this."""
    return Path(os.path.dirname(sys.executable)) / "imagefs"
