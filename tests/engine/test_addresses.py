"""Where the engine is, by the docker command line's rules, and every way to get there."""

import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from imagefs.engine import addresses
from imagefs.engine.addresses import Endpoint, Tls, find
from imagefs.engine.api import Engine
from imagefs.engine.fetch import Source, ensure_image
from imagefs.engine.ssh import ssh_command
from imagefs.errors import EngineError, EngineUnreachable, HostError, UsageError
from imagefs.progress import Silent
from imagefs.store.store import Store
from tests.support.engines import RunningEngine, docker_daemon, podman_service
from tests.support.needs import DOCKER, need_docker, need_podman, need_tool

HOME_TLS = Path.home() / ".docker"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of no contexts, on a machine of no engines."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(addresses, "DOCKER_SOCKET", f"{tmp_path}/docker.sock")
    monkeypatch.setattr(addresses, "PODMAN_SOCKET", f"{tmp_path}/podman.sock")
    return tmp_path


def make_context(home: Path, name: str, docker: Any, *, tls: bool = False) -> Path:
    """Write a docker context as `docker context create` does; return its TLS directory."""
    key = sha256(name.encode()).hexdigest()
    meta = home / ".docker" / "contexts" / "meta" / key / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": docker}}))
    directory = home / ".docker" / "contexts" / "tls" / key / "docker"
    if tls:
        directory.mkdir(parents=True)
    return directory


def use_context(home: Path, name: str) -> None:
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps({"currentContext": name}))


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


@pytest.mark.parametrize(
    ("host", "environ", "expected"),
    [
        (None, {"DOCKER_HOST": "unix:///run/d.sock"}, Endpoint("unix:///run/d.sock")),
        ("unix:///a", {"DOCKER_HOST": "unix:///b"}, Endpoint("unix:///a")),
        ("/run/d.sock", {}, Endpoint("unix:///run/d.sock")),
        ("tcp://h.example:2375", {}, Endpoint("tcp://h.example:2375")),
        ("tcp://h.example", {}, Endpoint("tcp://h.example:2375")),
        ("tcp://[::1]:99/", {}, Endpoint("tcp://[::1]:99")),
        ("http://h.example:80", {}, Endpoint("tcp://h.example:80")),
        ("ssh://me@h.example:22", {}, Endpoint("ssh://me@h.example:22")),
        (
            "tcp://h.example",
            {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"},
            Endpoint("tcp://h.example:2375", Tls(Path("/c"), verify=True)),
        ),
        (
            "tcp://h.example:9",
            {"DOCKER_TLS": "1", "DOCKER_CERT_PATH": "/c"},
            Endpoint("tcp://h.example:9", Tls(Path("/c"), verify=False)),
        ),
        ("tcp://h.example:9", {"DOCKER_TLS_VERIFY": ""}, Endpoint("tcp://h.example:9")),
        ("tcp://h.example:9", {"DOCKER_CERT_PATH": "/c"}, Endpoint("tcp://h.example:9")),
        ("h.example", {}, Endpoint("tcp://h.example:2375")),
        ("[::1]", {}, Endpoint("tcp://[::1]:2375")),
        ("https://h.example:9/p", {}, Endpoint("tcp://h.example:9/p", Tls(HOME_TLS, verify=True))),
    ],
)
def test_an_address_that_is_given(
    host: str | None, environ: Mapping[str, str], expected: Endpoint
) -> None:
    """--host wins over DOCKER_HOST; TLS comes from DOCKER_TLS_VERIFY and DOCKER_CERT_PATH."""
    assert find(host, environ) == expected


@pytest.mark.parametrize(
    "host",
    [
        *("unix://", "unix://relative", "fd://", "tcp://h:x", "tcp://a@h", "a b", "h;x"),
        *("ssh://-oX", "ssh://me@-oX", "ssh://-oX@h.example"),
    ],
)
def test_what_is_no_address(host: str) -> None:
    """It is the user's mistake, and the message says what an address looks like."""
    with pytest.raises(UsageError, match=r"is no engine address: unix:///PATH"):
        find(host, {})


def test_contexts(home: Path) -> None:
    """DOCKER_HOST, then DOCKER_CONTEXT, then the context in use; `default` is none."""
    make_context(home, "one", {"Host": "unix:///one"})
    tls = make_context(home, "two", {"Host": "tcp://two:2376", "SkipTLSVerify": True}, tls=True)
    use_context(home, "one")
    assert find(None, {}) == Endpoint("unix:///one")
    two = Endpoint("tcp://two:2376", Tls(tls, verify=False))
    assert find(None, {"DOCKER_CONTEXT": "two"}) == two
    assert find(None, {"DOCKER_CONTEXT": "two", "DOCKER_HOST": "unix:///x"}).host == "unix:///x"
    assert find(None, {"DOCKER_CONTEXT": "default"}).host == f"unix://{home}/docker.sock"
    moved = {"DOCKER_CONFIG": str(home / ".docker"), "HOME": "/"}
    assert find(None, moved) == Endpoint("unix:///one")


def test_relative_paths_are_those_of_the_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon works in another directory than the one that the environment speaks of."""
    tls = make_context(home, "one", {"Host": "tcp://h:1"}, tls=True)
    monkeypatch.chdir(home)
    by_environment = find("tcp://h:1", {"DOCKER_TLS": "1", "DOCKER_CERT_PATH": "certs"})
    by_context = find(None, {"DOCKER_CONFIG": ".docker", "DOCKER_CONTEXT": "one"})
    assert by_environment.tls == Tls(home / "certs", verify=False)
    assert by_context.tls == Tls(tls, verify=True)


@pytest.mark.parametrize("docker", [{}, None, [], {"Host": 7}, "text"])
def test_a_context_that_cannot_be_read(home: Path, docker: Any) -> None:
    """The error names the file."""
    make_context(home, "odd", docker)
    with pytest.raises(HostError, match=r"meta\.json: docker context 'odd'"):
        find(None, {"DOCKER_CONTEXT": "odd"})


def test_a_context_that_nests_without_end(home: Path) -> None:
    """It is an error of one line that names the file."""
    meta = make_context(home, "deep", {}, tls=True).parents[2] / "meta"
    key = sha256(b"deep").hexdigest()
    (meta / key / "meta.json").write_bytes(b"[" * 100_000)
    with pytest.raises(HostError, match=r"meta\.json: docker context 'deep' nests too deeply"):
        find(None, {"DOCKER_CONTEXT": "deep"})


def test_a_context_with_half_a_character_in_its_name(home: Path) -> None:
    """No directory has such a name."""
    use_context(home, "a\ud800")
    with pytest.raises(HostError, match=r"'a\\ud800' is no name of a docker context"):
        find(None, {})


def test_a_context_that_does_not_exist(home: Path) -> None:
    """It is not passed over: the user meant a certain engine."""
    use_context(home, "gone")
    with pytest.raises(HostError, match="'gone' does not exist"):
        find(None, {})


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"currentContext": 7}', b"\xff", pytest.param(b"[" * 100_000, id="deep")],
)
def test_an_odd_configuration_names_no_context(home: Path, content: bytes) -> None:
    """What the docker command line keeps there otherwise is none of our business."""
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_bytes(content)
    assert find(None, {}).host == f"unix://{home}/docker.sock"


def test_the_first_socket_that_exists(home: Path) -> None:
    """Docker's, then the user's own Docker's and Podman's, then root's Podman's."""
    runtime = home / "run"
    user = runtime / "podman" / "podman.sock"
    user.parent.mkdir(parents=True)
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    with listen(home / "podman.sock"):
        assert find(None, environ).host == f"unix://{home}/podman.sock"
        with listen(user):
            assert find(None, environ).host == f"unix://{user}"
            with listen(runtime / "docker.sock"):
                assert find(None, environ).host == f"unix://{runtime}/docker.sock"
                with listen(home / "docker.sock"):
                    assert find(None, environ).host == f"unix://{home}/docker.sock"


def test_no_engine_at_all(home: Path) -> None:
    """The error lists where it was looked for, and what to do, when an engine is needed."""
    engine = Engine(find(None, {}))
    with pytest.raises(EngineUnreachable, match=r"none of .*docker\.sock, .*podman\.sock exists"):
        engine.inspect("app")


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    """The reason is the system's own."""
    listen(tmp_path / "dead").close()
    with pytest.raises(EngineUnreachable, match=r"no engine answers at unix://.*refused"):
        Engine(Endpoint(f"unix://{tmp_path}/dead")).version()
    long = f"unix://{tmp_path}/{'x' * 120}"
    with pytest.raises(EngineUnreachable, match="AF_UNIX path too long"):
        Engine(Endpoint(long)).version()


def test_a_port_that_nobody_listens_on() -> None:
    """The same over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(EngineUnreachable, match=r"no engine answers at tcp://127.*refused"):
        Engine(Endpoint(f"tcp://127.0.0.1:{port}")).version()


# Real engines


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what a TLS engine on 127.0.0.1 and its clients need."""
    openssl = need_tool("openssl", "openssl")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    new = [openssl, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    sign = [openssl, "x509", "-req", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"]
    for command in (
        [*new, "-x509", "-subj", "/CN=ca", "-keyout", "ca-key.pem", "-out", "ca.pem"],
        [*new, "-subj", "/CN=engine", "-keyout", "server-key.pem", "-out", "server.csr"],
        [*sign, "-in", "server.csr", "-out", "server.pem", "-extfile", "extensions"],
        [*new, "-subj", "/CN=client", "-keyout", "key.pem", "-out", "client.csr"],
        [*sign, "-in", "client.csr", "-out", "cert.pem"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def tls_engine(certificates: Path) -> Iterator[tuple[RunningEngine, str]]:
    """A dockerd that wants TLS of its clients, and its address."""
    need_docker()
    address = f"tcp://127.0.0.1:{free_port()}"
    options = ["--tlsverify", f"--tlscacert={certificates}/ca.pem"]
    options += [f"--tlscert={certificates}/server.pem", f"--tlskey={certificates}/server-key.pem"]
    with docker_daemon(address, options=options) as engine:
        engine.load_root("tls-test:1")
        yield engine, address


def fetch_over(endpoint: Endpoint, name: str, root: Path) -> str:
    return ensure_image(name, Source(Engine(endpoint), Store(root), Silent())).id


@pytest.mark.xdist_group("engines")
def test_over_tls(
    tls_engine: tuple[RunningEngine, str], certificates: Path, tmp_path: Path
) -> None:
    """Both sides verified, or only the client where the user says so."""
    engine, address = tls_engine
    image_id = engine.docker("images", "--quiet", "--no-trunc", "tls-test:1")
    environ = {"DOCKER_HOST": address, "DOCKER_TLS": "1", "DOCKER_CERT_PATH": str(certificates)}
    for name, more in (("verified", {"DOCKER_TLS_VERIFY": "1"}), ("trusting", {})):
        assert fetch_over(find(None, environ | more), "tls-test:1", tmp_path / name) == image_id


@pytest.mark.xdist_group("engines")
def test_tls_that_does_not_fit(
    tls_engine: tuple[RunningEngine, str], certificates: Path, tmp_path: Path
) -> None:
    """No TLS, no certificate, another authority: each an error of one line."""
    _, address = tls_engine
    with pytest.raises(EngineError, match=r"400 .*HTTP request to an HTTPS server"):
        Engine(Endpoint(address)).version()
    with pytest.raises(HostError, match=r"ca\.pem: no such file"):
        Engine(Endpoint(address, Tls(tmp_path, verify=True))).version()
    other = tmp_path / "other"
    other.mkdir()
    (other / "ca.pem").write_bytes((certificates / "ca.pem").read_bytes())
    with pytest.raises(EngineError, match=r"certificate required|bad certificate") as error:
        Engine(Endpoint(address, Tls(other, verify=True))).version()
    assert "\n" not in str(error.value)


@pytest.mark.xdist_group("engines")
def test_over_tcp(tmp_path: Path) -> None:
    """An engine that listens in the clear on loopback."""
    need_docker()
    address = f"tcp://127.0.0.1:{free_port()}"
    with docker_daemon(address, options=["--tls=false"]) as engine:
        image_id = engine.load_root("tcp-test:1")
        assert fetch_over(find(address, {}), "tcp-test:1", tmp_path / "cache") == image_id


@pytest.mark.xdist_group("engines")
def test_podman_over_tcp(tmp_path: Path) -> None:
    """An image comes whole over TCP from Podman's service, too."""
    need_podman()
    address = f"tcp://127.0.0.1:{free_port()}"
    with podman_service(address) as engine:
        image_id = engine.load_root("localhost/tcp-test:1")
        fetched = fetch_over(find(address, {}), "localhost/tcp-test:1", tmp_path / "cache")
        assert fetched.removeprefix("sha256:") == image_id.removeprefix("sha256:")


@pytest.fixture
def stub_ssh(docker_engine: RunningEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ssh` that runs the remote command here, against our engine, and notes its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "ssh"
    script.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/ssh-arguments
case "$*" in *unreachable*) echo "ssh: connect to host unreachable: No route" >&2; exit 255;; esac
while [ "$1" != -- ]; do shift; done
shift 3
exec {DOCKER} --host {docker_engine.host} "$@"
"""
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "ssh-arguments"


def test_over_ssh(docker_engine: RunningEngine, stub_ssh: Path, tmp_path: Path) -> None:
    """Questions and an export, each over an ssh of its own, which has ended afterwards."""
    image_id = docker_engine.load_root("ssh-test:1", {"data": os.urandom(5 << 20)})
    endpoint = find("ssh://me@far.example:2222", {})
    assert fetch_over(endpoint, "ssh-test:1", tmp_path / "cache") == image_id
    lines = set(stub_ssh.read_text().splitlines())
    expected = "-T -o ConnectTimeout=30 -l me -p 2222 -- far.example docker system dial-stdio"
    assert lines == {expected}


def test_ssh_that_fails(stub_ssh: Path) -> None:
    """The error is what ssh said."""
    with pytest.raises(EngineUnreachable, match="ssh: connect to host unreachable: No route"):
        Engine(find("ssh://unreachable", {})).version()


def test_ssh_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="ssh is not installed"):
        Engine(find("ssh://far.example", {})).version()


@pytest.mark.parametrize(
    ("host", "command"),
    [
        ("ssh://far.example", "ssh -T -o ConnectTimeout=30 -- far.example docker"),
        (
            "ssh://far.example/run/d.sock",
            "ssh -T -o ConnectTimeout=30 -- far.example docker --host=unix:///run/d.sock",
        ),
        (
            "ssh://far.example/$(id)",
            "ssh -T -o ConnectTimeout=30 -- far.example docker '--host=unix:///$(id)'",
        ),
    ],
)
def test_the_ssh_command(host: str, command: str) -> None:
    """As the docker command line runs it; the host is never taken for an option."""
    assert ssh_command(host) == [*command.split(), "system", "dial-stdio"]
