"""The store while many use it at once: nothing half-made, nothing pulled from under anybody."""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from imagefs.engine.addresses import Endpoint
from imagefs.engine.api import Engine
from imagefs.engine.fetch import Source, ensure_image
from imagefs.image.model import Image, Layer
from imagefs.index import cache as index_cache
from imagefs.progress import Silent
from imagefs.store.inventory import contents
from imagefs.store.prune import prune
from imagefs.store.store import Store
from imagefs.store.verify import verify
from tests.support.badengine import Export, ScriptedEngine, chunked
from tests.support.tars import layer

SHARED = layer({"shared": "x" * 300_000})
IMAGES = [Export([SHARED, layer({"own": str(number) * 50_000})]) for number in range(3)]
SECONDS = 2.0


def test_fetching_pruning_and_verifying_at_once(tmp_path: Path) -> None:
    """Whoever is given an image has it whole for as long as their store is open."""
    root = tmp_path / "cache"
    end = time.monotonic() + SECONDS

    def repeat(step: Callable[[Store, int], None]) -> int:
        count = 0
        while time.monotonic() < end:
            store = Store(root)
            step(store, count)
            store.close()
            count += 1
        return count

    def fetch(store: Store, count: int) -> None:
        number = count % len(IMAGES)
        engine = Engine(Endpoint(f"unix://{tmp_path}/{number}"))
        source = Source(engine, store, Silent())
        image = ensure_image("app:v1", source)
        assert image.id == IMAGES[number].id
        assert_whole(image, store)

    def tidy(store: Store, _: int) -> None:
        def index_path(one: Layer) -> Path:
            return index_cache.path_of(store.index_dir, index_cache.key_of(one))

        prune(store, index_path=index_path)

    def check(store: Store, _: int) -> None:
        assert verify(store, Silent()) == ()
        contents(store)

    with ExitStack() as engines, ThreadPoolExecutor(5) as pool:
        for number, image in enumerate(IMAGES):
            answers = image.answers(chunked(image.classic()))
            engines.enter_context(ScriptedEngine(tmp_path / str(number), answers))
        work = [pool.submit(repeat, step) for step in (fetch, fetch, fetch, tidy, check)]
        assert all(one.result() for one in work)
    assert list((root / "work").iterdir()) == []


def assert_whole(image: Image, store: Store) -> None:
    for one in image.layers:
        assert one.blob is not None
        digest = hashlib.sha256(one.blob.path.read_bytes()).hexdigest()
        assert f"sha256:{digest}" == one.diff_id
        index_cache.open_index(one, store.index_dir)
