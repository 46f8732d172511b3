"""The cache: whole or absent, private, shared between processes, and kept in bounds."""

import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import published
from imagefs.image.model import Image, Layer
from imagefs.progress import Silent
from imagefs.store.directory import _TAG_CONTENT
from imagefs.store.inventory import contents
from imagefs.store.prune import prune
from imagefs.store.store import Store
from imagefs.store.verify import verify

LONG_AGO = 1_000_000_000


def digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


def put_image(store: Store, *layers: bytes, name: str = "app:v1") -> Image:
    """Store an image of these layers, which need not be tars, under a name."""
    for content in layers:
        with store.layer_writer(digest(content)) as out:
            out.write(content)
    config = json.dumps({"name": name, "rootfs": {"diff_ids": list(map(digest, layers))}}).encode()
    image = store.adopt_image(digest(config), (name,), config, b'{"Layers":[]}')
    store.remember(f"engine {name}", image.id, name)
    return image


def files(store: Store) -> set[str]:
    """Return what content the store holds."""
    kept = [store.layers_dir, store.images_dir, store.index_dir]
    return {str(path.relative_to(store.root)) for top in kept for path in top.rglob("*")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def reopened(store: Store) -> Store:
    """Return the store as another process would see it, ours having ended."""
    store.close()
    return Store(store.root)


def test_the_cache_is_private(tmp_path: Path) -> None:
    """Nobody else may enter it, even where the umask would let them, or a former mode did."""
    root = tmp_path / "cache"
    before = os.umask(0)
    try:
        Store(root)
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        root.chmod(0o755)
        Store(root)
    finally:
        os.umask(before)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of somebody else's")
def test_a_cache_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    """Its owner could change layers under us."""
    root = Store(tmp_path / "cache").root
    os.chown(root, 12345, 12345)
    with pytest.raises(HostError, match="belongs to uid 12345"):
        Store(root)


def test_a_directory_of_other_things_is_left_alone(tmp_path: Path) -> None:
    """IMAGEFS_CACHE=~ must not turn a home into a cache."""
    tmp_path.joinpath("letters").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(HostError, match="neither empty nor a cache"):
        Store(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert os.listdir(tmp_path) == ["letters"]


OTHERS_TAGS = {
    "cargo": b"Signature: 8a477f597d28d172789f06886806bc55\n# created by cargo\n",
    "ccache": b"Signature: 8a477f597d28d172789f06886806bc55\n# created by ccache\n",
    "a tag alone": b"Signature: 8a477f597d28d172789f06886806bc55",
    "no signature": b"mine",
    "ours, with more": _TAG_CONTENT + b"and more\n",
}


@pytest.mark.parametrize("other", OTHERS_TAGS)
def test_another_programs_cache_is_left_alone(other: str, tmp_path: Path) -> None:
    """That a directory is a cache does not make it ours, whatever its folders are called."""
    (tmp_path / "CACHEDIR.TAG").write_bytes(OTHERS_TAGS[other])
    for name in ("work/0123456789abcdef/f", "uses/0123456789abcdef", "index/x.idx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("theirs")
    tmp_path.chmod(0o755)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(HostError, match="neither empty nor a cache of imagefs"):
        Store(tmp_path)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "CACHEDIR.TAG").read_bytes() == OTHERS_TAGS[other]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("length", [0, 10])
def test_a_cache_whose_making_was_cut_short_is_made(length: int, tmp_path: Path) -> None:
    """Whoever was killed while writing the mark has left its beginning and nothing else."""
    (tmp_path / "CACHEDIR.TAG").write_bytes(_TAG_CONTENT[:length])
    Store(tmp_path)
    assert (tmp_path / "CACHEDIR.TAG").read_bytes() == _TAG_CONTENT


def test_only_what_we_wrote_is_swept(store: Store) -> None:
    """Files of other names, and what links lead to, are somebody else's."""
    outside = store.root.parent / "outside"
    outside.mkdir()
    (outside / "f").touch()
    for folder in (store.work_dir, store.uses_dir, store.index_dir):
        (folder / "mine").mkdir()
        (folder / "0123456789abcdef").symlink_to(outside)
        (folder / ".0123456789abcdef.tmp").touch()
    reopened(store)
    for folder in (store.work_dir, store.uses_dir, store.index_dir):
        assert sorted(os.listdir(folder)) == ["0123456789abcdef", "mine"]
    assert os.listdir(outside) == ["f"]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IMAGEFS_CACHE, else the user's cache directory by the XDG rules."""
    monkeypatch.setenv("IMAGEFS_CACHE", str(tmp_path / "a"))
    assert Store().root == tmp_path / "a"
    monkeypatch.delenv("IMAGEFS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Store().root == tmp_path / "xdg" / "imagefs"


def test_an_image_is_as_it_was_stored(store: Store) -> None:
    """Configuration, manifest and layers come back byte for byte, and in their order."""
    image = put_image(store, b"lower", b"upper")
    again = reopened(store).image(image.id)
    assert again == image
    assert [layer.diff_id for layer in image.layers] == [digest(b"lower"), digest(b"upper")]
    assert all(layer.blob and layer.blob.path.is_file() for layer in image.layers)
    assert image.manifest == b'{"Layers":[]}'


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (5 << 20) + 1])
def test_layers_of_any_size_are_hashed_as_written(store: Store, size: int) -> None:
    """In place or by the other thread, in pieces of any length, the bytes and digest are right."""
    content = os.urandom(size)
    with store.layer_writer(None) as out:
        for start in range(0, size, 77_777):
            out.write(memoryview(content)[start : start + 77_777])
    assert out.digest == digest(content)
    blob = store.layer(digest(content))
    assert blob is not None
    assert blob.path.read_bytes() == content


def test_a_layer_of_the_wrong_digest_is_not_kept(store: Store) -> None:
    """The error names both digests, and neither is in the store."""
    with (
        pytest.raises(CorruptArchive, match=f"{digest(b'right')}.*{digest(b'wrong')}"),
        store.layer_writer(digest(b"right")) as out,
    ):
        out.write(b"wrong")
    assert files(store) == set()
    assert os.listdir(store.work_dir) == []


def test_a_writer_who_fails_leaves_nothing(store: Store) -> None:
    """What is not whole goes with the block."""

    def fail_halfway() -> None:
        with store.layer_writer(digest(b"whole")) as out:
            out.write(b"who")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert files(store) == set()
    assert os.listdir(store.work_dir) == []


def test_an_image_without_one_of_its_layers_is_absent(store: Store) -> None:
    """Rather nothing than an image that breaks when it is read."""
    image = put_image(store, b"lower", b"upper")
    store.layer_path(digest(b"lower")).unlink()
    assert store.image(image.id) is None
    assert store.layer(digest(b"lower")) is None


@pytest.mark.parametrize("name", ["config.json", "names.json"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"rootfs": {"diff_ids": ["../../etc"]}}', b"[]"])
def test_a_damaged_record_is_no_image(store: Store, name: str, content: bytes) -> None:
    """A record that is not as it was written is not believed."""
    image = put_image(store, b"lower")
    (store.image_path(image.id) / name).write_bytes(content)
    again = store.image(image.id)
    assert again is None or (name, content, again.names) == ("names.json", b"[]", ())


def test_digests_become_no_paths(store: Store) -> None:
    """An image's own words never name a file outside the store."""
    for name in ("sha256:../../x", "sha256:" + "A" * 64, "sha512:" + "0" * 64, "x", "sha256:"):
        assert store.image(name) is None
        assert store.layer(name) is None


def test_names_are_remembered(store: Store) -> None:
    """The last meaning of a name wins; a record that is damaged is none."""
    _, second = put_image(store, b"1", name="a"), put_image(store, b"2", name="b")
    store.remember("engine a", second.id, "a")
    assert store.recall("engine a") == second.id
    assert store.refs.names() == {second.id: ("a", "b")}
    for path in store.refs.directory.iterdir():
        path.write_bytes(b"[")
    assert store.recall("engine a") is None


CHILD = """
    import os, sys, time
    from pathlib import Path
    from imagefs.store.store import Store
    store = Store(Path(sys.argv[1]))
"""


def child(store: Store, body: str) -> "subprocess.Popen[bytes]":
    """Start a process with the store open, which writes a line when it has run `body`."""
    script = textwrap.dedent(CHILD) + textwrap.dedent(body)
    script += '\nprint("ready", flush=True)\ntime.sleep(600)\n'
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(store.root)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def kill(process: "subprocess.Popen[bytes]") -> None:
    with process:
        process.kill()


def test_what_the_dead_left_is_swept_and_the_livings_stays(store: Store) -> None:
    """A workspace goes at the next start once its process was killed, not before."""
    process = child(
        store,
        """
        work = store.workspace()
        (work.__enter__() / "part").write_bytes(b"half")
        """,
    )
    try:
        Store(store.root)
        (left,) = store.work_dir.iterdir()
        assert (left / "part").read_bytes() == b"half"
    finally:
        kill(process)
    Store(store.root)
    assert list(store.work_dir.iterdir()) == []


LOOKED_AT = """
    import fcntl, threading

    def wait(probe):
        ours = f" {os.getpid()} "
        while not any(" -> " in line and ours in line for line in open("/proc/locks")):
            time.sleep(0.001)
        os.close(probe)

    def look(event, args):
        if event == "fcntl.flock" and args[1] & fcntl.LOCK_EX:
            path = os.readlink(f"/proc/self/fd/{args[0]}")
            if os.path.dirname(path).endswith(("/work", "/uses")):
                probe = os.open(path, os.O_RDONLY)
                fcntl.flock(probe, fcntl.LOCK_SH)
                threading.Thread(target=wait, args=(probe,), daemon=True).start()

    sys.addaudithook(look)
"""


def test_a_workspace_that_is_looked_at_while_it_is_made_is_its_makers(store: Store) -> None:
    """Another process that sweeps at that very moment takes no lock away, nor the workspace."""
    process = child(store, LOOKED_AT + "\n    work = store.workspace(); work.__enter__()")
    try:
        Store(store.root)
        assert len(list(store.work_dir.iterdir())) == 1
    finally:
        kill(process)


def test_a_claim_that_is_looked_at_while_it_is_laid_counts(store: Store) -> None:
    """As with workspaces: what was handed out meanwhile is not pruned."""
    image = put_image(store, b"lower")
    store = reopened(store)
    process = child(store, LOOKED_AT + f'\n    assert store.image("{image.id}")')
    try:
        assert prune(store).images == ()
    finally:
        kill(process)


def test_a_lock_ends_with_its_block(store: Store) -> None:
    """Also where a process that was forked meanwhile has inherited it."""
    fork = multiprocessing.get_context("fork")
    over = fork.Event()
    with store.lock("fetch"):
        process = fork.Process(target=over.wait)
        process.start()
    waits = []

    def end_fork() -> None:
        waits.append(process.pid)
        over.set()

    with store.lock("fetch", end_fork):
        over.set()
    process.join(60)
    assert (process.exitcode, waits) == (0, [])


def test_one_works_and_the_other_waits_and_says_so(store: Store) -> None:
    """A lock is held until its holder is done, or dead; the waiting is told once."""
    process = child(store, 'lock = store.lock("fetch"); lock.__enter__()')
    waits = threading.Event()
    done = threading.Event()

    def work() -> None:
        with store.lock("fetch", waits.set):
            done.set()

    thread = threading.Thread(target=work)
    try:
        thread.start()
        assert waits.wait(60)
        assert not done.is_set()
    finally:
        kill(process)
    thread.join(60)
    assert done.is_set()


def test_a_lock_file_may_be_removed_by_its_holder(store: Store) -> None:
    """Whoever waited on the removed file takes the new one, so that two never hold the lock."""
    (name,) = {path.name for path in _after_lock(store)} - {"store"}
    inside = []
    waits = threading.Event()

    def work() -> None:
        with store.lock("fetch", waits.set):
            inside.append((store.locks_dir / name).exists())

    thread = threading.Thread(target=work)
    with store.lock("fetch"):
        thread.start()
        assert waits.wait(60)
        (store.locks_dir / name).unlink()
    thread.join(60)
    assert inside == [True]


def _after_lock(store: Store) -> list[Path]:
    with store.lock("fetch"):
        return list(store.locks_dir.iterdir())


# Pruning


def test_prune_takes_all_that_nobody_uses(store: Store) -> None:
    """Images, layers, and what was remembered of them."""
    image = put_image(store, b"lower", b"upper")
    store = reopened(store)
    pruned = prune(store)
    assert pruned.images == (image.id,)
    assert set(pruned.layers) == {digest(b"lower"), digest(b"upper")}
    assert pruned.bytes == len(b"lower" + b"upper")
    assert files(store) == set()
    assert store.recall("engine app:v1") is None


def test_prune_leaves_what_a_living_process_has(store: Store) -> None:
    """What was handed out stays until the process that has it is dead, however it died."""
    kept = put_image(store, b"shared", b"kept", name="kept")
    put_image(store, b"shared", b"gone", name="gone")
    put_image(store, b"alone", name="alone")
    store = reopened(store)
    process = child(store, f'assert store.image("{kept.id}")')
    try:
        pruned = prune(store)
        assert set(pruned.layers) == {digest(b"gone"), digest(b"alone")}
        assert store.peek(kept.id) is not None
        assert [image.in_use for image in contents(store).images] == [True]
    finally:
        kill(process)
    assert prune(store).images == (kept.id,)


def test_a_claim_outlives_the_process_that_forked(store: Store) -> None:
    """A daemon that its parent left behind keeps what the parent was given."""
    image = put_image(store, b"lower")
    store = reopened(store)
    script = textwrap.dedent(CHILD) + textwrap.dedent(
        f"""
        assert store.image("{image.id}")
        pid = os.fork()
        if pid == 0:
            os.close(1)
            time.sleep(600)
        print(pid)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(store.root)], stdout=subprocess.PIPE, check=True
    )
    try:
        assert prune(store).images == ()
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)
    assert store.peek(image.id) is not None


def test_prune_by_age(store: Store) -> None:
    """Only what nobody has used for that long goes; a layer goes with its last image."""
    old = put_image(store, b"shared", b"old", name="old")
    new = put_image(store, b"shared", b"new", name="new")
    store = reopened(store)
    for path in (store.image_path(old.id), store.layer_path(digest(b"old"))):
        os.utime(path, (LONG_AGO, LONG_AGO))
    pruned = prune(store, unused_for=86400)
    assert (pruned.images, pruned.layers) == ((old.id,), (digest(b"old"),))
    assert store.image(new.id) is not None


def test_prune_to_a_size(store: Store) -> None:
    """What was used longest ago goes first, and no more than has to."""
    images = [put_image(store, bytes([n]) * 1000, name=f"image{n}") for n in range(4)]
    store = reopened(store)
    for age, image in enumerate(images):
        os.utime(store.image_path(image.id), (LONG_AGO + age, LONG_AGO + age))
    pruned = prune(store, keep_bytes=2500)
    assert pruned.images == (images[0].id, images[1].id)
    assert contents(store).total_bytes == 2000


def test_use_makes_young(store: Store) -> None:
    """Being handed out is use; being listed or verified is not."""
    used, listed = put_image(store, b"1", name="used"), put_image(store, b"2", name="listed")
    store = reopened(store)
    for path in [*store.layers_dir.iterdir(), *store.images_dir.iterdir()]:
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert store.image(used.id) is not None
    store = reopened(store)
    assert verify(store, Silent()) == ()
    contents(store)
    assert prune(store, unused_for=86400).images == (listed.id,)


def test_loose_layers_and_indexes_are_pruned_too(store: Store) -> None:
    """A layer's index goes with it; an archive's goes when it is old."""
    with store.layer_writer(None) as out:
        out.write(b"of an archive")
    ours = store.index_dir / "ours.idx"
    for path in (ours, store.index_dir / "old.idx", store.index_dir / "new.idx"):
        path.write_bytes(b"index")
    os.utime(store.index_dir / "old.idx", (LONG_AGO, LONG_AGO))
    os.utime(store.layer_path(out.digest), (LONG_AGO, LONG_AGO))
    store = reopened(store)

    def index_path(layer: Layer) -> Path:
        assert (layer.diff_id, layer.stored) == (out.digest, True)
        return ours

    pruned = prune(store, unused_for=86400, index_path=index_path)
    assert pruned.layers == (out.digest,)
    assert os.listdir(store.index_dir) == ["new.idx"]


def test_prune_leaves_an_index_that_is_being_written(store: Store) -> None:
    """Whoever writes it finds it in its place; what a dead process wrote goes."""
    left = store.index_dir / ".left.tmp"
    left.touch()
    with published(store.index_dir / "one.idx") as out:
        out.write(b"index")
        prune(store)
    assert os.listdir(store.index_dir) == ["one.idx"]
    assert (store.index_dir / "one.idx").read_bytes() == b"index"


def test_an_index_that_is_pruned_while_it_is_made_is_made_again(store: Store) -> None:
    """Between its making and its locking it looks as if a dead process had left it."""
    body = """
        from imagefs.host.files import published
        from imagefs.store.prune import prune
        seen = []

        def look(event, args):
            if event == "fcntl.flock" and not seen and os.listdir(store.index_dir):
                seen.extend(os.listdir(store.index_dir))
                prune(store)

        sys.addaudithook(look)
        with published(store.index_dir / "one.idx") as out:
            assert seen
            assert seen != os.listdir(store.index_dir)
    """
    kill(child(store, body))
    assert os.listdir(store.index_dir) == ["one.idx"]


# Verifying


def test_verify_finds_flipped_bits(store: Store) -> None:
    """What is damaged is named and removed, and what is whole stays."""
    damaged, whole = put_image(store, b"lower", b"upper"), put_image(store, b"whole", name="whole")
    path = store.layer_path(digest(b"lower"))
    path.write_bytes(b"lowes")
    (damage,) = verify(store, Silent())
    assert (damage.name, damage.found) == (digest(b"lower"), digest(b"lowes"))
    assert store.image(damaged.id) is None
    assert store.image(whole.id) is not None
    assert verify(store, Silent()) == ()


def test_verify_leaves_what_was_replaced_meanwhile(store: Store) -> None:
    """A whole layer that another process puts in a damaged one's place stays."""
    image = put_image(store, b"lower")
    path = store.layer_path(digest(b"lower"))
    path.write_bytes(b"lowes")

    class Replacing(Silent):
        def advance(self, count: int) -> None:
            with store.layer_writer(digest(b"lower")) as out:
                out.write(b"lower")

    assert verify(store, Replacing()) == ()
    assert store.image(image.id) is not None


def test_verify_finds_damaged_records(store: Store) -> None:
    """A configuration must be what its image's id says."""
    image = put_image(store, b"lower")
    (store.image_path(image.id) / "config.json").write_bytes(b"{}")
    (damage,) = verify(store, Silent())
    assert damage.name == image.id
    assert contents(store).images == ()


# A full disk


def test_a_full_disk_is_the_hosts_fault(small_disk: Path) -> None:
    """The error says what helps, and the half of a layer is gone."""
    store = Store(small_disk / "cache")

    def write(megabytes: int) -> None:
        with store.layer_writer(None) as out:
            for _ in range(megabytes):
                out.write(bytes(1 << 20))

    with pytest.raises(HostError, match=rf"No space left.* free on {small_disk}; .*IMAGEFS_CACHE"):
        write(64)
    assert files(store) == set()
    assert os.listdir(store.work_dir) == []
    write(8)
