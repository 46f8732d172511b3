"""Real registries for the tests: Debian's docker-registry on loopback, in all ways to run it."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from tests.support.engines import end
from tests.support.needs import REGISTRY, SETPRIV, need_registry, need_tool
from tests.support.samples import OCI, Layout

USER, PASSWORD = "gardener", "c0rrect-h0rse"
_HASHED = "$2y$05$nFSKjHsU7.3EKSG4pRlu.uRlnAT0Owx.x4hmaVLcfG29u0ksF7Yb."
"""The password by bcrypt, which is all that the registry takes."""
_STARTS_WITHIN = 60.0
_ISSUER, _SERVICE = "tests", "registry.tests"


@dataclass(frozen=True)
class RunningRegistry:
    """A registry that answers at `place`, a HOST:PORT; what it was asked for is in `log`."""

    place: str
    log: Path
    folder: Path

    def copy(self, source: str, name: str, *options: str) -> str:
        """Push an image that skopeo finds; return its reference for imagefs."""
        skopeo = [need_tool("skopeo", "skopeo"), "--insecure-policy", "copy", "--quiet"]
        target = f"docker://{self.place}/{name}"
        command = [*skopeo, *options, "--dest-tls-verify=false", source, target]
        with tempfile.TemporaryDirectory() as nothing_known:
            # Else it remembers in a cache of root's own how other tests pushed the same layers, and
            # uses those, converting the image to what may have them.
            mine = {"_CONTAINERS_ROOTLESS_UID": "1", "XDG_DATA_HOME": nothing_known}
            done = subprocess.run(command, capture_output=True, check=False, env=os.environ | mine)
        assert done.returncode == 0, done.stderr.decode()
        return target

    def put(self, name: str, layout: Layout) -> str:
        """Push what the index of an OCI layout lists first, with all below it, as it stands."""
        repository, _, tag = name.partition(":")
        base = f"http://{self.place}/v2/{repository}"
        index = json.loads(layout["index.json"] or b"")
        self._put(base, layout, index["manifests"][0]["digest"], tag)
        return f"docker://{self.place}/{name}"

    def _put(self, base: str, layout: Layout, digest: str, reference: str) -> None:
        content = layout[f"blobs/sha256/{digest[7:]}"]
        assert isinstance(content, bytes)
        said = json.loads(content)
        for below in said.get("manifests", []):
            self._put(base, layout, below["digest"], below["digest"])
        for blob in filter(None, [said.get("config"), *said.get("layers", [])]):
            place = requests.post(f"{base}/blobs/uploads/", timeout=60).headers["Location"]
            data = layout[f"blobs/sha256/{blob['digest'][7:]}"]
            query = {"digest": blob["digest"]}
            answer = requests.put(place, data=data, params=query, timeout=60)
            assert answer.ok, answer.text
        kind = f"{OCI}.{'index' if 'manifests' in said else 'manifest'}.v1+json"
        headers = {"Content-Type": said.get("mediaType", kind)}
        url = f"{base}/manifests/{reference}"
        answer = requests.put(url, data=content, headers=headers, timeout=60)
        assert answer.ok, answer.text

    def asked(self, kind: str = "blobs") -> list[str]:
        """Return which manifests or blobs clients have had, in order; redirected or not."""
        pattern = rf'"GET /v2/\S+/{kind}/(\S+) HTTP/1.1" 20[06] '
        return re.findall(pattern, self.log.read_text("utf-8", "replace"))

    def sent(self, repository: str) -> dict[str, int]:
        """Return how many bytes of each blob of a repository the registry has sent."""
        pattern = rf'"GET /v2/{repository}/blobs/(\S+) HTTP/1.1" 20[06] (\d+)'
        total: Counter[str] = Counter()
        for blob, count in re.findall(pattern, self.log.read_text("utf-8", "replace")):
            total[blob] += int(count)
        return dict(total)


@contextmanager
def registry(
    *, auth: Mapping[str, Any] | None = None, tls: Mapping[str, Any] | None = None
) -> Iterator[RunningRegistry]:
    """Run a registry on a free port of loopback, which dies with us."""
    need_registry()
    folder = Path(tempfile.mkdtemp(prefix="imagefs-registry-"))
    place = f"localhost:{free_port()}"
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": False}, "level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": place, "secret": "tests", **({"tls": tls} if tls else {})},
        **({"auth": auth} if auth else {}),
    }
    # YAML's JSON.
    (folder / "config.yml").write_text(json.dumps(config))
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [SETPRIV, "--pdeathsig", "TERM", REGISTRY, "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={key: value for key, value in os.environ.items() if "OTEL" not in key},
        )
    try:
        _await(process, place, log)
        yield RunningRegistry(place, log, folder)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a port of loopback that nobody has just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _await(process: "subprocess.Popen[bytes]", place: str, log: Path) -> None:
    host, port = place.split(":")
    late = time.monotonic() + _STARTS_WITHIN
    while True:
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < late, "the registry did not start"
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.05)


def by_password(folder: Path) -> dict[str, Any]:
    """Return the configuration of a registry that wants USER's PASSWORD."""
    path = folder / "htpasswd"
    path.write_text(f"{USER}:{_HASHED}\n")
    return {"htpasswd": {"realm": "tests", "path": str(path)}}


def openssl(*words: str | Path, stdin: bytes = b"") -> bytes:
    """Run openssl; return what it printed."""
    done = subprocess.run(
        [need_tool("openssl", "openssl"), *map(str, words)],
        input=stdin,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the tests' own."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """What others must believe in."""
        return self.folder / "ca.pem"

    def issue(self, name: str, *names: str) -> tuple[Path, Path]:
        """Return a certificate and a key for a host or a user."""
        key, request, made = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        openssl(*_NEW_KEY, "-nodes", "-keyout", key, "-subj", f"/CN={name}", "-out", request)
        extra = self.folder / f"{name}.ext"
        said = f"subjectAltName={','.join(names)}" if names else "basicConstraints=CA:FALSE"
        extra.write_text(f"{said}\n")
        signed = ("-CA", self.certificate, "-CAkey", self.folder / "ca.key", "-CAcreateserial")
        made_of = ("x509", "-req", "-in", request, *signed, "-days", "30", "-extfile", extra)
        openssl(*made_of, "-out", made)
        return made, key


_NEW_KEY = ("req", "-newkey", "rsa:2048")


def authority(folder: Path) -> Authority:
    """Make an authority in a folder."""
    folder.mkdir(exist_ok=True)
    own = ("-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-subj", "/CN=tests")
    openssl(*_NEW_KEY, "-x509", "-nodes", "-days", "30", *own)
    return Authority(folder)


class TokenIssuer:
    """Issues tokens that the registry verifies, as a server of its own at `url`.

    Who has no password may pull what is `public`. Asked by a refresh token, it takes `identity`.
    """

    def __init__(self, folder: Path, public: Sequence[str] = ("library/",)) -> None:
        self._authority = authority(folder)
        self._public = tuple(public)
        self.identity = "an-identity-token"
        self.lifetime = 300
        self.asked: list[tuple[str, dict[str, str], str]] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(urlsplit(self.path).query)

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

            def _answer(self, query: str) -> None:
                said = {key: values[0] for key, values in parse_qs(query).items()}
                login = self.headers.get("Authorization", "")
                issuer.asked.append((self.command, said, login))
                status, body = issuer.answer(said, login)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self._server.server_port}/token"
        self._thread = Thread(target=self._server.serve_forever)

    def __enter__(self) -> "TokenIssuer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def config(self) -> dict[str, Any]:
        """Return the configuration of a registry that sends its clients here."""
        return {
            "token": {
                "realm": self.url,
                "service": _SERVICE,
                "issuer": _ISSUER,
                "rootcertbundle": str(self._authority.certificate),
            }
        }

    def answer(self, said: Mapping[str, str], login: str) -> tuple[int, bytes]:
        """Return a token for what is asked, as far as it may be had."""
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = login == f"Basic {pair}" or said.get("refresh_token") == self.identity
        if (login or "refresh_token" in said) and not known:
            # As a careless server does, it says what it was told.
            error = {"code": "DENIED", "message": f"not {login}"}
            return 401, json.dumps({"errors": [error]}).encode()
        kind, name, actions = (said.get("scope") or "::").split(":")
        wanted = actions.split(",") if known or name.startswith(self._public) else []
        access = [{"type": kind, "name": name, "actions": wanted}] if wanted else []
        return 200, json.dumps({"token": self.token(access), "expires_in": self.lifetime}).encode()

    def token(self, access: Any) -> str:
        """Return a JSON Web Token by RS256, with the certificate that verifies it."""
        der = openssl("x509", "-in", self._authority.certificate, "-outform", "DER")
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": _ISSUER,
            "aud": _SERVICE,
            "sub": USER,
            "exp": now + self.lifetime,
            "nbf": now - 60,
            "iat": now,
            "jti": os.urandom(8).hex(),
            "access": access,
        }
        signed = ".".join(_packed(json.dumps(part).encode()) for part in (head, claims))
        key = self._authority.folder / "ca.key"
        signature = openssl("dgst", "-sha256", "-sign", key, stdin=signed.encode())
        return f"{signed}.{_packed(signature)}"


def _packed(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def auth_file(path: Path, place: str, username: str = USER, password: str = PASSWORD) -> Path:
    """Write a file as `podman login` does."""
    packed = base64.b64encode(f"{username}:{password}".encode()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {place: {"auth": packed}}}))
    return path
