"""Engines that answer nonsense, slowly, endlessly or not at all: one clear line, nothing kept."""

import contextlib
import gzip
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagefs.archive import spool
from imagefs.engine import fetch
from imagefs.engine.addresses import Endpoint
from imagefs.engine.api import Engine, ListedImage
from imagefs.engine.fetch import Source, ensure_image
from imagefs.errors import EngineError, EngineUnreachable, HostError, ImageNotFound
from imagefs.image.model import MAX_LAYER_BYTES, Image
from imagefs.progress import Silent
from imagefs.store.store import Store
from imagefs.vfs.image_fs import image_fs
from tests.support.badengine import (
    CHUNKED,
    PING,
    SILENCE,
    Answer,
    Export,
    ScriptedEngine,
    answer_json,
    chunked,
    http,
)
from tests.support.headers import file, header
from tests.support.looking import walk
from tests.support.mounted import imagefs
from tests.support.needs import need_fuse
from tests.support.tars import File, layer

HTML = b"<html><body>\n<h1>Bad Gateway</h1>\n\x1b[31m</body></html>"
IMAGE_ID = "sha256:" + "1" * 64


def drip(first: bytes, piece: bytes) -> Iterator[bytes]:
    yield first
    while True:
        yield piece
        time.sleep(0.02)


def said_by(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text.isprintable(), text
    assert len(text) < 800
    return text


QUESTIONS: dict[str, tuple[Answer, type[EngineError], str]] = {
    "closes without a word": ([], EngineUnreachable, "no engine answers"),
    "is no HTTP server": ([b"SSH-2.0-OpenSSH_9.2\r\n"], EngineUnreachable, "no engine answers"),
    "has a hundred headers": (
        [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 101, b"\r\n{}"],
        EngineUnreachable,
        "headers",
    ),
    "has a header without end": (
        [b"HTTP/1.1 200 OK\r\nX: ", b"y" * 70000],
        EngineUnreachable,
        "header line",
    ),
    "fails in HTML": (http(HTML, "502 Bad Gateway", "text/html"), EngineError, "502 .Bad Gateway"),
    "succeeds in HTML": (http(HTML, kind="text/html"), EngineError, "nonsense"),
    "redirects": (
        [b"HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"],
        EngineError,
        "redirect",
    ),
    "has no such image": (
        answer_json({"message": "No such image: app"}, "404 Not Found"),
        ImageNotFound,
        "No such image: app",
    ),
    "fails": (
        answer_json({"message": "disk\non \x1b[1mfire"}, "500 Oh"),
        EngineError,
        r"500.*disk on \?\[1mfire",
    ),
    "fails with a list": (answer_json([1], "500 Oh"), EngineError, r"500 \(Oh\)"),
    "fails with a number for a message": (
        answer_json({"message": 7}, "500 Oh"),
        EngineError,
        r"500 \(Oh\)",
    ),
    "breaks off": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"],
        EngineError,
        "stopped in the middle",
    ),
    "breaks off in a chunk": (chunked(b"{}", ended=False), EngineError, "stopped in the middle"),
    "says half of it": (http(b'{"Id": "sha'), EngineError, "nonsense"),
    "nests without end": (http(b"[" * 100_000), EngineError, "nonsense"),
    "says nothing in JSON": (answer_json(None), EngineError, "nonsense"),
    "has a number for an id": (answer_json({"Id": 7}), EngineError, "nonsense"),
    "has a path for an id": (answer_json({"Id": "sha256:../../etc"}), EngineError, "nonsense"),
    "has no id": (answer_json({}), EngineError, "nonsense"),
    "has a list": (answer_json([]), EngineError, "nonsense"),
    "has text for layers": (
        answer_json({"Id": IMAGE_ID, "RootFS": {"Layers": "abc"}}),
        EngineError,
        "nonsense",
    ),
    "has text for a root": (answer_json({"Id": IMAGE_ID, "RootFS": "x"}), EngineError, "nonsense"),
    "has a size beyond all numbers": (
        http(b'{"Id": "%s", "Size": 1e999}' % IMAGE_ID.encode()),
        EngineError,
        "nonsense",
    ),
    "has a size that is no number": (
        http(b'{"Id": "%s", "Size": NaN}' % IMAGE_ID.encode()),
        EngineError,
        "nonsense",
    ),
    "has half a character in a name": (
        answer_json({"Id": IMAGE_ID, "RepoTags": ["a\ud800:1"]}),
        EngineError,
        "nonsense",
    ),
    "has numbers for tags": (
        answer_json({"Id": IMAGE_ID, "RepoTags": [1]}),
        EngineError,
        "nonsens",
    ),
    "answers without end": (
        lambda: (
            piece
            for pieces in ([b"HTTP/1.1 200 OK\r\n\r\n["], iter(lambda: b"1," * 500_000, b""))
            for piece in pieces
        ),
        EngineError,
        "nonsense",
    ),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_an_engine_that(case: str, tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """Whatever is said instead of an answer is an error of one harmless line."""
    answer, kind, words = QUESTIONS[case]
    with (
        ScriptedEngine(tmp_path / "socket", {"/json": answer}) as engine,
        pytest.raises(EngineError, match=words) as error,
    ):
        engine.engine().inspect("app")
    assert type(error.value) is kind
    said_by(error)
    count("engines that misbehave: answers", 1)


@pytest.mark.parametrize(
    "answer",
    [
        SILENCE,
        lambda: drip(b"", b"H"),
        lambda: drip(b"HTTP/1.1 200 OK\r\n", b"X"),
        lambda: drip(b"HTTP/1.1 200 OK\r\n\r\n", b" "),
    ],
)
@pytest.mark.parametrize("path", ["/_ping", "/json"])
def test_an_engine_that_does_not_come_to_the_point(
    answer: Answer, path: str, tmp_path: Path
) -> None:
    """Silence and drips of bytes end in time, for all that each byte resets a socket's timeout."""
    start = time.monotonic()
    with (
        ScriptedEngine(tmp_path / "socket", {path: answer}) as engine,
        pytest.raises(EngineUnreachable, match=r"did not answer within 0\.3 s"),
    ):
        engine.engine(timeout=0.3).inspect("app")
    assert time.monotonic() - start < 120


def test_what_is_no_engine_is_told(tmp_path: Path) -> None:
    """A web server on the socket answers /_ping too, but without a version of the API."""
    with (
        ScriptedEngine(tmp_path / "socket", {"/_ping": http(b"OK")}) as engine,
        pytest.raises(EngineError, match="is not a container engine"),
    ):
        engine.engine().inspect("app")


@pytest.mark.parametrize("value", [None, {}, "x", 1])
def test_a_list_of_images_of_the_wrong_shape(value: Any, tmp_path: Path) -> None:
    """It is nonsense, whatever it is."""
    with (
        ScriptedEngine(tmp_path / "socket", {"/json": answer_json(value)}) as engine,
        pytest.raises(EngineError, match="nonsense when asked for the list of images"),
    ):
        engine.engine().images()


ODD_ENTRIES: dict[str, Any] = {
    "a number": 1,
    "null": None,
    "a list": [],
    "no id": {},
    "a number for an id": {"Id": 1},
    "a path for an id": {"Id": "sha256:../../etc"},
    "an id cut short": {"Id": IMAGE_ID[:-1]},
    "half a character in an id": {"Id": "sha256:\ud800"},
    "text for names": {"Id": IMAGE_ID, "RepoTags": "x"},
    "a number for a name": {"Id": IMAGE_ID, "RepoTags": [1]},
    "half a character in a name": {"Id": IMAGE_ID, "RepoTags": ["a\ud800:1"]},
}


@pytest.mark.parametrize("case", ODD_ENTRIES)
def test_an_odd_entry_in_the_list_costs_itself(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other images are listed, and the log says so once however often the list is read."""
    good: dict[str, Any] = {"Id": "sha256:" + "2" * 64, "RepoTags": ["app:v1"]}
    answers = {"/json": answer_json([ODD_ENTRIES[case], good])}
    with ScriptedEngine(tmp_path / "socket", answers) as scripted:
        engine = scripted.engine()
        for _ in range(2):
            assert engine.images() == (ListedImage(good["Id"], ("app:v1",)),)
    assert [one.message for one in caplog.records if "no sense" in one.message] == [
        f"{scripted.host} lists images that make no sense, left out: 1"
    ]


@pytest.mark.parametrize("name", ["Api-Version", "api-version", "API-VERSION"])
def test_names_of_headers_have_no_case(name: str, tmp_path: Path) -> None:
    """Proxies write them as they like."""
    ping = f"HTTP/1.1 200 OK\r\n{name}: 1.41\r\ncontent-length: 2\r\n\r\nOK".encode()
    with ScriptedEngine(tmp_path / "socket", {"/_ping": [ping]}) as engine:
        assert engine.engine().version() == (1, 41)


@pytest.mark.parametrize("created", [None, "now", -62135596800, 10**30, 1.5])
def test_a_time_that_is_none_hides_no_image(created: Any, tmp_path: Path) -> None:
    """An image is listed whatever the engine says of its age."""
    answers = {"/json": answer_json([{"Id": IMAGE_ID, "RepoTags": None, "Created": created}])}
    with ScriptedEngine(tmp_path / "socket", answers) as engine:
        assert engine.engine().images() == (ListedImage(IMAGE_ID, (), 0),)


# Exports

IMAGE = Export([layer({"a": "lower" * 10_000}), layer({"b": "upper"}), layer({"c": "top"})])
SAVED = IMAGE.classic()
ERROR = b'{"message":"no space\\nleft on the engine"}\n'


def fetched(engine: Engine, store: Store, most: int = MAX_LAYER_BYTES) -> Image:
    source = Source(engine, store, Silent(), max_layer_bytes=most)
    return ensure_image("app:v1", source)


def assert_nothing_kept(store: Store) -> None:
    """No layer, no image, no name and no leftover is in the store."""
    for folder in (store.layers_dir, store.images_dir, store.refs.directory, store.work_dir):
        assert os.listdir(folder) == [], folder


BROKEN: dict[str, tuple[Answer, str]] = {
    "sends nothing": (chunked(b""), "ended early"),
    "closes at once": ([], "no engine answers"),
    "redirects": (
        [b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"],
        "a redirection; engines never redirect",
    ),
    "fails in HTML": (http(HTML, "503 Busy", "text/html"), r"503 \(Busy\) when asked for image"),
    "sends HTML": (http(HTML * 100, kind="text/html"), "not a tar archive"),
    "sends an error instead": (chunked(ERROR), "broke off the export: no space left on the engine"),
    "sends an error in the first header": (chunked(SAVED[:100] + ERROR), "no space left"),
    "sends an error between members": (chunked(SAVED[:1024] + ERROR), "no space left"),
    "sends an error in a layer": (chunked(SAVED[:30_000] + ERROR), "no space left"),
    "sends an error behind the end": (chunked(SAVED + ERROR), "no space left"),
    "sends something behind the end": (chunked(SAVED + b"x" * 512), "something follows its end"),
    "lacks the end marker": (chunked(SAVED.rstrip(b"\0") + bytes(512)), "ended early|it lacks"),
    "stops between chunks": (chunked(SAVED[:30_000], ended=False), "stopped in the middle"),
    "stops in a chunk": ([*chunked(SAVED)[:1], b"8000\r\nabc"], "stopped in the middle"),
    "stops short of its length": (
        [http(SAVED, kind="application/x-tar")[0][:-5000]],
        "stopped in the middle",
    ),
    "frames chunks wrongly": ([*chunked(SAVED)[:2], b"zz\r\n"], "stopped in the middle"),
    "sends a wrong checksum": (chunked(b"X" + SAVED[1:]), "not a tar archive"),
    "sends a member of a wrong size": (
        chunked(SAVED.replace(SAVED[124:136], b"77777777777\0", 1)),
        "not a tar archive",
    ),
    "sends a flipped bit": (
        chunked(SAVED.replace(b"lower", b"lowes", 1)),
        f"layer 0 should have the digest {IMAGE.diff_ids[0]}, and has sha256:",
    ),
    "sends another configuration": (
        chunked(IMAGE.classic(config=IMAGE.config + b" ")),
        f"was asked for image {IMAGE.id} and exported sha256:",
    ),
    "sends another image": (
        chunked(Export([layer({"x": "other"})]).classic()),
        f"was asked for image {IMAGE.id} and exported sha256:",
    ),
    "sends no manifest": (chunked(layer({"x": "y"})), "lacks manifest.json"),
    "sends a manifest of two images": (
        chunked(IMAGE.classic(manifest=[{}, {}])),
        "does not list one image",
    ),
    "sends a manifest that is an object": (
        chunked(IMAGE.classic(manifest={"a": [1]})),
        "manifest.json",
    ),
    "sends a manifest without a configuration": (
        chunked(IMAGE.classic(manifest=[{"Layers": []}])),
        "has no Config",
    ),
    "sends a manifest without layers": (
        chunked(IMAGE.classic(manifest=[{"Config": f"{IMAGE.id[7:]}.json"}])),
        "count different layers",
    ),
    "sends a manifest that names what is not there": (
        chunked(
            IMAGE.classic(
                manifest=[{"Config": f"{IMAGE.id[7:]}.json", "Layers": ["../../etc/passwd"] * 3}]
            )
        ),
        "lacks ../../etc/passwd",
    ),
    "sends a manifest that names numbers": (
        chunked(IMAGE.classic(manifest=[{"Config": f"{IMAGE.id[7:]}.json", "Layers": [1, 2, 3]}])),
        "no string",
    ),
    "sends a configuration that is none": (
        chunked(IMAGE.classic(config=b"[]")),
        "configuration is not a JSON object",
    ),
    "pads without end": (
        lambda: (
            piece
            for pieces in (
                chunked(SAVED, ended=False),
                iter(lambda: b"100000\r\n" + bytes(1 << 20) + b"\r\n", b""),
            )
            for piece in pieces
        ),
        "does not end",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_export_that(case: str, tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """It is the engine's error, in its own words if it said any, and nothing is kept."""
    answer, words = BROKEN[case]
    store = Store(tmp_path / "cache")
    with (
        ScriptedEngine(tmp_path / "socket", IMAGE.answers(answer)) as engine,
        pytest.raises(EngineError, match=words) as error,
    ):
        fetched(engine.engine(), store)
    said_by(error)
    assert_nothing_kept(store)
    count("engines that misbehave: exports", 1)


HUGE = "1" + "0" * 5000
"""More digits than Python makes a number of by itself."""
LAYERS = IMAGE.entry()["Layers"]


def entry(field: str, text: str) -> bytes:
    """Return a manifest.json of which one field holds this JSON."""
    said = {name: json.dumps(value) for name, value in IMAGE.entry().items()} | {field: text}
    fields = ", ".join(f'"{name}": {value}' for name, value in said.items())
    return f"[{{{fields}}}]".encode()


ODD_MANIFESTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "manifest.json is not JSON: Expecting value"),
    "null": (b"null", "does not list one image"),
    "a number beyond all": (b"1e999", "does not list one image"),
    "no image": (b"[]", "does not list one image"),
    "an image that is null": (b"[null]", "image 0 of manifest.json is not an object"),
    "an image that is a list": (b"[[]]", "image 0 of manifest.json is not an object"),
    "an image that is a number": (b"[1e999]", "image 0 of manifest.json is not an object"),
    "a number of very many digits for Config": (entry("Config", HUGE), "names no Config"),
    "values that are very deep": (b"[" * 9000, "manifest.json is not JSON: .* 100 deep"),
    "no UTF-8": (b'["\xff"]', "manifest.json is not JSON: 'utf-8'"),
    "null for Config": (entry("Config", "null"), "names no Config"),
    "a list for Config": (entry("Config", '["x"]'), "names no Config"),
    "a number for Config": (entry("Config", "1e999"), "names no Config"),
    "no text in Config": (entry("Config", '""'), "'' is missing$"),
    "half a character in Config": (entry("Config", r'"\ud800"'), "\ufffd is missing$"),
    "a layer for Config": (entry("Config", f'"{LAYERS[0]}"'), "configuration is not JSON"),
    "itself for Config": (entry("Config", '"manifest.json"'), "is not a JSON object"),
    "null for Layers": (entry("Layers", "null"), "has 0 layers, but"),
    "no layers": (entry("Layers", "[]"), "has 0 layers, but"),
    "text for Layers": (entry("Layers", '"abc"'), "Layers is not a list of strings"),
    "an object for Layers": (entry("Layers", '{"a": 1}'), "Layers is not a list of strings"),
    "a layer that is null": (entry("Layers", '["a", null, "b"]'), "None is no string"),
    "a layer that is a list": (entry("Layers", '["a", ["b"], "c"]'), r"\['b'\] is no string"),
    "a layer without a name": (entry("Layers", f'["{LAYERS[0]}", "", "x"]'), "lacks ''$"),
    "half a character for a layer": (entry("Layers", r'["\ud800", "b", "c"]'), "lacks \ufffd$"),
    "a NUL in a layer's name": (entry("Layers", r'["a\u0000b", "b", "c"]'), r"lacks 'a\\x00b'$"),
    "a layer's name without end": (entry("Layers", f'["{"a" * 9000}", "b", "c"]'), "lacks a{200}"),
    "one layer three times": (
        entry("Layers", json.dumps(LAYERS[:1] * 3)),
        "layer 1 should have the digest",
    ),
    "its layers turned round": (
        entry("Layers", json.dumps(LAYERS[::-1])),
        "layer 0 should have the digest",
    ),
    "a layer too many": (entry("Layers", json.dumps([*LAYERS, LAYERS[0]])), "has 4 layers, but"),
    "a layer too few": (entry("Layers", json.dumps(LAYERS[:2])), "has 2 layers, but"),
    "text for RepoTags": (entry("RepoTags", '"app:v1"'), "RepoTags is not a list of strings"),
    "an object for RepoTags": (entry("RepoTags", '{"app": 1}'), "RepoTags is not a list"),
    "a number for a name": (entry("RepoTags", "[1e999]"), "inf is no string"),
    "null for a name": (entry("RepoTags", '["app:v1", null]'), "None is no string"),
    "a list for a name": (entry("RepoTags", "[[]]"), r"\[\] is no string"),
}


@pytest.mark.parametrize("case", ODD_MANIFESTS)
def test_an_export_whose_manifest_has(
    case: str, tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """Wherever its values make no sense, that is the error, and nothing is kept."""
    manifest, words = ODD_MANIFESTS[case]
    assert_refused(IMAGE, IMAGE.classic(manifest=manifest), words, tmp_path)
    count("engines that misbehave: manifests", 1)


def assert_refused(image: Export, saved: bytes, words: str, folder: Path) -> None:
    """Check that an image's export is an error of one line that has these words, and no image."""
    store = Store(folder / "cache")
    with (
        ScriptedEngine(folder / "socket", image.answers(chunked(saved))) as engine,
        pytest.raises(EngineError, match=words) as error,
    ):
        fetched(engine.engine(), store)
    said_by(error)
    assert_nothing_kept(store)


def with_diff_ids(text: str) -> bytes:
    return f'{{"os": "linux", "rootfs": {{"type": "layers", "diff_ids": {text}}}}}'.encode()


def with_second_diff_id(text: str) -> bytes:
    first, _, last = map(json.dumps, IMAGE.diff_ids)
    return with_diff_ids(f"[{first}, {text}, {last}]")


ODD_CONFIGS: dict[str, tuple[bytes, str]] = {
    "white space": (b" ", "configuration is not JSON: Expecting value"),
    "null": (b"null", "configuration is not a JSON object"),
    "a number beyond all": (b"1e999", "configuration is not a JSON object"),
    "text": (b'"x"', "configuration is not a JSON object"),
    "values that are very deep": (b'{"a":' * 9000, "configuration is not JSON: .* 100 deep"),
    "no UTF-8": (b'{"os": "\xff"}', "configuration is not JSON: 'utf-8'"),
    "UTF-16": (IMAGE.config.decode().encode("utf-16"), "configuration is not JSON: 'utf-8'"),
    "no rootfs": (b"{}", "has 0 diff ids: they count"),
    "null for rootfs": (b'{"rootfs": null}', "has 0 diff ids: they count"),
    "text for rootfs": (b'{"rootfs": "layers"}', "has 0 diff ids: they count"),
    "rootfs twice": (IMAGE.config[:-1] + b', "rootfs": {}}', "has 0 diff ids: they count"),
    "null for diff ids": (with_diff_ids("null"), "has 0 diff ids: they count"),
    "no diff ids": (with_diff_ids("[]"), "has 0 diff ids: they count"),
    "text for diff ids": (with_diff_ids('"sha256:0"'), "diff_ids is not a list of digests"),
    "an object for diff ids": (with_diff_ids('{"a": 1}'), "diff_ids is not a list of digests"),
    "a number for diff ids": (with_diff_ids("1e999"), "diff_ids is not a list of digests"),
    "a diff id that is null": (with_second_diff_id("null"), "is not a digest: None"),
    "a diff id beyond all numbers": (with_second_diff_id("1e999"), "is not a digest: inf"),
    "a diff id of very many digits": (with_second_diff_id(HUGE), "is not a digest: inf"),
    "a diff id that is a list": (with_second_diff_id("[[]]"), r"is not a digest: \[\[\]\]"),
    "a diff id of half a character": (
        with_second_diff_id(r'"\ud800"'),
        r"is not a digest: '\\ufffd'",
    ),
    "a diff id that is a path": (with_second_diff_id('"sha256:../../x"'), "is not a digest: 'sha"),
    "a diff id without end": (with_second_diff_id(f'"sha256:{"0" * 9000}"'), "is not a digest"),
    "a diff id in capitals": (
        with_second_diff_id(json.dumps(IMAGE.diff_ids[1].upper())),
        "is not a digest: 'SHA256:",
    ),
    "one diff id three times": (
        with_diff_ids(json.dumps(IMAGE.diff_ids[:1] * 3)),
        f"layer 1 should have the digest {IMAGE.diff_ids[0]}",
    ),
    "its diff ids turned round": (
        with_diff_ids(json.dumps(IMAGE.diff_ids[::-1])),
        f"layer 0 should have the digest {IMAGE.diff_ids[2]}",
    ),
    "a diff id too many": (
        with_diff_ids(json.dumps(IMAGE.diff_ids * 2)),
        "has 6 diff ids: they count",
    ),
    "a diff id too few": (with_diff_ids(json.dumps(IMAGE.diff_ids[:2])), "has 2 diff ids"),
}


@pytest.mark.parametrize("form", [Export.classic, Export.blobs], ids=["classic", "blobs"])
@pytest.mark.parametrize("case", ODD_CONFIGS)
def test_an_export_whose_configuration_has(
    case: str,
    form: Callable[[Export], bytes],
    tmp_path: Path,
    count: Callable[[str, int], None],
) -> None:
    """It is of the image that was asked for, and makes no sense: an error, and nothing is kept."""
    config, words = ODD_CONFIGS[case]
    image = IMAGE.configured(config)
    assert_refused(image, form(image), words, tmp_path)
    count("engines that misbehave: configurations", 1)


@pytest.mark.parametrize(
    "value", ["null", "1e999", "NaN", "-1", "true", '"x"', r'"\ud800"', "[]", "[null]", '{"a": 1}']
)
def test_what_else_an_export_says_hides_no_image(value: str, tmp_path: Path) -> None:
    """Where the files are does not depend on it: they are shown, and so is what was said."""
    fields = [
        *((name, value) for name in ("os", "architecture", "created", "config", "history")),
        ("config", f'{{"Env": {value}, "Cmd": {value}, "Labels": {value}}}'),
        ("history", f"[{value}]"),
        ("history", f'[{{"created_by": {value}, "empty_layer": {value}}}]'),
    ]
    store = Store(tmp_path / "cache")
    for number, (name, text) in enumerate(fields):
        image = IMAGE.configured(IMAGE.config[:-1] + f', "{name}": {text}}}'.encode())
        answers = image.answers(chunked(image.classic()))
        with ScriptedEngine(tmp_path / str(number), answers) as engine:
            found = fetched(engine.engine(), store)
        assert found.id == image.id
        walk(image_fs(found, store.index_dir))


def test_an_export_cut_anywhere_is_no_image(tmp_path: Path) -> None:
    """At the boundary of every block, and in the middle of it."""
    image = Export([layer({"a": "x"})])
    saved = image.classic()
    store = Store(tmp_path / "cache")
    cuts: list[list[bytes]] = []
    answers = image.answers(lambda: cuts.pop())  # noqa: PLW0108 - another list at each call
    with ScriptedEngine(tmp_path / "socket", answers) as scripted:
        engine = scripted.engine()
        for length in range(0, len(saved.rstrip(b"\0")), 256):
            cuts.append(chunked(saved[:length]))
            with pytest.raises(EngineError):
                fetched(engine, store)
            assert_nothing_kept(store)
        cuts.append(chunked(saved))
        assert fetched(engine, store).id == image.id


@pytest.mark.parametrize("said", [[], [CHUNKED[:20]]], ids=["nothing", "half a header"])
def test_an_engine_that_hangs_before_its_export_is_left(
    said: list[bytes], tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """The wait for an export ends once the engine no longer answers other questions."""
    never = threading.Event()
    pings = iter([[PING]])

    def hang() -> Iterator[bytes]:
        yield from said
        never.wait(120)

    def ping() -> Iterable[bytes]:
        return next(pings, None) or hang()

    answers = {**IMAGE.answers(hang), "/_ping": ping}
    store = Store(tmp_path / "cache")
    with ScriptedEngine(tmp_path / "socket", answers) as engine:
        with pytest.raises(EngineUnreachable, match=r"did not answer within 0\.3 s"):
            fetched(engine.engine(timeout=0.3), store)
        never.set()
    assert_nothing_kept(store)
    count("engines that misbehave: hanging", 1)


def test_an_export_that_comes_too_late_is_closed(tmp_path: Path) -> None:
    """Who has left keeps no connection for what the engine says after all."""
    left, closed = threading.Event(), threading.Event()
    pings = iter([[PING]])

    def late() -> Iterator[bytes]:
        left.wait(60)
        try:
            yield from chunked(SAVED, ended=False)
            yield from iter(lambda: b"100000\r\n" + bytes(1 << 20) + b"\r\n", b"")
        finally:
            closed.set()

    def ping() -> Iterator[bytes]:
        yield from next(pings, [])
        left.wait(60)

    answers = {**IMAGE.answers(late), "/_ping": ping}
    with ScriptedEngine(tmp_path / "socket", answers) as engine:
        with pytest.raises(EngineUnreachable, match=r"did not answer within 0\.3 s") as error:
            fetched(engine.engine(timeout=0.3), Store(tmp_path / "cache"))
        left.set()
        assert closed.wait(60)
    said_by(error)


PIECES = chunked(SAVED, 2000)
REFUSED = b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(PIECES[:1], id="headers"),
        pytest.param(PIECES[:2], id="a chunk"),
        pytest.param([*PIECES[:3], PIECES[3][:700]], id="part of a chunk"),
        pytest.param(PIECES[:-1], id="most"),
        pytest.param([REFUSED], id="a refusal's headers"),
        pytest.param([REFUSED, b'{"mess'], id="part of a refusal"),
    ],
)
def test_an_engine_that_hangs_in_its_export_is_left(
    sent: list[bytes], tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """So does the wait for the rest of it; a layer that has come by then is not kept half."""
    never, stalled = threading.Event(), threading.Event()

    def export() -> Iterator[bytes]:
        yield from sent
        stalled.set()
        never.wait(120)

    def ping() -> Iterator[bytes]:
        if stalled.is_set():
            never.wait(120)
        yield PING

    answers = {**IMAGE.answers(export), "/_ping": ping}
    store = Store(tmp_path / "cache")
    with ScriptedEngine(tmp_path / "socket", answers) as engine:
        with pytest.raises(EngineUnreachable, match=r"did not answer within 0\.3 s"):
            fetched(engine.engine(timeout=0.3), store)
        never.set()
    assert_nothing_kept(store)
    count("engines that misbehave: hanging", 1)


@pytest.mark.parametrize("timeout", [0.3, 5.0])
def test_a_socket_that_accepts_nobody(timeout: float, tmp_path: Path) -> None:
    """Where not even a connection comes about, that is said in time."""
    full = socket.socket(socket.AF_UNIX)
    full.bind(str(tmp_path / "socket"))
    full.listen(0)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for one in waiting:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(str(tmp_path / "socket"))
    began = time.monotonic()
    with pytest.raises(EngineUnreachable):
        Engine(Endpoint(f"unix://{tmp_path / 'socket'}"), timeout).inspect("app")
    assert time.monotonic() - began < timeout + 120
    for one in (full, *waiting):
        one.close()


def test_an_export_may_take_its_time(tmp_path: Path) -> None:
    """Nothing bounds the silence before the first byte, nor that between two."""

    def slowly() -> Iterator[bytes]:
        for piece in chunked(SAVED):
            time.sleep(0.3)
            yield piece

    store = Store(tmp_path / "cache")
    with ScriptedEngine(tmp_path / "socket", IMAGE.answers(slowly)) as engine:
        assert fetched(engine.engine(timeout=0.2), store).id == IMAGE.id


@pytest.mark.parametrize(
    "export",
    [IMAGE.classic(), IMAGE.blobs(), IMAGE.blobs([gzip.compress(one) for one in IMAGE.layers])],
    ids=["classic", "blobs", "compressed"],
)
def test_a_layer_may_not_be_larger_than_the_user_says(export: bytes, tmp_path: Path) -> None:
    """The error names the layer, the limit and its option; nothing is kept; a larger limit does."""
    store, largest = Store(tmp_path / "cache"), max(map(len, IMAGE.layers))
    with ScriptedEngine(tmp_path / "socket", IMAGE.answers(chunked(export))) as engine:
        words = rf"layer \S+ .* more than {largest - 1} bytes; --max-layer-bytes sets this limit"
        with pytest.raises(HostError, match=words):
            fetched(engine.engine(), store, largest - 1)
        assert_nothing_kept(store)
        assert fetched(engine.engine(), store, largest).id == IMAGE.id


def test_a_layer_that_is_too_large_is_not_waited_for(tmp_path: Path) -> None:
    """What the engine says of its size is enough, where nothing but a layer is so large."""
    image = Export([layer({"large": File(bytes(20 << 20))})])
    head = image.classic()[: 1 << 20]
    over = threading.Event()

    def stalling() -> Iterator[bytes]:
        yield from chunked(head, ended=False)
        over.wait(60)

    store = Store(tmp_path / "cache")
    with ScriptedEngine(tmp_path / "socket", image.answers(stalling)) as engine:
        try:
            with pytest.raises(HostError, match="more than 1000 bytes; --max-layer-bytes"):
                fetched(engine.engine(), store, 1000)
        finally:
            over.set()
    assert_nothing_kept(store)


def endless(pieces: Callable[[int], bytes]) -> Answer:
    """Return a stream of chunks that does not end; `pieces` makes them by their number."""

    def stream() -> Iterator[bytes]:
        yield CHUNKED
        for number in itertools.count():
            piece = pieces(number)
            yield b"%x\r\n%b\r\n" % (len(piece), piece)

    return stream


def huge(kind: bytes, begin: bytes, more: bytes) -> Callable[[int], bytes]:
    """Return the pieces of a member that claims an exbibyte and begins so, and goes on so."""
    head = header(b"member", kind, size=1 << 60)
    return lambda number: more if number else head + begin


LARGE = bytes(500_000)
PACKED = gzip.compress(os.urandom(300_000))
NO_USE = "export is broken: (member: )?more than 1000000 bytes of it are no files, or come again"
TOLD = "the engine's export goes on beyond [0-9]{7} bytes, and the image has [0-9]{5}"

ENDLESS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "a label": (huge(b"V", b"", LARGE), NO_USE),
    "packed emptiness": (huge(b"0", gzip.compress(b"x"), gzip.compress(b"") * 9000), NO_USE),
    "directories": (lambda _: header(b"d", b"5") * 1000, NO_USE),
    "one layer again": (lambda n: file(b"%d" % (n % 2), LARGE), NO_USE),
    "one packed layer again": (lambda n: file(b"%d" % n, PACKED), NO_USE),
    "tiny files": (lambda n: file(b"f", b"%d" % n) * 1000, NO_USE),
    "small files": (lambda n: file(b"f", b"%09d" % n * 9999), TOLD),
    "layer after layer": (lambda n: file(b"%d" % n, b"%d" % n + LARGE), TOLD),
}


@pytest.fixture
def little_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an export have hardly more than its image."""
    monkeypatch.setattr(fetch, "MORE_BYTES", 1_000_000)
    monkeypatch.setattr(spool, "MAX_IDLE", 1_000_000)


@pytest.mark.usefixtures("little_beside")
@pytest.mark.parametrize("case", ENDLESS)
def test_an_export_without_end(
    case: str, tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """What leaves nothing on the disk ends, whatever the engine told of the image, and the rest by
    what it told."""
    pieces, words = ENDLESS[case]
    store = Store(tmp_path / "cache")
    answers = IMAGE.answers(endless(pieces), **({"Size": 0} if words is NO_USE else {}))
    with (
        ScriptedEngine(tmp_path / "socket", answers) as engine,
        pytest.raises(EngineError, match=words) as error,
    ):
        fetched(engine.engine(), store)
    said_by(error)
    assert_nothing_kept(store)
    count("engines that misbehave: exports", 1)


@pytest.mark.usefixtures("little_beside")
def test_an_export_of_what_is_there_is_no_waste(tmp_path: Path) -> None:
    """Layers that the store has may come again, each once, however large they are together."""
    layers = [layer({f"{n}": File(bytes([n]) * 600_000)}) for n in range(5)]
    store = Store(tmp_path / "cache")
    for number in range(2):
        image = Export(layers, created=f"{number}")
        answers = image.answers(chunked(image.classic()))
        with ScriptedEngine(tmp_path / f"{number}", answers) as engine:
            assert fetched(engine.engine(), store).id == image.id


@pytest.mark.parametrize("command", ["fetch", "mount", "layers", "inspect"])
def test_commands_take_the_limit(command: str, tmp_path: Path) -> None:
    """Each that may fetch an image ends with the one line."""
    place = tmp_path / "m"
    place.mkdir()
    words = ["--host", f"unix://{tmp_path}/socket", "--max-layer-bytes", "1k", "app:v1"]
    if command == "mount":
        need_fuse()
        words.append(str(place))
    with ScriptedEngine(tmp_path / "socket", IMAGE.answers(chunked(SAVED))):
        done = imagefs(command, "--quiet", *words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "more than 1000 bytes; --max-layer-bytes sets this limit" in done.stderr
