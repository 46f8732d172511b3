"""Completion in real shells, of images, views, mounts, and paths inside an image."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.engines import RunningEngine
from tests.support.mounted import COMMAND, mounted
from tests.support.needs import need_fuse, need_tool
from tests.support.saved import docker_save
from tests.support.tars import Sym, layer

ARCHIVE = docker_save(
    layer({"etc/motd": "hi", "etc/mtab": Sym("x"), "odd\n": "", "srv/": ""}), layer({"top": ""})
)


_TRIES = 50


def names_of(archive: Path) -> list[str]:
    """The names of an image's layer directories."""
    done = subprocess.run([*COMMAND, "layers", "--json", archive], check=True, capture_output=True)
    return [one["directory"] for one in json.loads(done.stdout)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with app.tar, which is indexed, new.tar, which is not, and `imagefs` itself."""
    (tmp_path / "app.tar").write_bytes(ARCHIVE)
    (tmp_path / "new.tar").write_bytes(docker_save(layer({"new": ""})))
    program = tmp_path / "bin/imagefs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m imagefs "$@"\n')
    program.chmod(0o755)
    subprocess.run(
        [*COMMAND, "layers", "app.tar"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL
    )
    return tmp_path


def shell(place: Path, program: str, *script: str, **extra: str) -> list[str]:
    """The lines that a shell prints, which may print no error."""
    environment = os.environ | {"PATH": f"{place}/bin:{os.environ['PATH']}", "TERM": "dumb"} | extra
    done = subprocess.run(
        [program, *script], cwd=place, env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


def in_bash(place: Path, *words: str, **extra: str) -> list[str]:
    """What bash offers for the last word."""
    script = (
        'source <(imagefs completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        'compopt() { echo "($2)"; }; _imagefs_completion imagefs; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    said = shell(place, "bash", "-c", script, "bash", "imagefs", *words, **extra)
    return [line for line in said if line]


def in_time(offered: Callable[[], list[str]], expected: Sequence[str]) -> list[str]:
    """What is offered once a busy machine has found it within the moment that a shell waits."""
    for _ in range(_TRIES):
        found = sorted(offered())
        if set(expected) <= set(found):
            break
    return found


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["unm"], ["unmount"]),
        (["cache", ""], ["list", "prune", "verify"]),
        (["mount", "--driver", "lib"], ["libfuse"]),
        (["ls", "app.tar", ""], ["etc/", "srv/", "top"]),
        (["ls", "app.tar", "/etc/m"], ["/etc/motd", "/etc/mtab"]),
        (["cat", "app.tar", "etc/motd", "etc/mt"], ["etc/mtab"]),
        (["cat", "--view", "layers/01", "app.tar", "/"], ["/top"]),
        (["mount", "app.tar", "--view", "r"], ["rootfs"]),
        (["mount", "--host", "unix:///nowhere", "x"], ["(default)"]),
        (["mount", "./a"], ["(default)"]),
        (["mount", "app.tar", ""], ["(dirnames)"]),
        # Not at hand, not an image, not there, not to be read twice: no answer, and no error.
        (["ls", "new.tar", ""], []),
        (["ls", "bin/imagefs", ""], []),
        (["ls", "./nope.tar", ""], []),
        (["ls", "-", ""], []),
        (["ls", "app.tar", "etc/motd/"], []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bash_completes(place: Path, words: Sequence[str], offered: Sequence[str]) -> None:
    """What is offered begins as what was typed, and nothing is brought in to offer it."""
    assert in_time(lambda: in_bash(place, *words), offered) == list(offered)


def test_views_of_an_image_are_offered(place: Path) -> None:
    """Beside the whole views, those of the layers by their directories' names."""
    names = [f"snapshots/{name}" for name in names_of(place / "app.tar")]
    words = ("ls", "app.tar", "--view", "snapshots/")
    assert in_time(lambda: in_bash(place, *words), names) == names


def test_mounts_are_offered_to_unmount(place: Path) -> None:
    """A mount is completed by its mount point."""
    need_fuse()
    with mounted(place / "app.tar", place / "mnt") as mountpoint:
        words = ("unmount", str(place))
        assert in_time(lambda: in_bash(place, *words), [str(mountpoint)]) == [str(mountpoint)]


def test_images_of_the_engine_are_offered(place: Path, docker_engine: RunningEngine) -> None:
    """A SOURCE is completed by the names that the engine has."""
    docker_engine.load_root("completed:v1")

    def offered() -> list[str]:
        return in_bash(place, "layers", "compl", DOCKER_HOST=docker_engine.host)

    assert in_time(offered, ["completed:v1"]) == ["completed:v1"]


def test_fish_completes(place: Path) -> None:
    """By fish's own `complete`."""
    need_tool("fish", "fish")
    script = 'imagefs completion fish | source; complete -C "imagefs ls app.tar /etc/m"'

    def offered() -> list[str]:
        said = shell(place, "fish", "--no-config", "-c", script)
        return [line.split("\t")[0] for line in said]

    assert in_time(offered, ["/etc/motd"]) == ["/etc/motd", "/etc/mtab"]


def test_zsh_takes_the_script(place: Path) -> None:
    """Zsh loads it, and knows whom to ask."""
    need_tool("zsh", "zsh")
    load = 'autoload -Uz compinit; compinit -D; eval "$(imagefs completion zsh)"'
    script = f"{load}; print $_comps[imagefs]"
    assert shell(place, str(shutil.which("zsh")), "-f", "-c", script) == ["_imagefs_completion"]
