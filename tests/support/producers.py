"""Who writes archives: every producer that is known, given one image, with the real tool if Debian
has it, to the letter of its layout if not.

A producer takes a Bench, on which lies what `docker save` wrote, and returns what it makes of it.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support import samples
from tests.support.engines import end, unmount_below
from tests.support.needs import SETPRIV, need_podman, need_tool
from tests.support.samples import SampleImage


def as_go_writes(content: bytes) -> bytes:
    """Return a tar that ends with two blocks of zeros, and is not filled up to a whole record."""
    return content[: samples.end_of_members(content)] + bytes(1024)


# Where more follows, skopeo 1.9 leaves it out of zstd:chunked, and the layer's digest is another.
IMAGE = replace(samples.IMAGE, layers=tuple(map(as_go_writes, samples.IMAGE.layers)))
NAME = IMAGE.names[0]
_STARTS_WITHIN = 30.0
_CONTAINERD = """
version = 2
root = "{0}/containerd"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{0}/socket"
[ttrpc]
address = "{0}/ttrpc"
"""


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

    def export(self, *convert: str) -> Path:
        """Have a containerd of our own take the image in, convert it, and export it."""
        path = self.folder / "exported"
        ctr = [need_tool("ctr", "containerd"), f"--address={self.folder}/socket", "images"]
        name = f"docker.io/{NAME}"
        with _containerd(self.folder, ctr):
            self.run(*ctr, "import", "--no-unpack", self.start)
            if convert:
                remote = need_tool("ctr-remote", "stargz-snapshotter")
                self.run(remote, *ctr[1:], "convert", "--oci", *convert, name, name)
            self.run(*ctr, "export", path, name)
        return path

    def podman_save(self, kind: str, *options: str) -> Path:
        """Load the image into podman and save it in one of its formats."""
        path = self.folder / "saved"
        self.podman("load", "--quiet", f"--input={self.start}")
        self.podman("save", "--quiet", f"--format={kind}", *options, "-o", str(path), NAME)
        return path


@contextmanager
def bench_with(image: SampleImage) -> Iterator[Bench]:
    """Give a Bench with an image on it."""
    # Podman wants the path of its storage to be short.
    folder = Path(tempfile.mkdtemp(prefix="imagefs-"))
    try:
        yield Bench(samples.write(folder / "start", samples.docker_20(image)), folder)
    finally:
        unmount_below(folder)
        shutil.rmtree(folder)


@contextmanager
def _containerd(folder: Path, ctr: list[str]) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("containerd needs root")
    config = folder / "containerd.toml"
    config.write_text(_CONTAINERD.format(folder))
    command = [SETPRIV, "--pdeathsig", "TERM", "containerd", "--config", str(config)]
    with (folder / "containerd.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        late = time.monotonic() + _STARTS_WITHIN
        while subprocess.run([*ctr, "list"], capture_output=True, check=False).returncode:
            assert process.poll() is None, (folder / "containerd.log").read_text()[-2000:]
            assert time.monotonic() < late, "containerd did not start"
            time.sleep(0.05)
        yield
    finally:
        end(process)


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


CHUNKED = "--dest-compress-format=zstd:chunked"
ZSTD = ("--dest-compress-format=zstd", "--dest-compress-level=3")
TOOLS: Mapping[str, Callable[[Bench], Path]] = {
    "skopeo docker-archive": lambda bench: bench.skopeo(f"docker-archive:x.tar:{NAME}"),
    "skopeo oci-archive": lambda bench: bench.skopeo("oci-archive:x.tar:v1"),
    "skopeo oci": lambda bench: bench.skopeo("oci:layout:v1"),
    "skopeo oci, zstd": lambda bench: bench.skopeo("oci:layout:v1", *ZSTD),
    "skopeo oci, zstd:chunked": lambda bench: bench.skopeo("oci:layout:v1", CHUNKED),
    "skopeo dir": lambda bench: bench.skopeo("dir:flat"),
    "skopeo dir, compressed": lambda bench: bench.skopeo("dir:flat", "--dest-compress"),
    "podman docker-archive": lambda bench: bench.podman_save("docker-archive"),
    "podman oci-archive": lambda bench: bench.podman_save("oci-archive"),
    "podman docker-dir": lambda bench: bench.podman_save("docker-dir"),
    "podman docker-dir, compressed": lambda bench: bench.podman_save("docker-dir", "--compress"),
    "podman oci-dir": lambda bench: bench.podman_save("oci-dir"),
    "buildah": _buildah,
    "umoci": _umoci,
    "ctr (containerd)": lambda bench: bench.export(),
    "gzip": _piped("gzip", "-c"),
    "pigz": _piped("pigz", "-c"),
    "zstd": _piped("zstd", "-c"),
    "xz": _piped("xz", "-c"),
    "xz, in blocks": _piped("xz", "-c", "-T2", "--block-size=100000"),
    "bzip2": _piped("bzip2", "-c"),
}


def _built(layout: Callable[[SampleImage], samples.Layout | bytes]) -> Callable[[Bench], Path]:
    return lambda bench: samples.write(bench.folder / "built", layout(IMAGE))


def _unpacked(layout: Callable[[SampleImage], samples.Layout]) -> Callable[[Bench], Path]:
    return lambda bench: samples.unpack(bench.folder / "unpacked", layout(IMAGE))


def _absolute(image: SampleImage) -> SampleImage:
    """Return an image in whose layers all names begin with a slash, as Nix writes them."""
    return replace(image, layers=tuple(map(samples.with_absolute_names, image.layers)))


BUILT: Mapping[str, Callable[[Bench], Path]] = {
    **{f"{name}, built": _built(layout) for name, layout in samples.LAYOUTS.items()},
    "oci layout, built": _unpacked(samples.oci_layout),
    "dir, built": _unpacked(samples.docker_dir),
}

OTHER_LAYERS: Mapping[str, Callable[[Bench], Path]] = {
    "ctr-remote (eStargz)": lambda bench: bench.export("--estargz"),
    "ctr-remote (zstd:chunked)": lambda bench: bench.export("--zstdchunked"),
    "nix, absolute names, built": _built(lambda image: samples.nix_stream(_absolute(image))),
}
"""Producers that write the layers anew, so that they have other diff ids."""
