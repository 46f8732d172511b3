"""HTTP to an engine by a unix socket.

Owns the adapter that makes requests speak over one, and `OnePool`, which any adapter is whose
address is no URL's host. Imported only for engines that are asked.
"""

import socket
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from requests.adapters import HTTPAdapter
from requests_unixsocket.adapters import UnixHTTPConnection, UnixHTTPConnectionPool


class OnePool(HTTPAdapter):
    """A requests adapter that has one pool of connections, whatever the request."""

    def __init__(self, pool: urllib3.connectionpool.HTTPConnectionPool) -> None:
        super().__init__(max_retries=0)
        self._pool = pool

    def get_connection_with_tls_context(
        self, *_: Any, **__: Any
    ) -> urllib3.connectionpool.HTTPConnectionPool:
        """Return the pool."""
        return self._pool

    def close(self) -> None:
        """Close the pool with its connections."""
        self._pool.close()


class _Connection(UnixHTTPConnection):  # type: ignore[misc]
    """A connection whose socket is closed where nobody listens, too."""

    def connect(self) -> None:
        """Connect, within the time that the pool has set."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(self.timeout)
            sock.connect(unquote(urlsplit(self.unix_socket_url).netloc))
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _Pool(UnixHTTPConnectionPool):  # type: ignore[misc]
    def _new_conn(self) -> _Connection:
        return _Connection(self.socket_path, self.timeout)


class UnixAdapter(OnePool):
    """A requests adapter for the engine whose socket a URL of http+unix tells."""

    def __init__(self, url: str) -> None:
        super().__init__(_Pool(url))
