"""What each producer writes, pushed by skopeo, mounts from the registry as from its archive."""

import gzip
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from imagefs.progress import Silent
from imagefs.source.opening import SourceRequest, inspect
from imagefs.store.store import Store
from tests.support.needs import need_tool
from tests.support.opening import Tree, opened, trees, trees_of
from tests.support.producers import BUILT, IMAGE, OTHER_LAYERS, TOOLS, Bench, bench_with
from tests.support.registries import RunningRegistry

PROGRAMS = {"gzip", "pigz", "zstd", "xz", "bzip2"}


@pytest.fixture
def bench() -> Iterator[Bench]:
    with bench_with(IMAGE) as made:
        yield made


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tree]:
    """The whole mount of the image, as every producer's archive gives it (test_tools.py)."""
    return trees_of(IMAGE.layers, tmp_path_factory.mktemp("expected") / "layers")


def for_skopeo(path: Path, folder: Path) -> str:
    """Return by what transport skopeo reads an archive; what it cannot read is made so first."""
    if path.is_file() and path.read_bytes()[:2] == b"\x1f\x8b":
        plain = folder / "plain"
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        path = plain
    if path.is_dir():
        return f"oci:{path}" if (path / "oci-layout").exists() else f"dir:{path}"
    try:
        with tarfile.open(path) as tar:
            names = {name.removeprefix("./") for name in tar.getnames()}
    except tarfile.ReadError:  # packed as Python cannot unpack it, but skopeo can
        return f"docker-archive:{path}"
    if "version" in names:
        with tarfile.open(path) as tar:
            tar.extractall(folder / "flat", filter="data")
        return f"dir:{folder / 'flat'}"
    return f"{'docker' if 'manifest.json' in names else 'oci'}-archive:{path}"


def push(producer: str, bench: Bench, target: RunningRegistry) -> tuple[Path, str]:
    """Have a producer write the image, and push that; return the archive and its reference."""
    if producer in PROGRAMS:
        need_tool(producer, producer)
    path = {**TOOLS, **BUILT, **OTHER_LAYERS}[producer](bench)
    name = "".join(letter if letter.isalnum() else "x" for letter in producer.lower())
    return path, target.copy(for_skopeo(path, bench.folder), f"producers/{name}:v1")


@pytest.mark.parametrize("producer", [*TOOLS, *BUILT])
def test_each_producer(
    producer: str,
    bench: Bench,
    store: Store,
    open_registry: RunningRegistry,
    expected: Mapping[str, Tree],
) -> None:
    """Names, kinds, modes, owners, sizes, times, links, attributes and contents are the archive's,
    and so is the image's id."""
    path, reference = push(producer, bench, open_registry)
    pulled = opened(reference, store)
    assert trees(pulled, store) == expected
    archived = inspect(SourceRequest(str(path)), store, Silent())
    assert pulled.id in {image.id for image in archived.images}


@pytest.mark.parametrize("producer", OTHER_LAYERS)
def test_layers_written_anew(
    producer: str, bench: Bench, tmp_path: Path, open_registry: RunningRegistry
) -> None:
    """Where a producer changes the layers, the registry's image is its archive's all the same."""
    path, reference = push(producer, bench, open_registry)
    stores = [Store(tmp_path / name) for name in ("archive", "registry")]
    archived, pulled = opened(path, stores[0]), opened(reference, stores[1])
    assert trees(pulled, stores[1]) == trees(archived, stores[0])
    assert pulled.config == archived.config
