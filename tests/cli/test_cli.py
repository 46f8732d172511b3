"""The command line, as users type it: each command in a process of its own, the mounts real.

What holds for whoever runs the tests holds for an ordinary user, too.
"""

import json
import os
import re
import shlex
import socket
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support import samples, users
from tests.support.engines import RunningEngine
from tests.support.needs import need_fuse, need_tool
from tests.support.polling import eventually, soon
from tests.support.samples import SampleImage
from tests.support.saved import docker_save
from tests.support.tars import Dir, File, Sym, layer
from tests.support.users import Answer, User

BASE = layer({"etc/": "", "etc/motd": "hello\n", "bin/": "", "bin/sh": File("#!", 0o755)})
ADDS = layer({"srv/": "", "srv/key": "secret\n", "srv/link": Sym("key")})
DROPS = layer({"srv/.wh.key": "", "etc/": "", "etc/.wh..wh..opq": "", "etc/issue": "new\n"})
STEPS = ("ADD base", "COPY srv", "RUN rm key")
ARCHIVE = docker_save(BASE, ADDS, DROPS, steps=STEPS)
LAYERS = [r"00-[0-9a-f]{12}", r"01-[0-9a-f]{12}", r"02-[0-9a-f]{12}"]


@pytest.fixture(params=["caller", "ordinary"])
def user(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests, and an ordinary user."""
    need_fuse()
    if request.param == "caller":
        with users.caller(tmp_path / "home") as one:
            yield one
    else:
        with users.others(users.NOBODY) as (one,):
            yield one


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests."""
    need_fuse()
    with users.caller(tmp_path / "home") as one:
        yield one


def complaint(answer: Answer, status: int = 1) -> str:
    """Return the one line that a command failed with."""
    assert answer.status == status, answer
    assert answer.err.startswith("imagefs: "), answer.err
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.endswith("\n")
    assert answer.out == ""
    return answer.err.removeprefix("imagefs: ").removesuffix("\n")


def recorded(user: User, place: Path) -> list[dict[str, Any]]:
    """What `mounts` lists of a mount point."""
    found = json.loads(user.does("mounts", "--json"))
    return [one for one in found if one["mountpoint"] == str(place)]


def left_in_cache(user: User) -> set[str]:
    """The files of the user's cache that hold anything of an image."""
    kept = ("layers", "images", "refs", "index", "work", "mounts")
    found = user.run("sh", "-c", "cd .cache/imagefs && find . -type f").out.split()
    return {path for path in found if path.split("/")[1] in kept}


def test_a_mount_shows_the_image_until_it_is_unmounted(user: User) -> None:
    """`mount` returns when the mount answers; `unmount` takes it and its daemon away."""
    archive, place = user.file("app.tar", ARCHIVE), user.directory()
    assert user.does("mount", archive, place) == ""
    assert user.mounted(place)
    assert sorted(user.run("ls", place).out.split()) == [
        *("config.json", "layers", "layers.txt", "manifest.json", "rootfs", "snapshots")
    ]
    assert user.reads(place / "rootfs/etc/issue") == "new\n"
    found = user.run("sh", "-c", f"cd {place}/rootfs && find . | sort").out.split()
    assert found == [".", "./bin", "./bin/sh", "./etc", "./etc/issue", "./srv", "./srv/link"]
    deleted = user.run(
        "sh", "-c", f"cat {place}/layers/01-*/srv/key {place}/snapshots/01-*/srv/key"
    )
    assert deleted.out == "secret\n" * 2
    [listed] = recorded(user, place)
    assert (listed["source"], listed["mountpoint"]) == (str(archive), str(place))
    assert user.does("unmount", place) == ""
    assert not user.mounted(place)
    assert recorded(user, place) == []
    eventually(lambda: not Path(f"/proc/{listed['pid']}").exists())


@pytest.mark.parametrize("driver", ["native", "libfuse"])
def test_both_drivers_show_the_same(user: User, driver: str) -> None:
    """What is below the mount point does not depend on the driver."""
    need_fuse(driver)
    archive, place = user.file("app.tar", ARCHIVE), user.directory()
    user.does("mount", "--driver", driver, archive, place)
    words = f"cd {place} && find . -printf '%P %y %m %s %T@ %l\\n' | sort && cat rootfs/etc/issue"
    shown = user.run("sh", "-c", words)
    user.does("mount", archive, user.directory("other"))
    assert shown.out == user.run("sh", "-c", words.replace(str(place), "other")).out
    assert "new\n" in shown.out


def test_the_source_may_come_in_on_standard_input(user: User) -> None:
    """`-` is an archive on standard input."""
    place = user.directory()
    user.does("mount", "-", place, stdin=ARCHIVE)
    assert user.reads(place / "rootfs/etc/issue") == "new\n"


@pytest.mark.parametrize(
    ("view", "file"),
    [
        ("rootfs", "etc/issue"),
        ("layers", "*/etc/issue"),
        ("snapshots", "02-*/etc/issue"),
        ("LAYER", "etc/issue"),
    ],
)
def test_a_view_is_mounted_alone(caller: User, view: str, file: str) -> None:
    """--view puts just one tree at the mount point."""
    archive, place = caller.file("app.tar", ARCHIVE), caller.directory()
    layers = json.loads(caller.does("layers", "--json", archive))
    caller.does("mount", "--view", view.replace("LAYER", layers[2]["directory"]), archive, place)
    found = list(place.glob(file))
    assert [path.read_text() for path in found] == ["new\n"]
    assert not (place / "config.json").exists()


def test_all_images_are_mounted_side_by_side(caller: User) -> None:
    """Each in a directory by its tag, with the time at which it was made; the root is as young."""
    images = [SampleImage((one,), (name,)) for one, name in ((BASE, "a/b:1"), (ADDS, "c:2"))]
    archive = caller.file("both.tar", samples.packed(samples.docker_20(*images)))
    place = caller.directory()
    caller.does("mount", "--all", archive, place)
    assert sorted(os.listdir(place)) == ["a_b:1", "c:2"]
    assert (place / "c:2/rootfs/srv/key").read_text() == "secret\n"
    made = datetime.fromisoformat(json.loads(images[0].config)["created"]).timestamp()
    for path in (place, place / "a_b:1", place / "c:2/layers", place / "c:2/layers.txt"):
        assert path.stat().st_mtime == made


def test_layers_are_listed(user: User) -> None:
    """`layers` shows each layer's directory, size, counts and the step that made it."""
    archive = user.file("app.tar", ARCHIVE)
    listed = json.loads(user.does("layers", "--json", archive))
    for one, directory in zip(listed, LAYERS, strict=True):
        assert re.fullmatch(directory, one["directory"])
    assert [one["created_by"] for one in listed] == list(STEPS)
    assert [one["whiteouts"] for one in listed] == [0, 0, 2]
    table = user.does("layers", archive)
    for one in listed:
        assert one["directory"] in table
        assert one["created_by"] in table


def test_nothing_of_an_image_commands_the_terminal(caller: User) -> None:
    """Control characters and escape sequences are shown escaped, in tables and in errors."""
    archive = caller.file("app.tar", docker_save(BASE, steps=["RUN \x1b[2J\x07 \x9b31m"]))
    table = caller.does("layers", archive)
    assert not set(table) & {"\x1b", "\x07", "\x9b"}
    assert r"\x1b[2J\x07" in table
    words = complaint(caller.imagefs("mount", "no\x1b]0;such\nfile/.tar", caller.directory()), 2)
    assert words.isprintable()


def test_in_the_foreground_the_command_serves(user: User) -> None:
    """With -f the command ends when it is interrupted or told to, cleanly, and not before."""
    archive, place = user.file("app.tar", ARCHIVE), user.directory()
    process = user.start(*user.command("mount", "--foreground", archive, place))
    eventually(lambda: user.mounted(place))
    assert process.poll() is None
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not user.mounted(place)


def test_a_daemon_holds_nothing_of_its_callers(caller: User) -> None:
    """Locks and pipes that a script has open are not kept open by a mount that it makes."""
    archive, place = caller.file("app.tar", ARCHIVE), caller.directory()
    command = shlex.join(map(str, caller.command("mount", "--quiet", archive, place)))
    script = f"exec 9>lock && flock 9 && {command}"
    assert caller.run("sh", "-c", script).status == 0
    assert caller.mounted(place)
    assert caller.run("flock", "--nonblock", "lock", "true").status == 0


def test_systemd_is_told_when_the_mount_is_there(caller: User) -> None:
    """A unit of Type=notify hears READY=1 once the mount answers."""
    archive, place = caller.file("app.tar", ARCHIVE), caller.directory()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0imagefs-test-{os.getpid()}")
        systemd.settimeout(20)
        words = caller.command("mount", "--foreground", archive, place)
        process = caller.start(*words, NOTIFY_SOCKET=f"@imagefs-test-{os.getpid()}")
        assert b"READY=1" in systemd.recv(1000)
        assert caller.mounted(place)
        process.terminate()
        process.communicate(timeout=60)


def test_a_second_mount_scans_nothing(caller: User) -> None:
    """The index of the first mount serves the second; a changed archive is indexed anew."""
    archive, place = caller.file("app.tar", ARCHIVE), caller.directory()
    indexes = []
    for content in (ARCHIVE, ARCHIVE, docker_save(BASE, ADDS)):
        if content is not ARCHIVE:
            archive.write_bytes(content)
        caller.does("mount", archive, place)
        issue = place / "rootfs/etc/issue"
        assert issue.exists() == (content is ARCHIVE)
        caller.does("unmount", place)
        found = (caller.cache / "index").glob("*.idx")
        indexes.append({path.name: path.stat().st_mtime_ns for path in found})
    assert indexes[0]
    assert indexes[0] == indexes[1]
    assert indexes[1] != indexes[2]


def without_a_layer(archive: bytes) -> bytes:
    """An archive whose manifest names a layer that is not there."""
    place = re.search(rb'"([0-9a-f]{64})/layer.tar"', archive)
    assert place is not None
    return archive.replace(b'"' + place[1] + b"/", b'"' + b"0" * 64 + b"/")


BAD_ARCHIVES = {
    "not a tar": b"just some words, and more of them " * 100,
    "an empty file": b"",
    "one byte": b"\x1f",
    "cut in the manifest": ARCHIVE[: ARCHIVE.rindex(b"manifest.json") + 600],
    "cut in a header": ARCHIVE[:700],
    "cut in a layer": ARCHIVE[: len(ARCHIVE) // 2],
    "a wrong checksum": ARCHIVE.replace(b"0000755", b"0000711", 1),
    "a layer that is not there": without_a_layer(ARCHIVE),
    "a manifest of the wrong shape": layer({"oci-layout": "{}", "manifest.json": '{"Config": 1}'}),
    "a manifest that is no JSON": layer({"oci-layout": "{}", "manifest.json": "[{"}),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_a_bad_archive_is_one_line(caller: User, name: str) -> None:
    """It names the archive; no mount is left, and nothing of it in the cache."""
    archive, place = caller.file("bad.tar", BAD_ARCHIVES[name]), caller.directory()
    assert "bad.tar" in complaint(caller.imagefs("mount", archive, place))
    assert not caller.mounted(place)
    assert left_in_cache(caller) == set()


def test_a_directory_that_is_no_image_is_one_line(caller: User) -> None:
    """A directory is an image only if it has an image's layout."""
    caller.directory("empty")
    assert "empty" in complaint(caller.imagefs("mount", "./empty", caller.directory()))


def test_a_source_that_is_not_there_is_one_line(caller: User) -> None:
    """A path that does not exist is named; so is what could have been one."""
    place = caller.directory()
    assert "nothing.tar" in complaint(caller.imagefs("mount", "./nothing.tar", place))
    nowhere = "unix:///no/such.sock"
    answer = caller.imagefs("mount", "nothing.tar", place, DOCKER_HOST=nowhere)
    assert "there is no file nothing.tar" in complaint(answer)
    answer = caller.imagefs("mount", "app:v1.0", place, DOCKER_HOST=nowhere)
    assert "no file" not in complaint(answer)


@pytest.mark.parametrize("name", ["missing", "a file", "not empty", "mounted"])
def test_a_bad_mount_point_is_one_line(user: User, name: str) -> None:
    """It is found out before any work, and names the mount point."""
    archive = user.file("app.tar", ARCHIVE)
    place = user.home / "missing"
    if name == "a file":
        place = archive
    elif name == "not empty":
        place = user.directory()
        user.file("mnt/something", "")
    elif name == "mounted":
        place = user.directory()
        user.does("mount", archive, place)
    words = complaint(user.imagefs("mount", archive, place))
    assert str(place) in words
    assert user.mounted(place) == (name == "mounted")


def test_a_mount_point_may_be_a_link(user: User) -> None:
    """The mount is made where the link leads, and is unmounted by either name."""
    archive, place = user.file("app.tar", ARCHIVE), user.directory()
    assert user.run("ln", "-s", place, "link").status == 0
    for name in ("link", str(place)):
        user.does("mount", archive, "./link")
        assert user.mounted(place)
        user.does("unmount", name)
        assert not user.mounted(place)


def test_a_mount_point_of_somebody_else_is_refused() -> None:
    """An ordinary user cannot mount on a directory that is not theirs."""
    need_fuse()
    with users.others(users.NOBODY) as (user,):
        archive = user.file("app.tar", ARCHIVE)
        complaint(user.imagefs("mount", archive, "/proc"))
        assert not user.mounted(Path("/proc"))


def test_an_engine_that_does_not_answer_is_one_line(user: User) -> None:
    """It names the address that was tried, and what to do."""
    words = user.imagefs("mount", "app:v1", user.directory(), DOCKER_HOST="unix:///no/such.sock")
    assert "/no/such.sock" in complaint(words)
    assert left_in_cache(user) == set()


def test_an_unknown_image_is_one_line(caller: User, docker_engine: RunningEngine) -> None:
    """The engine's own words are shown."""
    place = caller.directory()
    words = caller.imagefs("mount", "no/such:image", place, DOCKER_HOST=docker_engine.host)
    assert "no/such" in complaint(words)
    assert not caller.mounted(place)
    assert left_in_cache(caller) == set()


@pytest.mark.parametrize(
    "words",
    [
        ["mount"],
        ["mount", "one"],
        ["mount", "--driver", "other", "a", "b"],
        ["mount", "--no-such", "a", "b"],
        ["nonsense"],
        ["unmount"],
        ["cache", "prune", "--keep-bytes", "much"],
    ],
)
def test_misuse_has_a_status_of_its_own(caller: User, words: list[str]) -> None:
    """Exit status 2, and one line that says where to read on."""
    complaint(caller.imagefs(*words), status=2)


def test_debug_shows_where_an_error_comes_from(caller: User) -> None:
    """A traceback appears with --debug, and only then."""
    answer = caller.imagefs("--debug", "mount", "./nothing.tar", caller.directory())
    assert answer.status == 1
    assert "Traceback" in answer.err


def test_a_view_that_the_image_lacks_is_one_line(caller: User) -> None:
    """The error lists the views that there are."""
    archive = caller.file("app.tar", ARCHIVE)
    answer = caller.imagefs("mount", "--quiet", "--view", "x", archive, caller.directory())
    words = complaint(answer, status=2)
    assert "rootfs" in words


def test_others_see_nothing_unless_they_are_let_in() -> None:
    """Mounts, caches and records are their owner's alone; not even their names show."""
    with users.others(users.NOBODY, users.DAEMON) as (owner, other):
        archive, place = owner.file("app.tar", ARCHIVE), owner.directory()
        owner.does("mount", archive, place)
        owner.run("chmod", "755", owner.home)
        assert owner.reads(place / "rootfs/etc/issue") == "new\n"
        assert "Permission denied" in other.run("ls", place).err
        assert "Permission denied" in other.run("ls", owner.cache).err
        assert other.imagefs("unmount", place).status == 1
        assert owner.mounted(place)


def test_with_allow_other_the_kernel_enforces_modes() -> None:
    """Everybody may enter, and may read what the image's modes let them read."""
    files = {
        "open": File("1", 0o644),
        "closed": File("2", 0o600),
        "theirs": File("3", 0o400, uid=users.NOBODY),
        "private/": Dir(0o700),
        "private/x": "4",
    }
    with users.others(0, users.NOBODY) as (root, other):
        archive, place = root.file("app.tar", docker_save(layer(files))), root.directory()
        root.run("chmod", "755", root.home)
        root.does("mount", "--allow-other", "--view", "rootfs", archive, place)
        assert other.reads(place / "open") == "1"
        assert other.reads(place / "theirs") == "3"
        for name in ("closed", "private/x"):
            assert "Permission denied" in other.run("cat", place / name).err


HELPER = "import imagefs.cli.mount_helper as helper; helper.main()"


@pytest.mark.parametrize("way", ["mount.fuse3", "mount.imagefs", "fstab"])
def test_mount_8_mounts_by_type(way: str) -> None:
    """`mount -t fuse.imagefs` works where mount(8) finds `imagefs` in /usr/local/bin, or
    `mount.imagefs` as /sbin/mount.fuse.imagefs; and so do lines of /etc/fstab.
    """
    need_tool("mount.fuse3", "fuse3")
    with users.others(0) as (root,):
        if way == "mount.imagefs":
            install(root, "/sbin", "mount.fuse.imagefs", [root.python, "-P", "-c", HELPER])
        else:
            install(root, "/usr/local/bin", "imagefs", root.command())
        archive, place = root.file("app.tar", ARCHIVE), root.directory()
        options = "ro,noexec,noatime,view=rootfs,allow_other,nofail"
        root.file("fstab", f"{archive} {place} fuse.imagefs {options},noauto 0 0\n")
        if way == "fstab":
            answer = root.run("mount", "-T", "fstab", place)
        else:
            answer = root.run("mount", "-t", "fuse.imagefs", archive, place, "-o", options)
        assert answer.status == 0, answer.err
        assert root.mounted(place)
        assert root.reads(place / "etc/issue") == "new\n"
        [found] = [line for line in root.reads("/proc/mounts").splitlines() if str(place) in line]
        assert {"noexec", "noatime"} <= set(found.split()[3].split(","))
        assert root.run("umount", place).status == 0


def install(root: User, directory: str, name: str, words: Sequence[str | Path]) -> None:
    """Put a command alone into a directory of root's namespace."""
    root.file(name, f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    script = f"mkdir bin && chmod 755 {name} && mv {name} bin && mount --bind bin {directory}"
    answer = root.run("sh", "-c", script)
    assert answer.status == 0, answer.err


def test_a_fetch_goes_on_after_a_failure(caller: User, docker_engine: RunningEngine) -> None:
    """What can be fetched is, and the one line in the end names all that could not be."""
    docker_engine.load_root("cli-test/there:1", {"f": b"x"})
    names = ("cli-test/no:1", "cli-test/there:1", "cli-test/no:2")
    answer = caller.imagefs("fetch", "--quiet", *names, DOCKER_HOST=docker_engine.host)
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "cli-test/no:1" in line
    assert "cli-test/no:2" in line
    assert "cli-test/there:1" in caller.does("cache", "list")


def test_a_fetch_goes_on_behind_what_names_nothing(caller: User) -> None:
    """A name that can be none is told in the end, as all else that could not be fetched."""
    images = [SampleImage((BASE, ADDS)), SampleImage((BASE, DROPS))]
    packed = [samples.gz(samples.tar_of(samples.docker_20(image))) for image in images]
    first, last = (caller.file(f"{at}.tar.gz", data) for at, data in enumerate(packed))
    answer = caller.imagefs("fetch", "--quiet", "Not A Name", first, "http://x", last)
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "Not A Name" in line
    assert "http://x" in line
    assert len(list((caller.home / ".cache/imagefs/archives").iterdir())) == 2


def test_the_cache_is_listed_verified_and_pruned(
    caller: User, docker_engine: RunningEngine
) -> None:
    """What was fetched shows, proves whole, and goes when it is not used."""
    docker_engine.load_root("cli-test/cache:1", {"etc/issue": b"new\n"})
    place = caller.directory()
    caller.does("fetch", "cli-test/cache:1", DOCKER_HOST=docker_engine.host)
    assert "cli-test/cache:1" in caller.does("cache", "list")
    caller.does("cache", "verify")
    # The engine is not needed any more.
    caller.does("mount", "cli-test/cache:1", place, DOCKER_HOST="unix:///no/such.sock")
    assert caller.reads(place / "rootfs/etc/issue") == "new\n"
    caller.does("cache", "prune", "--keep-bytes", "0")
    assert "cli-test/cache:1" in caller.does("cache", "list")
    caller.does("unmount", place)

    def pruned() -> bool:
        caller.does("cache", "prune", "--keep-bytes", "0")
        return "cli-test/cache:1" not in caller.does("cache", "list")

    # On a busy machine the daemon may still be about to end.
    assert soon(pruned)
