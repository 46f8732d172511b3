"""Images fetched from real engines into a store."""

from hashlib import sha256
from pathlib import Path

from imagefs.connection import Endpoint
from imagefs.engine import Engine
from imagefs.fetch import Source, ensure_image
from imagefs.image import Image
from imagefs.progress import Silent
from imagefs.store import Store
from tests.engines import RunningEngine


def source(engine: RunningEngine, store: Store) -> Source:
    return Source(Engine(Endpoint(engine.host)), store, Silent())


def assert_whole(image: Image) -> None:
    """Every layer of the image is in its file, and is what its diff id says."""
    for layer in image.layers:
        assert layer.stored
        assert layer.blob is not None
        content = layer.blob.path.read_bytes()
        assert len(content) == layer.blob.length
        assert f"sha256:{sha256(content).hexdigest()}" == layer.diff_id


def test_an_image_of_docker_is_fetched_whole(docker_engine: RunningEngine, tmp_path: Path) -> None:
    """Layers, configuration and names arrive as the engine has them."""
    docker_engine.load_root("fetch-test/base:1", {"etc/motd": b"hello\n"})
    image_id = docker_engine.build(
        "fetch-test/app:1", "FROM fetch-test/base:1", "RUN touch /new", "LABEL a=b"
    )
    image = ensure_image("fetch-test/app:1", source(docker_engine, Store(tmp_path / "cache")))
    assert (image.id, image.names) == (image_id, ("fetch-test/app:1",))
    assert f"sha256:{sha256(image.config).hexdigest()}" == image_id
    assert [layer.created_by for layer in image.layers] == [
        "",
        "/bin/sh -c touch /new",
    ]
    assert_whole(image)
