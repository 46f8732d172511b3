"""`--uid` and `--gid`: a tree shown as somebody's, and otherwise as it is."""

import os
import stat
from pathlib import Path

import pytest

from imagefs.vfs.owned import owned
from tests.support.mounted import imagefs, mounted
from tests.support.saved import docker_save
from tests.support.serving import need_root_and_fuse
from tests.support.tars import Dir, File, Sym, fs_of, layer, paths, read

_LAYER = layer(
    {
        "bin/": Dir(0o755),
        "bin/su": File("su", 0o4711, uid=0, gid=10),
        "home/": Dir(0o700, uid=1000, gid=1000),
        "home/x": File("x", 0o640, uid=1000, gid=1000),
        "home/l": Sym("x", uid=1000, gid=1000),
    }
)


def test_only_owners_differ(tmp_path: Path) -> None:
    """Every attribute but uid and gid is the image's, in listings, look-ups and stat alike."""
    plain = paths(fs_of([_LAYER], tmp_path))
    fs = owned(fs_of([_LAYER], tmp_path), 7, None)
    found = paths(fs)
    assert {path: attr._replace(uid=0) for path, attr in found.items()} == {
        path: attr._replace(uid=0) for path, attr in plain.items()
    }
    assert {attr.uid for attr in found.values()} == {7}
    assert {attr.gid for attr in found.values()} == {0, 10, 1000}
    assert read(fs, "rootfs/home/x") == b"x"


def test_without_owners_nothing_stands_between(tmp_path: Path) -> None:
    """Who asks for no other owners pays nothing for the possibility."""
    fs = fs_of([_LAYER], tmp_path)
    assert owned(fs, None, None) is fs


def test_a_wide_listing_stays_lazy(tmp_path: Path) -> None:
    """Of a directory of many entries, those are made that are asked for."""
    wide = fs_of([layer({f"d/{at:05}": "" for at in range(5000)})], tmp_path, "rootfs")
    directory = wide.lookup(1, b"d")
    assert directory is not None
    listing = owned(wide, 7, 8).listdir(directory.node)
    assert len(listing) == 5000
    assert {(entry.attr.uid, entry.attr.gid) for entry in listing[4000:4002]} == {(7, 8)}
    assert listing[-1].name == b"04999"
    assert sum(1 for _ in listing) == 5000


@pytest.mark.parametrize("driver", ["native", "libfuse"])
def test_mounted(tmp_path: Path, driver: str) -> None:
    """The kernel sees those owners by either driver; `mine` is the caller, modes are kept."""
    need_root_and_fuse(driver)
    archive = tmp_path / "a.tar"
    archive.write_bytes(docker_save(_LAYER))
    options = ("--driver", driver, "--uid", "1234", "--gid", "mine", "--view", "rootfs")
    with mounted(archive, tmp_path / "m", *options) as place:
        every = [place, *place.rglob("*")]
        assert len(every) == 6
        seen = {(path.lstat().st_uid, path.lstat().st_gid) for path in every}
        assert seen == {(1234, os.getgid())}
        assert stat.S_IMODE((place / "bin/su").stat().st_mode) == 0o4711


@pytest.mark.parametrize("word", ["root", "-1", "4294967295", "1.5", ""])
def test_no_owner(tmp_path: Path, word: str) -> None:
    """What is no number is refused, with what may be written."""
    done = imagefs("mount", f"--uid={word}", tmp_path / "a.tar", tmp_path)
    assert done.returncode == 2
    assert "write a number, or `mine`" in done.stderr
