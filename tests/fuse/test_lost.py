"""Content that is lost, through real mounts: whoever reads is told, in whatever way he reads."""

import errno
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import samples
from tests.support.mounted import mounted
from tests.support.serving import DRIVERS, need_root_and_fuse
from tests.support.tars import Hard, layer

LAYERS = (
    layer({"held": "held\n", "d/": "", "empty": ""}),
    layer({"below": Hard("held"), "gone": Hard("no/such"), "d/gone": Hard("gone")}),
    layer({".wh.held": "", "late": Hard("held"), "fine": "fine\n"}),
)
"""A link to a file of a lower layer, links to nothing, and one to a file that has been deleted."""

LOST = {
    "rootfs": {"gone", "d/gone"},
    "snapshots/1": {"gone", "d/gone"},
    "layers/1": {"below", "gone", "d/gone"},
    "layers/2": {"late"},
}


def in_python(body: str) -> Callable[[Path], list[str]]:
    """Return a command that runs a program on a path, in which OSError EIO is status 5."""
    program = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "out = os.memfd_create('out')\n"
        f"try: {body}\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    return lambda path: [sys.executable, "-c", program, str(path)]


READERS: dict[str, tuple[Callable[[Path], list[str]], int]] = {
    "cat": (lambda path: ["cat", str(path)], 1),
    "cp": (lambda path: ["cp", str(path), "/dev/null"], 1),
    "cp to a file": (lambda path: ["cp", "--sparse=always", str(path), "copy"], 1),
    "dd": (lambda path: ["dd", f"if={path}", "of=/dev/null", "status=none"], 1),
    "tar": (lambda path: ["tar", "cf", "copy.tar", str(path)], 2),
    "tar, sparse": (lambda path: ["tar", "cSf", "copy.tar", str(path)], 2),
    "cmp": (lambda path: ["cmp", str(path), "/dev/null"], 2),
    "grep": (lambda path: ["grep", "x", str(path)], 2),
    "pread": (in_python("os.pread(fd, 99, 0)"), errno.EIO),
    "pread behind the end": (in_python("os.pread(fd, 99, 0) or os.pread(fd, 1, 1)"), errno.EIO),
    "sendfile": (in_python("os.sendfile(out, fd, 0, 99)"), errno.EIO),
    "splice": (in_python("os.splice(fd, os.pipe()[1], 99)"), errno.EIO),
    "SEEK_DATA": (in_python("os.lseek(fd, 0, os.SEEK_DATA); os.read(fd, 1)"), errno.EIO),
    "mmap": (in_python("mmap.mmap(fd, 0, prot=mmap.PROT_READ)[0]"), -signal.SIGBUS),
}


@pytest.fixture(scope="module", params=DRIVERS)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    need_root_and_fuse(request.param)
    folder = tmp_path_factory.mktemp("lost")
    archive = folder / "image.tar"
    samples.write(archive, samples.docker_20(samples.SampleImage(LAYERS)))
    with mounted(archive, folder / "mnt", f"--driver={request.param}") as mountpoint:
        yield mountpoint


def view(place: Path, name: str) -> Path:
    """Return the directory of a view, whose last part may be a position."""
    head, _, position = name.partition("/")
    return sorted((place / head).iterdir())[int(position)] if position else place / head


@pytest.mark.parametrize("name", READERS)
def test_every_reader_of_a_hard_link_to_nothing_is_told(
    name: str, place: Path, tmp_path: Path
) -> None:
    """Nobody takes it for an empty file, however it is read."""
    command, status = READERS[name]
    done = subprocess.run(
        command(view(place, "rootfs") / "gone"), cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_a_damaged_archive_has_lost_is_told(driver: str, tmp_path: Path) -> None:
    """With --keep-going: files that are cut, and links to files of a layer that is missing."""
    need_root_and_fuse(driver)
    image = samples.SampleImage(
        (layer({"held": "held\n"}), layer({"link": Hard("held"), "big": "x" * 100_000}))
    )
    first, second = (f"{name}/layer.tar" for name in samples.v1_ids(image))
    layout = {**samples.docker_20(image), second: image.layers[1][:60_000]}
    del layout[first]
    archive = samples.write(tmp_path / "image.tar", layout)
    options = f"--driver={driver}", "--keep-going"
    with mounted(archive, tmp_path / "mnt", *options) as place:
        for name in ("link", "big"):
            done = subprocess.run(
                ["cat", place / "rootfs" / name], capture_output=True, check=False
            )
            assert (done.returncode, b"Input/output" in done.stderr) == (1, True)
        assert "hard link 'link' leads to" in (place / "layers.txt").read_text()


@pytest.mark.parametrize("name", LOST)
def test_every_view_tells_what_is_lost_in_it(name: str, place: Path) -> None:
    """Files that a view has are read; links that lead nowhere in it have a byte, which is EIO."""
    root = view(place, name)
    lost = set()
    for path in filter(Path.is_file, root.rglob("*")):
        try:
            assert path.name.startswith(".wh.") or path.read_text() == {
                "empty": "",
                "fine": "fine\n",
            }.get(path.name, "held\n")
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017
            status = path.stat()
            assert (status.st_size, status.st_blocks) == (1, 8)
            lost.add(str(path.relative_to(root)))
    assert lost == LOST[name]


def test_layers_txt_names_links_to_nothing(place: Path) -> None:
    """Each layer that has any says so, and names one; links that lead somewhere are not meant."""
    _, middle, top = sorted(path.name for path in (place / "layers").iterdir())
    notes = [line for line in (place / "layers.txt").read_text().splitlines() if line[0] == "#"]
    assert notes == [
        f"# {middle}: no layer holds what hard link 'gone' and 1 more lead to: they cannot be read"
    ]
    assert top not in "".join(notes)
