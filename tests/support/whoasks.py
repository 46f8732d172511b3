"""Where the docker command and imagefs turn to, each with the same environment.

Run as `unshare --net python -m tests.support.whoasks FOLDER`: the network is then one of its own,
in which nobody else listens. Reads JSON from standard input, a list of environments, and prints
for each what docker asked first, and what imagefs did: `ADDRESS PATH`, `ADDRESS tls`, or `nobody`.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from imagefs.engine.addresses import find
from imagefs.engine.api import Engine
from imagefs.errors import ImagefsError
from tests.support.needs import DOCKER

_SIOCSIFFLAGS = 0x8914  # <linux/sockios.h>
_IFF_UP = 1  # <linux/if.h>
_ANSWER = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"
_TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1


class Listeners:
    """Who listens on loopback and on a socket, and what they were asked first."""

    def __init__(self, folder: str) -> None:
        self.asked: list[str] = []
        for port in (2375, 2376, 8080):
            self._listen(socket.AF_INET, ("127.0.0.1", port), f"127.0.0.1:{port}")
            self._listen(socket.AF_INET6, ("::1", port), f"[::1]:{port}")
        self._listen(socket.AF_UNIX, f"{folder}/a.sock", "unix")

    def _listen(self, family: socket.AddressFamily, address: object, name: str) -> None:
        listener = socket.socket(family)
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()
        threading.Thread(target=self._answer, args=(listener, name), daemon=True).start()

    def _answer(self, listener: socket.socket, name: str) -> None:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                said = connection.recv(65536)
                words = said.split(b" ", 2)
                what = "tls" if said[:1] == _TLS_HANDSHAKE else words[1].decode()
                self.asked.append(f"{name} {what}")
                connection.sendall(b"" if what == "tls" else _ANSWER)

    def first(self, ask: Callable[[], None]) -> str:
        """Return what is asked first while something runs."""
        self.asked.clear()
        ask()
        return self.asked[0] if self.asked else "nobody"


def ask_by_docker(environ: Mapping[str, str]) -> None:
    """Have the docker command ask its engine."""
    subprocess.run([DOCKER, "version"], env=environ, capture_output=True, check=False, timeout=60)


def ask_by_imagefs(environ: Mapping[str, str]) -> None:
    """Ask the engine that imagefs finds."""
    os.environ["HOME"] = environ["HOME"]
    with suppress(ImagefsError):
        Engine(find(None, environ), 5.0).version()


def main() -> None:
    """Ask for each environment by both."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    listeners = Listeners(sys.argv[1])
    answers = []
    for environ in json.load(sys.stdin):
        by_docker = listeners.first(lambda: ask_by_docker(environ))  # noqa: B023 - called at once
        by_imagefs = listeners.first(lambda: ask_by_imagefs(environ))  # noqa: B023 - called at once
        answers.append((by_docker, by_imagefs))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
