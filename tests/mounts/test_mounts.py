"""The life of a daemon, from the command that leaves it behind to whatever ends it, and the
list of those that live.
"""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import MountError
from imagefs.host import daemon
from imagefs.host.mount_point import hold
from imagefs.mounts import registry as mount_registry
from tests.support import users
from tests.support.needs import need_fuse
from tests.support.saved import docker_save
from tests.support.tars import layer
from tests.support.users import User

ARCHIVE = docker_save(layer({"etc/": "", "etc/motd": "hello\n"}))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests; what they leave behind ends with the test."""
    need_fuse()
    with users.caller(tmp_path / "home") as one:
        yield one


@pytest.fixture
def archive(user: User) -> Path:
    """An image of one layer."""
    return user.file("app.tar", ARCHIVE)


def eventually(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until something holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def listed(user: User) -> list[dict[str, Any]]:
    """The mounts at places of the user's, as `imagefs mounts` lists them."""
    found: list[dict[str, Any]] = json.loads(user.does("mounts", "--json"))
    return [one for one in found if Path(one["mountpoint"]).is_relative_to(user.home)]


def mount(user: User, archive: Path, place: Path) -> int:
    """Mount; return the daemon's pid."""
    user.does("mount", archive, place)
    [pid] = [one["pid"] for one in listed(user) if one["mountpoint"] == str(place)]
    assert isinstance(pid, int)
    return pid


def is_running(pid: int) -> bool:
    """Tell whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def kill(pid: int) -> None:
    """Kill a daemon, which leaves its mount dead."""
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid))


@contextlib.contextmanager
def somebody_in(place: Path) -> Iterator[None]:
    """Have a process work in a directory."""
    process = subprocess.Popen(["sleep", "60"], cwd=place)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def records(user: User) -> list[Path]:
    """The records of daemons in the user's cache."""
    return list((user.cache / "mounts").iterdir())


def test_a_daemon_lets_go_of_what_it_came_from(user: User, archive: Path) -> None:
    """It has a session, an empty terminal and no directory of its caller's."""
    pid = mount(user, archive, user.directory())
    process = Path(f"/proc/{pid}")
    assert os.getsid(pid) == pid
    assert os.readlink(process / "cwd") == "/"
    assert {os.readlink(process / "fd" / number) for number in "012"} == {"/dev/null"}
    assert stat.S_IMODE((user.cache / "mounts").stat().st_mode) == 0o700


FAILS_LATE = """
import sys
from imagefs.host import daemon
from imagefs.host.mount_point import hold
from imagefs.errors import HostError

def work(ready):
    ready()
    files = [open(f"{sys.argv[1]}/{number}", "w") for number in range(9)]
    raise HostError("too late to be told")

print(daemon.detach(work, 0))
"""


def test_a_daemon_that_fails_later_writes_into_no_file(user: User) -> None:
    """Its last words are for the log: they do not go where it once told that it was ready."""
    files = user.directory("files")
    answer = user.run(user.python, "-c", FAILS_LATE, files)
    assert answer.status == 0, answer.err
    eventually(lambda: not is_running(int(answer.out)))
    assert {path.read_bytes() for path in files.iterdir()} == {b""}


def test_a_daemon_may_have_many_layers_open(user: User) -> None:
    """The soft limit of open files, which is low for old programs' sake, is none for a mount."""
    place = user.directory()
    many = user.file("many.tar", docker_save(*[layer({f"f{n}": "x"}) for n in range(40)]))
    command = user.command("mount", many, place)
    answer = user.run("sh", "-c", 'ulimit -Sn 48; exec "$@"', "sh", *command)
    assert answer.status == 0, answer.err
    assert user.reads(place / "rootfs/f0") == "x"


def test_a_daemon_that_may_log_nowhere_serves(user: User, archive: Path) -> None:
    """A state directory that cannot be made costs the log, not the mount."""
    place = user.directory()
    user.does("mount", archive, place, XDG_STATE_HOME="/proc/none")
    assert user.reads(place / "rootfs/etc/motd") == "hello\n"


def test_a_cache_may_be_named_from_where_one_is(user: User, archive: Path) -> None:
    """A relative IMAGEFS_CACHE means the same to a daemon, which works in another directory."""
    place, cache = user.directory(), user.home / "kept here"
    user.does("mount", archive, place, IMAGEFS_CACHE=cache.name)
    found = json.loads(user.does("mounts", "--json", IMAGEFS_CACHE=str(cache)))
    [pid] = [one["pid"] for one in found if one["mountpoint"] == str(place)]
    assert is_running(pid)


def test_a_daemon_that_cannot_leave_a_record_serves(user: User, archive: Path) -> None:
    """What `imagefs mounts` would tell of the daemon is lost, the mount is not."""
    place = user.directory()
    user.does("layers", archive)
    (user.cache / "mounts").write_text("in the way")
    user.does("mount", archive, place)
    assert user.reads(place / "rootfs/etc/motd") == "hello\n"


def test_a_daemon_logs_to_a_file_without_syslog(user: User, archive: Path) -> None:
    """The log lies below the state directory, for its owner alone."""
    if Path("/dev/log").exists():
        pytest.skip("this machine has a syslog")
    place, state = user.directory(), user.directory("state")
    user.does("mount", "--log-level", "debug", archive, place, XDG_STATE_HOME=str(state))
    assert stat.S_IMODE((state / "imagefs/imagefs.log").stat().st_mode) == 0o600


def test_sigterm_takes_a_busy_mount_away(user: User, archive: Path) -> None:
    """Somebody inside keeps neither the mount nor the daemon, nor the daemon's record."""
    place = user.directory()
    pid = mount(user, archive, place)
    with somebody_in(place):
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not user.mounted(place))
        eventually(lambda: not is_running(pid))
    assert records(user) == []


def test_a_mount_that_is_taken_away_ends_its_daemon(user: User, archive: Path) -> None:
    """umount(8) leaves neither process nor record."""
    place = user.directory()
    pid = mount(user, archive, place)
    subprocess.run(["umount", place], check=True)
    eventually(lambda: not is_running(pid))
    assert records(user) == []


def test_unmount_tells_of_a_busy_mount(user: User, archive: Path) -> None:
    """It names the way out, --lazy, after which whoever is inside may go on."""
    place = user.directory()
    pid = mount(user, archive, place)
    with somebody_in(place):
        answer = user.imagefs("unmount", place)
        assert answer.status == 1
        assert "--lazy" in answer.err
        assert user.mounted(place)
        user.does("unmount", "--lazy", place)
        assert not user.mounted(place)
        assert is_running(pid)
    eventually(lambda: not is_running(pid))


@pytest.mark.parametrize("busy", [False, True])
def test_a_dead_mount_is_told_and_cleared(user: User, archive: Path, busy: bool) -> None:
    """A killed daemon's mount is listed as dead, is no place to mount, and goes by `unmount`."""
    place = user.directory()
    pid = mount(user, archive, place)
    with somebody_in(place) if busy else contextlib.nullcontext():
        kill(pid)
        [one] = listed(user)
        assert (one["alive"], one["mountpoint"]) == (False, str(place))
        assert "dead" in user.does("mounts")
        assert "mounted here already" in user.imagefs("mount", archive, place).err
        user.does("unmount", place)
    assert listed(user) == []
    assert records(user) == []
    mount(user, archive, place)
    assert user.reads(place / "rootfs/etc/motd") == "hello\n"


def test_nothing_waits_for_a_daemon_that_hangs(user: User, archive: Path) -> None:
    """A stopped daemon's mount can be listed, refused as a mount point, and unmounted."""
    place = user.directory()
    pid = mount(user, archive, place)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert [one["mountpoint"] for one in listed(user)] == [str(place)]
        assert user.imagefs("mount", archive, place).status == 1
        user.does("unmount", place)
        assert not user.mounted(place)
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not is_running(pid))


def test_roots_all_is_everybodys() -> None:
    """Root's --all empties the list, of dead mounts and of other users' too."""
    with users.others(0, users.NOBODY) as (root, other):
        archive = root.file("app.tar", ARCHIVE)
        dead, living = root.directory("dead"), root.directory("living")
        kill(mount(root, archive, dead))
        mount(root, archive, living)
        other.does("mount", other.file("app.tar", ARCHIVE), other.directory())
        root.does("unmount", "--all")
        assert json.loads(root.does("mounts", "--json")) == []
        assert not other.mounted(other.home / "mnt")


def test_an_ordinary_users_all_is_their_own() -> None:
    """--all leaves alone what another has mounted, and says nothing of it."""
    with users.others(users.NOBODY, users.DAEMON) as (one, other):
        for who in (one, other):
            archive = who.file("app.tar", ARCHIVE)
            for name in ("first", "second"):
                who.does("mount", archive, who.directory(name))
        one.does("unmount", "--all")
        assert not one.mounted(one.home / "first")
        assert not one.mounted(one.home / "second")
        assert other.mounted(other.home / "first")
        answer = one.imagefs("unmount", other.home / "first")
        assert answer.status == 1
        assert "another user" in answer.err
        assert other.mounted(other.home / "first")


def test_only_mounts_of_imagefs_are_unmounted(user: User) -> None:
    """Other file systems, and directories that are no mounts, are refused."""
    for path, words in (("/proc", "not of imagefs"), (user.directory(), "nothing is mounted")):
        answer = user.imagefs("unmount", path)
        assert answer.status == 1
        assert words in answer.err


def test_unmount_goes_on_after_a_failure(user: User, archive: Path) -> None:
    """One place that is no mount does not keep the next from being unmounted."""
    nothing, place = user.directory("nothing"), user.directory()
    mount(user, archive, place)
    assert user.imagefs("unmount", nothing, place).status == 1
    assert not user.mounted(place)


def test_a_mount_is_found_by_a_link_and_a_relative_path(user: User, archive: Path) -> None:
    """Mount points need not be typed as the kernel spells them."""
    place = user.directory("a b\\c")
    (user.home / "link").symlink_to(place)
    mount(user, archive, place)
    user.does("unmount", "link")
    assert not user.mounted(place)
    user.does("mount", archive, "./link")
    assert [one["mountpoint"] for one in listed(user)] == [str(place)]
    user.does("unmount", place)


def test_records_of_others_are_not_believed(tmp_path: Path) -> None:
    """What is no record, or speaks of a mount or process that is gone, lists nothing."""
    registry = mount_registry.Registry(tmp_path)
    for name, content in {
        "empty": "",
        "list": "[]",
        "other": '{"pid": 1}',
        "no mount": record(tmp_path / "gone", pid=os.getpid()),
        "no process": record(tmp_path / "gone", pid=2**22 + 1),
    }.items():
        (tmp_path / f"{name}.json").write_text(content)
    assert [one for one in registry.mounts() if one.pid is not None] == []
    assert not (tmp_path / "no process.json").exists()


def record(place: Path, pid: int) -> str:
    """A daemon's record, for a process that started with the machine."""
    return json.dumps(
        {
            "source": "app:v1",
            "mountpoint": str(place),
            "mount": "a boot/99",
            "pid": pid,
            "started": 1,
            "since": "2026-01-01T00:00:00+00:00",
        }
    )


def test_a_mount_without_a_record_is_listed(user: User, archive: Path) -> None:
    """The kernel's table alone says what is mounted; the record only adds to it."""
    place = user.directory()
    pid = mount(user, archive, place)
    shutil.rmtree(user.cache / "mounts")
    [one] = listed(user)
    assert (one["pid"], one["source"], one["alive"]) == (None, str(archive), True)
    assert one["owner"] == os.geteuid()
    user.does("unmount", place)
    eventually(lambda: not is_running(pid))


@pytest.mark.parametrize("name", ["missing", "file", "full", "mounted", "unreadable"])
def test_what_is_no_place_to_mount(tmp_path: Path, name: str) -> None:
    """Each reason has its words, and nothing that is mounted is looked into."""
    (tmp_path / "file").touch()
    (tmp_path / "full/inside").mkdir(parents=True)
    place = {"mounted": Path("/proc"), "unreadable": tmp_path / "file/below"}.get(
        name, tmp_path / name
    )
    words = {"missing": "no such", "full": "not empty", "mounted": "mounted here already"}
    with pytest.raises(MountError, match=words.get(name, "not a directory")):
        hold(place)
    hold((tmp_path / "full/inside").resolve()).release()


def test_a_name_that_systemd_does_not_answer_at_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stale NOTIFY_SOCKET is a warning."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    daemon.notify("READY=1")
    assert "cannot be told" in caplog.text
