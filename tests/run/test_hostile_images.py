"""Images that want out when they are run: nothing of the host is touched, and one line says why.

They are run by root, whom no user namespace keeps from anything.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.run.conftest import World
from tests.run.test_lifecycle import state
from tests.support.runnable import busybox
from tests.support.tars import Char, Dir, Fifo, File, Node, Sym
from tests.support.users import User

TOP = "../../../../../../../../../.."
OUT = "{host}"
"""A directory of the host's, outside of every root."""

# What is in the image, what its configuration says; whether it runs all the same, None where
# either will do.
PLACES: dict[str, tuple[dict[str, Any], bool | None]] = {
    "/proc a link to the host": ({"proc": Sym(OUT)}, False),
    "/proc a link upwards": ({"proc": Sym(f"{TOP}{OUT}")}, False),
    "/proc a link to /etc": ({"proc": Sym("etc")}, False),
    "/proc a link to itself": ({"proc": Sym("proc")}, False),
    "/proc a file": ({"proc": "x"}, False),
    "/dev a link": ({"dev": Sym(OUT)}, False),
    "/dev a device": ({"dev": Char(1, 3)}, False),
    "/sys a link": ({"sys": Sym(f"/proc/1/root{OUT}")}, False),
    "/sys a fifo": ({"sys": Fifo()}, False),
    "/etc a link": ({"etc": Sym(OUT), "etc/passwd": None, "etc/group": None}, None),
    "/etc a link upwards": ({"etc": Sym(f"{TOP}{OUT}"), "etc/passwd": None}, None),
    "resolv.conf a link": ({"etc/resolv.conf": Sym(f"{OUT}/file")}, None),
    "resolv.conf a link to nothing": ({"etc/resolv.conf": Sym(f"{OUT}/new")}, None),
    "resolv.conf a link upwards": ({"etc/resolv.conf": Sym(f"{TOP}{OUT}/new")}, None),
    "resolv.conf a link into /proc": ({"etc/resolv.conf": Sym("/proc/self/cwd/x")}, None),
    "resolv.conf a directory": ({"etc/resolv.conf/": Dir()}, False),
    "hosts a device": ({"etc/hosts": Char(1, 3)}, None),
    "hosts a link to itself": ({"etc/hosts": Sym("hosts")}, False),
    "/dev/pts a link": ({"dev/": Dir(), "dev/pts": Sym(OUT)}, True),
    "a volume's place a link": ({"data": Sym(OUT)}, None),
    "a volume's place a link upwards": ({"data": Sym(f"{TOP}{OUT}/new")}, None),
    "passwd a link": ({"etc/passwd": Sym(f"{OUT}/passwd")}, True),
    "passwd a fifo": ({"etc/passwd": Fifo()}, True),
    "passwd a directory": ({"etc/passwd": Dir()}, True),
    "passwd a device": ({"etc/passwd": Char(1, 5)}, True),
    "passwd that never ends": ({"etc/passwd": "root:x:0:0:" + "x" * 5_000_000}, True),
    "no passwd, no group": ({"etc/passwd": None, "etc/group": None}, True),
    "a root closed to all": ({"./": Dir(0o000)}, True),
    "overlay's own attributes": (
        {
            "a/": Node(type=b"5", mode=0o755, xattrs={"user.overlay.opaque": b"y"}),
            "a/x": File("x", xattrs={"trusted.overlay.redirect": f"{OUT}/file".encode()}),
            "a/y": File("y", xattrs={"user.overlay.metacopy": b""}),
        },
        True,
    ),
}
WORDS: dict[str, tuple[dict[str, Any], bool | None]] = {
    "a directory upwards": ({"WorkingDir": f"{TOP}/etc"}, True),
    "a directory that is a file": ({"WorkingDir": "/etc/passwd"}, False),
    "a directory in a process": ({"WorkingDir": "/proc/1/root/proc/self/fd"}, None),
    "a directory of many names": ({"WorkingDir": "/x" * 2000}, None),
    "a directory too long": ({"WorkingDir": "/" + "x" * 300}, False),
    "a user of words": ({"User": "$(id) ; rm -rf /"}, False),
    "a user of a number": ({"User": "99999999999999999999"}, False),
    "a user below nothing": ({"User": "-1:-1"}, False),
    "a user of many lines": ({"User": "root\nroot:x:0:0"}, False),
    "a terminal's words": ({"User": "\x1b]0;title\x07"}, False),
    "an entry point of nothing": ({"Entrypoint": [""]}, False),
    "an entry point outside": ({"Entrypoint": [f"{TOP}{OUT}/program"]}, False),
    "an entry point in a process": ({"Entrypoint": ["/proc/self/exe"]}, None),
    "an entry point of the wrong kind": ({"Entrypoint": {"a": 1}}, False),
    "an entry point without an end": ({"Entrypoint": ["sh"] + ["x" * 10_000] * 1000}, False),
    "an entry point of options": ({"Entrypoint": ["--help"]}, False),
    "variables of the loader": ({"Env": [f"LD_PRELOAD={OUT}/program", "PATH=/bin"]}, True),
    "a path outside": ({"Env": [f"PATH={TOP}{OUT}"]}, False),
    "a host's name in variables": ({"Env": ["HOSTNAME=x", "PATH=/bin"]}, True),
}


def _filled(value: Any, host: Path) -> Any:
    """Put the host's directory where OUT stands."""
    if isinstance(value, str):
        return value.replace(OUT, str(host))
    if isinstance(value, list):
        return [_filled(one, host) for one in value]
    if isinstance(value, Node):
        xattrs = {
            name: one.replace(OUT.encode(), bytes(host)) for name, one in value.xattrs.items()
        }
        return replace(value, target=value.target.replace(OUT, str(host)), xattrs=xattrs)
    return value


def _check(user: User, archive: bytes, runs: bool | None, host: Path) -> None:
    """Run an image; look at what it printed, and at what became of the host."""
    place = user.file("other/hostile.tar", archive)
    user.does("cache", "list")
    volume = user.directory("volume")
    before = state(user), contents(host)
    done = user.imagefs("run", "-q", "-v", f"{volume}:/data", place)
    assert contents(host) == before[1]
    mounts, files = state(user)
    volume.rmdir()
    assert mounts == before[0][0]
    assert {path for path in files - before[0][1] if path.suffix != ".idx"} == set()
    if runs is None:
        assert done.status in (0, 1, 125, 126, 127), done
    else:
        assert (done.status == 0) == runs, done
    assert done.err.count("\n") == (done.status != 0), done
    assert done.err.strip().isprintable()


def contents(host: Path) -> dict[str, bytes]:
    """Return what is in a directory of the host's."""
    return {path.name: path.read_bytes() for path in host.iterdir()}


@pytest.fixture
def host(world: World) -> Path:
    """Have a directory of the host's that all may read and write, and that stays as it is."""
    place = world.root.home.parent / "host"
    if not place.exists():
        place.mkdir()
        place.chmod(0o777)
        for name in ("file", "passwd", "program"):
            (place / name).write_text(f"root:x:77:77::/{name}:/bin/sh\n")
            (place / name).chmod(0o777)
    return place


@pytest.mark.parametrize("case", PLACES)
def test_places(world: World, host: Path, case: str, count: Callable[[str, int], None]) -> None:
    """Whatever an image has where something is to be mounted or read, it leads nowhere else."""
    files, runs = PLACES[case]
    count("hostile images that are run: places", 1)
    content = {name: _filled(value, host) for name, value in files.items()}
    _check(world.root, busybox(content, Cmd=["sh", "-c", ": >/tmp/x"]), runs, host)


@pytest.mark.parametrize("case", WORDS)
def test_words(world: World, host: Path, case: str, count: Callable[[str, int], None]) -> None:
    """Whatever a configuration says, it is run inside, or refused in one line."""
    said, runs = WORDS[case]
    count("hostile images that are run: words", 1)
    filled = {name: _filled(value, host) for name, value in said.items()}
    _check(world.root, busybox(**{"Cmd": ["true"], **filled}), runs, host)
