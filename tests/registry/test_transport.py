"""Where a registry may send us, without anybody being asked; and connections that it closes."""

import socket
import ssl
import struct
from typing import BinaryIO

import pytest

from imagefs.errors import RegistryError, RegistryUnreachable
from imagefs.image.options import SourceOptions
from imagefs.registry import transport as registry_transport
from imagefs.registry.tls import Adapter, is_loopback
from imagefs.registry.transport import Transport
from tests.support.scripted import ScriptedServer


def transport(domain: str = "registry.example", **options: bool) -> Transport:
    return Transport(domain, SourceOptions(**options), {}, lambda _: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://registry.example/x", "https://registry.example:443"),
        ("https://storage.example:444/x?y", "https://storage.example:444"),
        ("https://[::1]/x", "https://::1:443"),
        ("http://registry.example/x", None),
        ("http://localhost/x", None),
        ("http://127.0.0.1:8080/x", None),
        ("ftp://registry.example/x", None),
        ("file:///etc/passwd", None),
        ("//registry.example/x", None),
        ("https:///x", None),
        ("https://me:pw@registry.example/x", None),
        ("https://registry.example:x/", None),
        ("https://registry.example:99999/", None),
    ],
)
def test_a_registry_with_tls_leads_to_tls_only(url: str, origin: str | None) -> None:
    """No downgrade, nothing of this machine, no other protocol, no words for who we are."""
    if origin is None:
        with pytest.raises(RegistryError):
            transport().check(url)
    else:
        assert transport().check(url) == origin


def test_plain_http_is_for_who_asks_for_it() -> None:
    """By --plain-http others may be spoken to so as well; TLS is always right."""
    plain = transport(plain_http=True)
    assert plain.base() == "http://registry.example"
    assert plain.check("http://storage.example/x") == "http://storage.example:80"
    assert plain.check("https://storage.example/x") == "https://storage.example:443"


def test_docker_s_own_registry_has_another_host() -> None:
    """docker.io is where people read; the API is elsewhere."""
    assert transport("docker.io").base() == "https://registry-1.docker.io"


@pytest.mark.parametrize("place", ["registry.example", "registry.example:5000", "[::2]:5000"])
def test_connections_trust_our_context(place: str) -> None:
    """Whatever the port, and not what came with a Python package."""
    url = f"https://{place}/v2/"
    adapter = transport()._session(transport().check(url), place).get_adapter(url)
    assert isinstance(adapter, Adapter)
    context = adapter.poolmanager.connection_pool_kw["ssl_context"]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host: str, expected: bool) -> None:
    """Names and addresses that cannot lead elsewhere."""
    assert is_loopback(host) == expected


class _ClosesIdle(ScriptedServer):
    """Answers the first request of each connection and says that it stays, but then it is gone.

    `ends` are how many connections answer; later ones close without a word. `reset` has them close
    as who was killed does.
    """

    def __init__(self, ends: int, *, reset: bool) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{listener.getsockname()[1]}"
        self.asked: list[str] = []
        self._left, self._reset = ends, reset
        super().__init__(listener)

    def answer_to(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            for answers in (self._left > 0, False):
                method = _request(stream)
                if not method:
                    return
                self.asked.append(method)
                if not answers:
                    break
                self._left -= 1
                body = b"" if method == "HEAD" else b"ok"
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
        if self._reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _request(stream: BinaryIO) -> str:
    """Take a request in whole, which may come in parts; return its method, nothing at the end."""
    method = stream.readline().partition(b" ")[0].decode()
    length = 0
    while line := stream.readline().strip().lower():
        name, _, value = line.partition(b":")
        length = int(value) if name == b"content-length" else length
    stream.read(length)
    return method


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_idle_connection_that_was_closed_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, method: str, reset: bool
) -> None:
    """At once and once: it costs none of the waits, and a registry that is gone is told."""
    monkeypatch.setattr(registry_transport, "WAITS", ())
    with _ClosesIdle(3, reset=reset) as server:
        way = transport(server.place, plain_http=True)
        for _ in range(3):
            with way.ask(f"{way.base()}/v2/", {}, method=method) as response:
                assert response.content == (b"ok" if method == "GET" else b"")
        assert server.asked == [method] * 5
        with pytest.raises(RegistryUnreachable, match="no registry answers"):
            way.ask(f"{way.base()}/v2/", {}, method=method)
        assert server.asked == [method] * 7
        way.close()


def test_a_form_is_not_sent_twice_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been received before the connection was closed."""
    monkeypatch.setattr(registry_transport, "WAITS", ())
    with _ClosesIdle(3, reset=False) as server:
        way = transport(server.place, plain_http=True)
        assert way.ask(f"{way.base()}/token", {}, None, "POST", {"a": "b"}).content == b"ok"
        with pytest.raises(RegistryUnreachable, match="no registry answers"):
            way.ask(f"{way.base()}/token", {}, None, "POST", {"a": "b"})
        assert server.asked == ["POST"] * 2
        way.close()


class _Cancels(ScriptedServer):
    """Has somebody end all while an answer is on its way, of which the rest never comes."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.way = transport(f"127.0.0.1:{listener.getsockname()[1]}", plain_http=True)
        super().__init__(listener)

    def answer_to(self, connection: socket.socket) -> None:
        connection.recv(65536)
        self.way.cancel()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        connection.recv(1)


def test_an_answer_that_comes_too_late_is_let_go() -> None:
    """Nobody waits for the rest of it once all has been ended."""
    with _Cancels() as server, pytest.raises(RegistryError, match="was ended"):
        server.way.ask(f"{server.way.base()}/v2/", {})
