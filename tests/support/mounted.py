"""The product as its users run it: the command line in processes of its own, mounts and all."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from imagefs.fuse.mount import unmount_for_good
from imagefs.host import mountinfo
from tests.support.needs import need_fuse

COMMAND = (sys.executable, "-m", "imagefs")


def imagefs(
    *args: str | Path, stdin: bytes | None = None, **env: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command of imagefs to its end; nothing is raised if it fails."""
    done = subprocess.run(
        [*COMMAND, *map(str, args)],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **env},
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@contextlib.contextmanager
def mounted(source: str | Path, mountpoint: Path, *options: str, **env: str) -> Iterator[Path]:
    """Mount for as long as the context lasts; the daemon ends with it, also after a failure."""
    mountpoint.mkdir(exist_ok=True)
    done = imagefs("mount", "--quiet", *options, source, mountpoint, stdin=None, **env)
    assert done.returncode == 0, done.stderr
    try:
        yield mountpoint
    finally:
        clear(mountpoint)


def clear(mountpoint: Path) -> None:
    """Take away the mount that is there, if there is one."""
    found = mountinfo.at(mountpoint)
    if found is not None:
        unmount_for_good(found)


@contextlib.contextmanager
def module_mounted(module: str, folder: Path) -> Iterator[Path]:
    """Have a module of the tests, run on a folder, serve a mount in it until the context ends.

    The module says `ready` when the mount is there; what it complains of is in the folder's `log`.
    """
    need_fuse()
    mountpoint = folder / "m"
    mountpoint.mkdir()
    words = [sys.executable, "-m", module, str(folder), str(mountpoint)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", (folder / "log").read_text()
        yield mountpoint
    finally:
        process.terminate()
        process.communicate(timeout=60)
        clear(mountpoint)
