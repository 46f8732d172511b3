"""What the real tools write, each given the same image, mounts as that image."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagefs import mountinfo
from imagefs.fuse.mount import unmount_for_good
from imagefs.store import Store
from tests import samples
from tests.engines import RunningEngine, unmount_below
from tests.needs import DOCKER, need_fuse, need_podman, need_tool
from tests.opening import Tree, opened, trees, trees_of
from tests.samples import IMAGE, OTHER


@dataclass(frozen=True)
class Bench:
    """A place where tools work: an archive to begin with, and room for what they make of it."""

    start: Path
    folder: Path

    def run(self, *words: str | Path, stdin: Path | None = None) -> bytes:
        """Run a tool in the folder; return what it printed."""
        with open(stdin or "/dev/null", "rb") as source:
            done = subprocess.run(
                [*map(str, words)], stdin=source, capture_output=True, check=False, cwd=self.folder
            )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def skopeo(self, target: str, *options: str) -> Path:
        """Copy the image to where `transport:path[:tag]` says; return the path."""
        copy = [need_tool("skopeo", "skopeo"), "--insecure-policy", "copy", "--quiet"]
        self.run(*copy, *options, f"docker-archive:{self.start}", target)
        return self.folder / target.split(":")[1]

    def podman(self, *words: str) -> None:
        """Run podman on a storage of its own."""
        need_podman()
        storage = [f"--root={self.folder}/storage", f"--runroot={self.folder}/run"]
        self.run("podman", *storage, "--storage-driver=vfs", *words)

    def podman_save(self, kind: str, *options: str) -> Path:
        """Load the image into podman and save it in one of its formats."""
        path = self.folder / "saved"
        self.podman("load", "--quiet", f"--input={self.start}")
        self.podman("save", "--quiet", f"--format={kind}", *options, "-o", str(path), NAME)
        return path


NAME = IMAGE.names[0]


@pytest.fixture
def bench() -> Iterator[Bench]:
    # Podman wants the path of its storage to be short.
    folder = Path(tempfile.mkdtemp(prefix="imagefs-"))
    try:
        yield Bench(samples.write(folder / "start", samples.docker_20(IMAGE)), folder)
    finally:
        unmount_below(folder)
        shutil.rmtree(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    return trees_of(IMAGE.layers, tmp_path_factory.mktemp("expected") / "image")


def _umoci(bench: Bench) -> Path:
    """Have umoci add a tag, so that it writes the layout's index anew."""
    path = bench.skopeo("oci:layout:v1")
    bench.run(need_tool("umoci", "umoci"), "tag", "--image", f"{path}:v1", "v2")
    bench.run("umoci", "rm", "--image", f"{path}:v1")
    return path


def _buildah(bench: Bench) -> Path:
    need_tool("buildah", "buildah")
    if os.geteuid() != 0:
        pytest.skip("only root, or who is listed in /etc/subuid, can give files away")
    storage = [f"--root={bench.folder}/storage", f"--runroot={bench.folder}/run"]
    command = ["buildah", *storage, "--storage-driver=vfs"]
    bench.run(*command, "pull", "--quiet", f"docker-archive:{bench.start}")
    path = bench.folder / "pushed"
    bench.run(*command, "push", "--quiet", NAME, f"oci-archive:{path}")
    return path


def _piped(*command: str) -> Callable[[Bench], Path]:
    def made(bench: Bench) -> Path:
        path = bench.folder / "packed"
        path.write_bytes(bench.run(*command, stdin=bench.start))
        return path

    return made


ZSTD = ("--dest-compress-format=zstd", "--dest-compress-level=3")
TOOLS: Mapping[str, Callable[[Bench], Path]] = {
    "skopeo docker-archive": lambda bench: bench.skopeo(f"docker-archive:x.tar:{NAME}"),
    "skopeo oci-archive": lambda bench: bench.skopeo("oci-archive:x.tar:v1"),
    "skopeo oci": lambda bench: bench.skopeo("oci:layout:v1"),
    "skopeo oci, zstd": lambda bench: bench.skopeo("oci:layout:v1", *ZSTD),
    "skopeo dir": lambda bench: bench.skopeo("dir:flat"),
    "skopeo dir, compressed": lambda bench: bench.skopeo("dir:flat", "--dest-compress"),
    "podman docker-archive": lambda bench: bench.podman_save("docker-archive"),
    "podman oci-archive": lambda bench: bench.podman_save("oci-archive"),
    "podman docker-dir": lambda bench: bench.podman_save("docker-dir"),
    "podman docker-dir, compressed": lambda bench: bench.podman_save("docker-dir", "--compress"),
    "podman oci-dir": lambda bench: bench.podman_save("oci-dir"),
    "buildah": _buildah,
    "umoci": _umoci,
    "gzip": _piped("gzip", "-c"),
    "pigz": _piped("pigz", "-c"),
    "zstd": _piped("zstd", "-c"),
    "xz": _piped("xz", "-c"),
    "xz, in blocks": _piped("xz", "-c", "-T2", "--block-size=100000"),
    "bzip2": _piped("bzip2", "-c"),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_each_tool_gives_the_same_tree(
    tool: str, bench: Bench, store: Store, expected: dict[str, Tree]
) -> None:
    """Whatever tool the image has gone through, it mounts as what went in."""
    program = re.match(r"\w+", tool)
    assert program is not None
    need_tool(program[0], program[0].replace("xz", "xz-utils"))
    made = opened(TOOLS[tool](bench), store)
    assert trees(made, store) == expected


def test_docker_gives_the_same_tree(
    docker_engine: RunningEngine, tmp_path: Path, store: Store
) -> None:
    """Docker, given the image, saves what mounts as that image, with and without a tag."""
    images = {
        image: trees_of(image.layers, tmp_path / image.names[0][7:]) for image in (IMAGE, OTHER)
    }
    for image, tree in images.items():
        start = samples.write(tmp_path / "start.tar", samples.docker_20(image))
        docker_engine.docker("load", "--input", str(start))
        for name in (*image.names, samples.digest(image.config)):
            saved = tmp_path / "saved.tar"
            docker_engine.docker("save", "--output", str(saved), name)
            assert trees(opened(saved, store), store) == tree


def test_podman_saves_several_images(bench: Bench, store: Store, tmp_path: Path) -> None:
    """Of several images in one archive, each is there under its name."""
    images = (IMAGE, OTHER)
    start = samples.write(tmp_path / "both.tar", samples.docker_20(*images))
    bench.podman("load", "--quiet", f"--input={start}")
    names = [image.names[0] for image in images]
    bench.podman("save", "--quiet", "-m", "-o", str(bench.folder / "both.tar"), *names)
    for image in images:
        for name in (
            image.names[0],
            f"localhost/{image.names[0]}",
            samples.hexdigest(image.config),
        ):
            made = opened(bench.folder / "both.tar", store, image=name)
            expected = trees_of(image.layers, tmp_path / image.names[0][7:])
            assert trees(made, store) == expected


@pytest.mark.parametrize("pack", [samples.plain, samples.gz])
def test_docker_export_gives_the_same_root(
    pack: samples.Pack, docker_engine: RunningEngine, tmp_path: Path, store: Store
) -> None:
    """The flat root of a container of the image is the image's, but for what Docker adds."""
    start = samples.write(tmp_path / "start.tar", samples.docker_20(IMAGE))
    docker_engine.docker("load", "--input", str(start))
    container = docker_engine.docker("create", NAME, "/bin/sh")
    exported = tmp_path / "exported.tar"
    docker_engine.docker("export", "--output", str(exported), container)
    docker_engine.docker("rm", container)
    found = trees(opened(samples.write(exported, pack(exported.read_bytes())), store), store)
    expected = trees_of(IMAGE.layers, tmp_path / "expected")["rootfs"]
    for path, said in expected.items():
        if path != "etc":
            # Without extended attributes: ours name another layer, Docker's export has no users'.
            assert found["rootfs"][path][:-1] == said[:-1], path
    added = found["rootfs"].keys() - expected.keys()
    assert {path.partition("/")[0] for path in added} <= {".dockerenv", "dev", "etc", "proc", "sys"}


@pytest.mark.parametrize("packer", ["cat", "gzip", "zstd", "xz", "bzip2"])
def test_a_pipe_mounts(packer: str, docker_engine: RunningEngine, tmp_path: Path) -> None:
    """`docker save | gzip | imagefs mount - DIRECTORY` mounts, whatever compresses the pipe."""
    need_fuse()
    start = samples.write(tmp_path / "start.tar", samples.docker_20(IMAGE))
    docker_engine.docker("load", "--input", str(start))
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    line = '"$0" --host "$1" save "$2" | "$3" -c | "$4" -m imagefs mount --quiet - "$5"'
    if packer == "cat":
        line = line.replace(" -c", "")
    words = [DOCKER, docker_engine.host, NAME, packer, sys.executable, str(mountpoint)]
    environment = {**os.environ, "IMAGEFS_CACHE": str(tmp_path / "cache")}
    try:
        subprocess.run(["/bin/sh", "-c", line, *words], check=True, env=environment)
        assert (mountpoint / "rootfs/etc/conf").read_bytes() == b"a = 2\n"
        assert (mountpoint / "config.json").read_bytes() == IMAGE.config
    finally:
        if mountinfo.at(mountpoint) is not None:
            unmount_for_good(mountpoint)
