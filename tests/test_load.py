"""Many readers at once on a real mount: a short version of `scripts/soak`."""

import json
import random
from pathlib import Path

import pytest

from tests.support import load, needs
from tests.support.mounted import imagefs, mounted
from tests.support.saved import docker_save
from tests.support.tars import File, layer

PROCESSES = 16
SECONDS = 3.0


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of 2,000 files in three layers, of all sizes up to 300 kB."""
    numbers = random.Random(1)
    layers = [
        layer(
            {
                f"d{numbers.randrange(40)}/e{numbers.randrange(4)}/f{at}-{number}": File(
                    numbers.randbytes(numbers.choice((0, 10, 3_000, 5_000, 70_000)) + at)
                )
                for number in range(700)
            }
        )
        for at in range(3)
    ]
    path = tmp_path / "load.tar"
    path.write_bytes(docker_save(*layers))
    return path


def test_many_readers_get_the_right_bytes(archive: Path, tmp_path: Path) -> None:
    """Sixteen processes find, read and compare at once: nothing differs, nothing stalls for 2 s,
    and the daemon's memory stays where it was.
    """
    needs.need_fuse()
    with mounted(archive, tmp_path / "m") as mountpoint:
        expected = load.digests(mountpoint / "rootfs")
        found = json.loads(imagefs("mounts", "--json").stdout)
        pid = next(one["pid"] for one in found if one["mountpoint"] == str(mountpoint))
        load.run(mountpoint / "rootfs", expected, processes=PROCESSES, seconds=1)
        before = load.anonymous_memory(pid)
        report = load.run(mountpoint / "rootfs", expected, processes=PROCESSES, seconds=SECONDS)
        assert report.wrong == ()
        assert report.calls > 1000
        assert report.longest < 2
        assert load.anonymous_memory(pid) < before + (4 << 20)
