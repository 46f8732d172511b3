"""Images with all bytes in them: right by erofs-utils, and by a kernel that knows nothing of us."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imagefs.erofs import content
from imagefs.erofs.export import export
from imagefs.errors import CorruptArchive, HostError
from imagefs.vfs.image_fs import ImageFs, images_fs
from tests.support import conformance
from tests.support.agreeing import agree
from tests.support.headers import END, file, pax
from tests.support.kernel import need_kernel
from tests.support.mounted import imagefs
from tests.support.needs import need_tool
from tests.support.saved import docker_save
from tests.support.tars import File, Hard, fs_of, image_of, layer

LAYERS = [
    layer(conformance.CONTENT | {"long/": "", **{f"long/{n}": "x" * n for n in range(3990, 4110)}}),
    layer({"dir/.wh.inner": "", "new": File("n" * 10_000), "link2": Hard("new")}),
]


@contextmanager
def by_loop(path: Path, mountpoint: Path) -> Iterator[Path]:
    """Mount an image as anybody would: by mount(8), which takes a loop device."""
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", path, mountpoint], check=True)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def exported(fs: ImageFs, folder: Path) -> Path:
    path = folder / "image.erofs"
    export(fs, path)
    return path


@pytest.mark.parametrize("view", ["rootfs", None])
def test_any_kernel_shows_it(view: str | None, tmp_path: Path) -> None:
    """A kernel mounts the image and shows what FUSE would, contents and all."""
    need_kernel()
    fs = fs_of(LAYERS, tmp_path, view)
    with by_loop(exported(fs, tmp_path), tmp_path / "m") as mountpoint:
        assert agree(fs, mountpoint) > 400


def test_images_that_share_layers(tmp_path: Path) -> None:
    """Several images in one show what FUSE would: each view of each, also of layers they share."""
    need_kernel()
    below = {"x/": "", "x/d/": "", "x/d/.wh.gone": "", "x/d/f": "", "y/": "", "y/e/": ""}
    layers = [layer(below), layer({"y/e/h": ""})]
    one = image_of(layers, tmp_path)
    (tmp_path / "indexes").mkdir()
    fs = images_fs([one, replace(one, names=("other:latest",))], tmp_path / "indexes")
    with by_loop(exported(fs, tmp_path), tmp_path / "m") as mountpoint:
        assert agree(fs, mountpoint) > 60


@pytest.mark.parametrize("view", ["rootfs", None])
def test_fsck_finds_nothing(view: str | None, tmp_path: Path) -> None:
    """fsck.erofs finds no fault, not in what was copied either, and extracts each file."""
    fsck = need_tool("fsck.erofs", "erofs-utils")
    many = layer({f"d{n}/{m}": f"{n}" * m for n in range(9) for m in range(300)})
    deep = layer({f"e/{n}/sub/{m}/f": "" for n in range(9) for m in range(300)})
    fs = fs_of([many, deep, layer({"f": "", "e/1/g": ""})], tmp_path, view)
    path, into = exported(fs, tmp_path), tmp_path / "extracted"
    done = subprocess.run([fsck, f"--extract={into}", path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert agree_in_content(fs, fs.root, into) >= 9 * 300


def agree_in_content(fs: ImageFs, node: int, directory: Path) -> int:
    """Compare files with those of a directory; return how many there are."""
    count = 0
    entries = fs.listdir(node)
    assert sorted(os.listdir(os.fsencode(directory))) == [entry.name for entry in entries]
    for name, attr in entries:
        path = directory / os.fsdecode(name)
        if path.is_dir():
            count += agree_in_content(fs, attr.node, path)
        else:
            assert path.read_bytes() == fs.read(attr.node, 0, attr.size), path
            count += 1
    return count


def test_dump_tells_what_was_meant(tmp_path: Path) -> None:
    """dump.erofs reads the superblock, its check sum among the rest, and an inode."""
    dump = need_tool("dump.erofs", "erofs-utils")
    path = exported(
        fs_of([layer({"f": File("x" * 5000, 0o640, uid=7)})], tmp_path, "rootfs"), tmp_path
    )
    said = subprocess.run([dump, "-s", path], capture_output=True, check=True).stdout.decode()
    assert "sb_csum" in said
    assert "0xE0F5E1E2" in said
    said = subprocess.run(
        [dump, "--path=/f", path], capture_output=True, check=True
    ).stdout.decode()
    assert "Size: 5000" in said
    assert "Uid: 7" in said


def test_lost_content_is_refused(tmp_path: Path) -> None:
    """An image cannot say that content is lost: it is not written, and nothing is left."""
    fs = fs_of([layer({"d/gone": Hard("nowhere")})], tmp_path, "rootfs")
    with pytest.raises(CorruptArchive, match="'d/gone' is lost"):
        exported(fs, tmp_path)
    assert not [name for name in os.listdir(tmp_path) if "erofs" in name or name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("size", "runs"),
    [(8 << 20, [(at << 12 | 1, 1) for at in range(2048)]), (1 << 30, [(4096, 4096)])],
    ids=["zeros", "maps"],
)
def test_what_sparse_files_take_has_one_bound(
    size: int, runs: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are scattered, each within the bound, are refused together, and nothing stays."""
    monkeypatch.setattr(content, "MAX_FILLING", 9 << 20)
    said = b",".join(b"%d,%d" % run for run in runs)
    about = pax([(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.map", said)])
    stored = bytes(sum(length for _, length in runs))
    few, many = (
        b"".join(about + file(b"f%d" % number, stored) for number in range(count)) + END
        for count in (1, 5)
    )
    exported(fs_of([few], tmp_path, "rootfs"), tmp_path).unlink()
    with pytest.raises(HostError, match=r"'f\d'.* too scattered for EROFS"):
        exported(fs_of([many], tmp_path, "rootfs"), tmp_path)
    assert not [name for name in os.listdir(tmp_path) if "erofs" in name or name.endswith(".tmp")]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Where the disk is full, that is said, and nothing half-made stays."""
    need_kernel()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        fs = fs_of([layer({"f": File(os.urandom(2 << 20))})], tmp_path, "rootfs")
        with pytest.raises(HostError, match="No space left"):
            export(fs, disk / "image.erofs")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("view", ["rootfs", "layers/00"])
def test_the_command_writes_one(view: str, tmp_path: Path) -> None:
    """`imagefs export --format erofs` writes a view to a file, and not to standard output."""
    archive = tmp_path / "app.tar"
    archive.write_bytes(docker_save(layer({"a": "one"}), layer({"b": "two"})))
    image = tmp_path / "app.erofs"
    words = ("export", "--quiet", "--format", "erofs", "--view", view, archive)
    refused = imagefs(*words)
    assert refused.returncode == 2
    assert "name a file with -o" in refused.stderr
    done = imagefs(*words, "-o", image)
    assert (done.returncode, done.stderr) == (0, "")
    assert image.stat().st_mode & 0o777 == 0o666 & ~umask()
    subprocess.run([need_tool("fsck.erofs", "erofs-utils"), image], check=True)
    need_kernel()
    with by_loop(image, tmp_path / "mnt") as place:
        assert (place / "a").read_text() == "one"
        assert (place / "b").exists() == (view == "rootfs")


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
