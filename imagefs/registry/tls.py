"""Whom to believe that they are a registry: the system's authorities, and those kept for one host.

Owns the reading of certs.d, which Docker and the tools of containers share (docker's "certificates"
page, containers-certs.d(5)): the first directory that has a folder `HOST[:PORT]` counts, and in it
`*.crt` are authorities, `*.cert` with its `*.key` is what we show of ourselves. Any thread may
call it.
"""

import ipaddress
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from requests.adapters import HTTPAdapter

from imagefs.errors import HostError
from imagefs.image.options import SourceOptions
from imagefs.registry.credentials import config_home

_CONNECTIONS = 8
_SYSTEM = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def context_for(place: str, options: SourceOptions, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Return how to speak TLS with `place`, a `HOST[:PORT]`. HostError names an unusable file."""
    context = ssl.create_default_context()
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.tls_ca is not None:
        _trust(context, options.tls_ca)
    for folder in _folders(environ):
        own = folder / place
        if own.is_dir():
            _read(own, context)
            break
    return context


def _folders(environ: Mapping[str, str]) -> list[Path]:
    home = config_home(environ)
    return [*([home / "containers" / "certs.d"] if home else []), *map(Path, _SYSTEM)]


def _read(folder: Path, context: ssl.SSLContext) -> None:
    for path in _listed(folder):
        if path.suffix == ".crt":
            _trust(context, path)
        elif path.suffix == ".cert":
            key = path.with_suffix(".key")
            try:
                # Without a terminal to ask at: a key with a password is refused.
                context.load_cert_chain(path, key, lambda: "")
            except (OSError, ValueError) as error:
                raise _unusable(f"{path} with {key.name}", error) from error


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _unusable(str(folder), error) from error


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise _unusable(str(path), error) from error


def _unusable(what: str, error: Exception) -> HostError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, ssl.SSLError):
        reason = "is no certificate that can be read (PEM)"
    return HostError(f"{what}: {reason}")


class Adapter(HTTPAdapter):
    """Connections that trust what a context says, and nothing that comes with Python packages."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_maxsize=_CONNECTIONS, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """See HTTPAdapter."""
        return super().proxy_manager_for(*args, ssl_context=self._context, **options)

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Leave to the context what is trusted."""
