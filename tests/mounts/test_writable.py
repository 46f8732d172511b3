"""`mount --writable`: an overlay on top of an image, by root and by ordinary users."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import MountError
from imagefs.filesystem import FileSystem
from imagefs.host import mountinfo
from imagefs.host.mount_point import hold
from imagefs.mounts.registry import Registry
from imagefs.mounts.serve import Serving
from imagefs.mounts.writable import serve_writable
from imagefs.overlay import kept, stack
from tests.support.mounted import imagefs
from tests.support.needs import need_fuse, unavailable
from tests.support.polling import soon
from tests.support.saved import docker_save
from tests.support.tars import Dir, File, fs_of, layer
from tests.support.users import DAEMON, User, others
from tests.support.writable import clear_below, need_overlay, writable

ARCHIVE = docker_save(
    layer({"etc/": Dir(), "etc/motd": File("hello", 0o600), "home/": Dir(0o700, uid=5, gid=6)})
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An image of one layer."""
    need_overlay(tmp_path)
    place = tmp_path / "app.tar"
    place.write_bytes(ARCHIVE)
    return place


def files(*tops: Path) -> dict[Path, str]:
    """Return all files below some directories, with what they hold, but for records of daemons.

    These may end a little later.
    """
    every = [path for top in tops for path in [top, *top.rglob("*")] if path.is_file()]
    every = [path for path in every if path.parent.name != "mounts"]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in every}


def mounts_below(folder: Path) -> list[str]:
    """Return the mounts in a folder."""
    found = (one.mountpoint for one in mountinfo.mounts())
    return [place for place in found if Path(place).is_relative_to(folder)]


def test_written_and_gone(archive: Path, tmp_path: Path) -> None:
    """What is written shows, and goes with the mount; archive and cache stay as they were."""
    with writable(archive, tmp_path / "m"):
        pass
    cache = Path(os.environ["IMAGEFS_CACHE"])
    before = files(archive, cache)
    with writable(archive, tmp_path / "m") as place:
        (place / "etc/motd").write_text("changed")
        (place / "new").write_text("new")
        shutil.rmtree(place / "home")
        assert _state(tmp_path) == {str(place): True}
        options = next(one.options for one in mountinfo.mounts() if one.mountpoint == str(place))
        assert {"rw", "nosuid", "nodev"} <= set(options.split(","))
    assert files(archive, cache) == before
    assert mounts_below(tmp_path) == []
    assert list((cache / "work").iterdir()) == []
    with writable(archive, tmp_path / "m") as place:
        assert (place / "etc/motd").read_text() == "hello"
        assert sorted(os.listdir(place)) == ["etc", "home"]
        assert (place / "home").stat().st_gid == 6


def test_kept(archive: Path, tmp_path: Path) -> None:
    """With a directory, what is written is there again; `changes` tells of it either way."""
    directory = tmp_path / "changes"
    with writable(archive, tmp_path / "m", directory) as place:
        (place / "etc/motd").write_text("changed")
        (place / "home").rmdir()
        shown = imagefs("changes", place)
        assert (shown.returncode, shown.stdout) == (0, "C /etc/motd\nD /home\n")
        busy = imagefs("mount", f"--writable={directory}", archive, tmp_path / "changes/image")
        assert busy.returncode == 1
    assert imagefs("changes", directory).stdout == "C /etc/motd\nD /home\n"
    listed = json.loads(imagefs("changes", "--json", directory).stdout)
    assert listed[0] == {"kind": "C", "path": "/etc/motd"}
    with writable(archive, tmp_path / "m", directory) as place:
        assert (place / "etc/motd").read_text() == "changed"
        assert os.listdir(place) == ["etc"]


def test_crash(archive: Path, tmp_path: Path) -> None:
    """After the daemon was killed, `unmount` takes both mounts away, and what was to go."""
    with writable(archive, tmp_path / "m") as place:
        (place / "new").write_text("new")
        (pid,) = {one["pid"] for one in _listed(tmp_path)}
        os.kill(pid, signal.SIGKILL)
        assert soon(lambda: _state(tmp_path) == {str(place): False})
        assert imagefs("unmount", place).returncode == 0
        assert mounts_below(tmp_path) == []
    assert list((Path(os.environ["IMAGEFS_CACHE"]) / "work").iterdir()) == []
    assert _state(tmp_path) == {}


def _listed(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(imagefs("mounts", "--json").stdout)
    return [one for one in found if Path(one["mountpoint"]).is_relative_to(folder)]


def _state(folder: Path) -> dict[str, bool]:
    return {one["mountpoint"]: one["alive"] for one in _listed(folder)}


def test_busy(archive: Path, tmp_path: Path) -> None:
    """A mount in use stays whole; --lazy takes both away all the same."""
    with writable(archive, tmp_path / "m", tmp_path / "changes") as place:
        user = (place / "new").open("w")
        done = imagefs("unmount", place)
        assert done.returncode == 1
        assert "still using the mount" in done.stderr
        assert len(mounts_below(tmp_path)) == 2
        assert imagefs("unmount", "--lazy", place).returncode == 0
        assert mounts_below(tmp_path) == []
        user.close()


def test_half_made(archive: Path, tmp_path: Path) -> None:
    """Where no overlay can be mounted, nothing of the attempt stays."""
    # A file system of a kind that takes no changes of an overlay: an overlay itself.
    with writable(archive, tmp_path / "m") as place:
        (tmp_path / "m2").mkdir()
        done = imagefs("mount", f"--writable={place / 'on'}", archive, tmp_path / "m2")
        assert done.returncode == 1
        assert "no overlay itself" in done.stderr
        assert mounts_below(tmp_path / "m2") == []
        assert mounts_below(place) == [str(place)]


class _Slow(logging.Handler):
    """Holds up the end of a daemon."""

    def close(self) -> None:
        time.sleep(0.5)


@pytest.mark.parametrize("fails", [False, True])
def test_its_daemon_has_ended(tmp_path: Path, fails: bool) -> None:
    """When the mount has gone, by `unmount` or as it failed, its daemon keeps nothing open."""
    need_overlay(tmp_path)
    (tmp_path / "m").mkdir()

    def make() -> FileSystem:
        logging.getLogger().addHandler(_Slow())
        return fs_of([layer({"f": "x"})], tmp_path)

    held = kept.take_up(tmp_path / "changes", [], stack.TRUSTED)
    known = Registry(tmp_path / "mounts")
    serving = Serving("x", tmp_path / "m", "native", known, log_level=logging.CRITICAL)
    if fails:
        (held.path / stack.WORK).rmdir()
    try:
        serve_writable(make, hold(tmp_path / "m"), serving, held, temporary=False)
    except MountError:
        assert fails
    else:
        known.unmount(tmp_path / "m")
    assert mounts_below(tmp_path) == []
    assert os.waitpid(-1, os.WNOHANG)[0]
    os.close(held.fd)


MISUSE = {
    ("--writable", "--all"): "leave out --view and --all",
    ("--writable", "--view", "layers"): "leave out --view and --all",
    ("--writable", "--foreground"): "leave out --foreground",
    ("--writable=FULL",): "holds something else",
}


@pytest.mark.parametrize("words", MISUSE)
def test_misuse(archive: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """What makes no sense is refused in one line, before anything is mounted."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "m").mkdir()
    said = [word.replace("FULL", str(tmp_path / "full")) for word in words]
    done = imagefs("mount", *said, archive, tmp_path / "m")
    assert done.returncode == 2
    assert MISUSE[words] in done.stderr
    assert done.stderr.count("\n") == 1
    assert mounts_below(tmp_path) == []
    assert os.listdir(tmp_path / "full") == ["x"]


def test_no_changes(archive: Path, tmp_path: Path) -> None:
    """`changes` of anything else is refused in one line."""
    for where in (tmp_path, archive, tmp_path / "nothing"):
        done = imagefs("changes", where)
        assert done.returncode in (1, 2)
        assert done.stderr.count("\n") == 1


@pytest.fixture
def somebody() -> Iterator[User]:
    """An ordinary user, where they have the program that they need."""
    need_fuse(user=True)
    if shutil.which("fuse-overlayfs") is None:
        unavailable("overlay", "fuse-overlayfs is missing (apt install fuse-overlayfs)")
    with others(DAEMON) as (user,):
        try:
            yield user
        finally:
            for place in ("mnt", "kept/image"):
                with contextlib.suppress(OSError):
                    user.run("fusermount3", "-u", "-z", user.home / place)
            clear_below(user.home)


def test_an_ordinary_user(somebody: User) -> None:
    """An ordinary user owns all that shows, may write it, and gets a layer that is root's."""
    archive, place = somebody.file("app.tar", ARCHIVE), somebody.directory()
    somebody.does("mount", "--writable=kept", archive, place)
    script = (
        "echo new >new; echo changed >>etc/motd; rm -r home; mkdir home; touch home/x; cat etc/motd"
    )
    done = somebody.run("sh", "-ec", f"cd mnt; stat -c %u etc; {script}")
    assert (done.status, done.out) == (0, f"{DAEMON}\nhellochanged\n"), done.err
    shown = somebody.does("changes", place)
    assert shown == "C /etc/motd\nC /home\nA /home/x\nA /new\n"
    assert somebody.does("mounts").count(str(place)) == 1
    somebody.does("changes", place, "--layer", "layer.tar")
    somebody.does("unmount", place)
    assert not somebody.mounted(somebody.home / "kept/image")
    assert somebody.run("ls", place).out == ""
    listing = somebody.run("tar", "--numeric-owner", "-tvf", "layer.tar").out.splitlines()
    assert {line.split()[1] for line in listing} == {"0/0"}
    names = {line.split()[-1] for line in listing}
    assert names == {"etc/", "etc/motd", "home/", "home/.wh..wh..opq", "home/x", "new"}
    somebody.does("mount", "--writable=kept", archive, place)
    assert somebody.reads(place / "etc/motd") == "hellochanged\n"
    somebody.does("unmount", place)


def test_what_lies_below_may_be_held_a_moment_longer(somebody: User) -> None:
    """As by fuse-overlayfs, which ends after its mount has gone."""
    archive, place = somebody.file("app.tar", ARCHIVE), somebody.directory()
    somebody.does("mount", "--writable=kept", archive, place)
    holder = somebody.start("sh", "-c", "cd kept/image && echo there && exec sleep 1")
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"there\n"
    somebody.does("unmount", place)
    assert not somebody.mounted(somebody.home / "kept/image")
    holder.communicate()


def test_without_the_program(somebody: User) -> None:
    """Where fuse-overlayfs is missing, one line says what to install."""
    archive, place = somebody.file("app.tar", ARCHIVE), somebody.directory()
    # Hidden in a mount namespace that the user enters by way of root.
    hide = 'mount --bind /dev/null "$(readlink -f /usr/bin/fuse-overlayfs)"; exec "$@"'
    enter, become = somebody.before[:3], somebody.before[3:]
    words = (*enter, "unshare", "--mount", "sh", "-c", hide, "sh", *become)
    done = replace(somebody, before=words).imagefs("mount", "--writable", archive, place)
    assert (done.status, done.out) == (1, "")
    assert done.err.endswith("apt install fuse-overlayfs\n")


def test_diff_shows_what_was_written(archive: Path, tmp_path: Path) -> None:
    """`imagefs diff` of the mount point: as of diff(1), the status tells whether there is any."""
    with writable(archive, tmp_path / "m") as place:
        assert imagefs("diff", place).returncode == 0
        (place / "new").write_text("x")
        done = imagefs("diff", place)
        assert (done.returncode, done.stdout, done.stderr) == (1, "A /new\n", "")
        assert json.loads(imagefs("diff", "--json", place).stdout) == [
            {"kind": "A", "path": "/new"}
        ]
