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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import MountError
from imagefs.fuse import mount as fuse_mount
from imagefs.fuse.mount import MountOptions
from imagefs.host import daemon, mountinfo
from imagefs.host.mount_point import hold
from imagefs.mounts import registry as mount_registry
from tests.support import users
from tests.support.needs import need_fuse
from tests.support.polling import eventually
from tests.support.saved import docker_save
from tests.support.serving import need_root_and_fuse
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
from imagefs.fuse import mount as fuse_mount
from imagefs.fuse.mount import MountOptions
from imagefs.host import daemon, mountinfo
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


def test_a_record_is_of_one_mount_alone(user: User, archive: Path) -> None:
    """A mount that took the place, the device and the number of a dead one is no dead mount."""
    place, elsewhere = user.directory(), str(user.home / "another cache")
    for _ in range(20):
        kill(mount(user, archive, place))
        former = mountinfo.at(place)
        subprocess.run(["umount", place], check=True)
        user.does("mount", archive, place, IMAGEFS_CACHE=elsewhere)
        again = mountinfo.at(place)
        assert former is not None
        assert again is not None
        if (former.id, former.device) == (again.id, again.device):
            break
        user.does("unmount", place, IMAGEFS_CACHE=elsewhere)
    else:
        pytest.skip("the kernel gave no numbers again")
    with somebody_in(place):
        [one] = listed(user)
        assert one["alive"]
        assert "still using" in user.imagefs("unmount", place).err
        assert user.mounted(place)


@pytest.mark.parametrize("driver", ["native", "libfuse"])
@pytest.mark.parametrize("uid", [0, users.NOBODY])
def test_of_two_mounts_at_once_one_wins(driver: str, uid: int) -> None:
    """The other fails with a line, and nothing lies on top of the winner's."""
    need_fuse(driver)
    with users.others(uid) as (user,):
        archive, place = user.file("app.tar", ARCHIVE), user.directory()
        words = user.command("mount", "-q", "--driver", driver, archive, place)
        for _ in range(6):
            racing = [user.start(*words) for _ in range(3)]
            said = [one.communicate(timeout=60)[1].decode() for one in racing]
            assert sorted(one.returncode for one in racing) == [0, 1, 1], said
            assert sorted(words[:9] for words in said) == ["", "imagefs: ", "imagefs: "]
            assert user.run("cat", "/proc/self/mounts").out.count(str(place)) == 1
            assert user.reads(place / "rootfs/etc/motd") == "hello\n"
            user.does("unmount", place)


SWAPS = """
import os, sys
parent, victim = sys.argv[1:]
print("on", flush=True)
while os.getppid() != 1 and not os.path.exists(parent + ".end"):
    os.rename(parent, parent + ".real")
    os.symlink(victim, parent)
    os.unlink(parent)
    os.rename(parent + ".real", parent)
"""


@pytest.mark.parametrize(
    ("driver", "uid"), [("native", 0), ("native", users.NOBODY), ("libfuse", 0)]
)
def test_a_swapped_parent_leads_no_mount_astray(driver: str, uid: int) -> None:
    """Whoever has the parent of a mount point and puts links in its place has nothing of ours
    mounted where the links lead: the mount is made on the directory itself, or refused.
    """
    need_fuse(driver)
    with users.others(*sorted({0, uid}), users.DAEMON) as (root, *more, other):
        victim = more[0] if more else root
        archive = victim.file("app.tar", ARCHIVE)
        victim.directory("astray")
        astray = victim.directory("astray/mnt").parent
        parent = other.directory("parent")
        other.run("chmod", "755", other.home, parent)
        root.run("chmod", "755", victim.home, astray)
        root.run("sh", "-c", f"mkdir {parent}/mnt && chown {uid} {parent}/mnt")
        swapping = other.start(other.python, "-c", SWAPS, parent, astray)
        try:
            assert swapping.stdout is not None
            assert swapping.stdout.readline() == b"on\n"
            for _ in range(20):
                answer = victim.imagefs("mount", "-q", "--driver", driver, archive, parent / "mnt")
                assert answer.status in (0, 1)
                assert "unexpected" not in answer.err
                places = mounted_from(victim, archive)
                assert not [one for one in places if one.is_relative_to(victim.home)]
                assert len(places) == (answer.status == 0)
                while places:  # which may have been moved meanwhile
                    root.run("umount", "-l", *places)
                    places = mounted_from(victim, archive)
        finally:
            other.file("parent.end", "")
            swapping.communicate(timeout=60)


def mounted_from(user: User, source: Path) -> list[Path]:
    """Where a source is mounted, as a user sees it."""
    seen = mountinfo.parse(user.reads("/proc/self/mountinfo").encode())
    return [Path(one.mountpoint) for one in seen if one.source == str(source)]


LED_ASTRAY = """#!/bin/sh
for last; do :; done
case $* in *fsname=*) exec /usr/bin/fusermount3 -o ro,nosuid,nodev,subtype=imagefs -- ASTRAY;; esac
exec /usr/bin/fusermount3 "$@"
"""


def test_a_mount_that_landed_elsewhere_is_taken_away() -> None:
    """Where fusermount3 was led to another directory, which it looks up anew, no mount is left."""
    with users.others(users.NOBODY) as (user,):
        archive, place, astray = user.file("a.tar", ARCHIVE), user.directory(), user.directory("b")
        user.directory("bin")
        user.file("bin/fusermount3", LED_ASTRAY.replace("ASTRAY", str(astray)))
        user.run("chmod", "755", "bin/fusermount3")
        path = f"{user.home}/bin:{user.environment['PATH']}"
        answer = user.imagefs("mount", "-q", archive, place, PATH=path)
        assert answer.status == 1
        assert "it was moved, or mounted on" in answer.err
        assert not user.mounted(astray)
        assert not user.mounted(place)


def test_what_was_checked_is_mounted_on(tmp_path: Path) -> None:
    """A directory that is held is mounted on wherever it is, whatever has come to its place."""
    need_root_and_fuse()
    (tmp_path / "other/mnt").mkdir(parents=True)
    (tmp_path / "parent/mnt").mkdir(parents=True)
    point = hold(tmp_path / "parent/mnt")
    (tmp_path / "parent").rename(tmp_path / "moved")
    (tmp_path / "parent").symlink_to("other")
    device, mounted = fuse_mount.mount(point, MountOptions())
    try:
        assert mounted.mountpoint == str(tmp_path / "moved/mnt")
        assert mountinfo.at(tmp_path / "other/mnt") is None
    finally:
        os.close(device)
        fuse_mount.unmount(mounted)


def test_nothing_is_mounted_over_what_others_have_mounted(tmp_path: Path) -> None:
    """What another program mounted between the look and the mount stays on top, and is seen."""
    need_root_and_fuse()
    point = hold(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "theirs", tmp_path], check=True)
    try:
        with pytest.raises(MountError, match="mounted on"):
            fuse_mount.mount(point, MountOptions())
        found = mountinfo.at(tmp_path)
        assert found is not None
        assert found.source == "theirs"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_place_is_held_by_one(tmp_path: Path) -> None:
    """Who comes second is told at once, not when the first has mounted."""
    point = hold(tmp_path)
    with pytest.raises(MountError, match="about to mount"):
        hold(tmp_path)
    point.release()
    hold(tmp_path).release()


@pytest.mark.parametrize(
    ("maker", "owner", "fine"),
    [(0, 0, True), (1, 1, True), (1, 0, False), (1, 2, False), (0, 1, True)],
)
def test_links_of_others_lead_to_what_is_theirs(
    tmp_path: Path, maker: int, owner: int, fine: bool
) -> None:
    """Anywhere on the way: a link of somebody else may lead to their own directory only."""
    need_root_and_fuse()
    (tmp_path / "real/mnt").mkdir(parents=True)
    os.chown(tmp_path / "real/mnt", owner, 0)
    (tmp_path / "link").symlink_to("real")
    os.chown(tmp_path / "link", maker, 0, follow_symlinks=False)
    for path in ("link/mnt", "real/../link/mnt", "link/./mnt/"):
        with contextlib.nullcontext() if fine else pytest.raises(MountError, match="symbolic link"):
            hold(tmp_path / path).release()


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    """As the kernel has it."""
    (tmp_path / "loop").symlink_to("loop/x")
    with pytest.raises(MountError, match="symbolic links"):
        hold(tmp_path / "loop/mnt")


LOGS = """
import logging, sys
from pathlib import Path
from imagefs.host.daemon import SharedLog
log = logging.getLogger()
log.addHandler(SharedLog(Path(sys.argv[1]), 100_000))
for number in range(400):
    log.warning("%s %d %s", sys.argv[2], number, "x" * 80)
"""


def test_daemons_share_a_log_and_lose_nothing(user: User) -> None:
    """Several write while the log is put aside: each line is there once, in either file."""
    log = user.home / "imagefs.log"
    writers = [user.start(user.python, "-c", LOGS, log, str(number)) for number in range(4)]
    assert [one.communicate(timeout=60)[1] for one in writers] == [b""] * 4
    aside = user.home / "imagefs.log.1"
    assert aside.stat().st_size <= 100_000
    lines = (aside.read_text() + log.read_text()).splitlines()
    found = sorted(tuple(map(int, line.split()[:2])) for line in lines)
    assert found == [(writer, number) for writer in range(4) for number in range(400)]


MANY_OPEN = """
import os, sys
for number in range(3, 1500):
    os.dup2(0, number)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_many_open_files_are_no_matter_to_unmount(user: User, archive: Path) -> None:
    """Descriptors beyond 1,024, which select(2) cannot wait for."""
    place = user.directory()
    pid = mount(user, archive, place)
    words = (user.python, "-c", MANY_OPEN, *user.command("unmount", place))
    answer = user.run("prlimit", "--nofile=4096:4096", *words)
    assert answer.status == 0, answer.err
    eventually(lambda: not is_running(pid))


def test_a_name_that_systemd_does_not_answer_at_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stale NOTIFY_SOCKET is a warning."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    daemon.notify("READY=1")
    assert "cannot be told" in caplog.text
