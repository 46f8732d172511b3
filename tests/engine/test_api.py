"""Questions to real engines: what a name means, and which images there are."""

import json

import pytest

from imagefs.engine.addresses import Endpoint
from imagefs.engine.api import Engine
from imagefs.errors import EngineError, ImageNotFound
from imagefs.image.config import created
from tests.support.engines import RunningEngine


def ask(engine: RunningEngine) -> Engine:
    return Engine(Endpoint(engine.host))


def test_docker_says_what_a_name_means(docker_engine: RunningEngine) -> None:
    """Name, name without tag, short id and id all lead to the same image."""
    image_id = docker_engine.load_root("engine-test/named:latest")
    for name in ("engine-test/named:latest", "engine-test/named", image_id, image_id[7:19]):
        found = ask(docker_engine).inspect(name)
        assert (found.id, found.names) == (image_id, ("engine-test/named:latest",))
        assert len(found.diff_ids) == 1
        assert found.platform.startswith("linux/")
        assert found.size > 0


def test_podman_says_what_a_name_means(podman_engine: RunningEngine) -> None:
    """Its service answers the same questions, and completes names its own way."""
    image_id = podman_engine.load_root("engine-test/named:1")
    for name in ("engine-test/named:1", image_id, image_id[7:19]):
        found = ask(podman_engine).inspect(name)
        assert found.id == image_id
        assert len(found.names[0].split("/")) == 3
        assert len(found.diff_ids) == 1


def test_an_unknown_image_shows_the_engines_own_words(
    docker_engine: RunningEngine, podman_engine: RunningEngine
) -> None:
    """The message is the engine's, with the address in front."""
    with pytest.raises(ImageNotFound, match=r"^unix://.*: no such image: nowhere/no"):
        ask(docker_engine).inspect("nowhere/nothing:1")
    with pytest.raises(ImageNotFound, match=r"^unix://.*: failed to find image nowhere/nothing:1"):
        ask(podman_engine).inspect("nowhere/nothing:1")
    with (
        pytest.raises(ImageNotFound, match="reference does not exist"),
        ask(docker_engine).export("nowhere:1"),
    ):
        pass


def test_an_image_without_layers(docker_engine: RunningEngine) -> None:
    """Docker cannot export it, and says so."""
    image_id = docker_engine.build("engine-test/empty:1", "FROM scratch", "LABEL a=b")
    found = ask(docker_engine).inspect("engine-test/empty:1")
    assert (found.id, found.diff_ids) == (image_id, ())
    with (
        pytest.raises(EngineError, match=r"500 .*: empty export - not implemented"),
        ask(docker_engine).export(image_id),
    ):
        pass


def test_the_list_of_images(docker_engine: RunningEngine) -> None:
    """Every image with all its names; one without a name has none."""
    image_id = docker_engine.load_root("engine-test/listed:1", {"which": b"first"})
    docker_engine.docker("tag", image_id, "engine-test/listed:2")
    docker_engine.load_root("engine-test/untagged:1", {"which": b"second"})
    untagged = ask(docker_engine).inspect("engine-test/untagged:1").id
    docker_engine.load_root("engine-test/untagged:1", {"which": b"third"})
    images = ask(docker_engine).images()
    made = docker_engine.docker("inspect", "--format", "{{.Created}}", image_id)
    [at] = [image.created for image in images if image.id == image_id]
    assert at == created(json.dumps({"created": made}).encode()) // 10**9 * 10**9 > 0
    listed = {image.id: image.names for image in images}
    assert sorted(listed[image_id]) == ["engine-test/listed:1", "engine-test/listed:2"]
    assert listed[untagged] == ()


def test_the_version_is_the_engines(docker_engine: RunningEngine) -> None:
    """The newest that both know, so that neither a newer nor an older engine refuses it."""
    assert ask(docker_engine).version() == (1, 41)
