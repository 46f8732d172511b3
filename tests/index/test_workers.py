"""Layers indexed side by side: what memory their trees take, and what is known."""

import lzma
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import CorruptArchive
from imagefs.host.memory import BUDGET, Share
from imagefs.image.model import Blob, Layer
from imagefs.index import build as index_build
from imagefs.index import cache as index_cache
from imagefs.index import workers
from imagefs.index.cache import Indexer
from imagefs.store.store import Store
from tests.support import samples, users
from tests.support.headers import END, file, header, pax
from tests.support.opening import opened
from tests.support.samples import Layout, SampleImage
from tests.support.saved import docker_save
from tests.support.tars import layer

BROKEN = header(chksum=1) + END


# Memory


MEMBERS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "files": (lambda n: file(b"%05d" % n + b"n" * 90), 150),
    "directories": (lambda n: header(b"%05d/" % n, b"5"), 300),
    "links": (lambda n: header(b"%05d" % n, b"2", linkname=b"t" * 90), 300),
    "attributes": (
        lambda n: pax([(b"SCHILY.xattr.user.a", b"v" * 3000)]) + file(b"%05d" % n),
        3000,
    ),
}
"""What writes a member of each kind, and the bytes of memory that one takes at least."""


@pytest.mark.parametrize("kind", MEMBERS)
def test_what_a_tree_takes_is_told_as_it_grows(kind: str, tmp_path: Path) -> None:
    """Of whatever kind its members are, the memory is told before there is much more of it."""
    write, least = MEMBERS[kind]
    path, number = tmp_path / "layer.tar", 6000
    with path.open("wb") as out:
        out.writelines(map(write, range(number)))
        out.write(END)
    told: list[int] = []
    with (tmp_path / "index").open("wb") as index:
        blob = Blob(path, 0, path.stat().st_size)
        index_build.write_index(blob, bytes(32), index, lambda _, memory: told.append(memory))
    assert told == sorted(told)
    assert told[-1] > least * number * 3 // 4
    assert max(after - before for before, after in pairwise(told)) < 4 << 20


def test_a_tree_that_grows_takes_from_the_budget_of_all(tmp_path: Path) -> None:
    """Who indexes a layer of many files waits for who has all that there is; of few, for nobody."""
    layers = []
    for number in (100, 30_000):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(b"".join(file(b"%05d" % n + b"n" * 90) for n in range(number)) + END)
        layers.append(Layer(f"sha256:{number}", Blob(path, 0, path.stat().st_size)))
    few, many = layers
    done = threading.Event()

    def index() -> None:
        index_cache.build(many, tmp_path)
        done.set()

    with Share(tmp_path) as room, Share(tmp_path) as turn:
        room.take(BUDGET)
        turn.grow(BUDGET)
        thread = threading.Thread(target=index)
        thread.start()
        index_cache.build(few, tmp_path)
        assert not done.wait(1)
    assert done.wait(60)
    thread.join()


# Programs that have threads


@pytest.fixture
def beside_a_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a program with a thread, and fail where it is forked."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked beside a thread"))
    yield
    ended.set()
    thread.join()


def test_a_program_with_threads_is_not_forked(beside_a_thread: None, tmp_path: Path) -> None:
    """A lock that another thread holds would be held in the fork for good."""
    path = tmp_path / "app.tar"
    path.write_bytes(docker_save(layer({"a": "1"}), layer({"b": "2"})))
    store = Store(tmp_path / "cache")
    image = opened(path, store)
    index_cache.ensure(image.layers, store.index_dir, path.stat().st_size)
    assert not index_cache.missing(image.layers, store.index_dir)


def test_threads_count_each_for_their_own_image(beside_a_thread: None) -> None:
    """Images that are indexed at the same time do not count for each other."""
    tallies = [workers.Tally(1, 1, 1) for _ in range(2)]
    with ExitStack() as stack:
        pools = [stack.enter_context(workers.executor(1, tally)) for tally in tallies]
        for _ in range(2):
            counted = [pool.submit(workers.own_tally).result() for pool in pools]
            assert counted == tallies
    assert workers.own_tally() is None


# Refusals


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count how many layers have been scanned, in whatever process."""
    real, noted = index_build.write_index, tmp_path / "scans"

    def scan(*args: Any, **options: Any) -> None:
        with noted.open("ab") as out:
            out.write(b".")
        real(*args, **options)

    monkeypatch.setattr(index_build, "write_index", scan)
    return lambda: len(noted.read_bytes()) if noted.exists() else 0


def test_a_layer_that_is_refused_is_scanned_once(scans: Callable[[], int], tmp_path: Path) -> None:
    """What was found out beside the fetch is not found out again behind it."""
    layout = samples.oci_layout(SampleImage((layer({"a": "1"}), BROKEN)))
    path = samples.write(tmp_path / "x", samples.gz(samples.tar_of(layout)))
    store = Store(tmp_path / "cache")
    image = opened(path, store)
    assert scans() == 2
    with pytest.raises(CorruptArchive, match=f"layer {samples.digest(BROKEN)} is damaged") as error:
        index_cache.ensure(image.layers, store.index_dir)
    assert scans() == 2
    assert str(tmp_path) not in str(error.value)
    # Whoever asks later may have brought in another file.
    with pytest.raises(CorruptArchive, match="is damaged"):
        index_cache.ensure(image.layers, store.index_dir)
    assert scans() == 3


def test_a_refusal_is_of_the_file_that_was_looked_at(
    scans: Callable[[], int], tmp_path: Path
) -> None:
    """A layer that has been brought in anew meanwhile is not the one that was refused."""
    path = tmp_path / "layer"
    path.write_bytes(BROKEN)
    refused = Layer("sha256:0", Blob(path, 0, len(BROKEN)), stored=True)
    with Indexer(tmp_path) as indexer:
        indexer.begin()
        indexer.add(refused, len(BROKEN))()
    good = layer({"a": "1"})
    path.unlink()
    path.write_bytes(good)
    index_cache.ensure([replace(refused, blob=Blob(path, 0, len(good)))], tmp_path)
    assert scans() == 2


def test_what_nobody_needs_may_be_refused(tmp_path: Path) -> None:
    """A broken layer of another image of an archive is no error to who mounts this one."""
    images = [SampleImage((layer({"a": "1"}),), ("app:1",)), SampleImage((BROKEN,), ("app:2",))]
    path = samples.write(tmp_path / "x", samples.gz(samples.tar_of(samples.docker_20(*images))))
    store = Store(tmp_path / "cache")
    image = opened(path, store, image="app:1")
    index_cache.ensure(image.layers, store.index_dir)


# Names


def packed_layers(layout: Layout) -> Layout:
    """Return a layout whose layers are compressed each."""
    return {
        name: lzma.compress(data) if isinstance(data, bytes) and len(data) > 10_000 else data
        for name, data in layout.items()
    }


def packed(layers: Sequence[bytes], way: str) -> bytes:
    """Return an archive that is compressed, or whose layers are."""
    layout = samples.docker_20(SampleImage(tuple(layers)))
    if way == "layers":
        return samples.tar_of(packed_layers(layout))
    return lzma.compress(samples.tar_of(layout))


@pytest.fixture
def few_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an archive have hardly more names than its bytes stand for."""
    monkeypatch.setattr(index_cache, "FREE_NAMES", 3000)


@pytest.mark.parametrize("way", ["archive", "layers"])
def test_names_must_be_worth_their_bytes(
    way: str, few_are_free: None, scans: Callable[[], int], tmp_path: Path
) -> None:
    """A small archive of very many names is refused, however they are spread over its layers."""
    names, layers = 6000, 4
    each = [
        b"".join(file(b"%d-%06d" % (at, n)) for n in range(names)) + END for at in range(layers)
    ]
    path = samples.write(tmp_path / "x", packed(each, way))
    store = Store(tmp_path / "cache")
    image = opened(path, store)
    assert scans() < layers, "not all beside the others, since they count together"
    assert image.packed is not None
    assert image.packed <= path.stat().st_size
    for _ in range(2):
        with pytest.raises(CorruptArchive, match=r"have more than .* names, too many for") as error:
            index_cache.ensure(image.layers, store.index_dir, image.packed)
        assert str(error.value).isprintable()
    left = index_cache.missing(image.layers, store.index_dir)
    assert left, "what is refused leaves nothing half-made"
    assert not list(store.index_dir.glob("*.tmp"))
    # As plain layers, their bytes are what the names take.
    index_cache.ensure(image.layers, store.index_dir, len(each[0]) * layers)


@pytest.mark.parametrize("way", ["archive", "layers"])
def test_long_ways_to_names_count_as_names(
    way: str, few_are_free: None, scans: Callable[[], int], tmp_path: Path
) -> None:
    """Deep paths that are gone down again and again are refused, however many layers have them."""
    deep, layers = b"d/" * 1000, 4
    each = [
        b"".join(long_name(deep + b"%d-%d" % (at, n)) for n in range(15)) + END
        for at in range(layers)
    ]
    path = samples.write(tmp_path / "x", packed(each, way))
    store = Store(tmp_path / "cache")
    image = opened(path, store)
    with pytest.raises(CorruptArchive, match=r"have more than .* names, too many for"):
        index_cache.ensure(image.layers, store.index_dir, image.packed)
    # One layer alone has not too many.
    index_cache.ensure(image.layers[:1], store.index_dir, image.packed)


def long_name(name: bytes) -> bytes:
    """An empty file of a long name, as GNU tar has it."""
    return (
        header(b"././@LongLink", b"L", size=len(name) + 1)
        + name.ljust(-(-(len(name) + 1) // 512) * 512, b"\0")
        + header(b"f")
    )


def test_names_of_honest_archives_are_worth_their_bytes(tmp_path: Path) -> None:
    """Even directories alone, and links alone, take more each than is asked of them."""
    for member in (
        lambda n: header(b"usr/share/doc/package-%d-doc/" % (n * 7919), b"5", mtime=n * 37),
        lambda n: header(b"bin/%d" % (n * 7919), b"2", linkname=b"../%d" % n, mtime=n * 37),
    ):
        plain = b"".join(map(member, range(20_000))) + END
        assert len(samples.zstd(plain)) > 20_000 * index_cache.BYTES_A_NAME


def test_a_machine_without_a_place_for_semaphores() -> None:
    """A bare chroot has a /dev/shm that others may not write to: the error says so."""
    with users.others(0, users.NOBODY) as (root, user):
        archive = user.file("app.tar", docker_save(layer({"a": "x"})))
        hide = 'mount -t tmpfs -o mode=755 none /dev/shm && exec "$@"'
        become = (
            "setpriv",
            f"--reuid={users.NOBODY}",
            "--clear-groups",
            "env",
            f"HOME={user.home}",
        )
        words = (*become, f"IMAGEFS_CACHE={user.home}/cache", *user.command("layers", archive))
        answer = root.run("unshare", "-m", "sh", "-c", hide, "sh", *words)
    assert (answer.status, answer.err) == (
        1,
        "imagefs: layers cannot be indexed by processes: /dev/shm: Permission denied;"
        " it has to be a tmpfs that all users may write to\n",
    )
