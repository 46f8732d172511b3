"""How fast a saved image's members are indexed: by imagefs, or by iterating Python's tarfile.

Run as a program by the Python that has the imagefs to measure; prints members and seconds.
"""

import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path


def with_imagefs(archive: Path) -> tuple[int, float]:
    """Index all layers into an empty directory; return members and seconds."""
    from imagefs import progress  # noqa: PLC0415
    from imagefs.index import cache as index_cache  # noqa: PLC0415
    from imagefs.source import opening  # noqa: PLC0415
    from imagefs.store import store  # noqa: PLC0415

    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        cache = store.Store(Path(scratch))
        request = opening.SourceRequest(str(archive))
        image = opening.open_image(request, cache, progress.Silent())
        start = time.perf_counter()
        index_cache.ensure(image.layers, cache.index_dir)
        took = time.perf_counter() - start
        members = sum(
            index_cache.open_index(one, cache.index_dir).count - 1 for one in image.layers
        )
    return members, took


def with_tarfile(archive: Path) -> tuple[int, float]:
    """Walk through all layers with tarfile; return members and seconds."""
    with tarfile.open(archive) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest is not None
        starts = [outer.getmember(name).offset_data for name in json.load(manifest)[0]["Layers"]]
    members = 0
    start = time.perf_counter()
    with open(archive, "rb") as raw:
        for place in starts:
            raw.seek(place)
            with tarfile.open(fileobj=raw, mode="r:") as layer:
                members += sum(1 for _ in layer)
    return members, time.perf_counter() - start


if __name__ == "__main__":
    _measure = {"imagefs": with_imagefs, "tarfile": with_tarfile}[sys.argv[1]]
    sys.stdout.write(json.dumps(_measure(Path(sys.argv[2]))))
