"""Real mounts of in-memory trees: each is served by a process of its own.

A process cannot look into a mount that it serves itself: it would wait for its own answer.
Run as `python -m tests.support.serving DRIVER TREE MOUNTPOINT SOURCE [allow_other] [FLAG...]`.
"""

import contextlib
import functools
import importlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from imagefs.errors import ImagefsError
from imagefs.filesystem import FileSystem
from imagefs.fuse.libfuse_library import load
from imagefs.fuse.mount import MountOptions
from imagefs.host.mount_point import hold
from tests.support import conformance
from tests.support.memfs import LiveFs, MemFs, StuckFs
from tests.support.mounted import clear
from tests.support.needs import need_fuse, unavailable
from tests.support.tars import File, fs_of, layer
from tests.support.users import User

ROOT = Path(__file__).parent.parent.parent
DRIVERS = ("native", "libfuse")
LIBFUSES = {"libfuse2-fusepy": "fuse", "libfuse2": "fuse", "libfuse3": "fuse3"}
"""Ways of the libfuse driver: by fusepy, or else by mfusepy, and which library that is to load."""
SERVED = ("native", *LIBFUSES)
CONTROL = "IMAGEFS_TEST_CONTROL"
"""The variable that gives a served tree a folder of the host: see `memfs.LiveFs`."""


def need_root_and_fuse(driver: str = "native") -> None:
    """Go on only where root can mount with a driver."""
    if os.geteuid() != 0:
        unavailable("fuse", "these tests mount as root, and become other users")
    need_fuse(driver)


class ServingFailedError(Exception):
    """What a serving process said before it ended without a mount."""


class Served:
    """A mount and the process that serves it."""

    def __init__(self, mountpoint: Path, process: subprocess.Popen[bytes]) -> None:
        self.mountpoint = mountpoint
        self.process = process

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Ask the process to end and return its exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(60)


@contextlib.contextmanager
def served(
    driver: str,
    tree: str,
    mountpoint: Path,
    *,
    user: User | None = None,
    allow_other: bool = False,
    flags: tuple[str, ...] = (),
    source: str = "test",
    control: Path | None = None,
) -> Iterator[Served]:
    """Serve one of `TREES` at a mount point for as long as the context lasts.

    Raises ServingFailedError, with what standard error says, if that does not come about.
    """
    words = ["-m", "tests.support.serving", driver, tree, os.fspath(mountpoint), source]
    words += [*(["allow_other"] if allow_other else []), *flags]
    process = _start(words, control) if user is None else user.start(user.python, *words)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        select.select([process.stdout], [], [], 30)
        if process.stdout.readline() != b"ready\n":
            process.kill()
            raise ServingFailedError(os.fsdecode(process.stderr.read()).strip())
        yield Served(mountpoint, process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()
        clear(mountpoint)


def _start(words: list[str], control: Path | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {CONTROL: os.fspath(control)} if control is not None else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _live() -> FileSystem:
    return LiveFs(Path(os.environ[CONTROL]))


def _stuck() -> FileSystem:
    return StuckFs(Path(os.environ[CONTROL]))


def _image() -> FileSystem:
    folder = Path(tempfile.mkdtemp(dir=os.environ[CONTROL]))
    return fs_of([layer(conformance.CONTENT)], folder, "rootfs")


def _many(directories: int, files: int) -> FileSystem:
    members = {}
    for directory in range(directories):
        members[f"d{directory}/"] = ""
        for file in range(files):
            members[f"d{directory}/file-{file:06}"] = "x" * (file % 7000)
    return MemFs(members)


TREES: dict[str, Callable[[], FileSystem]] = {
    "conformance": functools.partial(MemFs, conformance.CONTENT),
    "image": _image,
    "live": _live,
    "stuck": _stuck,
    "few": functools.partial(_many, 20, 10),
    "many": functools.partial(_many, 600, 100),
    "large": lambda: MemFs({"large": File(bytes(range(256)) * (1 << 20))}),
    "wide": functools.partial(_many, 1, 100_000),
}


def main(driver: str, tree: str, mountpoint: str, source: str, *words: str) -> None:
    """Serve; write `ready` to standard output when the mount is there."""
    module = "server" if driver == "native" else "libfuse"
    if driver in LIBFUSES:
        os.environ["FUSE_LIBRARY_NAME"] = LIBFUSES[driver]
        if driver.endswith("fusepy"):
            sys.modules["mfusepy"] = None  # type: ignore[assignment]  # as if it were missing
    serve = importlib.import_module(f"imagefs.fuse.{module}").serve
    if driver in LIBFUSES and "FUSE_LIBRARY_PATH" not in os.environ:
        assert driver.startswith(f"libfuse{load().version[0]}")
    flags = tuple(word for word in words if word != "allow_other")
    options = MountOptions(source, "allow_other" in words, flags)
    try:
        serve(TREES[tree](), hold(Path(mountpoint)), options, lambda: os.write(1, b"ready\n"))
    except ImagefsError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
