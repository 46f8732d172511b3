"""Whatever an archive holds: an image, or an error that names it, and nothing else, ever."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagefs.errors import ImagefsError
from imagefs.image.options import SourceOptions
from imagefs.progress import Silent
from imagefs.source.opening import SourceRequest, inspect, open_images
from imagefs.store.store import Store
from tests.support import samples
from tests.support.samples import BOTTOM, TOP, Layout, SampleImage
from tests.support.tars import layer

SMALL = SampleImage((layer({"a": "1", "b/": ""}), TOP))
LAYOUTS = {
    "docker 20": samples.docker_20(SMALL),
    "docker 1.9": samples.docker_1_9(SMALL),
    "docker 25": samples.docker_25(SMALL),
    "containerd": samples.containerd(SMALL, docker_manifest=False),
    "podman": samples.podman(SMALL),
    "dir": samples.docker_dir(SMALL),
}
PACKS = {"plain": samples.plain, "gzip": samples.gz, "zstd": samples.zstd}

HOSTILE_TEXT = st.sampled_from(
    ["", ".", "..", "../../../etc/passwd", "/etc/passwd", "\0", "\ud800", "a/b", "x" * 5000,
     "sha256:", "sha256:" + "0" * 64, "sha256:../x", "blobs/sha256", "manifest.json", "\x1b[2J"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), HOSTILE_TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE_TEXT, inner, max_size=3),
    max_leaves=6,
)
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def attempt(content: bytes | Layout, store: Store, **options: Any) -> None:
    """Open and inspect an archive; a value or an ImagefsError is fine, all else is not."""
    with tempfile.TemporaryDirectory() as folder:
        path = samples.write(Path(folder) / "x", content)
        request = SourceRequest(str(path), SourceOptions(**options))
        messages = []
        for act in (open_images, inspect):
            try:
                act(request, store, Silent())
            except ImagefsError as error:
                messages.append(str(error))
    assert all(message.isprintable() for message in messages), messages
    assert not any(store.work_dir.iterdir())


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a JSON value with one of its keys or positions."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield value, key
            yield from places(inner)


@pytest.mark.parametrize("name", LAYOUTS)
@FEW
@given(data=st.data())
def test_any_json_is_an_image_or_an_error(name: str, data: st.DataObject, store: Store) -> None:
    """Something else anywhere in the JSON of an archive is no surprise to its reader."""
    layout = dict(LAYOUTS[name])
    files = {key: one for key, one in layout.items() if isinstance(one, bytes) and one[:1] in b"{["}
    file = data.draw(st.sampled_from(sorted(files)))
    said = json.loads(files[file])
    container, key = data.draw(st.sampled_from(list(places(said)) or [([said], 0)]))
    container[key] = data.draw(VALUES)
    changed = json.dumps(said).encode()
    layout[file] = changed
    if file.startswith("blobs/sha256/"):
        # Under its new digest, and with all that refers to it, so that it is read at all.
        del layout[file]
        follow(layout, file[13:], changed)
    attempt(layout, store, keep_going=data.draw(st.booleans()))


def follow(layout: dict[str, Any], former: str, content: bytes) -> None:
    """Put a changed blob under its digest, and change what refers to it accordingly."""
    digest = samples.hexdigest(content)
    layout[f"blobs/sha256/{digest}"] = content
    for name, other in list(layout.items()):
        if isinstance(other, bytes) and former.encode() in other:
            changed = other.replace(former.encode(), digest.encode())
            layout[name] = changed
            if name.startswith("blobs/sha256/"):
                del layout[name]
                follow(layout, name[13:], changed)


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("name", LAYOUTS)
@FEW
@given(data=st.data())
def test_any_damage_is_an_image_or_an_error(
    name: str, pack: str, data: st.DataObject, store: Store
) -> None:
    """Bytes that were changed, left out or cut off are no surprise either."""
    content = bytearray(PACKS[pack](samples.tar_of(LAYOUTS[name])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    options = {"keep_going": data.draw(st.booleans()), "verify": data.draw(st.booleans())}
    attempt(bytes(content), store, **options)


@FEW
@given(st.binary(max_size=2000))
def test_any_bytes_are_an_error_or_a_root(store: Store, content: bytes) -> None:
    """Bytes that nobody wrote as an archive are told so in one line."""
    attempt(content, store)
    attempt(BOTTOM[:512] + content, store)
