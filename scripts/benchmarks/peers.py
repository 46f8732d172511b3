"""The others: everybody else who can show a saved image's root as a directory tree.

Owns how each of them is made usable from an archive, and mounted.
"""

import json
import os
import tempfile
from abc import abstractmethod
from pathlib import Path
from zlib import crc32

from benchmarks import archives, unpack
from benchmarks.contestants import (
    Contestant,
    Extracted,
    ImagefsKernel,
    ImagefsLibfuse,
    ImagefsNative,
)
from benchmarks.host import call, disk_bytes, find_program
from benchmarks.workspace import discard


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

    def backing(self) -> list[Path]:
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

    @property
    def _state(self) -> Path:
        # Podman takes no more than 50 characters, and keeps to those it was given first.
        home = crc32(os.fsencode(self.home))
        return Path(tempfile.gettempdir()) / f"imagefs-podman-{home:08x}"

    def _podman(self, *words: str | Path) -> str:
        where = ("--root", self.home / "storage", "--runroot", self._state)
        return call(["podman", *where, "--storage-driver", "overlay", *words]).strip()

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
        discard(self._state)
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


class Ext4(Extracted):
    """The image unpacked into an ext4 of its own, so that it can be mounted anew like others."""

    name = "ext4, mounted anew"
    needs = ("tar", "mke2fs")
    package = "tar e2fsprogs"
    makes_the_image_usable = False
    _image = "root.ext4"

    def make(self) -> None:
        """See Contestant."""
        tree = Extracted(self.archive, self.home / "tree", self.programs)
        tree.make()
        tree.snapshots()
        size = disk_bytes([tree.home]) * 5 // 4 + (64 << 20)
        files = ("-d", tree.home, self.home / self._image, f"{size >> 10}k")
        call(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-i", "8192", *files])
        tree.clear()

    def mount(self) -> Path:
        """See Contestant."""
        call(["mount", "-t", "ext4", "-o", "loop,ro", self.home / self._image, self.mountpoint])
        return self.mountpoint / "root"

    def unmount(self) -> None:
        """See Contestant."""
        call(["umount", self.mountpoint])

    def snapshots(self) -> tuple[Path, Path] | None:
        """See Contestant."""
        if archives.compared_layer(self.archive) is None:
            return None
        return self.mountpoint / "one", self.mountpoint / "other"

    def kept(self) -> list[Path]:
        """See Contestant."""
        return [self.home / self._image]

    def backing(self) -> list[Path]:
        """See Contestant."""
        return [self.home / self._image]

    def backing_of_snapshots(self) -> list[Path]:
        """See Contestant."""
        return self.backing()


class ArchiveContents(Contestant):
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


class Erofs(ArchiveContents):
    """EROFS of the merged root, uncompressed, in the kernel."""

    name = "EROFS"
    image = "root.erofs"
    needs = ("mkfs.erofs",)
    package = "erofs-utils"

    def missing(self) -> str | None:
        """See Contestant."""
        return super().missing() or _kernel_lacks("erofs")

    def pack(self, root: Path, image: Path) -> None:
        """See ArchiveContents."""
        call(["mkfs.erofs", image, root])

    def mount(self) -> Path:
        """See Contestant."""
        call(["mount", "-t", "erofs", "-o", "loop,ro", self.home / self.image, self.mountpoint])
        return self.mountpoint


class Squashfs(ArchiveContents):
    """squashfs of the merged root, compressed with zstd, in the kernel."""

    name = "squashfs"
    image = "root.squashfs"
    needs: tuple[str, ...] = ("mksquashfs",)
    package = "squashfs-tools"

    def missing(self) -> str | None:
        """See Contestant."""
        return super().missing() or _kernel_lacks("squashfs")

    def pack(self, root: Path, image: Path) -> None:
        """See ArchiveContents."""
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
        """See ArchiveContents."""
        call(["mksquashfs", root, image, "-noI", "-noD", "-noF", "-noX", "-no-progress"])

    def mount(self) -> Path:
        """See Contestant."""
        squashfuse = find_program("squashfuse_ll", "squashfuse")
        call([squashfuse or "squashfuse", "-o", "ro", self.home / self.image, self.mountpoint])
        return self.mountpoint


EVERYBODY: tuple[type[Contestant], ...] = (
    Extracted,
    Ext4,
    ImagefsNative,
    ImagefsLibfuse,
    ImagefsKernel,
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
