"""Two hundred images of thirty bases, with needles in them, and what a scan is to say of each."""

import gzip
import hashlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from imagefs.scanning.model import File, Found
from tests.support.samples import SampleImage, docker_20, oci_layout, tar_of
from tests.support.tars import File as Member
from tests.support.tars import Node, layer

PATTERN = rb"NEEDLE-[a-z]+-[0-9]+"


@dataclass(frozen=True)
class Fleet:
    """The archives, and of each needle its layer and, by archive, whether it is shown."""

    archives: tuple[Path, ...]
    needles: dict[str, tuple[str, dict[str, bool]]]
    layers: int

    def check(self, found: list[Found]) -> None:
        """Hold what a scan found to what there is: each needle once, with the right images."""
        said = {}
        for one in found:
            needle = one.value.line.decode().strip()
            assert needle not in said, f"{needle} is found twice"
            shown = zip(one.holders, one.shown, strict=True)
            said[needle] = one.layer, {holder.source: flag for holder, flag in shown}
        assert said == self.needles


def fleet(folder: Path, images: int, bases: int) -> Fleet:
    """Make images: each is a base of two layers and one or two of its own."""
    needles: dict[str, tuple[str, dict[str, bool]]] = {}
    archives = []
    foundations = [_base(number, folder) for number in range(bases)]
    for number, pair in enumerate(foundations):
        needles[f"NEEDLE-sparse-{number}"] = _diff_id(pair[0]), {}
        needles[f"NEEDLE-base-{number}"] = _diff_id(pair[1]), {}
    layers = 2 * bases
    for number in range(images):
        way = number // bases
        base = number % bases
        own: dict[str, str | Node] = {
            f"srv/{number}": f"NEEDLE-own-{number}\n",
            "srv/big": Member(b"\0" * 100_000),
        }
        if way % 3 == 0:
            own["etc/.wh.base"] = ""
        elif way % 3 == 1:
            own["etc/base"] = f"NEEDLE-over-{number}\n"
        stack = [*foundations[base], layer(own)]
        if number % 4 == 0:
            stack.append(layer({f"srv/.wh.{number}": "", "srv/why": f"image {number}"}))
        layers += len(stack) - 2
        name = str(folder / f"{number}.tar")
        archives.append(_written(Path(name), number, stack))
        needles[f"NEEDLE-sparse-{base}"][1][name] = True
        needles[f"NEEDLE-base-{base}"][1][name] = way % 3 == 2
        needles[f"NEEDLE-own-{number}"] = _diff_id(stack[2]), {name: number % 4 != 0}
        if way % 3 == 1:
            needles[f"NEEDLE-over-{number}"] = _diff_id(stack[2]), {name: True}
    return Fleet(tuple(archives), needles, layers)


def _base(number: int, folder: Path) -> tuple[bytes, bytes]:
    """A layer with a sparse file, and one that others delete from or overwrite."""
    place = folder / f"base-{number}"
    place.mkdir()
    with (place / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(f"\nNEEDLE-sparse-{number}\n".encode())
        file.truncate(3 << 20)
    below = subprocess.run(
        ["tar", "--format=posix", "-S", "-C", place, "-c", "sparse"],
        check=True,
        capture_output=True,
    ).stdout
    text = os.urandom(2000).hex()
    return below, layer({"etc/base": f"{text}\nNEEDLE-base-{number}\n", "etc/none": Member("x\n")})


def _written(path: Path, number: int, stack: list[bytes]) -> Path:
    """Write an image in one of several ways, plain or compressed."""
    image = SampleImage(tuple(stack), (f"app:{number}",))
    if number % 5 == 1:
        path.write_bytes(tar_of(oci_layout(image)))
    elif number % 5 == 2:
        path.write_bytes(gzip.compress(tar_of(docker_20(image)), 1))
    else:
        path.write_bytes(tar_of(docker_20(image)))
    return path


def _diff_id(tar: bytes) -> str:
    return f"sha256:{hashlib.sha256(tar).hexdigest()}"


def wait_once(file: File) -> list[bytes]:
    """Say what a file begins with; the first to see a file `trap` says who it is, and waits."""
    trap = Path(os.environ["IMAGEFS_TEST_TRAP"])
    try:
        (trap / "set").rename(trap / "sprung")
    except FileNotFoundError:
        pass
    else:
        (trap / "pid").write_text(str(os.getpid()))
        (trap / "pid").rename(trap / "caught")
        while True:  # until killed
            signal.pause()
    return [file.read(20)]


def first_bytes(file: File) -> list[bytes]:
    """Say what a file begins with."""
    return [file.read(20)]


def fails(_file: File) -> list[bytes]:
    """Fail, as a function of somebody may."""
    raise ValueError("not this one")


def described(file: File) -> list[dict[str, object]]:
    """Say what is known of a file, and a little of what is in it."""
    with file.open() as stream:
        start = stream.read(5)
        stream.seek(-3, os.SEEK_END)
        tail = stream.read()
    return [
        {"names": file.names, "size": file.size, "mode": file.mode, "start": start, "tail": tail}
    ]
