"""Registries that lie, break off, stall, redirect and ask for more than is theirs: one clear line,
nothing kept, and no secret told to anybody else."""

import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from imagefs.erofs.kept import Named, devices_of
from imagefs.errors import CorruptArchive, HostError, ImagefsError, RegistryError, UsageError
from imagefs.index.cache import key_of, path_of
from imagefs.registry import answers, pull, transport
from imagefs.registry import manifests as remote
from imagefs.store import inventory
from imagefs.store.prune import prune
from imagefs.store.store import Store
from tests.support import samples
from tests.support.badengine import SILENCE
from tests.support.badregistry import (
    Answer,
    Asked,
    BadRegistry,
    answer,
    cut,
    in_turn,
    manifest_of,
    ranged,
    redirect,
    served,
    wants,
)
from tests.support.mounted import COMMAND, imagefs
from tests.support.opening import opened, trees
from tests.support.polling import soon
from tests.support.registries import PASSWORD, USER, auth_file
from tests.support.samples import SampleImage, digest, gz
from tests.support.tars import File, layer

IMAGE = SampleImage((layer({"a": File(os.urandom(300_000))}),))
(BLOB,) = map(gz, IMAGE.layers)
CONFIG = f"/blobs/{digest(IMAGE.config)}"
LAYER = f"/blobs/{digest(BLOB)}"
MANIFEST = "/manifests/v1"
BASIC = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
TOKEN = "a.fresh.token"
HALF = len(BLOB) // 2


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "WAITS", (0.01, 0.02))
    monkeypatch.setattr(transport, "ANSWER_TIMEOUT", 1.0)
    monkeypatch.setattr(answers, "SMALL_TIMEOUT", 1.0)


@pytest.fixture
def elsewhere() -> Iterator[BadRegistry]:
    """Another server, which has the layer, and must never learn who we are."""
    with BadRegistry({"/stored": lambda asked: ranged(BLOB, asked)}) as other:
        yield other
    for asked in other.asked:
        assert not {"authorization", "cookie"} & set(asked.headers), asked


def known_to(server: BadRegistry, home: Path) -> str:
    """Have credentials for a registry; return the reference of its image."""
    auth_file(home / ".config/containers/auth.json", server.place)
    (home / ".netrc").write_text(f"machine localhost login {USER} password {PASSWORD}\n")
    return f"docker://{server.place}/team/app:v1"


def said(error: pytest.ExceptionInfo[BaseException], store: Store) -> str:
    """Return the line of an error that has left nothing behind."""
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 800
    for secret in (PASSWORD, BASIC[6:], TOKEN):
        assert secret not in text
    assert not isinstance(error.value, UsageError)
    assert (store.layer_ids(), store.ids()) == ([], [])
    assert not list(store.work_dir.iterdir())
    assert not list(store.index_dir.iterdir())
    return text


def endless(head: bytes, piece: bytes) -> Callable[[Asked], Iterator[bytes]]:
    def pieces(_: Asked) -> Iterator[bytes]:
        yield head
        while True:
            yield piece

    return pieces


def drip(head: bytes) -> Callable[[Asked], Iterator[bytes]]:
    def pieces(_: Asked) -> Iterator[bytes]:
        yield head
        while True:
            time.sleep(0.1)
            yield b" "

    return pieces


OPEN = b"HTTP/1.1 200 OK\r\n\r\n"
OTHER = os.urandom(len(BLOB))


def changed(**words: Any) -> dict[str, Answer]:
    """A registry whose manifest says something else."""
    return served(IMAGE, manifest_of(IMAGE, **words))


def with_config(content: bytes) -> dict[str, Answer]:
    """A registry whose configuration is something else."""
    config = {"mediaType": f"{samples.OCI}.config.v1+json", "digest": digest(content)}
    described = changed(config={**config, "size": len(content)})
    return {**described, f"/blobs/{digest(content)}": answer(content)}


def described(**words: Any) -> dict[str, Answer]:
    """A registry whose layer's descriptor says something else."""
    item = json.loads(samples.oci_manifest(IMAGE))["layers"][0]
    return changed(layers=[{**item, **words}])


def listing(*manifests: dict[str, Any]) -> Answer:
    return answer(samples.dumped({"schemaVersion": 2, "manifests": manifests}))


def ranged_wrongly(asked: Asked) -> list[bytes]:
    return answer(BLOB[1:], "206 Partial Content", Content_Range=f"bytes 1-9/{len(BLOB)}")


NUMBER = "sha256:" + "1" * 64

CASES: dict[str, tuple[dict[str, Answer], type[ImagefsError], str]] = {
    # Blobs
    "breaks off each time": ({LAYER: cut(BLOB, HALF)}, RegistryError, "layer 0: .*stopped in the"),
    "breaks off without a length": (
        {LAYER: [OPEN + BLOB[:HALF]]},
        RegistryError,
        "layer 0 ends af",
    ),
    "sends other bytes": ({LAYER: answer(OTHER)}, CorruptArchive, "layer 0 should have the digest"),
    "sends one other byte": (
        {LAYER: answer(BLOB[:-9] + bytes([BLOB[-9] ^ 1]) + BLOB[-8:])},
        CorruptArchive,
        "layer 0 should have the digest",
    ),
    "sends less": (
        {LAYER: answer(BLOB[:-1])},
        RegistryError,
        f"layer 0 should have {len(BLOB)} b",
    ),
    "sends more": (
        {LAYER: answer(BLOB + b"x")},
        RegistryError,
        f"and localhost.* has {len(BLOB) + 1}",
    ),
    "sends without end": (
        {LAYER: endless(OPEN + BLOB, BLOB)},
        RegistryError,
        "goes on beyond its",
    ),
    "sends zeros without end": ({LAYER: endless(OPEN, bytes(9999))}, RegistryError, "layer 0"),
    "changes a blob between two ranges": (
        {LAYER: in_turn(cut(BLOB, HALF), lambda asked: ranged(OTHER, asked))},
        CorruptArchive,
        "layer 0 should have the digest",
    ),
    "changes a blob between two attempts": (
        {LAYER: in_turn(cut(BLOB, HALF), answer(OTHER))},
        CorruptArchive,
        "layer 0 should have the digest",
    ),
    "answers with another range": (
        {LAYER: in_turn(cut(BLOB, HALF), ranged_wrongly)},
        RegistryError,
        "another part than asked for",
    ),
    "refuses to go on": (
        {LAYER: in_turn(cut(BLOB, HALF), answer(b"", "416 Range Not Satisfiable"))},
        RegistryError,
        "answered 416",
    ),
    "has no such blob": ({LAYER: answer(b"", "404 Not Found")}, RegistryError, "404 .*blob sha256"),
    "sends HTML for a blob": (
        {LAYER: answer(b"<html>" + bytes(len(BLOB) - 6))},
        CorruptArchive,
        "layer 0 should have the digest",
    ),
    # Where it sends us
    "redirects in a circle": (
        {LAYER: lambda asked: redirect(asked.path)},
        RegistryError,
        "redirected more than 5 times",
    ),
    "redirects to nowhere": (
        {LAYER: answer(b"", "302 Found")},
        RegistryError,
        "is redirected, and should not be",
    ),
    "redirects to a file": (
        {LAYER: redirect("file:///etc/passwd")},
        RegistryError,
        "not for HTTP: fi",
    ),
    "redirects to plain HTTP": ({LAYER: redirect("http://192.0.2.1/")}, RegistryError, "not safe"),
    "redirects with a password": (
        {LAYER: redirect("http://u:s3cret@localhost:1/")},
        RegistryError,
        "not for HTTP: http://localhost:1/$",
    ),
    "redirects to nonsense": (
        {LAYER: redirect("http://[::1/")},
        RegistryError,
        "address that is non",
    ),
    # Who it says we should be
    "wants a password for ever": (
        {MANIFEST: wants('Basic realm="x"')},
        RegistryError,
        "refuses team/app to the credentials of",
    ),
    "wants nobody knows what": ({MANIFEST: wants("Negotiate")}, RegistryError, "kind of login"),
    "wants it without a word": ({MANIFEST: answer(b"", "401 No")}, RegistryError, "kind of login"),
    "wants a token of nobody": (
        {MANIFEST: wants("Bearer a=b")},
        RegistryError,
        "not say from whom",
    ),
    "wants a token by plain HTTP": (
        {MANIFEST: wants('Bearer realm="http://192.0.2.1/"')},
        RegistryError,
        "plain HTTP, which is not safe: http://192.0.2.1/",
    ),
    "forbids": (
        {MANIFEST: answer(b'{"errors":[{"message":"not\\n\\u001b[1m you"}]}', "403 Forbidden")},
        RegistryError,
        "refuses team/app .*: not you|refuses team/app .*not",
    ),
    # What it has no time for
    "is busy for ever": (
        {MANIFEST: answer(b"", "503 Busy")},
        RegistryError,
        "answered 503 .*: Busy",
    ),
    "limits us for ever": ({LAYER: answer(b"", "429 Slow")}, RegistryError, "answered 429"),
    "wants us to come tomorrow": (
        {LAYER: answer(b"", "429 Slow", Retry_After="86400")},
        RegistryError,
        "asks to be asked again in 86400 s",
    ),
    "is silent": ({MANIFEST: SILENCE}, RegistryError, "no registry answers at localhost"),
    "is silent about a blob": ({LAYER: SILENCE}, RegistryError, "no registry answers at localhost"),
    "drips": ({MANIFEST: drip(OPEN)}, RegistryError, "manifest v1 did not come within 1 s"),
    "is no HTTP server": ({MANIFEST: [b"SSH-2.0-x\r\n"]}, RegistryError, "no registry answers"),
    "has a header without end": (
        {MANIFEST: [b"HTTP/1.1 200 OK\r\nX: ", b"y" * 70_000]},
        RegistryError,
        "no registry answers",
    ),
    # Manifests
    "breaks off in a manifest": (
        {MANIFEST: cut(b"{" * 99, 9)},
        RegistryError,
        "stopped in the middle",
    ),
    "sends HTML for a manifest": ({MANIFEST: answer(b"<html>")}, CorruptArchive, "is not JSON"),
    "sends half a manifest": ({MANIFEST: answer(b'{"config":')}, CorruptArchive, "is not JSON"),
    "sends a list": ({MANIFEST: answer(b"[]")}, CorruptArchive, "is not a JSON object"),
    "sends nothing": ({MANIFEST: answer(b"{}")}, CorruptArchive, "is no image's"),
    "sends another digest": (
        {MANIFEST: answer(b"{}", Docker_Content_Digest=NUMBER)},
        CorruptArchive,
        "manifest v1 should have the digest sha256:1111",
    ),
    "nests without end": (
        {MANIFEST: answer(b'{"a":' * 99_999)},
        CorruptArchive,
        "more than 100 deep",
    ),
    "sends a bomb of JSON": (
        {MANIFEST: answer(b"[" + b"1," * 600_000 + b"1]")},
        CorruptArchive,
        "more than 500000 values",
    ),
    "sends a manifest without end": (
        {MANIFEST: endless(OPEN, b" " * 1_000_000)},
        RegistryError,
        "more than 16777216 bytes",
    ),
    "speaks schema 1": (
        {MANIFEST: answer(b'{"schemaVersion":1,"fsLayers":[]}')},
        CorruptArchive,
        "Docker's schema 1",
    ),
    "lists nothing": ({MANIFEST: listing()}, CorruptArchive, "lists no image$"),
    "lists a number": (
        {MANIFEST: answer(b'{"manifests":[7]}')},
        CorruptArchive,
        "without a digest",
    ),
    "lists a path": (
        {MANIFEST: listing({"digest": "sha256:../x"})},
        CorruptArchive,
        "is not a diges",
    ),
    "lists what it has not": (
        {MANIFEST: listing({"digest": NUMBER})},
        ImagefsError,
        "no such image",
    ),
    "lists another manifest than it has": (
        {MANIFEST: listing({"digest": NUMBER}), f"/manifests/{NUMBER}": answer(b"{}")},
        CorruptArchive,
        "should have the digest",
    ),
    "names no size": (described(size=None), CorruptArchive, "not say the size of layer 0"),
    "names a size beyond all layers": (
        described(size=1 << 40),
        HostError,
        "layer 0: 1099511627776 bytes are far more than 64000000000 take, packed; --max-layer-by",
    ),
    "names a size below zero": (described(size=-1), CorruptArchive, "not say the size of layer 0"),
    "names no layers": (changed(layers=[]), CorruptArchive, "has 0 layers, but its configuration"),
    "names a number of layers": (changed(layers=7), CorruptArchive, "'layers' of .* is not a list"),
    "has encrypted layers": (
        described(mediaType=f"{samples.OCI}.layer.v1.tar+gzip+encrypted"),
        CorruptArchive,
        "is encrypted",
    ),
    # Configurations
    "has a configuration that is none": (with_config(b"<html>"), CorruptArchive, "is not JSON"),
    "has other bytes for a configuration": (
        {CONFIG: answer(bytes(len(IMAGE.config)))},
        CorruptArchive,
        "its configuration should have the digest",
    ),
    "has a configuration that is too long": (
        changed(config={"digest": NUMBER, "size": 1 << 30}),
        CorruptArchive,
        "its configuration has 1073741824 bytes",
    ),
    "has a layer that is another": (
        with_config(IMAGE.config.replace(IMAGE.diff_ids[0].encode(), NUMBER.encode())),
        CorruptArchive,
        f"layer 0 .* is damaged: it should have the diff id {NUMBER}",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_registry_that(
    case: str, home: Path, store: Store, count: Callable[[str, int], None]
) -> None:
    """Whatever it does is an error of one harmless line, and nothing of it is kept."""
    answers, kind, words = CASES[case]
    with BadRegistry(
        {**answers, **{k: v for k, v in served(IMAGE).items() if k not in answers}}
    ) as bad:
        source = known_to(bad, home)
        with pytest.raises(kind, match=words) as error:
            opened(source, store)
    said(error, store)
    count("registries that misbehave: errors", 1)


def test_indexes_that_nest_too_deeply(home: Path, store: Store) -> None:
    """Each is right, and lists another."""
    answers: dict[str, Answer] = {}
    inner = samples.oci_manifest(IMAGE)
    for _ in range(9):
        answers[f"/manifests/{digest(inner)}"] = answer(inner)
        inner = samples.dumped({"manifests": [{"digest": digest(inner)}]})
    with (
        BadRegistry({MANIFEST: answer(inner), **answers}) as bad,
        pytest.raises(CorruptArchive, match="nested without end") as error,
    ):
        opened(known_to(bad, home), store)
    assert len(bad.asked) < 12
    said(error, store)


def test_an_index_that_makes_us_ask(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an index that says no platforms, only so many manifests are asked for."""
    monkeypatch.setattr(remote, "MAX_ASKED", 5)
    manifests = [manifest_of(IMAGE, annotations={"n": str(n)}) for n in range(9)]
    answers = {f"/manifests/{digest(one)}": answer(one) for one in manifests}
    index = listing(*({"digest": digest(one)} for one in manifests))
    with (
        BadRegistry({**served(IMAGE), MANIFEST: index, **answers}) as bad,
        pytest.raises(CorruptArchive, match="does not say the platforms of more than 5"),
    ):
        opened(known_to(bad, home), store)


def connections_to(server: BadRegistry) -> list[str]:
    """Return what the kernel says of connections to a server that stand."""
    port = int(server.place.rpartition(":")[2])
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return [
        one
        for one in lines
        if one.split()[2].endswith(f":{port:04X}") and one.split()[3] in ("01", "08")
    ]


def test_a_layer_that_is_a_bomb(home: Path, store: Store) -> None:
    """It is stopped where it becomes too large."""
    image = SampleImage((bytes(50_000_000),))
    with BadRegistry(served(image)) as bad:
        with pytest.raises(HostError, match=r"layer 0 .*more than") as error:
            opened(known_to(bad, home), store, max_layer_bytes=1_000_000)
        # Though the error still holds all that led to it.
        assert not connections_to(bad)
    said(error, store)


def test_layers_that_no_disk_can_hold(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not asked for, though each alone might be packed so badly."""
    monkeypatch.setattr(pull, "room", lambda _: 1_000_000)
    image = SampleImage(tuple(layer({f"{n}": "x"}) for n in range(4)))
    listed = json.loads(samples.oci_manifest(image))["layers"]
    manifest = manifest_of(image, layers=[{**one, "size": 1_000_000} for one in listed])
    with (
        BadRegistry(served(image, manifest)) as bad,
        pytest.raises(HostError, match="does not fit into the cache: 4000000 bytes are far more"),
    ):
        opened(known_to(bad, home), store)


def ranges(server: BadRegistry) -> list[int]:
    """Return from which bytes on the layer was asked for."""
    return [asked.start for asked in server.asked if asked.path.endswith(LAYER)]


GOOD: dict[str, tuple[Answer, Callable[[list[int]], bool]]] = {
    "breaks off once": (
        in_turn(cut(BLOB, HALF), lambda asked: ranged(BLOB, asked)),
        lambda starts: starts == [0, HALF],
    ),
    "breaks off once and knows no ranges": (
        in_turn(cut(BLOB, HALF), answer(BLOB)),
        lambda starts: starts == [0, HALF],
    ),
    "breaks off again and again, and knows no ranges": (
        in_turn(cut(BLOB, HALF), cut(BLOB, HALF // 2), answer(BLOB)),
        lambda starts: starts == [0, HALF, HALF],
    ),
    "closes at once": (in_turn([], answer(BLOB)), lambda starts: starts == [0, 0]),
    "fails once": (
        in_turn(answer(b"<html>", "500 Oh"), answer(BLOB)),
        lambda starts: starts == [0, 0],
    ),
    "breaks off in the first bytes": (
        in_turn(cut(BLOB, 9), lambda asked: ranged(BLOB, asked)),
        lambda starts: starts == [0, 9],
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_registry_that_recovers(case: str, home: Path, store: Store) -> None:
    """What is broken off goes on where it was."""
    given, fits = GOOD[case]
    with BadRegistry({**served(IMAGE), LAYER: given}) as bad:
        assert opened(known_to(bad, home), store).id == digest(IMAGE.config)
        assert fits(ranges(bad)), ranges(bad)


@pytest.mark.parametrize("later", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)])
def test_retry_after_is_obeyed(later: Callable[[], str], home: Path, store: Store) -> None:
    """Whether it is a number of seconds or a date."""
    times: list[float] = []

    def first(_: Asked) -> list[bytes]:
        times.append(time.monotonic())
        return answer(b"", "429 Too Many Requests", Retry_After=later())

    def second(_: Asked) -> list[bytes]:
        times.append(time.monotonic())
        return answer(BLOB)

    with BadRegistry({**served(IMAGE), LAYER: in_turn(first, second)}) as bad:
        opened(known_to(bad, home), store)
    assert times[1] - times[0] >= 0.9


def test_a_busy_registry_leaves_what_was_pulled(home: Path, store: Store) -> None:
    """As one that is not there does."""
    with BadRegistry(served(IMAGE)) as bad:
        source = known_to(bad, home)
        opened(source, store)
        bad.answers[MANIFEST] = answer(b"", "429 Too Many Requests")
        assert opened(source, store).id == digest(IMAGE.config)


def test_storage_elsewhere_learns_nothing(home: Path, store: Store, elsewhere: BadRegistry) -> None:
    """A redirect to another host goes without credentials and cookies, also on the way back."""
    with BadRegistry({}) as bad:
        good = served(IMAGE)
        bad.answers = {
            MANIFEST: in_turn(wants("Basic realm=x"), good[MANIFEST]),
            CONFIG: answer(IMAGE.config, Set_Cookie="c=1"),
            LAYER: redirect(f"http://{elsewhere.place}/stored?key=s3cret"),
            "/back": lambda asked: ranged(BLOB, asked),
        }
        elsewhere.answers = {"/stored": redirect(f"http://{bad.place}/back")}
        opened(known_to(bad, home), store)
        sent = {asked.path: asked.headers for asked in bad.asked}
    assert sent[f"/v2/team/app{LAYER}"]["authorization"] == BASIC
    assert "authorization" not in sent["/back"]
    assert not [one for one in sent.values() if "cookie" in one]
    assert [asked.path for asked in elsewhere.asked] == ["/stored?key=s3cret"]


def test_storage_elsewhere_has_the_layer(home: Path, store: Store, elsewhere: BadRegistry) -> None:
    """What a redirect leads to is pulled from there, in parts as well."""
    elsewhere.answers = {"/stored": in_turn(cut(BLOB, HALF), lambda asked: ranged(BLOB, asked))}
    stored = redirect(f"http://{elsewhere.place}/stored")
    with BadRegistry({**served(IMAGE), LAYER: in_turn(wants("Basic realm=x"), stored)}) as bad:
        assert opened(known_to(bad, home), store).id == digest(IMAGE.config)
    assert [asked.start for asked in elsewhere.asked] == [0, HALF]


def test_storage_that_wants_to_know_who_we_are(
    home: Path, store: Store, elsewhere: BadRegistry
) -> None:
    """It is not told."""
    elsewhere.answers = {"/stored": wants("Basic realm=x")}
    stored = redirect(f"http://{elsewhere.place}/stored")
    with (
        BadRegistry({**served(IMAGE), LAYER: in_turn(wants("Basic realm=x"), stored)}) as bad,
        pytest.raises(RegistryError, match=f"{elsewhere.place} answered 401") as error,
    ):
        opened(known_to(bad, home), store)
    said(error, store)


def test_an_echo_of_our_secrets_is_not_shown(home: Path, store: Store) -> None:
    """A registry that repeats what it was told makes no error tell it on."""

    def echo(asked: Asked) -> list[bytes]:
        told = asked.headers.get("authorization", "")
        if not told:
            return wants("Basic realm=x")
        body = {"errors": [{"code": "DENIED", "message": f"not {told}, {PASSWORD}"}]}
        return answer(json.dumps(body).encode(), "403 Forbidden")

    with BadRegistry({MANIFEST: echo}) as bad:
        source = known_to(bad, home)
        with pytest.raises(RegistryError, match=r"not Basic \*\*\*, \*\*\*") as error:
            opened(source, store)
        said(error, store)
        done = imagefs("--debug", "fetch", source)
    assert done.returncode == 1
    assert PASSWORD not in done.stderr
    assert BASIC[6:] not in done.stderr


def issuing(*tokens: str) -> Answer:
    return in_turn(*(answer(json.dumps({"token": token}).encode()) for token in tokens))


def test_digests_by_sha512(home: Path, store: Store) -> None:
    """They are checked like others; the store, which goes by SHA-256, knows layers by both."""
    image = replace(IMAGE, algorithm="sha512")
    with BadRegistry(served(image)) as bad:
        source = known_to(bad, home)
        for _ in range(2):
            made = opened(source, store)
            assert [layer.diff_id for layer in made.layers] == image.diff_ids
        layer_asked = [one for one in bad.asked if digest(BLOB, "sha512") in one.path]
        assert len(layer_asked) == 1
        assert [one.method for one in bad.asked][-1] == "HEAD"
        bad.answers[f"/blobs/{digest(BLOB, 'sha512')}"] = answer(OTHER)
        with pytest.raises(CorruptArchive, match="layer 0 should have the digest sha512"):
            opened(source, Store(home / "another"))


def test_an_image_by_sha512_is_kept(home: Path, store: Store) -> None:
    """It is in the cache as a whole, goes as a whole, and what is cut of it is pulled anew."""
    image = replace(IMAGE, algorithm="sha512")
    index_of = lambda one: path_of(store.index_dir, key_of(one))  # noqa: E731
    with BadRegistry(served(image)) as bad:
        source = known_to(bad, home)
        made = opened(source, store)
        right = trees(made, store)
        found = inventory.contents(store)
        assert [(one.whole, len(one.diff_ids)) for one in found.images] == [(True, 1)]
        assert [(one.diff_id, one.images) for one in found.layers] == [(digest(IMAGE.layers[0]), 1)]
        # So that what the kernel has mounted is not pruned.
        assert [one.layer for one in devices_of([Named(b"", made)])] == [digest(IMAGE.layers[0])]
        assert len(list(store.index_dir.iterdir())) == 1  # though the layer has two names
        assert prune(store, index_path=index_of).layers == ()
        for path in store.layers_dir.iterdir():
            os.truncate(path, path.stat().st_size - 512)
        assert trees(opened(source, store), store) == right
    # Nobody has to answer for what the cache has.
    assert trees(opened(source, store), store) == right
    store.close()
    pruned = prune(store, index_path=index_of)
    assert (len(pruned.images), len(pruned.layers)) == (1, 1)
    assert not list(store.index_dir.iterdir())


def test_a_token_that_runs_out_in_the_middle(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one is asked for, and the pull goes on."""
    monkeypatch.setattr("imagefs.registry.login._FRESH", 0.0)

    def only(token: str, given: Answer) -> Callable[[Asked], Any]:
        def checked(asked: Asked) -> Any:
            if asked.headers.get("authorization") != f"Bearer {token}":
                return wants(f'Bearer realm="http://{bad.place}/token",service="s"')
            return given(asked) if callable(given) else given

        return checked

    good = served(IMAGE)
    with BadRegistry({}) as bad:
        bad.answers = {path: only("one", given) for path, given in good.items()}
        bad.answers |= {LAYER: only("two", good[LAYER]), "/token": issuing("one", "two")}
        opened(known_to(bad, home), store)
        questions = [asked for asked in bad.asked if asked.path.startswith("/token?")]
    assert [asked.headers["authorization"] for asked in questions] == [BASIC, BASIC]
    assert "repository%3Ateam%2Fapp%3Apull" in questions[0].path


TOKENS: dict[str, tuple[Answer, str]] = {
    "is no JSON": (answer(b"<html>"), "the answer is not JSON"),
    "is a list": (answer(b"[]"), "the answer holds none"),
    "is a number": (answer(b'{"token":7}'), "the answer holds none"),
    "would be two headers": (answer(b'{"token":"a\\r\\nX: y"}'), "the answer holds none"),
    "goes on without end": (endless(OPEN, b" " * 99_999), "more than 1048576 bytes"),
    "is refused": (answer(b"", "403 Forbidden"), "refuses team/app to the credentials"),
    "breaks off": (cut(b"{" * 99, 9), "stopped in the middle"),
    "is elsewhere": (redirect("http://192.0.2.1/token"), "plain HTTP, which is not safe"),
    "never fits": (issuing(TOKEN), "refuses team/app to the credentials"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_a_token_that(
    case: str, home: Path, store: Store, count: Callable[[str, int], None]
) -> None:
    """Whatever an issuer does is an error of one line as well."""
    given, words = TOKENS[case]
    with BadRegistry({"/token": given}) as bad:
        bad.answers[MANIFEST] = wants(f'Bearer realm="http://{bad.place}/token"')
        with pytest.raises(RegistryError, match=words) as error:
            opened(known_to(bad, home), store)
    said(error, store)
    count("registries that misbehave: tokens", 1)


def test_keys_to_storage_are_not_logged(home: Path) -> None:
    """--debug tells much, but not what a redirect has behind its question mark."""
    with BadRegistry({**served(IMAGE), LAYER: redirect("/stored?key=s3cret")}) as bad:
        bad.answers["/stored"] = in_turn(answer(BLOB[:9], "403 Forbidden"), answer(BLOB))
        source = known_to(bad, home)
        failed, done = (imagefs("--debug", "fetch", source) for _ in range(2))
    assert (failed.returncode, done.returncode) == (1, 0)
    assert "answered 403" in failed.stderr
    assert "s3cret" not in failed.stderr + done.stderr


def test_interrupted(home: Path, store: Store) -> None:
    """Ctrl-C ends a pull that stalls at once, and leaves nothing that is not whole."""

    over = threading.Event()

    def stalling(asked: Asked) -> Iterator[bytes]:
        yield from cut(BLOB, HALF)
        over.wait(120)

    with BadRegistry({**served(IMAGE), LAYER: stalling}) as bad:
        source = known_to(bad, home)
        environment = {**os.environ, "IMAGEFS_CACHE": str(store.root)}
        process = subprocess.Popen(
            [*COMMAND, "fetch", "--quiet", source], stderr=subprocess.PIPE, env=environment
        )
        assert soon(lambda: any(asked.path.endswith(LAYER) for asked in bad.asked))
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=60)
        over.set()
    assert (process.returncode, words) == (130, b"imagefs: interrupted\n")
    assert (store.layer_ids(), list(store.work_dir.iterdir())) == ([], [])


def test_the_commands_fail_with_one_line(home: Path) -> None:
    """Exit status 1, one line, whatever the command."""
    with BadRegistry({**served(IMAGE), LAYER: answer(OTHER)}) as bad:
        source = known_to(bad, home)
        for words in (["fetch", source], ["ls", source], ["cat", source, "a"]):
            done = imagefs(*words, "--quiet")
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1
            assert "layer 0 should have the digest" in done.stderr
