"""`rootfs` against what Docker itself makes of the same image: `docker create`, `docker export`."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import needs
from tests.support.engines import RunningEngine
from tests.support.kernel import need_kernel
from tests.support.mounted import imagefs, mounted

# What Docker puts into every container it creates, or touches, whatever the image holds.
DOCKERS_OWN = {
    ".dockerenv", "dev/console", "dev/pts", "dev/shm", "etc/hostname", "etc/hosts", "etc/mtab",
    "etc/resolv.conf", "dev", "etc", "proc", "sys",
}  # fmt: skip

STEPS = (
    "FROM base:1",
    "COPY tree /srv",
    "RUN mkdir -p /d/keep /d/gone /opt && touch /d/keep/a /d/gone/b /d/f",
    "RUN cp /bin/busybox /opt/big && ln /opt/big /opt/big2 && chmod 4755 /opt/big",
    "RUN ln -s ../opt/big /d/link && ln -s nowhere /d/dangling && chmod 1777 /tmp",
    "RUN mknod /d/fifo p && mkdir /d/private && chmod 700 /d/private && touch /d/private/x",
    "RUN rm -r /d/gone /d/f && rm /opt/big2 && touch /new",
    "RUN rm -r /srv && mkdir /srv && touch /srv/only",
    "RUN rm /d/keep/a && mkdir /d/keep/a && touch /d/keep/a/now-a-directory",
    "RUN rm -r /d/private && touch /d/private",
    "LABEL nothing=changed",
)


@pytest.fixture(scope="module", params=["classic", "buildkit"])
def image(request: pytest.FixtureRequest, docker_engine: RunningEngine) -> str:
    """An image by either of Docker's builders, whose layers differ."""
    docker_engine.load_root("base:1", {"etc/base.conf": b"base"})
    by_buildkit = request.param == "buildkit"
    build = docker_engine.build_by_buildkit if by_buildkit else docker_engine.build
    name = f"oracle:{request.param}"
    build(name, *STEPS, files={"tree/one": "1", "tree/two/three": "3"})
    return name


@pytest.fixture(scope="module")
def exported(docker_engine: RunningEngine, image: str) -> Iterator[dict[str, tuple[Any, ...]]]:
    container = docker_engine.docker("create", image, "/bin/sh")
    path = docker_engine.root / "export.tar"
    docker_engine.docker("export", "-o", str(path), container)
    docker_engine.docker("rm", container)
    yield from_tar(path.read_bytes())
    path.unlink()


def from_tar(content: bytes) -> dict[str, tuple[Any, ...]]:
    """Return what a tar says of each path: all that a tree on a disk would say as well."""
    found: dict[str, tuple[Any, ...]] = {}
    links: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            name = os.path.normpath(member.name)
            if name in DOCKERS_OWN or name == ".":
                continue
            target = os.path.normpath(member.linkname) if member.islnk() else name
            links[name] = target
            if member.islnk():
                found[name] = found[target]
                continue
            file = tar.extractfile(member) if member.isfile() else None
            found[name] = (
                member.type,
                member.mode & 0o7777,  # Docker writes the type bits, too
                member.uid,
                member.gid,
                int(member.mtime),
                member.linkname if member.issym() else "",
                (member.devmajor, member.devminor) if member.isdev() and not member.isfifo() else 0,
                hashlib.sha256(file.read()).hexdigest() if file else "",
            )
    return {name: (*facts, links[name]) for name, facts in found.items()}


KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


def from_disk(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return what a tree says of each path, in the words of `from_tar`."""
    found: dict[str, tuple[Any, ...]] = {}
    first: dict[int, str] = {}
    for directory, directories, files in os.walk(root):
        for entry in sorted(directories + files):
            path = Path(directory, entry)
            name = str(path.relative_to(root))
            status = path.lstat()
            if name in DOCKERS_OWN:
                continue
            kind = stat.S_IFMT(status.st_mode)
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
            found[name] = (
                KINDS[kind],
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                int(status.st_mtime),
                os.readlink(path) if kind == stat.S_IFLNK else "",
                device if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
                hashlib.sha256(path.read_bytes()).hexdigest() if kind == stat.S_IFREG else "",
                first.setdefault(status.st_ino, name) if kind != stat.S_IFDIR else name,
            )
    return found


def differences(
    ours: dict[str, tuple[Any, ...]], theirs: dict[str, tuple[Any, ...]]
) -> dict[str, tuple[Any, Any]]:
    """Return what each side says of the paths on which they differ."""
    return {
        name: (ours.get(name), theirs.get(name))
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
    }


@pytest.mark.parametrize("driver", ["native", "libfuse", "kernel"])
@pytest.mark.parametrize("source", ["engine", "archive"])
def test_rootfs_is_what_docker_exports(
    source: str,
    driver: str,
    docker_engine: RunningEngine,
    image: str,
    exported: dict[str, tuple[Any, ...]],
    tmp_path: Path,
) -> None:
    """Names, kinds, modes, owners, mtimes, link targets, hard links and contents are equal."""
    if driver == "kernel":
        need_kernel()
    else:
        needs.need_fuse(driver)
    if source == "archive":
        path = tmp_path / "saved.tar"
        docker_engine.docker("save", "-o", str(path), image)
        # Docker's client is no root here, and what others may write to is not trusted.
        os.chown(path, 0, 0)
        where: str | Path = path
    else:
        where = image
    options = ("--driver", driver)
    with mounted(where, tmp_path / "m", *options, DOCKER_HOST=docker_engine.host) as mountpoint:
        assert differences(from_disk(mountpoint / "rootfs"), exported) == {}


def test_engine_is_not_asked_for_a_cached_id(
    docker_engine: RunningEngine, image: str, tmp_path: Path
) -> None:
    """An image that was fetched mounts by its id though no engine answers."""
    needs.need_fuse()
    assert imagefs("fetch", image, DOCKER_HOST=docker_engine.host).returncode == 0
    image_id = docker_engine.docker("image", "inspect", "--format", "{{.Id}}", image)
    with mounted(image_id, tmp_path / "m", DOCKER_HOST="unix:///nowhere") as mountpoint:
        assert (mountpoint / "rootfs/bin/busybox").exists()
