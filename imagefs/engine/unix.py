"""HTTP to an engine by a unix socket.

Owns the adapter that makes requests speak over one, and `OnePool`, which any adapter is whose
address is no URL's host. Imported only for engines that are asked.
"""

import socket
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter


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


class _UnixConnection(urllib3.connection.HTTPConnection):
    """A connection to the socket at a path."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect, within the time that the pool has set."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _UnixPool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", maxsize=1)
        self._path = path

    def _new_conn(self) -> _UnixConnection:
        return _UnixConnection(self._path)


class UnixAdapter(OnePool):
    """A requests adapter for the engine whose socket is at a path."""

    def __init__(self, path: str) -> None:
        super().__init__(_UnixPool(path))
