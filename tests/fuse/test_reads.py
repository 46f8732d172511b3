"""What is read from an archive, and what is not, when somebody looks at a mount."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from imagefs.host import mountinfo
from imagefs.mounts.registry import Registry
from tests.support.mounted import module_mounted
from tests.support.polling import eventually
from tests.support.tars import layer

PATIENCE = 60

BASE = {f"d{number % 7}/same{number}": f"same {number}\n" for number in range(50)}
BELOW = {**BASE, "changed": "changed, before\n", "removed": "removed\n"}
ABOVE = {"changed": "changed, after\n", ".wh.removed": "", "d1/added": "added\n"}


@contextlib.contextmanager
def counted(
    folder: Path, *layers: bytes, module: str = "tests.support.counting"
) -> Iterator[tuple[Path, Path]]:
    """Serve `tests.support.counting` of some layers; give mount point and record of reads."""
    for number, content in enumerate(layers or (layer(BELOW), layer(ABOVE))):
        (folder / f"{number}.tar").write_bytes(content)
    (folder / "reads").touch()
    with module_mounted(module, folder) as mountpoint:
        yield mountpoint, folder / "reads"


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
        shown = list(mountpoint.glob("*/*/d0/same0"))
        assert len(shown) == 3
        assert {path.read_text() for path in shown} == {"same 0\n"}
        assert (mountpoint / "rootfs/d0/same0").read_text() == "same 0\n"
        assert reads.read_text() == "same 0\n"


SIZES = [0, 1, 4095, 4096, 4097, 8192, 40_000, 65_535, 65_536, 65_537, 200_000]
MANY = {
    f"d{number // 200}/f{number:04}": f"{number}\n".ljust(SIZES[number % len(SIZES)], "x")
    if SIZES[number % len(SIZES)]
    else ""
    for number in range(1000)
}


def test_who_reads_a_whole_tree_asks_for_few_of_its_files(tmp_path: Path) -> None:
    """Small neighbours are there before they are asked for, byte for byte as they should be."""
    with counted(tmp_path, layer(MANY)) as (mountpoint, reads):
        root = mountpoint / "rootfs"
        found = {
            f"{folder.name}/{path.name}": path.read_text()
            for folder in sorted(root.iterdir())
            for path in sorted(folder.iterdir())
        }
        assert found == MANY
        small = {
            line
            for line in reads.read_text().splitlines()
            if 0 < SIZES[int(line.rstrip("x")) % len(SIZES)] <= 65_536
        }
        assert len(small) < 200


def test_who_reads_a_file_here_and_there_is_handed_no_others(tmp_path: Path) -> None:
    """Nothing is read that nobody asked for, where no order shows."""
    names = [name for name, content in MANY.items() if 0 < len(content) <= 65_536]
    chosen = random.Random(1).sample(names, 60)
    apart = [
        name
        for name, before in zip(chosen[1:], chosen, strict=False)
        if not 0 < names.index(name) - names.index(before) < 20
    ]
    with counted(tmp_path, layer(MANY)) as (mountpoint, reads):
        for folder in (mountpoint / "rootfs").iterdir():
            os.listdir(folder)
        for name in apart:
            assert (mountpoint / "rootfs" / name).read_text() == MANY[name]
        assert len(reads.read_text().splitlines()) == len(apart)


FILES = {f"f{number:02}": f"f{number:02}\n" for number in range(9)}
Readers = tuple["subprocess.Popen[str]", "subprocess.Popen[str]"]


@contextlib.contextmanager
def collision(folder: Path) -> Iterator[tuple[Path, Path, Readers]]:
    """Give mount point, records of reads, and two readers: one waits for a file that is about to be
    handed over, the other for a READ whose reply waits for that.
    """
    with counted(folder, layer(FILES), module="tests.support.colliding") as (mountpoint, reads):
        root = mountpoint / "rootfs"
        subprocess.run(["ls", "-l", root], stdout=subprocess.DEVNULL, check=True)
        command = ["cat", *(f"{root}/f0{number}" for number in range(3))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one:
            eventually((folder / "asked").exists)
            command = ["cat", f"{root}/f03"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
                eventually(lambda: _state(other.pid) == "D")
                yield mountpoint, reads, (one, other)


def test_a_file_that_somebody_waits_for_is_not_waited_for(tmp_path: Path) -> None:
    """Where a store meets a page that another reader has asked for, that reader is answered."""
    with collision(tmp_path) as (mountpoint, reads, (one, other)):
        (tmp_path / "go").touch()
        assert other.communicate(timeout=PATIENCE)[0] == "f03\n"
        assert one.communicate(timeout=PATIENCE)[0] == "f00\nf01\nf02\n"
        assert (tmp_path / "storing").exists()
        assert sorted(reads.read_text().splitlines()) == ["f00", "f01", "f03"]
        for name, content in FILES.items():
            assert (mountpoint / "rootfs" / name).read_text() == content


def test_who_waits_for_a_daemon_that_was_killed_is_freed_by_unmount(tmp_path: Path) -> None:
    """Killed while a store waits for a page, a daemon cannot end, nor can who waits for the page:
    the connection lives. To unmount ends them all."""
    with collision(tmp_path) as (mountpoint, _, readers):
        known = Registry(tmp_path / "records")
        (live,) = [one for one in known.mounts() if one.mountpoint == str(mountpoint)]
        pid = live.pid or 0
        (tmp_path / "frozen").touch()
        (tmp_path / "go").touch()
        eventually(lambda: "D" in _states(pid))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: _states(pid) in (["D"], ["Z", "D"]))
        time.sleep(0.5)
        assert _states(pid)[-1] == "D"
        assert [reader.poll() for reader in readers] == [None, None]
        (live,) = [one for one in known.mounts() if one.mountpoint == str(mountpoint)]
        assert not live.alive
        known.unmount(mountpoint)
        assert mountinfo.at(mountpoint) is None
        # The store may yet have brought the second what it waits for.
        assert [reader.wait(PATIENCE) for reader in readers] in ([1, 1], [1, 0])
        eventually(lambda: _states(pid) in ([], ["Z"]))


def _states(pid: int) -> list[str]:
    """Return the states of a process's threads, the first one's first."""
    found = []
    for thread in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
        with contextlib.suppress(OSError):
            found.append(_state(thread))
    return found


def _state(pid: int) -> str:
    """Return the state of a thread; D is asleep in the kernel, and not to be disturbed."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
