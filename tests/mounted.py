"""The product as its users run it: the command line in processes of its own, mounts and all."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from imagefs import mountinfo
from imagefs.fuse.mount import unmount_for_good

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
        if mountinfo.at(mountpoint) is not None:
            unmount_for_good(mountpoint)
