"""Mounts from the outside: how they come, what they let whom see, how they end."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import HostError, MountError
from imagefs.fuse import mount
from imagefs.fuse.kernel_flags import KERNEL_FLAGS
from imagefs.fuse.mount import MountBusyError, MountOptions, unmount, unmount_for_good
from imagefs.host import mountinfo
from tests.support import conformance, users
from tests.support.memfs import MemFs
from tests.support.polling import eventually
from tests.support.serving import (
    ROOT,
    SERVED,
    Served,
    ServingFailedError,
    need_root_and_fuse,
    served,
)
from tests.support.users import NOBODY

EVERY_DRIVER = pytest.mark.parametrize("driver", SERVED)


@pytest.fixture(autouse=True)
def _fuse(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    need_root_and_fuse(callspec.params.get("driver", "native") if callspec else "native")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory to mount on, which an ordinary user owns and others can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        mountpoint = Path(folder) / "mount"
        mountpoint.mkdir()
        os.chown(mountpoint, NOBODY, NOBODY)
        yield mountpoint


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """The folder that steers `memfs.LiveFs`."""
    (tmp_path / "names").mkdir()
    return tmp_path


def there(place: Path) -> mountinfo.Mount:
    """The mount at a place."""
    found = mountinfo.at(place)
    assert found is not None
    return found


def as_nobody(*command: str) -> tuple[int, str]:
    """Run a command as an ordinary user; return its exit status and what it said."""
    result = subprocess.run(
        command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False
    )
    return result.returncode, os.fsdecode(result.stdout + result.stderr)


@EVERY_DRIVER
@pytest.mark.parametrize("source", ["app:v1", "a b,c\\d=é,", "x" * 300])
def test_the_mount_says_what_it_is(driver: str, source: str, place: Path) -> None:
    """/proc/mounts shows type, source and that the mount is read-only, nosuid and nodev."""
    with served(driver, "conformance", place, source=source):
        found = mountinfo.at(place)
        assert found is not None
        assert (found.fstype, found.source) == ("fuse.imagefs", source)
        assert {"ro", "nosuid", "nodev"} <= set(found.options.split(","))
    assert mountinfo.at(place) is None


FLAGS = sorted(KERNEL_FLAGS)
FOR_ALL = ("dirsync", "noatime", "noexec", "sync")
"""What fusermount3 and libfuse know of them."""


def has_flag(proc_mounts: str, place: Path, flag: str) -> bool:
    """Tell whether a mount has a flag; the kernel shows no strictatime, but the lack of others."""
    (options,) = [
        line.split()[3].split(",")
        for line in proc_mounts.splitlines()
        if line.split()[1] == str(place)
    ]
    if flag == "strictatime":
        return not {"relatime", "noatime"}.intersection(options)
    return flag in options


@pytest.mark.parametrize(
    ("driver", "flag"),
    [*(("native", flag) for flag in FLAGS), *(("libfuse", flag) for flag in FOR_ALL)],
)
def test_flags_reach_the_kernel(driver: str, flag: str, place: Path) -> None:
    """What mount(8) calls independent of the file system is the mount's."""
    with served(driver, "conformance", place, flags=(flag,)):
        assert has_flag(os.fsdecode(Path("/proc/self/mounts").read_bytes()), place, flag)


@EVERY_DRIVER
@pytest.mark.parametrize("flag", FOR_ALL)
def test_flags_of_ordinary_users_reach_the_kernel(driver: str, flag: str) -> None:
    """fusermount3 passes on what it knows."""
    with users.others(NOBODY) as (user,):
        place = user.directory()
        with served(driver, "conformance", place, user=user, flags=(flag,)):
            assert has_flag(user.reads("/proc/self/mounts"), place, flag)


@EVERY_DRIVER
@pytest.mark.parametrize("flag", sorted(set(FLAGS) - set(FOR_ALL)))
def test_flags_that_fusermount3_does_not_know_are_refused(driver: str, flag: str) -> None:
    """No flag is dropped in silence: the error names it."""
    with (
        users.others(NOBODY) as (user,),
        pytest.raises(ServingFailedError, match=rf"^HostError: .* option {flag}$"),
        served(driver, "conformance", user.directory(), user=user, flags=(flag,)),
    ):
        pass


@EVERY_DRIVER
def test_nothing_runs_from_a_mount_with_noexec(driver: str, place: Path) -> None:
    """A program of the image is refused by the kernel."""
    with (
        served(driver, "conformance", place, flags=("noexec",)),
        pytest.raises(PermissionError),
    ):
        subprocess.run([place / "run", "free"], check=False)


@EVERY_DRIVER
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(driver: str, number: signal.Signals, place: Path) -> None:
    """A signal that asks for the end gets it: no mount is left, and the exit status is 0."""
    with served(driver, "conformance", place) as it:
        assert (place / "hello").read_text() == "hello\n"
        assert it.end(number) == 0
        assert mountinfo.at(place) is None


@EVERY_DRIVER
def test_a_signal_takes_away_no_other_mount(driver: str, place: Path) -> None:
    """Whoever has the directory above, moves it and puts a link in its place, leads nobody to
    take away what is mounted elsewhere.
    """
    other, above = place / "other", place / "above"
    for made in (other, above / "m"):
        made.mkdir(parents=True)
    with served(driver, "conformance", other), served(driver, "conformance", above / "m") as it:
        above.rename(place / "moved")
        above.mkdir()
        (above / "m").symlink_to(other)
        assert it.end() == 0
        assert mountinfo.at(place / "moved/m") is None
        assert mountinfo.at(other) is not None
        assert (other / "hello").read_text() == "hello\n"


@EVERY_DRIVER
def test_a_signal_ends_a_busy_mount_too(driver: str, place: Path) -> None:
    """Somebody inside does not keep the mount; they get an error from then on."""
    with served(driver, "conformance", place) as it:
        inside = os.open(place / "big", os.O_RDONLY)
        assert it.end() == 0
        assert mountinfo.at(place) is None
        with conformance.fails_with(errno.ENOTCONN):
            os.pread(inside, 4096, 200_000)
        with contextlib.suppress(OSError):
            os.close(inside)


@EVERY_DRIVER
def test_a_mount_that_nobody_was_told_of_is_taken_away(driver: str, place: Path) -> None:
    """Where `ready` fails, its error is passed on and no mount is left."""
    program = (
        "import pathlib, sys\n"
        "from imagefs.fuse import libfuse, server\n"
        "from imagefs.host.mount_point import hold\n"
        "from tests.support.memfs import MemFs\n"
        f"serve = {'server' if driver == 'native' else 'libfuse'}.serve\n"
        "point = hold(pathlib.Path(sys.argv[1]))\n"
        "serve(MemFs({}), point, server.MountOptions(), lambda: 1 / 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, place], cwd=ROOT, capture_output=True, check=False
    )
    assert result.returncode == 1
    assert b"ZeroDivisionError" in result.stderr
    assert mountinfo.at(place) is None


@EVERY_DRIVER
def test_umount_ends_the_process(driver: str, place: Path) -> None:
    """A mount taken away by umount(8) leaves no process behind."""
    with served(driver, "conformance", place) as it:
        subprocess.run(["umount", place], check=True)
        assert it.process.wait(60) == 0


@EVERY_DRIVER
def test_a_lazy_unmount_serves_those_inside_until_they_leave(driver: str, place: Path) -> None:
    """What is open stays readable; the process ends when the last file is closed."""
    with served(driver, "conformance", place) as it:
        with (place / "big").open("rb", 0) as inside:
            with pytest.raises(MountBusyError):
                unmount(there(place))
            unmount(there(place), lazy=True)
            assert mountinfo.at(place) is None
            assert inside.read() == conformance.node_of("big").content
            assert it.process.poll() is None
        assert it.process.wait(60) == 0


@EVERY_DRIVER
def test_a_dead_mount_is_seen_and_cleared(driver: str, place: Path) -> None:
    """A killed process leaves a mount that fails; it is found and removed without touching it."""
    with served(driver, "conformance", place) as it:
        it.process.kill()
        it.process.wait(60)
        with conformance.fails_with(errno.ENOTCONN):
            os.stat(place)
        assert mountinfo.at(place) is not None
        unmount_for_good(there(place))
        assert mountinfo.at(place) is None


@EVERY_DRIVER
def test_only_the_owner_may_enter(driver: str, place: Path) -> None:
    """Without allow_other, no other user gets beyond the mount point."""
    with served(driver, "conformance", place):
        assert (place / "secret").read_bytes() == b"s"
        status, said = as_nobody("stat", str(place / "page"))
        assert status != 0
        assert "Permission denied" in said


@EVERY_DRIVER
def test_others_meet_the_modes(driver: str, place: Path) -> None:
    """With allow_other everybody may enter, and the kernel enforces the modes."""
    with served(driver, "conformance", place, allow_other=True):
        assert as_nobody("cat", str(place / "setuid")) == (0, "x")
        for name in ("hello", "secret", "dir/inner"):
            status, said = as_nobody("cat", str(place / name))
            assert status != 0
            assert "Permission denied" in said
        assert as_nobody(str(place / "run"), "free") == (0, "ran free\n")


@EVERY_DRIVER
def test_an_ordinary_user_mounts(driver: str) -> None:
    """By fusermount3, a user mounts and reads all; root does not get in; a signal unmounts."""
    with users.others(NOBODY, 0) as (owner, root):
        place = owner.directory()
        with served(driver, "conformance", place, user=owner, source="a,b c") as it:
            seen = mountinfo.parse(owner.reads("/proc/self/mountinfo").encode())
            (found,) = [mount for mount in seen if mount.mountpoint == str(place)]
            assert (found.fstype, found.source) == ("fuse.imagefs", "a,b c")
            assert {"ro", "nosuid", "nodev"} <= set(found.options.split(","))
            for name, said in (("secret", "s"), ("hello", "hello\n"), ("dir/inner", "inner")):
                assert owner.reads(place / name) == said
            assert "Permission denied" in root.run("cat", place / "page").err
            assert it.end() == 0
            assert not owner.mounted(place)


@EVERY_DRIVER
def test_an_ordinary_users_busy_mount_ends(driver: str) -> None:
    """As for root, somebody inside does not keep the mount from ending at a signal."""
    with users.others(NOBODY) as (owner,):
        place = owner.directory()
        with served(driver, "conformance", place, user=owner) as it:
            inside = owner.start("sh", "-c", f"cd '{place}' && echo in && exec sleep 60")
            try:
                assert inside.stdout is not None
                assert inside.stdout.readline() == b"in\n"
                assert it.end() == 0
                assert not owner.mounted(place)
            finally:
                inside.kill()
                inside.communicate()


@EVERY_DRIVER
@pytest.mark.parametrize(
    ("point", "complaint"),
    [
        ("missing", "there is no such directory; make it first"),
        ("file", "is not a directory"),
        ("file/below", "is not a directory"),
    ],
)
def test_bad_mount_points(driver: str, point: str, complaint: str, tmp_path: Path) -> None:
    """What cannot be mounted on is a MountError of one line, and nothing is left mounted."""
    (tmp_path / "file").touch()
    target = tmp_path / point
    with (
        pytest.raises(ServingFailedError) as caught,
        served(driver, "conformance", target),
    ):
        pass
    assert str(caught.value) == f"MountError: {target}: {complaint}"
    assert mountinfo.at(target) is None


@EVERY_DRIVER
def test_users_mount_only_on_their_own(driver: str, place: Path) -> None:
    """fusermount3 refuses a directory of somebody else, and its reason is passed on."""
    os.chown(place, 0, 0)
    with (
        users.others(NOBODY) as (user,),
        pytest.raises(ServingFailedError) as caught,
        served(driver, "conformance", place, user=user),
    ):
        pass
    assert str(caught.value).startswith(f"MountError: {place}: cannot mount: user has no write")
    assert "\n" not in str(caught.value)


@EVERY_DRIVER
def test_allow_other_may_be_forbidden(driver: str) -> None:
    """An ordinary user is told which line of /etc/fuse.conf allow_other takes."""
    if "\nuser_allow_other" in mount.FUSE_CONF.read_text():
        pytest.skip("this machine lets users share their mounts")
    with (
        users.others(NOBODY) as (user,),
        pytest.raises(ServingFailedError, match=r"^HostError: .*user_allow_other"),
        served(driver, "conformance", user.directory(), user=user, allow_other=True),
    ):
        pass


def test_a_closed_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /dev/fuse is root's alone, an ordinary user is told so."""
    monkeypatch.setattr(mount, "helper", lambda: "fusermount3")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(HostError, match="chmod 666 /dev/fuse"):
        mount.check_helper(MountOptions())


def test_libfuse_3_without_mfusepy_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fusepy takes libfuse 3 for libfuse 2, and would crash: the message says what to install."""
    monkeypatch.setenv("FUSE_LIBRARY_PATH", find_library("fuse3") or "libfuse3 is missing")
    with (
        pytest.raises(ServingFailedError, match=r"^HostError: .*pip install 'imagefs\[fuse3\]'$"),
        served("libfuse2-fusepy", "conformance", place),
    ):
        pass


def test_a_missing_libfuse_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libfuse, the message says what to install."""
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "/nonexistent/libfuse.so.2")
    with (
        pytest.raises(ServingFailedError, match=r"^HostError: .*apt install libfuse2"),
        served("libfuse", "conformance", place),
    ):
        pass


def test_a_missing_device_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /dev/fuse, the message says where it comes from."""
    monkeypatch.setattr(mount, "DEVICE", tmp_path / "fuse")
    with pytest.raises(HostError, match="modprobe fuse"):
        mount.check(MountOptions())
    (tmp_path / "fuse").touch()
    with pytest.raises(HostError, match="not a device"):
        mount.check(MountOptions())


def test_a_missing_fusermount_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fusermount3, the message says what to install."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(HostError, match="apt install fuse3"):
        mount.helper()


def test_nothing_to_unmount(place: Path) -> None:
    """Unmounting what is no longer mounted is a MountError, and takes nothing else away."""
    with served("native", "conformance", place):
        gone = there(place)
    with pytest.raises(MountError, match="nothing is mounted"):
        unmount(gone)
    with pytest.raises(MountError, match="nothing is mounted"):
        unmount(gone._replace(mountpoint=str(place / "missing")))
    with served("native", "conformance", place):
        other = there(place)
        with pytest.raises(MountError, match="nothing is mounted"):
            unmount(other._replace(id=other.id + 1))
        unmount_for_good(gone._replace(id=other.id + 1))
        assert (place / "hello").read_text() == "hello\n"


@EVERY_DRIVER
def test_what_was_looked_at_is_not_asked_for_again(driver: str, place: Path) -> None:
    """Where nothing changes, the daemon hears nothing of a second walk that reads files."""
    walk = ["grep", "-rc", "x", os.fspath(place)]
    with served(driver, "few", place) as it:

        def replies() -> int:
            text = Path(f"/proc/{it.process.pid}/io").read_text()
            return int(dict(line.split(": ") for line in text.splitlines())["syscw"])

        first = subprocess.check_output(walk)
        asked = replies()
        assert asked > 20
        assert subprocess.check_output(walk) == first
        # The reply that woke the first walk's last reader may have been counted after it.
        assert replies() <= asked + 1


@EVERY_DRIVER
def test_changes_show_within_two_seconds(driver: str, place: Path, control: Path) -> None:
    """In a directory that changes, new names come and old ones go, listed and looked up."""
    with served(driver, "live", place, control=control):
        changing = place / "changing"
        assert os.listdir(changing) == []
        assert not (changing / "new").exists()
        (control / "names/new").touch()
        eventually(lambda: os.listdir(changing) == ["new"])
        eventually((changing / "new").exists)
        (control / "names/new").rename(control / "names/other")
        eventually(lambda: os.listdir(changing) == ["other"])
        eventually(lambda: not (changing / "new").exists())
        assert (changing / "other").exists()


@EVERY_DRIVER
def test_a_slow_directory_holds_up_nobody_else(driver: str, place: Path, control: Path) -> None:
    """While one reader waits for a slow directory, all else answers; then the reader gets it."""
    with served(driver, "live", place, control=control):
        with subprocess.Popen(["ls", place / "slow"], stdout=subprocess.PIPE) as waiting:
            for number in range(20):
                assert (place / "calm/file").read_text() == "."
                assert not (place / f"changing/{number}").exists()
            assert waiting.poll() is None
            (control / "gate").touch()
            assert waiting.communicate(timeout=60)[0] == b"inside\n"
        assert (place / "slow/inside").read_text() == "at last"


@EVERY_DRIVER
def test_whoever_waits_may_leave(driver: str, place: Path, control: Path) -> None:
    """Ctrl-C ends waiting for a slow directory at once; the mount goes on, and ends."""
    with served(driver, "live", place, control=control) as it:
        waiting = subprocess.Popen(["ls", place / "slow"], stderr=subprocess.DEVNULL)
        assert_waits(waiting, it)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(60) == -signal.SIGINT
        assert (place / "calm/file").read_text() == "."
        waiting = subprocess.Popen(["ls", place / "slow"], stderr=subprocess.DEVNULL)
        assert_waits(waiting, it)
        assert it.end() == 0
        assert waiting.wait(60) != 0


LISTS = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
print(os.listdir(sys.argv[1]))
"""


@EVERY_DRIVER
@pytest.mark.parametrize("ending", [False, True], ids=["it goes on", "it is killed"])
def test_a_signal_that_a_program_handles_fails_no_call(
    driver: str, ending: bool, place: Path, control: Path
) -> None:
    """No file system's listings end early for a signal; who gets one to end later does end."""
    with served(driver, "live", place, control=control) as it:
        command = [sys.executable, "-c", LISTS, str(place / "slow")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
            assert_waits(waiting, it)
            for number in (signal.SIGUSR1, signal.SIGSTOP, signal.SIGCONT):
                waiting.send_signal(number)
                time.sleep(0.2)
            assert waiting.poll() is None
            if ending:
                waiting.kill()
                assert waiting.wait(60) == -signal.SIGKILL
            else:
                (control / "gate").touch()
                assert waiting.communicate(timeout=60)[0] == "['inside']\n"


SLOW = {"LOOKUP": "stat", "READDIRPLUS": "ls", "READ": "cat"}


@pytest.mark.parametrize("kind", SLOW)
def test_nothing_slow_holds_up_the_mount_of_an_image(kind: str, place: Path, control: Path) -> None:
    """Also where nothing changes, and whatever it is: others go on, and readers may be killed."""
    path = place / ("slow" if kind == "READDIRPLUS" else "slow/inside")
    if kind == "READ":
        (control / "gate").touch()
    with served("native", "stuck", place, control=control) as it:
        if kind == "READ":
            path.stat()
            (control / "gate").unlink()
        command = [SLOW[kind], str(path)]
        crowd = [subprocess.Popen(command, stdout=subprocess.DEVNULL)]
        try:
            if kind != "READ":
                # Whoever looks up the same name meanwhile waits for the first, not to be killed.
                assert_waits(crowd[0], it)
            crowd += [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(19)]
            time.sleep(0.2)
            assert (place / "calm/file").read_text() == "."
            assert os.listdir(place / "changing") == []
            assert [one.poll() for one in crowd] == [None] * 20
            crowd[0].kill()
            assert crowd[0].wait(60) == -signal.SIGKILL
        finally:
            (control / "gate").touch()
            status = [one.wait(60) for one in crowd[1:]]
        assert status == [0] * 19


@pytest.mark.parametrize("kind", ["LOOKUP", "READDIRPLUS"])
def test_what_the_kernel_did_not_get_is_given_back(kind: str, place: Path, control: Path) -> None:
    """The late reply to a reader that has gone leaves no reference to a node behind."""
    noted = control / "references"
    noted.touch()
    tree = MemFs({"changing/": "", "slow/": "", "slow/inside": ""})
    slow, inside = tree.find("slow"), tree.find("slow/inside")

    def counts(node: int) -> list[str]:
        lines = map(str.split, noted.read_text().splitlines())
        return [count for number, count in lines if int(number) == node]

    with served("native", "live", place, control=control) as it:
        (control / "stubborn").touch()
        path = place / ("slow" if kind == "READDIRPLUS" else "slow/inside")
        waiting = subprocess.Popen([SLOW[kind], path], stdout=subprocess.DEVNULL)
        eventually(lambda: counts(slow) == ["1"])
        assert_waits(waiting, it)
        waiting.kill()
        assert waiting.wait(60) == -signal.SIGKILL
        assert counts(inside) == []
        (control / "gate").touch()
        eventually(lambda: counts(inside) == ["1", "-1"])


def assert_waits(process: subprocess.Popen[Any], it: Served) -> None:
    """Wait until the process sleeps in the kernel's FUSE code, as its system call tells."""
    opening = Path(f"/proc/{process.pid}/wchan")
    eventually(lambda: "fuse" in opening.read_text() or "request_wait" in opening.read_text())
    assert it.process.poll() is None
