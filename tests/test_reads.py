"""What is read from an archive, and what is not, when somebody looks at a mount."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from imagefs import mountinfo
from imagefs.fuse.mount import unmount_for_good
from tests import needs
from tests.tars import layer

BASE = {f"d{number % 7}/same{number}": f"same {number}\n" for number in range(50)}
BELOW = {**BASE, "changed": "changed, before\n", "removed": "removed\n"}
ABOVE = {"changed": "changed, after\n", ".wh.removed": "", "d1/added": "added\n"}


@contextlib.contextmanager
def counted(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Serve `tests.counting` of two layers; give the mount point and the record of reads."""
    needs.need_fuse()
    mountpoint = folder / "m"
    mountpoint.mkdir()
    for number, members in enumerate((BELOW, ABOVE)):
        (folder / f"{number}.tar").write_bytes(layer(members))
    (folder / "reads").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.counting", folder, mountpoint], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield mountpoint, folder / "reads"
    finally:
        process.terminate()
        process.wait(20)
        if mountinfo.at(mountpoint) is not None:
            unmount_for_good(mountpoint)


def test_diff_of_snapshots_reads_only_what_differs(tmp_path: Path) -> None:
    """GNU diff knows a shared file by its inode, and reads none of them."""
    with counted(tmp_path) as (mountpoint, reads):
        below, above = sorted(os.listdir(mountpoint / "snapshots"))
        done = subprocess.run(
            ["diff", "-r", below, above],
            cwd=mountpoint / "snapshots",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert {line for line in done.stdout.splitlines() if line.startswith("Only")} == {
            f"Only in {above}/d1: added",
            f"Only in {below}: removed",
        }
        assert set(reads.read_text().splitlines()) == {"changed, before", "changed, after"}


def test_directories_that_a_layer_does_not_touch_are_one_for_diff(tmp_path: Path) -> None:
    """GNU diff passes over what has the same device and inode number in both trees."""
    with counted(tmp_path) as (mountpoint, _):
        below, above = sorted((mountpoint / "snapshots").iterdir())
        same = [name for name in sorted(os.listdir(below)) if name.startswith("d")]
        found = [os.path.samestat(os.lstat(below / name), os.lstat(above / name)) for name in same]
        assert found == [name != "d1" for name in same]
        assert os.lstat(below).st_ino != os.lstat(above).st_ino


def test_looking_reads_no_content(tmp_path: Path) -> None:
    """Listing, stat and links cost no READ at all."""
    with counted(tmp_path) as (mountpoint, reads):
        subprocess.run(["ls", "-lR", mountpoint], stdout=subprocess.DEVNULL, check=True)
        subprocess.run(["du", "-s", mountpoint], stdout=subprocess.DEVNULL, check=True)
        assert reads.read_text() == ""


def test_a_file_is_read_once_for_all_views(tmp_path: Path) -> None:
    """What was read in one view is in the page cache of all the others."""
    with counted(tmp_path) as (mountpoint, reads):
        for path in mountpoint.glob("*/*/d0/same0"):
            assert path.read_text() == "same 0\n"
        assert (mountpoint / "rootfs/d0/same0").read_text() == "same 0\n"
        assert reads.read_text() == "same 0\n"
