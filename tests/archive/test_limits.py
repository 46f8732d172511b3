"""Small archives that refer to one thing again and again, and how much of it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagefs.archive import docker_v1, members
from imagefs.errors import CorruptArchive, UsageError
from imagefs.image import config as image_config
from imagefs.image import safe_json
from imagefs.store.store import Store
from tests.support import samples
from tests.support.effort import at_most
from tests.support.opening import opened
from tests.support.samples import TOP, Layout

MOST_CALLS = 8_000_000
"""Four times what the costliest of them takes to be refused."""
LAYER = "layer.tar"


def dumped(said: Any) -> bytes:
    return json.dumps(said).encode()


def docker(entries: int, padding: int = 0, layers: int = 1) -> Layout:
    """Return a docker-archive whose images all have one configuration, and it one layer."""
    rootfs = {"diff_ids": [samples.digest(TOP)] * layers}
    entry = {"Config": "c.json", "Layers": [LAYER] * layers}
    return {
        "manifest.json": dumped([entry] * entries),
        "c.json": dumped({"rootfs": rootfs, "padding": "x" * padding}),
        LAYER: TOP,
    }


def nested(manifests: int, padding: int) -> Layout:
    """Return a layout with an index that lists one large manifest many times."""
    manifest = dumped({"schemaVersion": 2, "padding": "x" * padding})
    index = dumped({"manifests": [{"digest": samples.digest(manifest)}] * manifests})
    return {
        "oci-layout": b"{}",
        "index.json": dumped({"manifests": [{"digest": samples.digest(index)}]}),
        f"blobs/sha256/{samples.hexdigest(index)}": index,
        f"blobs/sha256/{samples.hexdigest(manifest)}": manifest,
    }


def crossing(entries: int) -> Layout:
    """Return a docker-archive whose images are all one entry of its index, with many platforms."""
    configs = [dumped({"rootfs": {"diff_ids": []}, "number": number}) for number in range(2)]
    manifests = [dumped({"config": {"digest": samples.digest(one)}}) for one in configs]
    first, other = ({"digest": samples.digest(one)} for one in manifests)
    platforms = [{**other, "platform": {"os": f"os{number}"}} for number in range(entries)]
    index = dumped({"manifests": [first, *platforms]})
    named = {f"blobs/sha256/{samples.hexdigest(one)}": one for one in (*configs, *manifests, index)}
    entry = {"Config": f"blobs/sha256/{samples.hexdigest(configs[0])}", "Layers": []}
    return {
        **named,
        "index.json": dumped({"manifests": [{"digest": samples.digest(index)}]}),
        "manifest.json": dumped([entry] * entries),
    }


def legacy(below: int, tags: int) -> Layout:
    """Return an archive of Docker before 1.10 with many images upon one chain of layers."""
    ids = [f"{number:064x}" for number in range(below + tags)]
    parents = ["", *ids[: below - 1], *[ids[below - 1]] * tags]
    described = {
        f"{one}/json": dumped({"parent": up}) for one, up in zip(ids, parents, strict=True)
    }
    tagged = {f"t{number}": one for number, one in enumerate(ids[below:])}
    return {**described, "repositories": dumped({"app": tagged})}


LIMITS: dict[str, tuple[Callable[[], Layout], str]] = {
    "a large configuration of many images": (
        lambda: docker(300, 1 << 20),
        f"refers to more than {members.MAX_JSON_READ} bytes of JSON",
    ),
    "a large manifest in many places": (
        lambda: nested(5000, 1 << 20),
        f"refers to more than {members.MAX_JSON_READ} bytes of JSON",
    ),
    "a manifest listed without end": (
        lambda: nested(members.MAX_IMAGES + 1, 0),
        "its indexes are nested without end",
    ),
    "images by the hundred thousands": (
        lambda: docker(20_000),
        f"lists 20000 images; {members.MAX_IMAGES} are read",
    ),
    "images times platforms": (
        lambda: crossing(5000),
        f"images; {members.MAX_IMAGES} are read",
    ),
    "more JSON than is read at once": (
        lambda: docker(200_000),
        f"manifest.json.*holds more than {safe_json.MAX_VALUES} values",
    ),
    "layers without end": (
        lambda: docker(1, layers=image_config.MAX_LAYERS + 1),
        f"an image of {image_config.MAX_LAYERS + 1} layers; at most {image_config.MAX_LAYERS}",
    ),
    "parents without end": (
        lambda: legacy(image_config.MAX_LAYERS, 1),
        f"has more than {image_config.MAX_LAYERS} parents",
    ),
    "many images upon long chains": (
        lambda: legacy(500, 1000),
        f"images of more than {docker_v1.MAX_CHAINED} layers in all",
    ),
    "tags by the ten thousands": (
        lambda: legacy(1, members.MAX_IMAGES + 1),
        f"lists {members.MAX_IMAGES + 1} images",
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", LIMITS)
def test_what_an_archive_refers_to_is_bounded(
    name: str, packed: bool, tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """However often a small archive repeats itself, it is refused soon, with the limit named."""
    make, says = LIMITS[name]
    data = samples.tar_of(make())
    path = samples.write(tmp_path / "archive", samples.gz(data) if packed else data)
    with at_most(MOST_CALLS), pytest.raises(CorruptArchive, match=says):
        opened(path, Store(tmp_path / "cache"))
    count("hostile archives: references", 1)


def test_what_honest_archives_have_is_read(tmp_path: Path) -> None:
    """As many layers as an image may have, and as many images as an archive, are no error."""
    store = Store(tmp_path / "cache")
    path = samples.write(tmp_path / "layers", docker(1, layers=image_config.MAX_LAYERS))
    assert len(opened(path, store).layers) == image_config.MAX_LAYERS
    path = samples.write(tmp_path / "images", docker(members.MAX_IMAGES))
    assert len(opened(path, store).layers) == 1


def test_messages_list_a_few_of_many_images(tmp_path: Path) -> None:
    """An error that lists what there is to choose from stays a line that can be read."""
    path = samples.write(tmp_path / "many", legacy(1, 300))
    with pytest.raises(UsageError, match="and 280 more") as error:
        opened(path, Store(tmp_path / "cache"))
    assert len(str(error.value)) < 2000
