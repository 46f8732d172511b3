"""Engines that misbehave, as real servers on a unix socket; and well-formed exports to spoil.

A ScriptedEngine sends the bytes that it was given for a path and closes the connection, so that
anything can be said, HTTP or not.
"""

import copy
import json
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from imagefs.engine.addresses import Endpoint
from imagefs.engine.api import Engine
from tests.support.scripted import ScriptedServer
from tests.support.tars import File, Sym, layer

Answer = Iterable[bytes] | Callable[[], Iterable[bytes]]
"""What is sent for a request: pieces, or a function that makes them, and may wait in between."""

SILENCE: list[bytes] = []
"""The answer that never comes."""

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"


class ScriptedEngine(ScriptedServer):
    """A server whose answers are found by the end of the path; /_ping is answered well."""

    def __init__(self, path: Path, answers: Mapping[str, Answer]) -> None:
        self.host = f"unix://{path}"
        self.asked: list[str] = []
        self._answers = {"/_ping": [PING], **answers}
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        super().__init__(listener)

    def engine(self, timeout: float = 10.0) -> Engine:
        return Engine(Endpoint(self.host), timeout)

    def answer_to(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536) or b"\r\n\r\n"
        match = re.match(rb"GET (\S+) ", request)
        path = match[1].decode() if match else ""
        self.asked.append(path)
        path = path.partition("?")[0]
        answer = next((a for end, a in self._answers.items() if path.endswith(end)), ())
        for piece in answer() if callable(answer) else answer:
            connection.sendall(piece)
        if answer is SILENCE:
            connection.recv(1)


def http(body: bytes, status: str = "200 OK", kind: str = "application/json") -> list[bytes]:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return [head.encode() + body]


def answer_json(value: Any, status: str = "200 OK") -> list[bytes]:
    return http(json.dumps(value).encode(), status)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunked(body: bytes, size: int = 32768, *, ended: bool = True) -> list[bytes]:
    """Return a stream in chunks, as engines send exports; `ended` by the last, empty chunk."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return [CHUNKED, *framed, *([b"0\r\n\r\n"] if ended else [])]


def digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


class Export:
    """An image with its answers: what an engine says of it, and its export in two layouts."""

    def __init__(self, layers: Sequence[bytes], name: str = "app:v1", **config: Any) -> None:
        self.layers = list(layers)
        self.name = name
        self.diff_ids = [digest(content) for content in layers]
        self.config = json.dumps(
            {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": self.diff_ids}} | config
        ).encode()
        self.id = digest(self.config)

    def configured(self, config: bytes) -> Self:
        """Return the image with another configuration, and with the id that it has by that."""
        other = copy.copy(self)
        other.config, other.id = config, digest(config)
        return other

    def answers(self, export: Answer, **facts: Any) -> dict[str, Answer]:
        """Return the answers of an engine that knows the image, with this for its export.

        `facts` are what it says else of the image, or otherwise.
        """
        said = {
            "Id": self.id,
            "RepoTags": [self.name],
            "RootFS": {"Type": "layers", "Layers": self.diff_ids},
            "Os": "linux",
            "Architecture": "amd64",
            "Size": sum(map(len, self.layers)),
        }
        return {"/json": answer_json(said | facts), "/get": export}

    def entry(self) -> dict[str, Any]:
        """Return what the manifest.json of the classic export says of the image."""
        names = [f"{self._folder(number)}/layer.tar" for number in range(len(self.layers))]
        return {"Config": f"{self.id[7:]}.json", "RepoTags": None, "Layers": names}

    def _folder(self, number: int) -> str:
        return sha256(f"{number} {self.id}".encode()).hexdigest()

    def classic(self, *, manifest: Any = None, config: bytes | None = None) -> bytes:
        """Return the export of Docker 1.10 to 24; a layer that comes twice is a link.

        A `manifest` is written as JSON, or as it is if it is bytes.
        """
        members: dict[str, Any] = {f"{self.id[7:]}.json": File(config or self.config)}
        first: dict[str, str] = {}
        for number, content in enumerate(self.layers):
            folder = self._folder(number)
            members |= {f"{folder}/": "", f"{folder}/VERSION": "1.0", f"{folder}/json": "{}"}
            before = first.setdefault(digest(content), folder)
            again = before != folder
            members[f"{folder}/layer.tar"] = (
                Sym(f"../{before}/layer.tar") if again else File(content)
            )
        said = [self.entry()] if manifest is None else manifest
        members["manifest.json"] = File(
            said if isinstance(said, bytes) else json.dumps(said).encode()
        )
        return layer(members)

    def blobs(self, stored: Sequence[bytes] | None = None) -> bytes:
        """Return the export of Docker 25 and newer; `stored` are the layers as they are sent."""
        sent = self.layers if stored is None else stored
        blobs = {f"blobs/sha256/{digest(content)[7:]}": content for content in sent}
        entry = {
            "Config": f"blobs/sha256/{self.id[7:]}",
            "RepoTags": [self.name],
            "Layers": [f"blobs/sha256/{digest(content)[7:]}" for content in sent],
        }
        blobs[f"blobs/sha256/{self.id[7:]}"] = self.config
        members: dict[str, Any] = {"blobs/": "", "blobs/sha256/": ""}
        members |= {name: File(blobs[name]) for name in sorted(blobs)}
        members |= {"index.json": "{}", "manifest.json": json.dumps([entry])}
        return layer(members | {"oci-layout": "{}", "repositories": "{}"})
