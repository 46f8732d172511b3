"""`--driver kernel` as users call it: mounts that no process serves, and what is kept of them."""

import gzip
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagefs.erofs import kept, live
from imagefs.erofs import mount as erofs_mount
from imagefs.errors import HostError
from imagefs.host import mountinfo
from tests.support.kernel import kernel_mounted, mounted_image, need_kernel
from tests.support.mounted import clear, imagefs
from tests.support.needs import need_tool
from tests.support.saved import docker_save
from tests.support.sparsetars import SPARSE_WRITERS
from tests.support.tars import Char, File, Hard, image_of, layer
from tests.support.users import NOBODY

GIB = 1 << 30
LAYERS = (
    layer({"etc/conf": "one", "bin/su": File("x", 0o4755), "secret": File("s", 0o600)}),
    layer({"etc/conf": "two", "dev/null": Char(1, 3, 0o666), "lost": Hard("nothing")}),
)


class Kernel:
    """A cache, a place to mount, and commands of imagefs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.mountpoint = folder / "m"
        self.mountpoint.mkdir()

    def run(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        return imagefs(*words, IMAGEFS_CACHE=str(self.cache))

    def does(self, *words: str | Path) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *words: str | Path, status: int = 1) -> str:
        done = self.run(*words)
        assert done.returncode == status, done.stderr
        assert done.stderr.count("\n") == 1
        return done.stderr

    def mount(self, source: Path, *options: str) -> Path:
        self.does("mount", "-q", "--driver", "kernel", *options, source, self.mountpoint)
        return self.mountpoint

    def archive(self, content: bytes | None = None) -> Path:
        path = self.folder / "image.tar"
        path.write_bytes(docker_save(*LAYERS) if content is None else content)
        path.chmod(0o644)
        return path

    def metadata(self) -> list[Path]:
        return sorted((self.cache / "erofs").iterdir())

    def mounts(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.does("mounts", "--json"))
        return [one for one in found if one["mountpoint"] == str(self.mountpoint)]


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    need_kernel()
    made = Kernel(tmp_path)
    try:
        yield made
    finally:
        clear(made.mountpoint)


def test_a_mount_from_first_to_last(kernel: Kernel) -> None:
    """It shows all that a mount shows, is listed, and is taken away; no process stays."""
    root = kernel.mount(kernel.archive())
    assert sorted(os.listdir(root)) == [
        "config.json", "layers", "layers.txt", "manifest.json", "rootfs", "snapshots",
    ]  # fmt: skip
    assert (root / "rootfs/etc/conf").read_text() == "two"
    first, _ = sorted((root / "snapshots").iterdir())
    assert (first / "etc/conf").read_text() == "one"
    assert json.loads((root / "config.json").read_bytes())["rootfs"]["type"] == "layers"
    with pytest.raises(OSError, match="Input/output error"):
        (root / "rootfs/lost").read_bytes()
    found = mountinfo.at(root)
    assert found is not None
    assert found.fstype == "erofs"
    assert {"ro", "nosuid", "nodev"} <= set(found.options.split(","))
    (listed,) = kernel.mounts()
    assert listed["source"] == str(kernel.folder / "image.tar")
    assert (listed["driver"], listed["pid"], listed["changed"]) == ("kernel", None, False)
    kernel.does("unmount", root)
    assert kernel.mounts() == []
    assert os.listdir(root) == []


def test_the_second_mount_writes_nothing(kernel: Kernel) -> None:
    """What was written for the first mount is found again; another view has its own."""
    archive = kernel.archive()
    kernel.mount(archive)
    kernel.does("unmount", kernel.mountpoint)
    (path,) = kernel.metadata()
    before = path.stat()
    indexes = {one: one.stat().st_mtime_ns for one in (kernel.cache / "index").iterdir()}
    kernel.mount(archive)
    kernel.does("unmount", kernel.mountpoint)
    assert kernel.metadata() == [path]
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    assert {one: one.stat().st_mtime_ns for one in (kernel.cache / "index").iterdir()} == indexes
    root = kernel.mount(archive, "--view", "rootfs")
    assert (root / "etc/conf").read_text() == "two"
    assert len(kernel.metadata()) == 2


def test_layers_of_the_store(kernel: Kernel) -> None:
    """A compressed archive's layers are files of their own; while they are mounted, none goes."""
    big = [layer({f"f{n}": File(os.urandom(3 << 20))}) for n in range(3)]
    archive = kernel.archive(gzip.compress(docker_save(*LAYERS, *big), 1))
    root = kernel.mount(archive)
    kept = sorted(kernel.cache.glob("layers/sha256/*"))
    assert kept
    kernel.does("cache", "prune")
    assert sorted(kernel.cache.glob("layers/sha256/*")) == kept
    assert len(kernel.metadata()) == 1
    assert (root / "rootfs/etc/conf").read_text() == "two"
    assert len((root / "rootfs/f2").read_bytes()) == 3 << 20
    listed = json.loads(kernel.does("cache", "list", "--json"))
    assert [one["in_use"] for one in listed["layers"]] == [True] * len(kept)
    assert listed["erofs_bytes"] == kernel.metadata()[0].stat().st_size
    kernel.does("unmount", root)
    kernel.does("cache", "prune")
    assert kernel.metadata() == []
    assert sorted(kernel.cache.glob("layers/sha256/*")) == []


def test_another_cache_is_not_in_use(kernel: Kernel) -> None:
    """What one cache has mounted is no matter of another that holds the same layers."""
    big = layer({"f": File(os.urandom(3 << 20))})
    archive = kernel.archive(gzip.compress(docker_save(*LAYERS, big), 1))
    kernel.mount(archive)
    used, kernel.cache = kernel.cache, kernel.folder / "other"
    kernel.does("ls", archive)
    listed = json.loads(kernel.does("cache", "list", "--json"))
    assert listed["layers"]
    assert not any(one["in_use"] for one in listed["layers"])
    kernel.does("cache", "prune")
    assert list(kernel.cache.glob("layers/sha256/*")) == []
    assert list(used.glob("layers/sha256/*"))


def test_mounts_of_an_older_imagefs_are_known(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer of other bytes makes its metadata anew; what the former one wrote is still ours."""
    image = [kept.Named(b"", image_of(LAYERS, kernel.folder))]
    before = kept.key(image, None)
    kernel.mount(kernel.archive())
    monkeypatch.setattr(kept, "_WRITER", kept._WRITER + 1)
    assert kept.key(image, None) != before
    mount = mountinfo.at(kernel.mountpoint)
    assert mount is not None
    found = live.of(mount)
    assert found is not None
    assert [found.path] == kernel.metadata()


def test_every_image_of_an_archive(kernel: Kernel) -> None:
    """With --all each image is a directory, by this driver too."""
    root = kernel.mount(kernel.archive(), "--all")
    (name,) = os.listdir(root)
    assert (root / name / "rootfs/etc/conf").read_text() == "two"


def test_an_archive_that_changes(kernel: Kernel) -> None:
    """`mounts` tells that an archive is another by now; the next mount shows what it is then."""
    archive = kernel.archive()
    root = kernel.mount(archive)
    with archive.open("r+b") as file:
        file.seek(archive.read_bytes().index(b"two\0"))
        file.write(b"XYZ")
    (listed,) = kernel.mounts()
    assert listed["changed"]
    assert "its archive has changed: unmount it" in kernel.does("mounts")
    kernel.does("unmount", root)
    assert (kernel.mount(archive) / "rootfs/etc/conf").read_text() == "XYZ"


@pytest.mark.parametrize("theirs", ["mode", "owner"])
def test_what_others_may_write_to_is_refused(theirs: str, kernel: Kernel) -> None:
    """An archive that ordinary users may change is mounted by consent only."""
    archive = kernel.archive()
    if theirs == "mode":
        archive.chmod(0o666)
    else:
        os.chown(archive, NOBODY, NOBODY)
    said = kernel.fails("mount", "-q", "--driver", "kernel", archive, kernel.mountpoint)
    assert "--trust-archive" in said
    assert kernel.mounts() == []
    assert (kernel.mount(archive, "--trust-archive") / "rootfs/etc/conf").exists()


def test_everybody_enters_and_modes_count(kernel: Kernel) -> None:
    """Other users read what they may, and nothing else; devices are shut, setuid is off."""
    tmp = kernel.mount(kernel.archive())
    become = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]

    def nobody(*words: str) -> "subprocess.CompletedProcess[bytes]":
        # By a working directory, as the way to it may be closed to them.
        return subprocess.run([*become, *words], cwd=tmp, capture_output=True, check=False)

    need_tool("setpriv", "util-linux")
    assert nobody("cat", "rootfs/etc/conf").stdout == b"two"
    assert b"Permission denied" in nobody("cat", "rootfs/secret").stderr
    assert b"Permission denied" in nobody("cat", "rootfs/dev/null").stderr


def test_a_line_in_fstab(kernel: Kernel) -> None:
    """mount(8)'s words mean this driver where the options say driver=kernel."""
    words = (kernel.archive(), kernel.mountpoint, "-o", "rw,noexec,driver=kernel,view=rootfs")
    kernel.does(*words)
    assert (kernel.mountpoint / "etc/conf").read_text() == "two"
    found = mountinfo.at(kernel.mountpoint)
    assert found is not None
    assert "noexec" in found.options.split(",")
    subprocess.run(["umount", kernel.mountpoint], check=True)
    assert kernel.mounts() == []


def test_what_is_torn_is_found_and_written_anew(kernel: Kernel) -> None:
    """`cache verify` removes metadata that is not as it was written; so does a mount its head."""
    archive = kernel.archive()
    kernel.mount(archive)
    kernel.does("unmount", kernel.mountpoint)
    assert "every digest is right" in kernel.does("cache", "verify")
    (path,) = kernel.metadata()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xa5" * 64)
    done = kernel.run("cache", "verify", "--quiet")
    assert done.returncode == 1
    assert path.name in done.stderr
    assert kernel.metadata() == []
    kernel.mount(archive)
    kernel.does("unmount", kernel.mountpoint)
    with path.open("r+b") as file:
        file.truncate(5000)
    assert (kernel.mount(archive) / "rootfs/etc/conf").read_text() == "two"


def test_what_it_cannot_do_is_said(kernel: Kernel) -> None:
    """There is no process to stay in the foreground, and what changes cannot be served."""
    mount = ("mount", "--driver", "kernel", kernel.archive(), kernel.mountpoint)
    assert "foreground" in kernel.fails(*mount, "--foreground", status=2)
    assert "FUSE" in kernel.fails("serve", "--driver", "kernel", kernel.mountpoint, status=2)


def test_a_busy_mount_stays(kernel: Kernel) -> None:
    """A mount that is in use is taken away with --lazy only."""
    root = kernel.mount(kernel.archive())
    with (root / "rootfs/etc/conf").open() as file:
        assert "--lazy" in kernel.fails("unmount", root)
        kernel.does("unmount", "--lazy", root)
        assert file.read() == "two"
    assert kernel.mounts() == []


def test_only_root_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are told so, and by which driver they can."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(HostError, match="--driver native"):
        erofs_mount.check_kernel()


def test_a_kernel_without_erofs(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named, and which driver needs none of it."""
    monkeypatch.setattr(erofs_mount, "FSTYPE", "no-such-fs")
    with pytest.raises(HostError, match=r"this kernel has no EROFS.*--driver native"):
        erofs_mount.check_kernel()


# Loop devices


def loops_of(folder: Path) -> list[str]:
    """Return the loop devices of files below a folder."""
    said = subprocess.run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"],
                          capture_output=True, check=True).stdout.decode()  # fmt: skip
    return [line for line in said.splitlines() if line.strip().startswith(str(folder))]


def test_a_cache_that_cannot_be_mounted_from(kernel: Kernel) -> None:
    """From a tmpfs the kernel mounts by loop devices, which go with the mount."""
    kernel.cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", kernel.cache], check=True)
    try:
        root = kernel.mount(kernel.archive())
        assert (root / "rootfs/etc/conf").read_text() == "two"
        with pytest.raises(OSError, match="Input/output error"):
            (root / "rootfs/lost").read_bytes()
        (listed,) = kernel.mounts()
        assert listed["source"] == str(kernel.folder / "image.tar")
        kernel.does("cache", "prune")
        assert len(kernel.metadata()) == 1
        kernel.does("unmount", root)
        assert loops_of(kernel.folder) == []
    finally:
        clear(kernel.mountpoint)
        subprocess.run(["umount", kernel.cache], check=True)


def test_a_kernel_that_reads_from_devices_only(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where EROFS takes no files, each gets a loop device, however many layers there are."""
    real = erofs_mount._mounted

    def devices_only(source: str, *rest: object) -> int:
        if not source.startswith("/dev/loop"):
            raise erofs_mount._RefusedError(15, "")
        return real(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(erofs_mount, "_mounted", devices_only)
    layers = [layer({"f": str(n), f"g{n}": "x" * 5000, "l": Hard("none")}) for n in range(20)]
    image = image_of(layers, kernel.folder)
    with mounted_image(image, kernel.folder, kernel.mountpoint) as root:
        assert len(loops_of(kernel.folder)) == 22  # with the metadata, and what is lost
        assert (root / "rootfs/f").read_text() == "19"
        assert (root / "rootfs/g0").read_text() == "x" * 5000
        with pytest.raises(OSError, match="Input/output error"):
            (root / "rootfs/l").read_bytes()
    assert loops_of(kernel.folder) == []


# Content


@pytest.mark.parametrize("name", SPARSE_WRITERS)
def test_sparse_files(name: str, kernel: Kernel) -> None:
    """A sparse file has its size, its data and its holes."""
    command = SPARSE_WRITERS[name]
    need_tool(command[0], "tar libarchive-tools")
    path = kernel.folder / "f"
    places = (0, GIB, 9 * GIB + 4096)
    with path.open("wb") as out:
        out.truncate(12 * GIB + 5)
        for at in places:
            out.seek(at)
            out.write(b"data at %12d" % at)
    subprocess.run([*command, "-cf", "s.tar", "f"], cwd=kernel.folder, check=True)
    tar = (kernel.folder / "s.tar").read_bytes()
    with (
        kernel_mounted([tar], kernel.folder, kernel.mountpoint, "rootfs") as root,
        (root / "f").open("rb") as shown,
        path.open("rb") as real,
    ):
        descriptor = shown.fileno()
        assert os.fstat(descriptor).st_size == 12 * GIB + 5
        for at in (0, 1, 8192, GIB - 100, GIB + 100, 5 * GIB, 9 * GIB + 4096, 12 * GIB):
            assert os.pread(descriptor, 200, at) == os.pread(real.fileno(), 200, at), at
        for at in (0, 8192, GIB + 8192, 5 * GIB):
            found = os.lseek(descriptor, at, os.SEEK_DATA)
            assert found == os.lseek(real.fileno(), at, os.SEEK_DATA)
            assert at < os.lseek(descriptor, found, os.SEEK_HOLE) <= found + (1 << 20)
    (metadata,) = (kernel.folder / "erofs").iterdir()
    assert metadata.stat().st_size < 40 << 20


def test_odd_pieces_are_copied(kernel: Kernel) -> None:
    """Runs of data that begin and end within blocks are shown byte for byte."""
    from tests.support.headers import END, file, pax  # noqa: PLC0415

    size, runs = 100_000, [(7, 100), (513, 3), (40_000, 9_000), (99_990, 10)]
    stored = os.urandom(sum(length for _, length in runs))
    said = b",".join(b"%d,%d" % run for run in runs)
    tar = pax([(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.map", said)]) + file(b"f", stored)
    expected, taken = bytearray(size), 0
    for at, length in runs:
        expected[at : at + length] = stored[taken : taken + length]
        taken += length
    with kernel_mounted([tar + END], kernel.folder, kernel.mountpoint, "rootfs") as root:
        assert (root / "f").read_bytes() == expected


def test_a_place_that_is_taken(kernel: Kernel) -> None:
    """Two mounts on one directory are refused as by any driver."""
    kernel.mount(kernel.archive())
    source = kernel.folder / "image.tar"
    said = kernel.fails("mount", "-q", "--driver", "kernel", source, kernel.mountpoint)
    assert "something is mounted here already" in said
