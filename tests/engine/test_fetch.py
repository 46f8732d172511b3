"""From an engine's name to an image in the store: fetched once, whole, and used without asking."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from imagefs.engine.addresses import Endpoint
from imagefs.engine.api import Engine
from imagefs.engine.fetch import Source, ensure_image
from imagefs.errors import CorruptArchive, EngineError, EngineUnreachable, HostError
from imagefs.image.model import Image
from imagefs.index import cache as index_cache
from imagefs.progress import Silent
from imagefs.store.store import Store
from imagefs.store.verify import verify
from tests.support import samples
from tests.support.badengine import Export, ScriptedEngine, answer_json, chunked, digest
from tests.support.engines import RunningEngine, docker_daemon
from tests.support.needs import need_docker
from tests.support.samples import SampleImage
from tests.support.tars import layer


class Heard(Silent):
    """A Progress that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.bytes = 0

    def phase(self, text: str, total: int | None = None) -> None:
        self.phases.append(text)

    def advance(self, count: int) -> None:
        self.bytes += count

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def source(host: str, store: Store, heard: Heard | None = None) -> Source:
    return Source(Engine(Endpoint(host)), store, heard or Heard())


def assert_whole(image: Image) -> None:
    """Every layer of the image is in its file, and is what its diff id says."""
    for one in image.layers:
        assert one.stored
        assert one.blob is not None
        content = one.blob.path.read_bytes()
        assert (one.blob.offset, len(content)) == (0, one.blob.length)
        assert f"sha256:{sha256(content).hexdigest()}" == one.diff_id


def assert_indexed(image: Image, store: Store) -> None:
    for one in image.layers:
        assert index_cache.path_of(store.index_dir, index_cache.key_of(one)).exists()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


# Real engines


def test_an_image_of_docker_is_fetched_whole(docker_engine: RunningEngine, store: Store) -> None:
    """Layers, configuration and names arrive as the engine has them, and indexed."""
    docker_engine.load_root("fetch-test/base:1", {"etc/motd": b"hello\n"})
    image_id = docker_engine.build(
        "fetch-test/app:1", "FROM fetch-test/base:1", "RUN touch /new", "LABEL a=b"
    )
    docker_engine.docker("tag", "fetch-test/app:1", "fetch-test/app:2")
    heard = Heard()
    image = ensure_image("fetch-test/app:1", source(docker_engine.host, store, heard))
    assert (image.id, set(image.names)) == (image_id, {"fetch-test/app:1", "fetch-test/app:2"})
    assert f"sha256:{sha256(image.config).hexdigest()}" == image_id
    assert [one.created_by for one in image.layers] == ["", "/bin/sh -c touch /new"]
    assert json.loads(image.manifest)["Config"] == f"{image_id[7:]}.json"
    assert_whole(image)
    assert_indexed(image, store)
    assert heard.phases == ["the engine is preparing the export", "fetching", "checking the image"]
    assert heard.bytes > sum(one.blob.length for one in image.layers if one.blob)


def test_an_image_of_podman_is_the_same(
    docker_engine: RunningEngine, podman_engine: RunningEngine, tmp_path: Path
) -> None:
    """An image that moved from Docker to Podman has the same layers when fetched from there."""
    docker_engine.load_root("podman-test/base:1")
    docker_engine.build(
        "podman-test/app:1", "FROM podman-test/base:1", "RUN touch /a", "RUN touch /b", "RUN rm /a"
    )
    saved = tmp_path / "saved.tar"
    docker_engine.docker("save", "--output", str(saved), "podman-test/app:1")
    podman_engine.docker("load", "--input", str(saved))
    ours = Store(tmp_path / "docker")
    theirs = Store(tmp_path / "podman")
    docker = ensure_image("podman-test/app:1", source(docker_engine.host, ours))
    podman = ensure_image("podman-test/app:1", source(podman_engine.host, theirs))
    assert podman.id == docker.id
    assert [one.diff_id for one in podman.layers] == [one.diff_id for one in docker.layers]
    assert podman.names == ("localhost/podman-test/app:1",)
    assert_whole(podman)
    # The name as typed is remembered beside the one that Podman made of it.
    down = source(podman_engine.host.replace("/socket", "/nowhere"), theirs)
    assert ensure_image("podman-test/app:1", down).id == docker.id


def test_shared_layers_are_stored_once(docker_engine: RunningEngine, store: Store) -> None:
    """What an image has in common with one before is neither written nor kept twice."""
    docker_engine.load_root("shared-test/base:1", {"data": os.urandom(3 << 20)})
    for name in ("one", "two"):
        docker_engine.build(
            f"shared-test/{name}:1", "FROM shared-test/base:1", f"RUN touch /{name}"
        )
    first = ensure_image("shared-test/one:1", source(docker_engine.host, store))
    base = store.layer_path(first.layers[0].diff_id)
    before = base.stat()
    second = ensure_image("shared-test/two:1", source(docker_engine.host, store))
    assert second.layers[0] == first.layers[0]
    assert (base.stat().st_ino, base.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(store.layer_ids()) == 3
    assert_whole(second)


def test_a_moved_tag_is_followed(docker_engine: RunningEngine, store: Store) -> None:
    """A name is resolved at each use; both images stay, each under its id."""
    ids = []
    for content in (b"old", b"new"):
        docker_engine.load_root("moved-test:1", {"content": content})
        ids.append(ensure_image("moved-test:1", source(docker_engine.host, store)).id)
    assert ids[0] != ids[1]
    assert all(store.image(image_id) for image_id in ids)


@pytest.mark.xdist_group("engines")
def test_an_engine_killed_in_mid_stream(tmp_path: Path) -> None:
    """It is an error of the engine's, and nothing is kept."""
    need_docker()
    store = Store(tmp_path / "cache")
    with docker_daemon() as engine:
        engine.load_root("big:1", {"data": os.urandom(150 << 20)})

        class KillsIt(Heard):
            def advance(self, count: int) -> None:
                super().advance(count)
                if self.bytes > 10 << 20:
                    os.kill(engine.pid, signal.SIGKILL)

        with pytest.raises(EngineError, match=r"stopped in the middle|ended early"):
            ensure_image("big:1", source(engine.host, store, KillsIt()))
    assert store.layer_ids() == store.ids() == []
    assert os.listdir(store.work_dir) == []


# Layouts of exports

LAYERS = [
    layer({"a": "lower" * 500_000}),
    layer({"b": "upper"}),
    layer({".wh.a": ""}),
    layer({"b": "upper"}),
]
IMAGE = Export(LAYERS)


def answer(export: bytes) -> dict[str, Any]:
    return IMAGE.answers(chunked(export))


@pytest.mark.parametrize(
    "export",
    [
        IMAGE.classic(),
        IMAGE.blobs(),
        IMAGE.blobs([gzip.compress(content) for content in LAYERS]),
        IMAGE.blobs([LAYERS[0], *map(gzip.compress, LAYERS[1:])]),
    ],
    ids=["classic with links", "blobs", "gzip", "partly gzip"],
)
def test_every_layout_gives_the_same_image(export: bytes, store: Store, tmp_path: Path) -> None:
    """Links, blobs named by digest and compressed layers lead to the same plain layers."""
    with ScriptedEngine(tmp_path / "socket", answer(export)) as engine:
        image = ensure_image("app:v1", source(engine.host, store))
    assert (image.id, image.config) == (IMAGE.id, IMAGE.config)
    assert [one.diff_id for one in image.layers] == [digest(content) for content in LAYERS]
    assert_whole(image)
    assert_indexed(image, store)


def test_a_layer_that_does_not_decompress(store: Store, tmp_path: Path) -> None:
    """A damaged stream is the engine's error, and nothing is kept."""
    spoilt = bytearray(gzip.compress(LAYERS[0]))
    spoilt[len(spoilt) // 2] ^= 0xFF
    export = IMAGE.blobs([bytes(spoilt), *LAYERS[1:]])
    with (
        ScriptedEngine(tmp_path / "socket", answer(export)) as engine,
        pytest.raises(EngineError, match=r"gzip stream is (damaged|cut)|should have the digest"),
    ):
        ensure_image("app:v1", source(engine.host, store))
    assert store.layer_ids() == store.ids() == []


def test_an_id_may_be_that_of_a_manifest(store: Store, tmp_path: Path) -> None:
    """As in the containerd image store: the manifest is in the export, the image's id its own."""
    manifest = b'{"schemaVersion": 2}'
    export = IMAGE.blobs([*LAYERS, manifest])
    entry = json.dumps(
        [
            {
                "Config": f"blobs/sha256/{IMAGE.id[7:]}",
                "Layers": [f"blobs/sha256/{digest(content)[7:]}" for content in LAYERS],
            }
        ]
    )
    members = {"manifest.json": entry}
    end = len(export) - len(export.rstrip(b"\0"))
    export = export[: len(export) - end + -(len(export) - end) % 512] + layer(members)
    facts = {"Id": digest(manifest), "RepoTags": ["app:v1"], "RootFS": {"Layers": IMAGE.diff_ids}}
    answers = {"/json": answer_json(facts), "/get": chunked(export)}
    with ScriptedEngine(tmp_path / "socket", answers) as engine:
        image = ensure_image("app:v1", source(engine.host, store))
        assert image.id == IMAGE.id
        engine.asked.clear()
        assert ensure_image(digest(manifest), source(engine.host, store)).id == IMAGE.id
        assert ensure_image(IMAGE.id, source(engine.host, store)).id == IMAGE.id
        assert engine.asked == []


def test_layers_of_the_same_length_are_told_apart(store: Store, tmp_path: Path) -> None:
    """What arrives is compared with what the store has, and written from the first difference."""
    versions = [layer({"a": "x" * 300_000 + text}) for text in ("one", "two", "six")]
    for number, content in enumerate(versions):
        export = Export([content, layer({"b": str(number)})])
        socket = tmp_path / f"socket{number}"
        with ScriptedEngine(socket, export.answers(chunked(export.classic()))) as engine:
            assert_whole(ensure_image("app:v1", source(engine.host, store)))
    mixed = Export(versions)
    with ScriptedEngine(tmp_path / "socket", mixed.answers(chunked(mixed.blobs()))) as engine:
        assert_whole(ensure_image("app:v1", source(engine.host, store)))


LARGE = Export([layer({f"large{number}": os.urandom(400_000).hex()}) for number in range(2)])


@pytest.mark.parametrize(
    ("export", "words"),
    [
        (LARGE.blobs()[:1_000_000], "ended early"),
        (LARGE.classic().replace(LARGE.layers[1][:8], b"largeX\0\0"), "should have the digest"),
        (LARGE.classic(config=LARGE.config + b" "), "was asked for image"),
        (Export([LARGE.layers[0]]).blobs(), "was asked for image"),
    ],
    ids=["cut", "a layer of another digest", "another configuration", "another image"],
)
def test_large_layers_of_no_image_are_not_kept(
    export: bytes, words: str, store: Store, tmp_path: Path
) -> None:
    """What came whole of an export that is not the image is in the store no more than the rest."""
    with (
        ScriptedEngine(tmp_path / "socket", LARGE.answers(chunked(export))) as engine,
        pytest.raises(EngineError, match=words),
    ):
        ensure_image("app:v1", source(engine.host, store))
    assert store.layer_ids() == store.archive_ids() == store.ids() == []
    assert os.listdir(store.work_dir) == []


def test_a_layer_that_is_no_tar(store: Store, tmp_path: Path) -> None:
    """It cannot be shown, so the image is refused by name, and nothing of it is kept."""
    image = Export([LARGE.layers[0], os.urandom(300_000)])
    with (
        ScriptedEngine(tmp_path / "socket", image.answers(chunked(image.blobs()))) as engine,
        pytest.raises(CorruptArchive, match=f"layer {image.diff_ids[1]} is damaged: .*tar"),
    ):
        ensure_image("app:v1", source(engine.host, store))
    assert store.layer_ids() == store.ids() == []


@pytest.mark.parametrize("wanted", [None, "linux/amd64", "linux/arm64"])
def test_the_index_of_an_export_has_other_platforms(
    wanted: str | None, store: Store, tmp_path: Path
) -> None:
    """manifest.json lists one image; index.json, whose digest is the id, those of all platforms."""
    images = {
        f"linux/{one}": SampleImage(samples.IMAGE.layers[:count], architecture=one)
        for count, one in enumerate(("amd64", "arm64"), 2)
    }
    layout = samples.containerd(*images.values())
    (top,) = json.loads(layout["index.json"] or b"")["manifests"]
    facts = {"Id": top["digest"], "RepoTags": ["app:v1"], "Os": "linux", "Architecture": "amd64"}
    ping = b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: 2\r\n\r\nOK"
    export = chunked(samples.tar_of(layout))
    answers = {"/_ping": [ping], "/json": answer_json(facts), "/get": export}
    with ScriptedEngine(tmp_path / "socket", answers) as scripted:
        image = ensure_image("app:v1", Source(scripted.engine(), store, Heard(), wanted))
    expected = images[wanted or "linux/amd64"]
    assert image.id == digest(expected.config)
    assert [one.diff_id for one in image.layers] == [digest(one) for one in expected.layers]
    assert_whole(image)
    assert_indexed(image, store)


def test_a_platform_that_the_export_lacks(store: Store, tmp_path: Path) -> None:
    """The engine said that it would export it; what it did export is said."""
    layout = samples.containerd(SampleImage(samples.IMAGE.layers))
    facts = {"Id": digest(b"x"), "RepoTags": ["app:v1"], "Os": "linux", "Architecture": "s390x"}
    ping = b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: 2\r\n\r\nOK"
    export = chunked(samples.tar_of(layout))
    answers = {"/_ping": [ping], "/json": answer_json(facts), "/get": export}
    with (
        ScriptedEngine(tmp_path / "socket", answers) as scripted,
        pytest.raises(EngineError, match=r"holds no image for linux/s390x.*linux/amd64"),
    ):
        ensure_image("app:v1", Source(scripted.engine(), store, Heard(), "linux/s390x"))
    assert store.layer_ids() == store.ids() == []


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b"[" * 200 + b"]" * 200, "more than 100 deep"),
        (b"[" + b"0," * 600_000 + b"0]", "more than 500000 values"),
        (b" " * (17 << 20), "of more than 16777216 is not read"),
    ],
    ids=["deep", "many", "long"],
)
def test_what_bounds_an_archive_bounds_an_export(
    manifest: bytes, words: str, store: Store, tmp_path: Path
) -> None:
    """An engine's JSON takes no more memory than an archive's."""
    export = samples.tar_of({"manifest.json": manifest})
    with (
        ScriptedEngine(tmp_path / "socket", answer(export)) as engine,
        pytest.raises(EngineError, match=words) as error,
    ):
        ensure_image("app:v1", source(engine.host, store))
    assert "keep-going" not in str(error.value)
    assert store.layer_ids() == store.ids() == []


# When the engine is asked


def test_a_cached_image_costs_one_question(store: Store, tmp_path: Path) -> None:
    """A name is resolved, an id is not; neither is exported again."""
    answers = answer(IMAGE.classic())
    with ScriptedEngine(tmp_path / "socket", answers) as engine:
        first = ensure_image("app:v1", source(engine.host, store))
        engine.asked.clear()
        assert ensure_image("app:v1", source(engine.host, store)) == first
        assert engine.asked == ["/_ping", "/v1.41/images/app:v1/json"]
        engine.asked.clear()
        for name in (IMAGE.id, IMAGE.id[7:]):
            assert ensure_image(name, source(engine.host, store)).id == IMAGE.id
        assert engine.asked == []


@pytest.mark.parametrize("name", ["app:v1", "docker.io/library/app:v1", IMAGE.id[7:19], IMAGE.id])
def test_an_engine_that_is_down(name: str, store: Store, tmp_path: Path) -> None:
    """What was fetched before still mounts, by name too, with a warning."""
    with ScriptedEngine(tmp_path / "socket", answer(IMAGE.classic())) as engine:
        ensure_image("app:v1", source(engine.host, store))
    heard = Heard()
    image = ensure_image(name, source(engine.host, store, heard))
    assert image.id == IMAGE.id
    assert name == IMAGE.id or "as it was when last fetched" in heard.warnings[0]


def test_an_engine_that_is_down_and_an_unknown_name(store: Store, tmp_path: Path) -> None:
    """There is nothing to fall back to: the error is that nobody answers."""
    with pytest.raises(EngineUnreachable, match=r"no engine answers at unix://.*No such file"):
        ensure_image("app:v1", source(f"unix://{tmp_path}/nowhere", store))


def test_the_manifest_is_that_of_the_image_asked_for(store: Store, tmp_path: Path) -> None:
    """The export is asked for by id, so that a tag that moves meanwhile cannot mix two images."""
    with ScriptedEngine(tmp_path / "socket", answer(IMAGE.classic())) as engine:
        ensure_image("app:v1", source(engine.host, store))
        assert engine.asked[-1] == f"/v1.41/images/{IMAGE.id}/get"


def test_a_platform_is_passed_on(store: Store, tmp_path: Path) -> None:
    """From API 1.49 an engine can describe one platform, from 1.48 export one."""
    ping = b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: 2\r\n\r\nOK"
    answers = answer(IMAGE.classic()) | {"/_ping": [ping]}
    with ScriptedEngine(tmp_path / "socket", answers) as scripted:
        engine = scripted.engine()
        ensure_image("app:v1", Source(engine, store, Heard(), "linux/amd64"))
        wanted = "?platform=" + quote('{"os": "linux", "architecture": "amd64"}')
        assert scripted.asked[1:] == [
            f"/v1.49/images/app:v1/json{wanted}",
            f"/v1.49/images/{IMAGE.id}/get{wanted}",
        ]


def test_an_old_engine_has_one_platform(store: Store, tmp_path: Path) -> None:
    """A platform that the image has is fine there; another is an error, and says why."""
    with ScriptedEngine(tmp_path / "socket", answer(IMAGE.classic())) as scripted:
        engine = scripted.engine()
        assert ensure_image("app:v1", Source(engine, store, Heard(), "linux/amd64")).id == IMAGE.id
        with pytest.raises(EngineError, match=r"is for linux/amd64, not for linux/arm64.*API 1.41"):
            ensure_image("app:v1", Source(engine, store, Heard(), "linux/arm64"))


# Several at once


def test_two_who_want_the_same_fetch_it_once(store: Store, tmp_path: Path) -> None:
    """The second waits, says so, and has the image from the store."""
    started = threading.Event()
    go_on = threading.Event()

    def export() -> Iterator[bytes]:
        started.set()
        assert go_on.wait(20)
        yield from chunked(IMAGE.classic())

    results: list[Image] = []
    with ScriptedEngine(tmp_path / "socket", IMAGE.answers(export)) as engine:

        def fetch(heard: Heard) -> None:
            results.append(ensure_image("app:v1", source(engine.host, Store(store.root), heard)))

        class Waits(Heard):
            def note(self, text: str) -> None:
                super().note(text)
                go_on.set()

        first, second = Heard(), Waits()
        threads = [threading.Thread(target=fetch, args=(heard,)) for heard in (first, second)]
        threads[0].start()
        assert started.wait(20)
        threads[1].start()
        for thread in threads:
            thread.join(20)
        assert [path.rpartition("/")[2] for path in engine.asked].count("get") == 1
    assert [image.id for image in results] == [IMAGE.id] * 2
    assert "another process is fetching" in second.notes[0]
    assert first.notes == []


# Faults

FETCH = """
    import sys
    from pathlib import Path
    from imagefs.engine.addresses import Endpoint
    from imagefs.engine.api import Engine
    from imagefs.engine.fetch import Source, ensure_image
    from imagefs.progress import Silent
    from imagefs.store.store import Store
    print("start", flush=True)
    store = Store(Path(sys.argv[1]))
    engine = Engine(Endpoint(sys.argv[2]))
    ensure_image("app:v1", Source(engine, store, Silent()))
"""


def test_a_fetch_killed_at_any_moment(tmp_path: Path) -> None:
    """After each SIGKILL all that the store shows is whole, and nothing of the dead is left."""
    rounds = int(os.environ.get("IMAGEFS_TEST_KILLS", "10"))
    image = Export([layer({"a": os.urandom(4 << 20).hex()}), layer({"b": "upper"})])
    root = tmp_path / "cache"
    chance = random.Random(7)

    def slowly() -> Iterator[bytes]:
        for piece in chunked(image.classic(), 1 << 20):
            time.sleep(0.01)
            yield piece

    finished = 0
    with ScriptedEngine(tmp_path / "socket", image.answers(slowly)) as engine:
        for _ in range(rounds):
            with subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(FETCH), str(root), engine.host],
                stdout=subprocess.PIPE,
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"start\n"
                try:
                    process.wait(chance.uniform(0, 0.6))
                    finished += 1
                except subprocess.TimeoutExpired:
                    process.kill()
            store = Store(root)
            assert os.listdir(store.work_dir) == []
            assert verify(store, Silent()) == ()
            if (found := store.image(image.id)) is not None:
                assert_whole(found)
                shutil.rmtree(root)
        assert finished < rounds
        assert ensure_image("app:v1", source(engine.host, Store(root))).id == image.id


def test_a_full_disk(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The error names the place and what helps; what was cached before still works."""
    store = Store(small_disk / "cache")
    sockets = tmp_path_factory.mktemp("sockets")
    big = Export([os.urandom(24 << 20)])
    with ScriptedEngine(sockets / "a", answer(IMAGE.classic())) as engine:
        ensure_image("app:v1", source(engine.host, store))
    with (
        ScriptedEngine(sockets / "b", big.answers(chunked(big.classic(), 1 << 20))) as engine,
        pytest.raises(HostError, match=r"No space left on device; .*B are free on .* cache prune`"),
    ):
        ensure_image("app:v1", source(engine.host, store))
    assert store.ids() == [IMAGE.id]
    assert os.listdir(store.work_dir) == []
    assert verify(store, Silent()) == ()


def test_flipped_bits_are_fetched_anew(store: Store, tmp_path: Path) -> None:
    """A layer that verify found damaged is fetched again, and only that one is written."""
    with ScriptedEngine(tmp_path / "socket", answer(IMAGE.classic())) as engine:
        image = ensure_image("app:v1", source(engine.host, store))
        inode = store.layer_path(IMAGE.diff_ids[1]).stat().st_ino
        path = store.layer_path(IMAGE.diff_ids[0])
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert [damage.name for damage in verify(store, Silent())] == [IMAGE.diff_ids[0]]
        again = ensure_image("app:v1", source(engine.host, store))
    assert again == image
    assert_whole(again)
    assert store.layer_path(IMAGE.diff_ids[1]).stat().st_ino == inode
