"""Both drivers, and a tree on a disk as the reference, against the one list of checks."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import conformance
from tests.support.serving import DRIVERS, need_root_and_fuse, served


@contextlib.contextmanager
def on_disk(folder: Path, mountpoint: Path) -> Iterator[None]:
    """Show the tree, written to a disk, read-only at the mount point."""
    source = folder / "source"
    source.mkdir()
    conformance.write_tree(source)
    subprocess.run(["mount", "--bind", source, mountpoint], check=True)
    try:
        options = "remount,bind,ro,nosuid,nodev"
        subprocess.run(["mount", "-o", options, mountpoint], check=True)
        yield
    finally:
        subprocess.run(["umount", mountpoint], check=True)


@pytest.fixture(scope="module", params=["disk", *DRIVERS, "image"])
def tree(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The tree of `conformance.CONTENT`, mounted: by each driver from memory, and as an image."""
    folder = tmp_path_factory.mktemp("conformance")
    mountpoint = folder / "tree"
    mountpoint.mkdir()
    need_root_and_fuse(request.param)
    if request.param == "disk":
        with on_disk(folder, mountpoint):
            yield mountpoint
    elif request.param == "image":
        with served("native", "image", mountpoint, control=folder):
            yield mountpoint
    else:
        with served(request.param, "conformance", mountpoint):
            yield mountpoint


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__.strip("_"))
def test_conforms(
    tree: Path,
    check: Callable[[Path], None],
    request: pytest.FixtureRequest,
    count: Callable[[str, int], None],
) -> None:
    """A read-only tree behaves as POSIX and Linux have it."""
    check(tree)
    count(f"conformance checks: {request.node.callspec.params['tree']}", 1)
