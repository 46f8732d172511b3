"""Pulls that are killed at random moments: what is left of them, and what the next one fetches.

`python -m tests.support.killed_pulls NUMBER` does so many, with a registry of its own.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from imagefs.progress import Silent
from imagefs.store.store import Store
from imagefs.store.verify import verify
from tests.support import samples
from tests.support.mounted import COMMAND
from tests.support.opening import opened
from tests.support.polling import soon
from tests.support.registries import RunningRegistry, registry
from tests.support.samples import SampleImage, digest, gz
from tests.support.tars import File, layer

_LAYERS = 7
_LAYER_BYTES = 3 << 20
_KILLED, _AFTER = "killed/app", "after/app"


class KilledPulls:
    """An image in a registry, under two names, so that its log tells one pull from the next."""

    def __init__(self, target: RunningRegistry, seed: int) -> None:
        self._random = random.Random(seed)
        sizes = [self._random.randrange(1, 2 * _LAYER_BYTES) for _ in range(_LAYERS)]
        contents = [layer({f"f{n}": File(os.urandom(size))}) for n, size in enumerate(sizes)]
        self._image = SampleImage(tuple(contents))
        self._registry = target
        self._lengths = {digest(content): len(gz(content)) for content in contents}
        self._blobs = {digest(content): digest(gz(content)) for content in contents}
        self._killed, self._after = map(self._push, (f"{_KILLED}:v1", f"{_AFTER}:v1"))
        with tempfile.TemporaryDirectory() as folder:
            process = self._fetch(Path(folder) / "cache")
            start = time.monotonic()
            process.wait(120)
            self._longest = time.monotonic() - start

    def _push(self, name: str) -> str:
        return self._registry.put(name, samples.oci_layout(self._image))

    def _fetch(self, cache: Path) -> "subprocess.Popen[bytes]":
        """Begin a pull; return once the registry has been asked for the image."""
        before = self._registry.log.read_text("utf-8", "replace").count(_KILLED)
        environment = {**os.environ, "IMAGEFS_CACHE": str(cache)}
        process = subprocess.Popen([*COMMAND, "fetch", "--quiet", self._killed], env=environment)
        assert soon(
            lambda: self._registry.log.read_text("utf-8", "replace").count(_KILLED) > before, 120
        )
        return process

    def _kill(self, cache: Path) -> None:
        while True:
            process = self._fetch(cache)
            start = time.monotonic()
            try:
                process.wait(self._random.uniform(0, self._longest))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                if process.wait() == -signal.SIGKILL:
                    return
            # It was done before: the machine is faster now, and the next try is to be earlier.
            self._longest = min(self._longest, time.monotonic() - start)
            shutil.rmtree(cache)

    def kill_one(self, cache: Path) -> int:
        """Kill a pull into an empty cache; return how many layers were left, all of them right.

        The next pull gets what is missing and no more.
        """
        self._kill(cache)
        store = Store(cache)
        assert verify(store, Silent()) == ()
        had = set(store.layer_ids())
        assert had <= set(self._blobs)
        before = self._registry.sent(_AFTER)
        image = opened(self._after, store)
        assert image.id == digest(self._image.config)
        missing = {one: self._lengths[one] for one in self._blobs.keys() - had}
        expected = {self._blobs[one]: length for one, length in missing.items()}
        config = {digest(self._image.config): len(self._image.config)}
        wanted = Counter(before) + Counter(expected | config)
        assert soon(lambda: self._registry.sent(_AFTER) == wanted)
        assert verify(store, Silent()) == ()
        assert not list(store.work_dir.iterdir())
        store.close()
        return len(had)


def main(number: int) -> None:
    """Kill so many pulls, and say how far they had come."""
    seed = random.randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    left: list[int] = []
    with registry() as running:
        pulls = KilledPulls(running, seed)
        for _ in range(number):
            with tempfile.TemporaryDirectory() as folder:
                left.append(pulls.kill_one(Path(folder) / "cache"))
    shown = ", ".join(f"{left.count(n)} with {n}" for n in sorted(set(left)))
    sys.stdout.write(f"{number} killed, all caches right; layers that were whole: {shown}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
