"""HTTP to an engine on another machine, by way of ssh and `docker system dial-stdio`.

Owns the adapter that makes requests speak over the standard input and output of an ssh process.
The process lives as long as its connection. Imported only for ssh:// addresses.
"""

import shlex
import socket
import subprocess
import tempfile
from typing import Any
from urllib.parse import urlsplit

import urllib3

from imagefs.engine.unix import OnePool
from imagefs.errors import HostError

_ENDS_WITHIN = 5.0


class _SshConnection(urllib3.connection.HTTPConnection):
    """A connection whose other end is an ssh process."""

    def __init__(self, command: list[str], timeout: Any) -> None:
        super().__init__("localhost", timeout=timeout)
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._last_words = ""

    def connect(self) -> None:
        """Start ssh with one end of a socket pair as its standard input and output."""
        ours, theirs = socket.socketpair()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._complaints,
            )
        except FileNotFoundError as error:
            ours.close()
            self._complaints.close()
            raise HostError("ssh is not installed; it is needed for an ssh:// engine") from error
        finally:
            theirs.close()
        self.sock = ours

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        """Read the answer; if there is none, say what ssh said."""
        try:
            return super().getresponse()
        except (OSError, urllib3.exceptions.HTTPError) as error:
            self.close()
            raise (OSError(self._last_words) if self._last_words else error) from None

    def close(self) -> None:
        """Close the pipe, on which ssh ends, and keep its last words."""
        super().close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with self._complaints as complaints:
            complaints.seek(0)
            lines = complaints.read(65536).decode("utf-8", "replace").strip().splitlines()
        self._last_words = lines[-1] if lines else ""


class _SshPool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, command: list[str]) -> None:
        super().__init__("localhost", maxsize=1)
        self._command = command

    def _new_conn(self) -> _SshConnection:
        return _SshConnection(self._command, self.timeout)


class SshAdapter(OnePool):
    """A requests adapter for one `ssh://[USER@]HOST[:PORT]` address."""

    def __init__(self, host: str) -> None:
        super().__init__(_SshPool(ssh_command(host)))


def ssh_command(host: str) -> list[str]:
    """Return the command line that joins its standard input and output to the engine."""
    parts = urlsplit(host)
    command = ["ssh", "-T", "-o", "ConnectTimeout=30"]
    if parts.username:
        command += ["-l", parts.username]
    if parts.port:
        command += ["-p", str(parts.port)]
    command += ["--", parts.hostname or "", "docker"]
    if parts.path.strip("/"):
        # The shell of the other machine reads what follows the host.
        command.append(shlex.quote(f"--host=unix://{parts.path}"))
    return [*command, "system", "dial-stdio"]
