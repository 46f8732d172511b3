"""`imagefs serve`: all images of an engine under one mount, against a real dockerd."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imagefs.host import mountinfo
from tests.support import needs
from tests.support.alike import alike
from tests.support.badengine import Answer, Export, ScriptedEngine, answer_json, chunked
from tests.support.engines import RunningEngine
from tests.support.gated import SLOW
from tests.support.mounted import clear, imagefs, module_mounted
from tests.support.polling import soon
from tests.support.serving import DRIVERS, LIBFUSES

SHOWN_WITHIN = 2.0
IMAGES = 12


# With an engine


@pytest.fixture(scope="module")
def engine(docker_engine: RunningEngine) -> RunningEngine:
    """An engine with twelve images on two bases."""
    for base in ("one", "two"):
        docker_engine.load_root(f"serve-base:{base}", {"etc/base": base.encode()})
    for number in range(IMAGES):
        base = ("one", "two")[number % 2]
        docker_engine.build(
            f"registry.test:5000/team/app{number}:v1",
            f"FROM serve-base:{base}",
            "COPY files /srv",
            *(["RUN rm /etc/base && mkdir /d && touch /d/x"] if number < 3 else []),
            files={"files/number": f"needle {number}\n", "files/more/text": "hay\n"},
        )
    return docker_engine


@pytest.fixture
def served(engine: RunningEngine, tmp_path: Path) -> Iterator[Path]:
    needs.need_fuse()
    mountpoint = tmp_path / "m"
    mountpoint.mkdir()
    done = imagefs("serve", "--host", engine.host, mountpoint)
    assert done.returncode == 0, done.stderr
    try:
        yield mountpoint
    finally:
        clear(mountpoint)


def cached_layers(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "imagefs-cache/layers/sha256")


def test_a_listing_of_names_fetches_nothing(served: Path, tmp_path: Path) -> None:
    """Names, links and the by-id directories can be looked at without a byte being fetched."""
    team = served / "registry.test:5000/team"
    names = sorted(os.listdir(team))
    assert names == sorted(f"app{n}:v1" for n in range(IMAGES))
    assert all((team / name).is_symlink() for name in names)
    for entry in os.scandir(served / "by-id"):
        assert entry.stat().st_ino
    assert (team / "app0:v1").resolve().parent == served / "by-id"
    assert not (team / "app0:v1/.git").exists()
    assert cached_layers(tmp_path) == []


def test_contents_are_what_docker_exports(
    served: Path, engine: RunningEngine, tmp_path: Path
) -> None:
    """grep through three images finds what their exports hold; shared layers are stored once."""
    diff_ids = set()
    for number in range(3):
        name = f"registry.test:5000/team/app{number}:v1"
        rootfs = served / name / "rootfs"
        found = subprocess.run(
            ["grep", "-rl", "needle", rootfs], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert exported_with(engine, name, b"needle") == {
            os.path.relpath(path, rootfs) for path in found
        }
        assert not (rootfs / "etc/base").exists()
        listed = engine.docker("inspect", "--format", '{{join .RootFS.Layers " "}}', name)
        diff_ids.update(listed.split())
    assert sorted(cached_layers(tmp_path)) == sorted(
        f"{diff_id.partition(':')[2]}.tar" for diff_id in diff_ids
    )


def exported_with(engine: RunningEngine, name: str, needle: bytes) -> set[str]:
    """Return the files of an image's export that hold some bytes."""
    container = engine.docker("create", name, "/bin/sh")
    path = engine.root / "serve-export.tar"
    try:
        engine.docker("export", "-o", str(path), container)
    finally:
        engine.docker("rm", container)
    found = set()
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None and needle in file.read():
                found.add(member.name)
    return found


def test_shared_layers_are_one_set_of_inodes(served: Path) -> None:
    """A file of a base has the same inode in every image on that base."""
    team = served / "registry.test:5000/team"
    inodes = {os.stat(team / f"app{n}:v1/rootfs/bin/busybox").st_ino for n in (4, 6, 8)}
    assert len(inodes) == 1


def test_new_moved_and_removed_names_show_soon(served: Path, engine: RunningEngine) -> None:
    """What tags do at the engine shows in the mount within two seconds."""
    here = served / "moving:tag"
    base = "registry.test:5000/team/app"
    assert not here.is_symlink()
    engine.docker("tag", f"{base}4:v1", "moving:tag")
    assert soon(here.is_symlink, SHOWN_WITHIN)
    assert "moving:tag" in os.listdir(served)
    before = os.readlink(here)
    engine.docker("tag", f"{base}5:v1", "moving:tag")
    assert soon(lambda: os.readlink(here) != before, SHOWN_WITHIN)
    assert os.readlink(here) == os.readlink(served / f"{base}5:v1").removeprefix("../../")
    engine.docker("rmi", "moving:tag")
    assert soon(lambda: not here.is_symlink(), SHOWN_WITHIN)
    assert soon(lambda: "moving:tag" not in os.listdir(served), SHOWN_WITHIN)


def test_an_open_file_outlives_its_image(served: Path, engine: RunningEngine) -> None:
    """Removing an image takes its names away, not what somebody has open."""
    name = "leaving:1"
    engine.build(name, "FROM serve-base:one", "COPY f /f", files={"f": "still here"})
    assert soon((served / name).is_symlink, SHOWN_WITHIN)
    target = (served / name).resolve()
    with (served / name / "rootfs/f").open() as file:
        engine.docker("rmi", name)
        assert soon(lambda: not (served / name).is_symlink(), SHOWN_WITHIN)
        assert soon(lambda: target.name not in os.listdir(served / "by-id"), SHOWN_WITHIN)
        assert file.read() == "still here"


def open_files(pid: int) -> list[str]:
    """Return what a process has open; what it closes meanwhile may be missing."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(fd))
    return found


def test_a_removed_image_is_let_go(served: Path, engine: RunningEngine) -> None:
    """Once nobody has anything of a removed image open, the daemon has neither."""
    name = "leaving:2"
    engine.build(name, "FROM serve-base:one", "COPY f /f", files={"f": "soon gone"})
    assert soon((served / name).is_symlink, SHOWN_WITHIN)
    layer = os.listdir(served / name / "layers")[-1].partition("-")[2]
    mounts = json.loads(imagefs("mounts", "--json").stdout)
    pid = next(one["pid"] for one in mounts if one["mountpoint"] == str(served))

    def claimed() -> bool:
        listed = json.loads(imagefs("cache", "list", "--json").stdout)
        return any(one["in_use"] for one in listed["layers"] if layer in one["diff_id"])

    def held() -> bool:
        return layer in Path(f"/proc/{pid}/maps").read_text() or layer in str(open_files(pid))

    with (served / name / "rootfs/f").open():
        engine.docker("rmi", name)
        assert soon(lambda: not (served / name).is_symlink(), SHOWN_WITHIN)
        assert held()
        assert claimed()
    assert soon(lambda: not (served / name).is_symlink() and not held())
    assert not claimed()


def test_podmans_images_are_served(podman_engine: RunningEngine, tmp_path: Path) -> None:
    """A Podman service's images show as Docker's do, with the names that Podman gives them."""
    needs.need_fuse()
    podman_engine.load_root("localhost/team/served:1", {"etc/file": b"by podman"})
    mountpoint = tmp_path / "m"
    mountpoint.mkdir()
    done = imagefs("serve", "--host", podman_engine.host, mountpoint)
    assert done.returncode == 0, done.stderr
    try:
        image = mountpoint / "localhost/team/served:1"
        assert (image / "rootfs/etc/file").read_text() == "by podman"
    finally:
        clear(mountpoint)


# With an engine that says what a test has it say


@contextlib.contextmanager
def scripted(folder: Path, listed: list[Export]) -> Iterator[Path]:
    """Serve the images that `alike` gives, of which the engine lists these; give the mount."""
    needs.need_fuse()
    answers: dict[str, Answer] = {
        "/images/json": lambda: answer_json(
            [{"Id": image.id, "RepoTags": [image.name], "Created": 0} for image in listed]
        )
    }
    for image in alike():
        exported = image.answers(chunked(image.blobs()))
        answers |= {f"{image.id}{path}": answer for path, answer in exported.items()}
    mountpoint = folder / "m"
    mountpoint.mkdir()
    with ScriptedEngine(folder / "socket", answers) as engine:
        done = imagefs("serve", "--host", engine.host, mountpoint)
        assert done.returncode == 0, done.stderr
        try:
            yield mountpoint
        finally:
            clear(mountpoint)


def shown_by(image: Export, mountpoint: Path) -> tuple[str, bytes]:
    """Return where an image's tag leads to, and what its file and its configuration hold."""
    tag = mountpoint / image.name
    return os.readlink(tag), (tag / "rootfs/f").read_bytes() + (tag / "config.json").read_bytes()


def holds(image: Export) -> bytes:
    return image.name.removesuffix(":1").encode() + image.config


@pytest.mark.parametrize("turned", [False, True], ids=["in turn", "turned round"])
def test_images_that_begin_alike_are_two_trees(turned: bool, tmp_path: Path) -> None:
    """Each tag shows its own image, also when one of them went and came back."""
    one, other = alike()[:: -1 if turned else 1]
    begin = one.id[7:19]
    assert other.id[7:19] == begin
    listed = [one, other]
    with scripted(tmp_path, listed) as mountpoint:
        by_id = mountpoint / "by-id"
        before = {image.id: shown_by(image, mountpoint) for image in listed}
        assert [before[image.id][1] for image in listed] == [holds(one), holds(other)]
        assert sorted(f"by-id/{name}" for name in os.listdir(by_id)) == sorted(
            place for place, _ in before.values()
        )
        assert len(os.listdir(by_id)) == 2
        for gone, stays in ((one, other), (other, one)):
            listed.remove(gone)
            assert soon(lambda: not (mountpoint / gone.name).is_symlink())  # noqa: B023
            assert shown_by(stays, mountpoint) == before[stays.id]
            listed.insert(0, gone)
            assert soon((mountpoint / gone.name).is_symlink)
            assert {image.id: shown_by(image, mountpoint)[1] for image in listed} == {
                image.id: holds(image) for image in listed
            }
            assert len(os.listdir(by_id)) == 2


def test_an_image_that_comes_later_and_begins_alike(tmp_path: Path) -> None:
    """It has a directory of its own, and that of the one that was there stays what it was."""
    one, other = alike()
    listed = [one]
    with scripted(tmp_path, listed) as mountpoint:
        before = shown_by(one, mountpoint)
        assert before == (f"by-id/{one.id[7:19]}", holds(one))
        listed.insert(0, other)
        assert soon((mountpoint / other.name).is_symlink)
        assert shown_by(other, mountpoint)[1] == holds(other)
        assert shown_by(one, mountpoint) == before
        listed.remove(one)
        assert soon(lambda: not (mountpoint / one.name).is_symlink())
        assert shown_by(other, mountpoint)[1] == holds(other)


# With a catalog that a test holds up


@contextlib.contextmanager
def gated(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Serve `tests.support.gated`; give its folder and its mount point."""
    with module_mounted("tests.support.gated", folder) as mountpoint:
        yield folder, mountpoint


def attempts(folder: Path) -> int:
    path = folder / "attempts"
    return path.read_text().count("\n") if path.exists() else 0


def test_the_mount_answers_while_an_image_is_fetched(tmp_path: Path) -> None:
    """Several readers wait for one fetch, while another image can be read."""
    with gated(tmp_path) as (folder, mountpoint), ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit((mountpoint / "slow:1/rootfs/name").read_text) for _ in range(4)]
        assert soon(lambda: attempts(folder) == 1)
        assert "quick:1" in os.listdir(mountpoint / "team")
        assert (mountpoint / "team/quick:1/rootfs/name").read_text().startswith("sha256:b")
        assert not any(reader.done() for reader in waiting)
        (folder / "open").touch()
        assert {reader.result(10) for reader in waiting} == {SLOW}
        assert attempts(folder) == 2


EVERY_DRIVER = pytest.mark.parametrize("driver", DRIVERS)


@contextlib.contextmanager
def gated_by(driver: str, folder: Path) -> Iterator[Path]:
    """Serve `tests.support.gated` by a driver; give its mount point."""
    needs.need_fuse(driver)
    (folder / driver).touch()
    with gated(folder) as (_, mountpoint):
        yield mountpoint


@EVERY_DRIVER
def test_a_reader_can_be_interrupted(driver: str, tmp_path: Path) -> None:
    """A signal gets a reader away from a fetch at once; the fetch goes on."""
    with gated_by(driver, tmp_path) as mountpoint:
        reader = subprocess.Popen(["cat", mountpoint / "slow:1/rootfs/name"])
        assert soon(lambda: attempts(tmp_path) == 1)
        reader.send_signal(signal.SIGINT)
        assert reader.wait(60) == -signal.SIGINT
        (tmp_path / "open").touch()
        assert (mountpoint / "slow:1/rootfs/name").read_text() == SLOW
        assert attempts(tmp_path) == 1


@EVERY_DRIVER
def test_readers_that_were_interrupted_hold_no_image(driver: str, tmp_path: Path) -> None:
    """It is let go when it is removed, whatever was asked of it while it came."""
    with gated_by(driver, tmp_path) as mountpoint:
        readers = [
            subprocess.Popen([tool, mountpoint / "slow:1/rootfs"], stdout=subprocess.DEVNULL)
            for tool in ("ls", "stat", "ls", "stat")
        ]
        assert soon(lambda: attempts(tmp_path) == 1)
        # Who looks up the same name waits in the kernel, for the first to be answered.
        for reader in readers:
            reader.kill()
        assert [reader.wait(60) for reader in readers] == [-signal.SIGKILL] * 4
        (tmp_path / "open").touch()
        assert (mountpoint / "slow:1/rootfs/name").read_text() == SLOW
        (tmp_path / "gone").touch()
        assert soon(lambda: unloaded(mountpoint, tmp_path))


@pytest.mark.parametrize("library", ["libfuse2", "libfuse3"])
def test_libfuse_lets_an_image_go_once_it_is_closed(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is open of a removed image can be read."""
    needs.need_fuse(library)
    monkeypatch.setenv("FUSE_LIBRARY_NAME", LIBFUSES[library])
    with gated_by("libfuse", tmp_path) as mountpoint:
        (tmp_path / "open").touch()
        with (mountpoint / "slow:1/rootfs/name").open() as file:
            (tmp_path / "gone").touch()
            assert soon(lambda: len(os.listdir(mountpoint / "by-id")) == 1)
            time.sleep(1.5)
            assert not unloaded(mountpoint, tmp_path)
            assert file.read() == SLOW
        assert soon(lambda: unloaded(mountpoint, tmp_path))


def unloaded(mountpoint: Path, folder: Path) -> bool:
    """Look into the mount; tell whether the image that went has been let go."""
    assert "by-id" in os.listdir(mountpoint)
    return (folder / "unloaded").exists() and (folder / "unloaded").read_text() == SLOW + "\n"


def test_a_failed_fetch_is_an_io_error_and_tried_again(tmp_path: Path) -> None:
    """The reader gets EIO, the log says why, and the next access succeeds."""
    with gated(tmp_path) as (folder, mountpoint):
        (folder / "open").touch()
        (folder / "broken").touch()
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.listdir(mountpoint / "slow:1")
        assert "the engine is out of order" in (folder / "log").read_text()
        (folder / "broken").unlink()
        assert (mountpoint / "slow:1/rootfs/name").read_text() == SLOW


def test_serve_needs_an_engine(tmp_path: Path) -> None:
    """Without an engine serve fails with one line, and leaves no mount."""
    mountpoint = tmp_path / "m"
    mountpoint.mkdir()
    done = imagefs("serve", "--host", f"unix://{tmp_path}/nobody", mountpoint)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert mountinfo.at(mountpoint) is None
