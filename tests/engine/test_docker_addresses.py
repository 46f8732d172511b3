"""The engine's address, found as the real docker command finds it."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support import needs

ROOT = Path(__file__).parent.parent.parent

# What the environment says, and who is asked; `{folder}` is a directory with an a.sock.
TLS = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "{folder}/certs"}
CASES: dict[str, tuple[dict[str, str], str]] = {
    address: ({"DOCKER_HOST": address}, asked)
    for address, asked in {
        "127.0.0.1:2375": "127.0.0.1:2375 /_ping",
        "127.0.0.1": "127.0.0.1:2375 /_ping",
        ":2375": "127.0.0.1:2375 /_ping",
        ":2376": "127.0.0.1:2376 /_ping",
        "127.0.0.1:8080/x": "127.0.0.1:8080 /x/_ping",
        "[::1]:2375": "[::1]:2375 /_ping",
        "tcp://": "127.0.0.1:2375 /_ping",
        "tcp://:2376": "127.0.0.1:2376 /_ping",
        "tcp://127.0.0.1": "127.0.0.1:2375 /_ping",
        "tcp://127.0.0.1:2376": "127.0.0.1:2376 /_ping",
        "tcp://127.0.0.1:8080/": "127.0.0.1:8080 /_ping",
        "tcp://127.0.0.1:8080/prefix": "127.0.0.1:8080 /prefix/_ping",
        "tcp://127.0.0.1:8080/a/b/": "127.0.0.1:8080 /a/b/_ping",
        "tcp://127.0.0.1/prefix": "127.0.0.1:2375 /prefix/_ping",
        "tcp://[::1]:8080": "[::1]:8080 /_ping",
        "tcp://127.0.0.1:port": "nobody",
        "tcp://127.0.0.1:99999": "nobody",
        "unix://{folder}/a.sock": "unix /_ping",
        "unix:///{folder}/a.sock": "unix /_ping",
        "fd://": "nobody",
        "fd://3": "nobody",
        "ftp://127.0.0.1": "nobody",
        "npipe:////./pipe/docker_engine": "nobody",
    }.items()
} | {
    "verified TLS": ({"DOCKER_HOST": "tcp://127.0.0.1:2376", **TLS}, "127.0.0.1:2376 tls"),
    "TLS to the plain port": ({"DOCKER_HOST": "tcp://127.0.0.1:2375", **TLS}, "127.0.0.1:2375 tls"),
    "TLS without a port": ({"DOCKER_HOST": "tcp://127.0.0.1", **TLS}, "127.0.0.1:2375 tls"),
    "TLS with a prefix": (
        {"DOCKER_HOST": "tcp://127.0.0.1:8080/p", **TLS},
        "127.0.0.1:8080 tls",
    ),
    "TLS without verification": (
        {
            "DOCKER_HOST": "tcp://127.0.0.1:2376",
            "DOCKER_TLS": "1",
            "DOCKER_CERT_PATH": "{folder}/certs",
        },
        "127.0.0.1:2376 tls",
    ),
    "verified TLS without an authority": (
        {"DOCKER_HOST": "tcp://127.0.0.1:2376", "DOCKER_TLS_VERIFY": "1"},
        "nobody",
    ),
    "certificates alone": (
        {"DOCKER_HOST": "tcp://127.0.0.1:2376", "DOCKER_CERT_PATH": "{folder}/certs"},
        "127.0.0.1:2376 /_ping",
    ),
    "a context of a socket": ({"DOCKER_CONTEXT": "socket"}, "unix /_ping"),
    "a context of TCP": ({"DOCKER_CONTEXT": "tcp"}, "127.0.0.1:8080 /_ping"),
    "a context with a prefix": ({"DOCKER_CONTEXT": "prefix"}, "127.0.0.1:8080 /p/_ping"),
    "a context that verifies": ({"DOCKER_CONTEXT": "verifies"}, "127.0.0.1:2376 tls"),
    "a context that does not verify": ({"DOCKER_CONTEXT": "trusts"}, "127.0.0.1:2376 tls"),
    "a context and an address": (
        {"DOCKER_CONTEXT": "tcp", "DOCKER_HOST": "unix://{folder}/a.sock"},
        "unix /_ping",
    ),
    "a context that is not there": ({"DOCKER_CONTEXT": "nowhere"}, "nobody"),
}
CONTEXTS: dict[str, dict[str, Any]] = {
    "socket": {"Host": "unix://{folder}/a.sock"},
    "tcp": {"Host": "tcp://127.0.0.1:8080"},
    "prefix": {"Host": "tcp://127.0.0.1:8080/p"},
    "verifies": {"Host": "tcp://127.0.0.1:2376", "SkipTLSVerify": False},
    "trusts": {"Host": "tcp://127.0.0.1:2376", "SkipTLSVerify": True},
}


def make_authority(folder: Path) -> None:
    """Write an authority's certificate where TLS looks for one; nothing is signed by it."""
    folder.mkdir(parents=True, exist_ok=True)
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -keyout key -out ca.pem"
    subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)
    (folder / "key").unlink()


def make_contexts(home: Path, folder: Path) -> None:
    for name, endpoint in CONTEXTS.items():
        key = sha256(name.encode()).hexdigest()
        meta = home / ".docker/contexts/meta" / key / "meta.json"
        meta.parent.mkdir(parents=True)
        said = {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
        meta.write_text(json.dumps(said).replace("{folder}", str(folder)))
        if "SkipTLSVerify" in endpoint:
            make_authority(home / ".docker/contexts/tls" / key / "docker")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a network of its own")
def test_docker_and_imagefs_ask_the_same_engine(tmp_path: Path) -> None:
    """For every address, context and setting of TLS, both turn to the same place, or to nobody."""
    needs.need_docker()
    needs.need_tool("openssl", "openssl")
    home = tmp_path / "home"
    make_authority(tmp_path / "certs")
    make_contexts(home, tmp_path)
    environs = [
        {"HOME": str(home), "PATH": os.environ["PATH"]}
        | {key: value.replace("{folder}", str(tmp_path)) for key, value in environ.items()}
        for environ, _ in CASES.values()
    ]
    words = ["unshare", "--net", sys.executable, "-m", "tests.support.whoasks", str(tmp_path)]
    done = subprocess.run(
        words, input=json.dumps(environs).encode(), stdout=subprocess.PIPE, cwd=ROOT, check=True
    )
    found = dict(zip(CASES, json.loads(done.stdout), strict=True))
    expected = {name: [asked, asked] for name, (_, asked) in CASES.items()}
    assert found == expected
