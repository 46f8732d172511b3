"""Where the engine is, and how bytes get there: DOCKER_HOST, contexts, sockets, TLS, ssh.

Owns the search for the engine's address, by the rules of the docker command line, and HTTP
sessions over each kind of address. Knows nothing of what is asked over them. An Endpoint is a
value; a session belongs to one thread.
"""

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from imagefs.errors import HostError, UsageError

if TYPE_CHECKING:
    import requests

DOCKER_SOCKET = "/var/run/docker.sock"
PODMAN_SOCKET = "/run/podman/podman.sock"
_PORT = 2375
"""Where docker looks for an engine, with TLS or without, if nobody says the port."""
_HOST = re.compile(r"[\w.:%-]+")
_TLS_FILES = ("ca.pem", "cert.pem", "key.pem")


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS: a directory with ca.pem, cert.pem and key.pem, and whether to verify.

    The directory's path is absolute, since a daemon works in another one.
    """

    directory: Path
    verify: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An engine's address: `unix://PATH`, `tcp://HOST:PORT` or `ssh://[USER@]HOST[:PORT]`.

    `absence` is what to say if nobody answers there, where that is known beforehand.
    """

    host: str
    tls: Tls | None = None
    absence: str | None = None

    def base_url(self) -> str:
        """Return the URL that requests to this engine begin with."""
        scheme, _, rest = self.host.partition("://")
        if scheme == "unix":
            return f"http+unix://{quote(rest, safe='')}"
        if scheme == "ssh":
            return "http+ssh://engine"
        return f"{'https' if self.tls else 'http'}://{rest.rstrip('/')}"

    def session(self) -> "requests.Session":
        """Open a session; the caller closes it."""
        import requests  # noqa: PLC0415 - 100 ms that no command without an engine should pay

        session = requests.Session()
        # Neither proxies nor ~/.netrc have a say in how to reach an engine.
        session.trust_env = False
        if self.host.startswith("unix://"):
            from imagefs.engine.unix import UnixAdapter  # noqa: PLC0415

            session.mount("http+unix://", UnixAdapter(self.base_url()))
        elif self.host.startswith("ssh://"):
            from imagefs.engine.ssh import SshAdapter  # noqa: PLC0415

            session.mount("http+ssh://", SshAdapter(self.host))
        elif self.tls is not None:
            _use_tls(session, self.tls)
        return session


def _use_tls(session: "requests.Session", tls: Tls) -> None:
    ca, cert, key = (tls.directory / name for name in _TLS_FILES)
    if tls.verify and not ca.exists():
        raise HostError(f"{ca}: no such file; the engine's TLS certificate cannot be verified")
    if cert.exists() and key.exists():
        session.cert = (str(cert), str(key))
    if tls.verify:
        session.verify = str(ca)
    else:
        import urllib3  # noqa: PLC0415

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        session.verify = False


def find(host: str | None = None, environ: Mapping[str, str] = os.environ) -> Endpoint:
    """Return the engine to use: `host`, DOCKER_HOST, the docker context, or a known socket."""
    host = host or environ.get("DOCKER_HOST")
    if host:
        return _endpoint(host, _environment_tls(environ))
    config_dir = Path(environ.get("DOCKER_CONFIG") or _home() / ".docker").absolute()
    context = environ.get("DOCKER_CONTEXT") or _current_context(config_dir)
    if context and context != "default":
        return _context(config_dir, context)
    return _known_socket(environ)


def _home() -> Path:
    """Return the user's home directory; for who has none, one in which there is nothing of ours."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def _endpoint(host: str, tls: Tls | None) -> Endpoint:
    scheme, separator, rest = host.partition("://")
    if not separator and host.startswith("/"):
        return Endpoint(f"unix://{host}")
    if scheme == "unix" and rest.startswith("/"):
        return Endpoint(host)
    if not separator:
        scheme, rest = "tcp", host
    if scheme in {"tcp", "http", "https"} and (address := _tcp_address(rest)):
        if scheme == "https" and tls is None:
            tls = Tls(_home() / ".docker", verify=True)
        return Endpoint(f"tcp://{address}", tls)
    if scheme == "ssh" and _names_a_host(host):
        return Endpoint(host)
    raise UsageError(
        f"{host!r} is no engine address: unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST"
    )


def _tcp_address(said: str) -> str | None:
    """Return `HOST:PORT[/PREFIX]`, with what is left out as docker has it; None if it is none."""
    try:
        parts = urlsplit(f"//{said}")
        host, port = parts.hostname or "localhost", parts.port or _PORT
    except ValueError:
        return None
    if "@" in parts.netloc or not _HOST.fullmatch(host):
        return None
    return f"{f'[{host}]' if ':' in host else host}:{port}{parts.path.rstrip('/')}"


def _names_a_host(host: str) -> bool:
    try:
        parts = urlsplit(host)
        return (
            bool(parts.hostname)
            # ssh would take either for an option.
            and not (parts.hostname or "").startswith("-")
            and not (parts.username or "").startswith("-")
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        return False


def _environment_tls(environ: Mapping[str, str]) -> Tls | None:
    verify = bool(environ.get("DOCKER_TLS_VERIFY"))
    if not verify and not environ.get("DOCKER_TLS"):
        return None
    directory = environ.get("DOCKER_CERT_PATH")
    return Tls(Path(directory or _home() / ".docker").absolute(), verify)


def _current_context(config_dir: Path) -> str | None:
    try:
        config = json.loads((config_dir / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    current = config.get("currentContext") if isinstance(config, dict) else None
    return current if isinstance(current, str) else None


def _context(config_dir: Path, name: str) -> Endpoint:
    """Read a docker context; its directory is named by the SHA-256 of its name."""
    try:
        key = sha256(os.fsencode(name)).hexdigest()
    except UnicodeEncodeError as error:
        raise HostError(f"{name!r} is no name of a docker context") from error
    path = config_dir / "contexts" / "meta" / key / "meta.json"
    try:
        docker = json.loads(path.read_bytes())["Endpoints"]["docker"]
        host, skip_verify = docker["Host"], bool(docker.get("SkipTLSVerify"))
    except FileNotFoundError as error:
        raise HostError(f"docker context {name!r} does not exist ({path})") from error
    except RecursionError as error:
        raise HostError(f"{path}: docker context {name!r} nests too deeply") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HostError(f"{path}: docker context {name!r} cannot be read: {error!r}") from error
    if not isinstance(host, str):
        raise HostError(f"{path}: docker context {name!r} names no host")
    tls_dir = config_dir / "contexts" / "tls" / key / "docker"
    return _endpoint(host, Tls(tls_dir, not skip_verify) if tls_dir.is_dir() else None)


def _known_socket(environ: Mapping[str, str]) -> Endpoint:
    """Return the first socket that can be used, or the first that exists: its error tells why.

    That none exists is no error yet, since an image of the store needs no engine.
    """
    candidates = [DOCKER_SOCKET, PODMAN_SOCKET]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        candidates[1:1] = f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"
    existing = [path for path in candidates if _is_socket(path)]
    usable = [path for path in existing if os.access(path, os.R_OK | os.W_OK)]
    for path in usable or existing:
        return Endpoint(f"unix://{path}")
    absence = (
        f"no engine found: none of {', '.join(candidates)} exists; start Docker or Podman,"
        " or say where it is with --host or DOCKER_HOST"
    )
    return Endpoint(f"unix://{DOCKER_SOCKET}", absence=absence)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
