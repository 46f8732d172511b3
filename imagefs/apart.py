"""Images of an engine for a daemon that serves many: fetched by processes of their own.

A fetch takes memory and the interpreter's lock; in a process of its own it gives both back. Owns
the claims on what has been loaded, one `Store` for each image, so that an image that is let go
may be pruned. Any thread may call it.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

from imagefs import fetch, index
from imagefs.errors import EngineError
from imagefs.image import Image
from imagefs.store import Store


class Loader:
    """Loads images by id into the store at `root`; `options` tell `imagefs fetch` of the engine."""

    def __init__(self, root: Path, platform: str | None, options: tuple[str, ...]) -> None:
        self._root = root
        self._platform = platform
        self._options = options
        self._lock = threading.Lock()
        self._claims: dict[str, Store] = {}

    def load(self, image_id: str) -> Image:
        """Return an image, fetched and indexed if need be. Raises EngineError if that fails."""
        store = Store(self._root)
        try:
            image = fetch.cached(image_id, store, self._platform)
            if image is None or index.missing(image.layers, store.index_dir):
                self._fetch(image_id)
                image = fetch.cached(image_id, store, self._platform)
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
            [sys.executable, "-P", "-m", "imagefs", "fetch", "--quiet", *self._options, image_id],
            # What the environment says may be relative to where the daemon was started.
            env=os.environ | {"IMAGEFS_CACHE": os.fspath(self._root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise EngineError(lines[-1].removeprefix("imagefs: ") if lines else "the fetch failed")
