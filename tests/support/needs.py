"""What this machine must have for a test: found, or else the test skips with the reason.

Where IMAGEFS_TEST_REQUIRE names what is missing (`fuse,docker,podman,registry,run`), the test fails
instead, so that a machine that is meant to run everything cannot quietly run less.
"""

import os
import shutil
from ctypes.util import find_library
from importlib.util import find_spec
from typing import NoReturn

import pytest

from imagefs.errors import HostError
from imagefs.fuse import mount

DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"
PODMAN = "/usr/bin/podman"
REGISTRY = "/usr/bin/docker-registry"
SETPRIV = "/usr/bin/setpriv"
BUSYBOX = ("/bin/busybox", "/usr/bin/busybox", "/bin/busybox-static")


def unavailable(what: str, reason: str) -> NoReturn:
    """Skip for `reason`, or fail where IMAGEFS_TEST_REQUIRE names `what`."""
    if what in os.environ.get("IMAGEFS_TEST_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required: {reason}")
    pytest.skip(reason)


def need_fuse(driver: str = "native", *, user: bool = False) -> None:
    """Go on only where a driver can mount; with `user`, where an ordinary user can, too."""
    try:
        mount.check_device()
        if driver == "libfuse":
            from imagefs.fuse.libfuse_library import load  # noqa: PLC0415

            load()
    except HostError as error:
        unavailable("fuse", str(error))
    if driver in ("libfuse2", "libfuse3") and find_spec("mfusepy") is None:
        unavailable("fuse", "mfusepy is missing (pip install 'imagefs[fuse3]')")
    for kind, name in (("libfuse2", "fuse"), ("libfuse3", "fuse3")):
        if driver.startswith(kind) and find_library(name) is None:
            unavailable("fuse", f"{kind} is missing (apt install libfuse2 libfuse3-3)")
    if (user or os.geteuid() != 0) and shutil.which("fusermount3") is None:
        unavailable("fuse", "fusermount3 is missing (apt install fuse3)")
    if user and (os.geteuid() != 0 or not os.path.exists(SETPRIV)):
        unavailable("fuse", "only root with setpriv(1) can become another user")


def need_docker() -> None:
    """Go on only where a dockerd of the tests' own can run."""
    if os.geteuid() != 0:
        unavailable("docker", "dockerd needs root")
    _need_files("docker", "docker.io", DOCKERD, DOCKER, SETPRIV)
    if not any(os.path.exists(path) for path in BUSYBOX):
        unavailable("docker", "busybox is missing (apt install busybox-static)")


def need_podman() -> None:
    """Go on only where a podman service of the tests' own can run."""
    if os.geteuid() != 0:
        unavailable("podman", "the podman service of the tests needs root")
    _need_files("podman", "podman docker.io", PODMAN, DOCKER, SETPRIV)


def need_registry() -> None:
    """Go on only where a registry of the tests' own can run."""
    _need_files("registry", "docker-registry", REGISTRY, SETPRIV)


def need_run() -> None:
    """Go on only where root can run commands of images, and ordinary users can, too."""
    need_fuse(user=True)
    for program, package in (("crun", "crun"), ("newuidmap", "uidmap"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            unavailable("run", f"{program} is missing (apt install {package})")


def need_tool(name: str, package: str) -> str:
    """Return the path of a program, which `package` holds; skip where it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is missing (apt install {package})")
    return path


def _need_files(what: str, packages: str, *paths: str) -> None:
    for path in paths:
        if not os.path.exists(path):
            unavailable(what, f"{path} is missing (apt install {packages})")
