"""What is read from /proc/self/mountinfo."""

import os
from pathlib import Path

import pytest

from imagefs.host import mountinfo
from imagefs.host.mountinfo import Mount

SAMPLE = (
    rb"""22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
90 28 0:51 / /mnt/a\040b\011\134\012 ro,nosuid,nodev - fuse.imagefs app:v1\040x ro,user_id=0
91 28 0:52 / /mnt/over ro shared:3 master:1 propagate_from:2 - fuse.imagefs one ro
92 91 0:53 / /mnt/over ro - fuse.imagefs two ro
93 28 0:54 / /mnt/caf\303\251-"""
    + "é\x85\r".encode()
    + b""" ro - fuse.imagefs three ro
"""
)


def test_fields_are_told_apart() -> None:
    """Optional fields vary in number, and blanks in names are escaped."""
    found = mountinfo.parse(SAMPLE)
    options = "rw,nosuid,nodev,noexec,relatime"
    assert found[0] == Mount(22, 28, "0:20", "/sys", options, "sysfs", "sysfs")
    assert found[2] == Mount(
        90, 28, "0:51", "/mnt/a b\t\\\n", "ro,nosuid,nodev", "fuse.imagefs", "app:v1 x", owner=0
    )
    assert found[3].source == "one"
    assert len(found) == 6


@pytest.mark.parametrize("length", range(0, len(SAMPLE), 7))
def test_a_cut_file_is_no_error(length: int) -> None:
    """Whatever the kernel writes, reading it raises nothing."""
    assert len(mountinfo.parse(SAMPLE[:length])) <= 6


def test_the_uppermost_mount_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of mounts on one another, the one that is seen is found."""
    (tmp_path / "mountinfo").write_bytes(SAMPLE)
    monkeypatch.setattr(mountinfo, "MOUNTINFO", tmp_path / "mountinfo")
    found = mountinfo.at(Path("/mnt/over"))
    assert found is not None
    assert found.source == "two"
    assert mountinfo.at(Path("/mnt")) is None


def test_links_lead_to_the_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mount is found by links in its path, and by a link to it, which is not followed into it."""
    real = os.path.realpath(tmp_path)
    (tmp_path / "mountinfo").write_text(f"9 1 0:9 / {real}/d/mount ro - fuse.imagefs s ro\n")
    monkeypatch.setattr(mountinfo, "MOUNTINFO", tmp_path / "mountinfo")
    (tmp_path / "d").mkdir()
    (tmp_path / "e").symlink_to("d")
    (tmp_path / "link").symlink_to("e/mount")
    (tmp_path / "again").symlink_to(tmp_path / "link")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path / "d")
    for path in ("d/mount", "d/mount/", "e/mount", "e/../d/mount", "link", "again"):
        assert mountinfo.at(tmp_path / path) is not None, path
    assert mountinfo.at(Path("mount")) is not None
    assert mountinfo.at(Path("../link")) is not None
    for path in ("d", "loop", "d/other", "."):
        assert mountinfo.at(tmp_path / path) is None, path


def test_the_root_is_a_mount() -> None:
    """The real file has the root."""
    assert mountinfo.at(Path("/")) is not None
