"""All drivers, and a tree on a disk as the reference, against the one list of checks."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import conformance
from tests.support.kernel import kernel_mounted, need_kernel
from tests.support.serving import SERVED, need_root_and_fuse, served
from tests.support.tars import layer

KERNELS_OWN = {
    "direct_reads_agree": "mounted from files, EROFS opens nothing with O_DIRECT",
    "totals_say_read_only": "EROFS says of files only how many are free: less than none",
    "syncing_locking_and_polling_work": "EROFS has nothing to sync: fsync(2) is EINVAL",
}
"""Checks that Linux's own EROFS does not pass, whoever wrote the image."""


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


@pytest.fixture(scope="module", params=["disk", *SERVED, "image", "kernel"])
def tree(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The tree of `conformance.CONTENT`, mounted: by each driver from memory, and as an image."""
    folder = tmp_path_factory.mktemp("conformance")
    mountpoint = folder / "tree"
    mountpoint.mkdir()
    if request.param == "kernel":
        need_kernel()
        with kernel_mounted([layer(conformance.CONTENT)], folder, mountpoint, "rootfs"):
            yield mountpoint
        return
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
    driver, name = request.node.callspec.params["tree"], check.__name__.strip("_")
    if driver == "kernel" and name in KERNELS_OWN:
        pytest.skip(KERNELS_OWN[name])
    check(tree)
    count(f"conformance checks: {driver}", 1)
