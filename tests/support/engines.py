"""Real engines for the tests: a dockerd and a podman service of our own, ended with the session.

A pytest plugin: `docker_engine` and `podman_engine` are started when first asked for. Under
pytest-xdist, all tests that ask for one run in the same worker, so that each engine is started
once (`--dist loadgroup`).
"""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from imagefs.engine.addresses import Endpoint
from tests.support.needs import (
    BUSYBOX,
    DOCKER,
    DOCKERD,
    PODMAN,
    SETPRIV,
    need_docker,
    need_podman,
    unavailable,
)

STARTS_WITHIN = 60.0


@dataclass(frozen=True)
class RunningEngine:
    """An engine that answers: `host` is its address, `pid` the process to kill."""

    host: str
    socket: Path
    pid: int
    root: Path

    def docker(self, *args: str, stdin: bytes | None = None, **env: str) -> str:
        """Run the docker client against the engine; return what it printed."""
        done = subprocess.run(
            [DOCKER, "--host", self.host, *args],
            input=stdin,
            capture_output=True,
            check=False,
            env={**clean_environment(), **env},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def load_root(self, name: str, files: Mapping[str, bytes] | None = None) -> str:
        """Make an image of one layer with busybox and `files`; return its id."""
        self.docker("import", "-", name, stdin=root_tar(files or {}))
        return self.id_of(name)

    def build(self, name: str, *steps: str, files: Mapping[str, str] | None = None) -> str:
        """Build an image by the steps of a Dockerfile, beside which `files` lie; return its id."""
        with tempfile.TemporaryDirectory() as context:
            for path, text in {**(files or {}), "Dockerfile": "\n".join(steps) + "\n"}.items():
                (Path(context) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(context) / path).write_text(text)
            command = ("build", "--network=host", "--quiet", "--tag", name, context)
            self.docker(*command, DOCKER_BUILDKIT="0")
        return self.id_of(name)

    def build_by_buildkit(
        self, name: str, *steps: str, files: Mapping[str, str] | None = None
    ) -> str:
        """Build an image as `build` does, by the BuildKit that dockerd has in it; return its id.

        The client would need buildx for that; a context that BuildKit fetches by itself needs none.
        """
        texts = {**(files or {}), "Dockerfile": "\n".join(steps) + "\n"}
        with web_server(context_tar(texts)) as url:
            wanted = {"version": "2", "remote": url, "t": name, "networkmode": "host"}
            engine = Endpoint(self.host)
            with engine.session() as session:
                answer = session.post(f"{engine.base_url()}/build", params=wanted)
        assert answer.ok, answer.text
        assert '"error"' not in answer.text, answer.text[-2000:]
        return self.id_of(name)

    def id_of(self, name: str) -> str:
        """Return the id, `sha256:<hex>`, of the image that a name means."""
        image_id = self.docker("image", "inspect", "--format", "{{.Id}}", name)
        return f"sha256:{image_id.removeprefix('sha256:')}"


def clean_environment() -> dict[str, str]:
    """Return the environment without what chooses an engine or a cache."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("DOCKER_", "IMAGEFS_CACHE"))
    }


@contextmanager
def web_server(content: bytes) -> Iterator[str]:
    """Serve one file; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/context.tar"
        finally:
            server.shutdown()
            thread.join()


def context_tar(texts: Mapping[str, str]) -> bytes:
    """Return the tar of a build's context."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in texts.items():
            file = tarfile.TarInfo(name)
            file.size = len(text.encode())
            tar.addfile(file, io.BytesIO(text.encode()))
    return buffer.getvalue()


def root_tar(files: Mapping[str, bytes]) -> bytes:
    """Return the tar of a small root directory in which busybox's shell runs."""
    busybox = next(path for path in BUSYBOX if os.path.exists(path))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        for name, content in {"bin/busybox": Path(busybox).read_bytes(), **files}.items():
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(content), 0o755
            tar.addfile(file, io.BytesIO(content))
        for name in ("sh", "chmod", "cp", "dd", "ln", "ls", "mkdir", "mknod", "rm", "touch"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def wait_until_it_answers(process: "subprocess.Popen[bytes]", host: str, log: Path) -> None:
    """Poll the engine until `docker version` succeeds; fail with its log if it does not."""
    deadline = time.monotonic() + STARTS_WITHIN
    version = [DOCKER, "--host", host, "version"]
    environment = clean_environment()
    while subprocess.run(version, capture_output=True, check=False, env=environment).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the engine did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that we started, kindly at first."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(command: Sequence[str], host: str, socket: Path, root: Path) -> Iterator[RunningEngine]:
    """Run an engine, which dies with us; its directory goes when it has ended."""
    log = root / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [SETPRIV, "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=clean_environment(),
        )
    try:
        wait_until_it_answers(process, host, log)
        yield RunningEngine(host, socket, process.pid, root)
    finally:
        end(process)
        unmount_below(root)
        shutil.rmtree(root, ignore_errors=True)


def unmount_below(root: Path) -> None:
    """Unmount what an engine that was killed has left mounted below its directory."""
    # Not as text: others may mount where a path is no UTF-8.
    lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines()
    points = [line.split()[4] for line in lines]
    for point in reversed(points):
        if point.startswith(f"{root}/"):
            subprocess.run(["/bin/umount", "--lazy", point], check=False)


def dockerd_command(root: Path, *hosts: str) -> list[str]:
    """Return the command line of a dockerd that keeps to itself."""
    command = [DOCKERD, f"--data-root={root}/data", f"--exec-root={root}/exec"]
    command += [f"--pidfile={root}/pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    return command + [f"--host={host}" for host in hosts]


@contextmanager
def docker_daemon(*hosts: str, options: Sequence[str] = ()) -> Iterator[RunningEngine]:
    """Run a dockerd on a socket of its own, and on further hosts."""
    root = Path(tempfile.mkdtemp(prefix="imagefs-dockerd-"))
    socket = root / "socket"
    command = [*dockerd_command(root, f"unix://{socket}", *hosts), *options]
    with running(command, f"unix://{socket}", socket, root) as engine:
        yield engine


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[RunningEngine]:
    need_docker()
    with docker_daemon() as engine:
        yield engine


@contextmanager
def podman_service(address: str | None = None) -> Iterator[RunningEngine]:
    """Run a Podman service on a socket of its own, or at another address."""
    root = Path(tempfile.mkdtemp(prefix="imagefs-podman-"))
    socket = root / "socket"
    host = address or f"unix://{socket}"
    command = [PODMAN, f"--root={root}/data", f"--runroot={root}/run", "--storage-driver=vfs"]
    command += ["--cgroup-manager=cgroupfs", "--events-backend=file", "system", "service"]
    with running([*command, "--time=0", host], host, socket, root) as engine:
        yield engine


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[RunningEngine]:
    need_podman()
    with podman_service() as engine:
        yield engine


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    if os.geteuid() != 0:
        unavailable("tmpfs", "mounting a small tmpfs needs root")
    command = ["/bin/mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(tmp_path)]
    subprocess.run(command, check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(tmp_path)], check=True)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Keep the tests of an engine in one xdist worker."""
    for item in items:
        wanted = {"docker_engine", "podman_engine"} & set(getattr(item, "fixturenames", ()))
        if wanted:
            item.add_marker(pytest.mark.xdist_group("engines"))
