"""Registries that misbehave, as real servers on loopback, which note all that they are asked.

A BadRegistry serves an image well, but for the paths that it was given other answers for: what is
sent is raw bytes, so that anything can be said, HTTP or not.
"""

import json
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support import samples
from tests.support.badengine import SILENCE, http
from tests.support.samples import SampleImage, digest, gz
from tests.support.scripted import ScriptedServer


@dataclass(frozen=True)
class Asked:
    """A request as it came: method, path with its query, headers in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def start(self) -> int:
        """The byte from which on it asks."""
        return int(self.headers.get("range", "bytes=0-")[6:].partition("-")[0])


Answer = Iterable[bytes] | Callable[[Asked], Iterable[bytes]]
"""Pieces to send before the connection is closed, or a function that makes them."""


class BadRegistry(ScriptedServer):
    """A server whose answers are found by the end of the path."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.asked: list[Asked] = []
        self.answers = dict(answers)
        listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"localhost:{listener.getsockname()[1]}"
        super().__init__(listener)

    def answer_to(self, connection: socket.socket) -> None:
        head = connection.recv(65536)
        if head[:1] != b"G" and head[:1] != b"H":
            return  # somebody tries TLS
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536) or b"\r\n\r\n"
        asked = _parsed(head)
        self.asked.append(asked)
        path = asked.path.partition("?")[0]
        answer = next((a for end, a in self.answers.items() if path.endswith(end)), NOT_FOUND)
        for piece in answer(asked) if callable(answer) else answer:
            connection.sendall(piece)
        if answer is SILENCE:
            connection.recv(1)


def _parsed(head: bytes) -> Asked:
    first, *lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Asked(first.split()[0], first.split()[1], headers)


def answer(body: bytes, status: str = "200 OK", **headers: str) -> list[bytes]:
    """Return a whole answer; a header's name has underscores for hyphens."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    # Each connection is for one answer, which a client that would use it again has to be told.
    said = {"Content-Length": str(len(body)), "Connection": "close", **more}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in said.items())]
    return ["\r\n".join([*lines, "", ""]).encode() + body]


NOT_FOUND = http(b'{"errors":[{"code":"UNKNOWN","message":"not known"}]}', "404 Not Found")


def redirect(url: str) -> list[bytes]:
    return answer(b"", "307 Temporary Redirect", Location=url)


def wants(challenge: str) -> list[bytes]:
    return answer(b"", "401 Unauthorized", WWW_Authenticate=challenge)


def ranged(content: bytes, asked: Asked) -> list[bytes]:
    """Return content from the byte on that is asked for."""
    if not asked.start:
        return answer(content)
    place = f"bytes {asked.start}-{len(content) - 1}/{len(content)}"
    return answer(content[asked.start :], "206 Partial Content", Content_Range=place)


def cut(content: bytes, at: int) -> list[bytes]:
    """Return an answer that promises content and breaks off."""
    (whole,) = answer(content)
    return [whole[: len(whole) - len(content) + at]]


def in_turn(*answers: Answer) -> Callable[[Asked], Iterable[bytes]]:
    """Return one answer after the other, and the last for ever."""
    left = list(answers)

    def next_one(asked: Asked) -> Iterable[bytes]:
        chosen = left.pop(0) if len(left) > 1 else left[0]
        return chosen(asked) if callable(chosen) else chosen

    return next_one


def manifest_of(image: SampleImage, **changes: Any) -> bytes:
    """Return the image's manifest, with other words in it."""
    return samples.dumped({**json.loads(samples.oci_manifest(image)), **changes})


def served(image: SampleImage, manifest: bytes | None = None) -> dict[str, Answer]:
    """Return the answers of a registry that has an image as the tag v1."""
    said = manifest if manifest is not None else samples.oci_manifest(image)
    blobs: Sequence[bytes] = [image.config, *map(gz, image.layers)]
    return {
        "/manifests/v1": answer(said, Docker_Content_Digest=digest(said)),
        f"/manifests/{digest(said)}": answer(said),
        **{f"/blobs/{digest(blob, image.algorithm)}": _good(blob) for blob in blobs},
    }


def _good(blob: bytes) -> Callable[[Asked], Iterable[bytes]]:
    return lambda asked: ranged(blob, asked)
