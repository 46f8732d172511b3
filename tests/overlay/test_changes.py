"""What is written on top of an image: as a list, and as a layer that gives the same tree again."""

import io
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from imagefs.errors import HostError, UsageError
from imagefs.host import trees
from imagefs.overlay import changes, kept, layer, stack
from imagefs.overlay.kept import Kept
from tests.support.mounted import mounted
from tests.support.saved import docker_save
from tests.support.tars import Dir, Sym
from tests.support.tars import layer as tar_of
from tests.support.writable import need_overlay, tree_of, writable

IMAGE = {
    "a/": Dir(),
    "a/one": "one",
    "a/two": "two",
    "b/": Dir(0o750),
    "b/x": "x",
    "b/y/": Dir(),
    "b/y/z": "z",
    "l": Sym("a"),
    "same": "same",
}
# What is done to it, and how it is listed.
DONE = {
    "nothing": ("true", []),
    "a new file": ("echo x >new", ["A /new"]),
    "a new tree": ("mkdir -p n/m && touch n/m/f", ["A /n", "A /n/m", "A /n/m/f"]),
    "a changed file": ("echo x >>a/one", ["C /a/one"]),
    "a file in another's place": ("echo x >t && mv t a/one", ["C /a/one"]),
    "a mode": ("chmod 600 same", ["C /same"]),
    "a directory's mode": ("chmod 700 a", ["C /a"]),
    "an owner": ("chown 5:6 a", ["C /a"]),
    "a file removed": ("rm a/one", ["D /a/one"]),
    "a tree removed": ("rm -r b", ["D /b"]),
    "a tree removed and made anew": (
        "rm -r b && mkdir -m 750 b && touch b/new b/x",
        ["A /b/new", "C /b/x", "D /b/y"],
    ),
    "a file for a directory": ("rm -r b && echo x >b", ["C /b"]),
    "a directory for a file": ("rm same && mkdir same && touch same/x", ["A /same/x", "C /same"]),
    "a directory for a link": ("rm l && mkdir l && touch l/one", ["A /l/one", "C /l"]),
    "a link for a directory": ("rm -r a && ln -s / a", ["C /a"]),
    "a directory moved": (
        "mv b c",
        ["A /c", "A /c/x", "A /c/y", "A /c/y/z", "D /b"],
    ),
    "links": ("echo x >p && ln p q && ln -s p r", ["A /p", "A /q", "A /r"]),
    "odd files": ("mkfifo f && mknod d c 7 8 && mknod e b 7 8", ["A /d", "A /e", "A /f"]),
    "attributes": ("echo x >x && setfattr -n user.k -v value x", ["A /x"]),
    "odd attributes": (
        "echo x >x && setfattr -n user.a=b%3D -v c x"
        " && setfattr -n \"$(printf 'user.\\377')\" -v 0xff00 x",
        ["A /x"],
    ),
    "holes": ("printf x >h && truncate -s 9M h && printf y >>h && truncate -s 12M h", ["A /h"]),
    "odd names": ("touch 'a b' \"$(printf 'n\\377')\"", ["A /a b", "A /n\udcff"]),
}


@pytest.mark.parametrize("case", DONE)
def test_changes(tmp_path: Path, case: str) -> None:
    """The list says what was done, and the layer, laid on the image, gives what was there."""
    need_overlay(tmp_path)
    script, listed = DONE[case]
    archive = tmp_path / "a.tar"
    archive.write_bytes(docker_save(tar_of(IMAGE)))
    directory = tmp_path / "changes"
    with writable(archive, tmp_path / "m", directory) as place:
        subprocess.run(["sh", "-ec", script], cwd=place, check=True)
        there = tree_of(place)
        found = kept.open_kept(directory)
        known = sorted(changes.changes(found, directory / stack.IMAGE))
    assert [f"{one.kind} {os.fsdecode(one.path)}" for one in known] == listed
    out = io.BytesIO()
    layer.write(found, out)
    os.close(found.fd)
    again = tmp_path / "again.tar"
    again.write_bytes(docker_save(tar_of(IMAGE), out.getvalue()))
    with mounted(again, tmp_path / "m2", "--view", "rootfs") as place:
        assert tree_of(place) == there


def _kept(tmp_path: Path, way: str) -> Kept:
    return kept.take_up(tmp_path / "kept", ["sha256:" + "0" * 64], way)


def test_markers_of_fuse_overlayfs(tmp_path: Path) -> None:
    """What the program leaves where it may make no devices is understood, and is no file."""
    held = _kept(tmp_path, stack.FUSE)
    for name in ("d/.wh..wh..opq", "d/.wh..opq", "d/new", ".wh.gone"):
        (held.upper / name).parent.mkdir(exist_ok=True)
        (held.upper / name).touch()
    out = io.BytesIO()
    layer.write(held, out, lambda number: 0)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert tar.getnames() == [".wh.gone", "d", "d/.wh..wh..opq", "d/new"]
    assert [one.kind for one in changes.changes(held, None)] == ["D", "A"]
    os.close(held.fd)


@pytest.mark.parametrize("name", [".wh.passwd", ".wh..wh..opq", "d/.wh.x"])
def test_files_called_like_markers(tmp_path: Path, name: str) -> None:
    """A file whose name would be a marker in a layer is not made one by writing it."""
    held = _kept(tmp_path, stack.TRUSTED)
    (held.upper / name).parent.mkdir(exist_ok=True)
    (held.upper / name).touch()
    with pytest.raises(HostError, match="no layer can hold"):
        layer.write(held, io.BytesIO())
    assert f"/{name}".encode() in [one.path for one in changes.changes(held, None)]
    os.close(held.fd)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link in the changes is a link, wherever it leads; a link in the image leads nowhere."""
    outside = tmp_path / "outside"
    (outside / "d").mkdir(parents=True)
    (outside / "d/secret").write_text("secret")
    image = tmp_path / "image"
    image.mkdir()
    (image / "d").symlink_to(outside / "d")
    held = _kept(tmp_path, stack.TRUSTED)
    (held.upper / "l").symlink_to(outside)
    (held.upper / "d").mkdir()
    (held.upper / "d/secret").write_text("mine")
    listed = {one.path: one.kind for one in changes.changes(held, image)}
    assert listed == {b"/d": "C", b"/d/secret": "A", b"/l": "A"}
    out = io.BytesIO()
    layer.write(held, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert tar.getnames() == ["d", "d/secret", "l"]
        assert tar.getmember("l").issym()
    os.close(held.fd)


def test_sockets_are_left_out(tmp_path: Path) -> None:
    """A socket is of no use without who listens at it."""
    held = _kept(tmp_path, stack.TRUSTED)
    os.mknod(held.upper / "s", stat.S_IFSOCK | 0o600)
    out = io.BytesIO()
    layer.write(held, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert tar.getnames() == []
    os.close(held.fd)


def test_holes_take_no_room(tmp_path: Path) -> None:
    """Who may write a file of a terabyte that holds nothing fills no disk with a layer of it."""
    held = _kept(tmp_path, stack.TRUSTED)
    with (held.upper / "h").open("wb") as file:
        file.truncate(1 << 40)
    out = io.BytesIO()
    layer.write(held, out)
    assert out.tell() < 10_000
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert tar.getmember("h").size == 1 << 40
    os.close(held.fd)


RECORDS = (b"", b"[]", b"{", b'{"layers": 5, "way": "user"}', b'{"way": "user"}', b"\xff" * 100)


@pytest.mark.parametrize("record", RECORDS)
def test_records_that_make_no_sense(tmp_path: Path, record: bytes) -> None:
    """A directory whose record is damaged is neither written to nor read."""
    (tmp_path / "imagefs.json").write_bytes(record)
    with pytest.raises(UsageError, match="makes no sense"):
        kept.take_up(tmp_path, [], stack.USER)
    with pytest.raises(UsageError, match="makes no sense"):
        kept.open_kept(tmp_path)
    assert os.listdir(tmp_path) == ["imagefs.json"]


def test_whose_directory_it_is(tmp_path: Path) -> None:
    """One writes at a time, on the same image, in the same way; the next goes on from there."""
    place = tmp_path / "kept"
    first = kept.take_up(place, ["sha256:a"], stack.USER)
    with pytest.raises(HostError, match="somebody is writing to it"):
        kept.take_up(place, ["sha256:a"], stack.USER)
    os.close(first.fd)
    with pytest.raises(UsageError, match="another image"):
        kept.take_up(place, ["sha256:b"], stack.USER)
    with pytest.raises(UsageError, match="as an ordinary user"):
        kept.take_up(place, ["sha256:a"], stack.TRUSTED)
    os.close(kept.take_up(place, ["sha256:a"], stack.USER).fd)
    with pytest.raises(UsageError, match="holds no changes"):
        kept.open_kept(tmp_path)


def test_a_strangers_directory(tmp_path: Path) -> None:
    """Root does not write where somebody else could lead it elsewhere by a link."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to uid 12345"):
        kept.take_up(tmp_path, [], stack.TRUSTED)
    assert os.listdir(tmp_path) == []


def test_however_deep_it_was_written(tmp_path: Path) -> None:
    """More levels than the stack, a path or open files allow are listed, and removed."""
    held = _kept(tmp_path, stack.USER)
    below = tmp_path / "image"
    (below / "d/d").mkdir(parents=True)
    (below / "z").touch()
    depth = 3000
    at = os.open(held.upper, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        at = trees.replaced(at, os.open("d", os.O_RDONLY, dir_fd=at))
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    (held.upper / "z").touch()
    listed = [one.path for one in changes.walk(held, below)]
    assert listed == [
        *(b"/".join([b"d"] * n) for n in range(1, depth + 1)),
        b"d/" * depth + b"f",
        b"z",
    ]
    known = {one.path.count(b"/") for one in changes.walk(held, below) if one.before is not None}
    assert known == {0, 1}
    out = io.BytesIO()
    layer.write(held, out)
    os.close(held.fd)
    kept.remove(held.path)
    assert not held.path.exists()


def test_removal_leaves_alone_what_links_lead_to(tmp_path: Path) -> None:
    """Not even a mode changes of a file that is somebody's who wrote a link to it."""
    held = _kept(tmp_path, stack.USER)
    outside = tmp_path / "outside"
    outside.touch(0o640)
    (held.upper / "a").mkdir()
    (held.upper / "a/link").symlink_to(outside)
    (held.upper / "a").chmod(0o500)
    os.close(held.fd)
    program = (
        "import os, sys; from pathlib import Path; from imagefs.overlay import kept\n"
        "os.setuid(int(sys.argv[2])); kept.remove(Path(sys.argv[1]))\n"
    )
    uid = 54321 if os.geteuid() == 0 else os.geteuid()
    if os.geteuid() == 0:
        subprocess.run(["chown", "-hR", str(uid), tmp_path], check=True)
        os.chown(outside, uid, uid)
    words = [sys.executable, "-c", program, str(held.path), str(uid)]
    subprocess.run(words, check=True)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o640


def test_removal(tmp_path: Path) -> None:
    """Changes go for good, whatever modes they have."""
    held = _kept(tmp_path, stack.USER)
    (held.upper / "a/b").mkdir(parents=True)
    (held.upper / "a/b/f").touch()
    (held.upper / "a").chmod(0)
    (held.path / stack.WORK).chmod(0)
    os.close(held.fd)
    kept.remove(held.path)
    assert not held.path.exists()
