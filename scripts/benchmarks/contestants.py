"""Everybody who can show a saved image's root as a directory tree, each behind the same four verbs.

Owns how each one is made usable from an archive and mounted. `make` starts from nothing but the
archive and keeps what it needs in `home`; `mount` uses what was made, and gives a mount that has
answered nothing yet.
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
        """Return the files that its reads end in."""
        return [self.home]

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


class KernelOverlay(Contestant):
    """The layers unpacked one by one, stacked by the kernel: what engines do."""

    name = "overlayfs"
    needs = ("tar", "mount")
    package = "tar mount"

    def make(self) -> None:
        """See Contestant."""
        tars = unpack.layers(self.archive, self.home / "tars")
        unpack.for_overlay(tars, self.home / "layers")
        discard(self.home / "tars")

    def lowers(self) -> str:
        """Return the layers as overlayfs wants them, topmost first."""
        return ":".join(
            str(path) for path in sorted((self.home / "layers").iterdir(), reverse=True)
        )

    def mount(self) -> Path:
        """See Contestant."""
        lowers = self.lowers()
        if ":" not in lowers:  # overlayfs wants two
            empty = self.home / "empty"
            empty.mkdir(exist_ok=True)
            lowers = f"{empty}:{lowers}"
        call(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lowers}", self.mountpoint])
        return self.mountpoint

    def kept(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "layers"]


class FuseOverlay(KernelOverlay):
    """The layers unpacked one by one, stacked by fuse-overlayfs, which is written in C."""

    name = "fuse-overlayfs"
    needs = ("tar", "fuse-overlayfs")
    package = "fuse-overlayfs"

    def mount(self) -> Path:
        """See Contestant."""
        call(["fuse-overlayfs", "-o", f"lowerdir={self.lowers()}", self.mountpoint])
        return self.mountpoint


class Podman(Contestant):
    """`podman load`, then `podman image mount`."""

    name = "podman image mount"
    needs = ("podman",)
    package = "podman"

    def _podman(self, *words: str | Path) -> str:
        root, state = self.home / "storage", self.home / "run"
        podman = ("podman", "--root", root, "--runroot", state, "--storage-driver", "overlay")
        return call([*podman, *words]).strip()

    def make(self) -> None:
        """See Contestant."""
        # Loaded image: NAME
        said = self._podman("load", "-i", self.archive)
        (self.home / "image").write_text(said.splitlines()[-1].partition(": ")[2].strip())

    def mount(self) -> Path:
        """See Contestant."""
        return Path(self._podman("image", "mount", (self.home / "image").read_text()))

    def unmount(self) -> None:
        """See Contestant."""
        self._podman("image", "unmount", "--force", (self.home / "image").read_text())

    def processes(self) -> list[int]:
        """See Contestant: the kernel's overlayfs serves it."""
        return []

    def clear(self) -> None:
        """See Contestant."""
        storage = self.home / "storage"
        if storage.exists():
            call(["umount", storage / "overlay"], fine=range(256))
        super().clear()

    def kept(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "storage"]

    def backing(self) -> list[Path]:
        """See Contestant."""
        return sorted((self.home / "storage" / "overlay").glob("*/diff"))


class Ratarmount(Contestant):
    """ratarmount over the layers' tars: later ones lie on top, whiteouts stay plain files."""

    name = "ratarmount"

    @property
    def _program(self) -> Path:
        return self.programs.environment / "bin" / "ratarmount"

    def missing(self) -> str | None:
        """See Contestant."""
        return None if self._program.exists() else "ratarmount is missing: pip install ratarmount"

    def make(self) -> None:
        """See Contestant."""
        unpack.layers(self.archive, self.home / "layers")

    def mount(self) -> Path:
        """See Contestant."""
        names = [self.home / "layers" / name for name in self._names()]
        index = self.home / "index"
        index.mkdir(exist_ok=True)
        call([self._program, "--index-folders", index, *names, self.mountpoint])
        return self.mountpoint

    def _names(self) -> list[str]:
        manifest = json.loads((self.home / "layers" / "manifest.json").read_text())
        names: list[str] = manifest[0]["Layers"]
        return names

    def kept(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "layers", self.home / "index"]

    def backing(self) -> list[Path]:
        """See Contestant."""
        return [self.home / "layers"]


class Packed(Contestant):
    """The merged root packed into a file system image in one file."""

    image = ""

    def make(self) -> None:
        """See Contestant."""
        tars = unpack.layers(self.archive, self.home / "layers")
        unpack.merged(tars, self.home / "root")
        self.pack(self.home / "root", self.home / self.image)
        discard(self.home / "layers")
        discard(self.home / "root")

    @abstractmethod
    def pack(self, root: Path, image: Path) -> None:
        """Pack a directory tree into a file."""

    def kept(self) -> list[Path]:
        """See Contestant."""
        return [self.home / self.image]

    def backing(self) -> list[Path]:
        """See Contestant."""
        return [self.home / self.image]


class Erofs(Packed):
    """EROFS of the merged root, uncompressed, in the kernel."""

    name = "EROFS"
    image = "root.erofs"
    needs = ("mkfs.erofs",)
    package = "erofs-utils"

    def missing(self) -> str | None:
        """See Contestant."""
        return super().missing() or _kernel_lacks("erofs")

    def pack(self, root: Path, image: Path) -> None:
        """See Packed."""
        call(["mkfs.erofs", image, root])

    def mount(self) -> Path:
        """See Contestant."""
        call(["mount", "-t", "erofs", "-o", "loop,ro", self.home / self.image, self.mountpoint])
        return self.mountpoint


class Squashfs(Packed):
    """squashfs of the merged root, compressed with zstd, in the kernel."""

    name = "squashfs"
    image = "root.squashfs"
    needs: tuple[str, ...] = ("mksquashfs",)
    package = "squashfs-tools"

    def missing(self) -> str | None:
        """See Contestant."""
        return super().missing() or _kernel_lacks("squashfs")

    def pack(self, root: Path, image: Path) -> None:
        """See Packed."""
        call(
            ["mksquashfs", root, image, "-comp", "zstd", "-Xcompression-level", "3", "-no-progress"]
        )

    def mount(self) -> Path:
        """See Contestant."""
        call(["mount", "-t", "squashfs", "-o", "loop,ro", self.home / self.image, self.mountpoint])
        return self.mountpoint


class Squashfuse(Squashfs):
    """The same squashfs, not compressed, by way of FUSE."""

    name = "squashfuse"
    needs = ("mksquashfs", "squashfuse")
    package = "squashfs-tools squashfuse"

    def missing(self) -> str | None:
        """See Contestant."""
        return Contestant.missing(self)

    def pack(self, root: Path, image: Path) -> None:
        """See Packed."""
        call(["mksquashfs", root, image, "-noI", "-noD", "-noF", "-noX", "-no-progress"])

    def mount(self) -> Path:
        """See Contestant."""
        squashfuse = find_program("squashfuse_ll", "squashfuse")
        call([squashfuse or "squashfuse", "-o", "ro", self.home / self.image, self.mountpoint])
        return self.mountpoint


ALL: tuple[type[Contestant], ...] = (
    Extracted,
    ImagefsNative,
    ImagefsLibfuse,
    KernelOverlay,
    Podman,
    Erofs,
    Squashfs,
    FuseOverlay,
    Squashfuse,
    Ratarmount,
)


def _kernel_lacks(filesystem: str) -> str | None:
    known = Path("/proc/filesystems").read_text().split()
    return None if filesystem in known else f"this kernel has no {filesystem}"


def own_imagefs() -> Path:
    """Return the imagefs of the environment that runs this."""
    return Path(os.path.dirname(sys.executable)) / "imagefs"
