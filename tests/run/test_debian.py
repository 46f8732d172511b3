"""A real distribution, made by debootstrap, in which packages are installed.

It takes some minutes and a Debian mirror, so it runs where IMAGEFS_TEST_REQUIRE names `debian`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.run.conftest import World
from tests.support.runnable import RunnableImage
from tests.support.samples import docker_20, tar_of

_SANDBOX = "-o APT::Sandbox::User=root"


@pytest.fixture(scope="module")
def debian(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive of a Debian whose entry point is its shell."""
    if "debian" not in os.environ.get("IMAGEFS_TEST_REQUIRE", "").split(","):
        pytest.skip("IMAGEFS_TEST_REQUIRE does not name debian, which takes minutes and a mirror")
    if shutil.which("debootstrap") is None:
        pytest.fail("debootstrap is missing (apt install debootstrap)")
    folder = tmp_path_factory.mktemp("debian")
    root = folder / "root"
    subprocess.run(["debootstrap", "--variant=minbase", "stable", root], check=True)
    pack = ["tar", "--numeric-owner", "--exclude=./dev/*", "-cf", str(folder / "layer"), "."]
    subprocess.run(pack, check=True, cwd=root)
    shutil.rmtree(root)
    said = {"Entrypoint": ["bash", "-ec"], "Cmd": ["cat /etc/debian_version; id -un"], "Env": []}
    layer = (folder / "layer").read_bytes()
    (folder / "layer").unlink()
    return world.root.file("debian.tar", tar_of(docker_20(RunnableImage((layer,), said=said))))


@pytest.mark.parametrize("name", ["root", "rich", "poor"])
def test_a_package_is_installed(world: World, debian: Path, name: str) -> None:
    """apt-get installs a small package; where root is alone, if it is told to be nobody else."""
    user = getattr(world, name)
    archive = user.home / "debian.tar"
    if archive != debian:
        shutil.copy(debian, archive)
        archive.chmod(0o644)
    own = user.imagefs("run", "-q", archive)
    assert (own.status, own.out.split()[1:], own.err) == (0, ["root"], "")
    install = "apt-get {0} -qq update && apt-get {0} -qq install hello >/dev/null 2>&1 && hello"
    done = user.imagefs("run", "-q", archive, install.format(_SANDBOX if name == "poor" else ""))
    assert (done.status, done.out) == (0, "Hello, world!\n"), done.err
    if name == "poor":
        refused = user.imagefs("run", "-q", archive, install.format(""))
        assert refused.status == 100
        assert "setgroups" in refused.err
