"""Who we are to a registry, as `podman login`, `skopeo login` and `docker login` keep it.

Owns the search through their files (containers-auth.json(5), docker's config.json) and the talk
with credential helpers. What is found never shows: not in a representation, not in a message, and
a helper is told nothing but the registry's name, on its standard input. Any thread may call it.
"""

import base64
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagefs.image import safe_json
from imagefs.image.reference import DEFAULT_DOMAIN
from imagefs.text import one_line

_HELPER_TIMEOUT = 60.0
"""Seconds for a credential helper, which may have to ask somebody."""
_MAX_FILE = 4 << 20
_DOCKER_KEY = f"https://index.{DEFAULT_DOMAIN}/v1/"
"""What docker has always called its own registry in these files."""
_TOKEN_USER = "<token>"
_NONE = "credentials not found"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password, or an identity token; `source` says who keeps them."""

    source: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)


def config_home(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of the user's own configuration; None for who has no home."""
    if given := environ.get("XDG_CONFIG_HOME"):
        return Path(given)
    home = _home(environ)
    return home / ".config" if home else None


def _home(environ: Mapping[str, str]) -> Path | None:
    if given := environ.get("HOME"):
        return Path(given)
    try:
        return Path.home()
    except RuntimeError:
        return None


def find(
    domain: str,
    repository: str,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
) -> Credentials | None:
    """Return what a repository is to be asked with; None for nothing.

    A file or a helper that cannot be used is warned of and passed over, since most of what is in
    registries is for everybody.
    """
    for path in _files(environ):
        config = _read(path, warn)
        if config is not None:
            found = _in_file(path, config, (domain, repository), warn)
            if found is not None:
                return found
    return None


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield where credentials may be kept, in the order in which skopeo looks."""
    if given := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(given)
        return
    runtime = environ.get("XDG_RUNTIME_DIR")
    yield Path(runtime or f"/run/containers/{os.getuid()}", *(["containers"] if runtime else []),
               "auth.json")  # fmt: skip
    home = config_home(environ)
    if home is not None:
        yield home / "containers" / "auth.json"
    docker = environ.get("DOCKER_CONFIG")
    own = _home(environ)
    if docker or own:
        yield Path(docker) / "config.json" if docker else Path(own or "", ".docker", "config.json")


def _read(path: Path, warn: Callable[[str], None]) -> Json | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        warn(f"{path}: {error.strerror}; asking without what it holds")
        return None
    try:
        # What is wrong is not said more closely: it might quote a password.
        config = safe_json.loads(content or b"{}")
    except safe_json.BadJsonError:
        config = None
    if not isinstance(config, dict):
        warn(f"{path}: is not a JSON object; asking without what it holds")
        return None
    return config


def _in_file(
    path: Path, config: Json, wanted: tuple[str, str], warn: Callable[[str], None]
) -> Credentials | None:
    """Return what a file has for a repository: the longest key that its name begins with counts."""
    auths = _object(config.get("auths"))
    helpers = _object(config.get("credHelpers"))
    domain, repository = wanted
    for key in _keys(domain, repository):
        helper = helpers.get(key)
        if isinstance(helper, str) and (found := _from_helper(path, helper, key, warn)):
            return found
        if found := _entry(path, key, auths.get(key)):
            return found
    store = config.get("credsStore")
    if isinstance(store, str) and store:
        key = _DOCKER_KEY if domain == DEFAULT_DOMAIN else domain
        if found := _from_helper(path, store, key, warn):
            return found
    # Docker's older keys are addresses.
    for key, entry in auths.items():
        if _host_of(key) == domain and (found := _entry(path, key, entry)):
            return found
    return None


def _keys(domain: str, repository: str) -> Iterator[str]:
    """Yield the keys that mean a repository, the narrowest first."""
    parts = [domain, *repository.split("/")]
    for count in range(len(parts), 0, -1):
        yield "/".join(parts[:count])
    if domain == DEFAULT_DOMAIN:
        yield _DOCKER_KEY


def _host_of(key: str) -> str:
    """Return the registry that an address in docker's file means."""
    scheme, mark, rest = key.partition("://")
    host, _, path = (rest if mark else scheme).partition("/")
    if path.strip("/") not in ("", "v1", "v2"):
        return ""
    own = (f"index.{DEFAULT_DOMAIN}", f"registry-1.{DEFAULT_DOMAIN}")
    return DEFAULT_DOMAIN if host in own else host


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _entry(path: Path, key: str, entry: Any) -> Credentials | None:
    """Return what an entry of `auths` holds; it is empty where a helper has the secrets."""
    said = _object(entry)
    source = f"{path} ({one_line(key)})"
    token = said.get("identitytoken")
    username, password = said.get("username"), said.get("password")
    packed = said.get("auth")
    if isinstance(packed, str) and packed:
        try:
            text = base64.b64decode(packed, validate=False).decode()
        except ValueError:
            return None
        username, _, password = text.partition(":")
        password = password.rstrip("\0")
    username = username if isinstance(username, str) else ""
    password = password if isinstance(password, str) else ""
    if isinstance(token, str) and token:
        return Credentials(source, username, "", token)
    return Credentials(source, username, password) if username else None


def _from_helper(
    path: Path, helper: str, key: str, warn: Callable[[str], None]
) -> Credentials | None:
    """Ask a program of the protocol of docker-credential-helpers for a registry's secrets."""
    program = f"docker-credential-{helper}"
    if "/" in helper:
        warn(f"{path}: names a credential helper by a path, {one_line(helper)!r}; it is not run")
        return None
    try:
        done = subprocess.run(
            [program, "get"],
            input=key.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        warn(f"{path}: {program} is not installed; asking without credentials")
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"no answer within {_HELPER_TIMEOUT:g} s"
        warn(f"{path}: {program}: {reason}; asking without credentials")
        return None
    if done.returncode:
        # The protocol's way to say no is a sentence on standard output.
        if _NONE not in done.stdout.decode("utf-8", "replace"):
            warn(f"{path}: {program} failed ({done.returncode}); asking without credentials")
        return None
    return _answer(f"{program} ({path})", done.stdout, warn)


def _answer(source: str, output: bytes, warn: Callable[[str], None]) -> Credentials | None:
    try:
        said = _object(safe_json.loads(output))
    except safe_json.BadJsonError:
        said = {}
    username, secret = said.get("Username"), said.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        warn(f"{source}: does not answer with credentials; asking without any")
        return None
    if username == _TOKEN_USER:
        return Credentials(source, "", "", secret)
    return Credentials(source, username, secret) if username else None
