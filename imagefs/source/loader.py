"""Images of an engine for a daemon that serves many: fetched by processes of their own.

A fetch takes memory and the interpreter's lock; in a process of its own it gives both back, and it
ends with the daemon. Owns the claims on what has been loaded, one `Store` for each image, so that
an image that is let go may be pruned. Any thread may call it.

Run as `python -m imagefs.source.loader`, it fetches what standard input asks for.
"""

import os
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from imagefs.engine import fetch
from imagefs.engine.addresses import Endpoint
from imagefs.engine.api import Engine
from imagefs.errors import EngineError, ImagefsError, shortage
from imagefs.host import processes
from imagefs.image.model import Image
from imagefs.image.options import SourceOptions
from imagefs.index import cache as index_cache
from imagefs.progress import Silent
from imagefs.store.store import Store


@dataclass(frozen=True, slots=True)
class LoaderConfig:
    """From which engine images are fetched, into the store at which root, and how.

    All of it is as the daemon was started, whose directory is another one since.
    """

    endpoint: Endpoint
    root: Path
    options: SourceOptions = field(default_factory=SourceOptions)

    def fetch(self, image_id: str) -> None:
        """Fetch an image in this process, and index it."""
        engine, store, options = Engine(self.endpoint), Store(self.root), self.options
        source = fetch.Source(
            engine, store, Silent(), options.platform, index_cache.build, options.max_layer_bytes
        )
        index_cache.ensure(fetch.ensure_image(image_id, source).layers, store.index_dir)


class Loader:
    """Loads images by id."""

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._claims: dict[str, Store] = {}

    def load(self, image_id: str) -> Image:
        """Return an image, fetched and indexed if need be. Raises EngineError if that fails."""
        store = Store(self._config.root)
        try:
            image = fetch.cached(image_id, store, self._config.options.platform)
            if image is not None:
                damaged = index_cache.damaged(image.layers, store.index_dir)
                store.discard_layers(damaged)
                image = None if damaged else image
            if image is None or index_cache.missing(image.layers, store.index_dir):
                self._fetch(image_id)
                image = fetch.cached(image_id, store, self._config.options.platform)
            if image is None:
                raise EngineError("it went from the cache while it was loaded")
        except BaseException:
            store.close()
            raise
        with self._lock:
            former, self._claims[image_id] = self._claims.get(image_id), store
        if former is not None:
            former.close()
        return image

    def unload(self, image_id: str) -> None:
        """Give up the claim on an image, if there is one."""
        with self._lock:
            store = self._claims.pop(image_id, None)
        if store is not None:
            store.close()

    def _fetch(self, image_id: str) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "imagefs.source.loader"],
            input=pickle.dumps((os.getpid(), self._config, image_id)),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise EngineError(lines[-1] if lines else "the fetch failed")


def main() -> None:
    """Fetch for the process that waits for it."""
    parent, config, image_id = pickle.load(sys.stdin.buffer)
    processes.end_with(parent)
    try:
        config.fetch(image_id)
    except ImagefsError as error:
        sys.exit(str(error))
    except Exception as error:
        words = shortage(error)
        if words is None:
            raise
        sys.exit(words)


if __name__ == "__main__":
    main()
