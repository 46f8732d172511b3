"""Questions to real engines, over every way there is to reach one."""

import pytest

from imagefs.connection import Endpoint
from imagefs.engine import Engine
from imagefs.errors import ImageNotFound
from tests.engines import RunningEngine


def ask(engine: RunningEngine) -> Engine:
    return Engine(Endpoint(engine.host))


def test_docker_says_what_a_name_means(docker_engine: RunningEngine) -> None:
    """Name, name without tag, short id and id all lead to the same image."""
    image_id = docker_engine.load_root("engine-test/named:latest")
    for name in ("engine-test/named:latest", "engine-test/named", image_id, image_id[7:19]):
        found = ask(docker_engine).inspect(name)
        assert (found.id, found.names) == (image_id, ("engine-test/named:latest",))
        assert len(found.diff_ids) == 1


def test_an_unknown_image_shows_the_engines_own_words(docker_engine: RunningEngine) -> None:
    """The message is the engine's, with the address in front."""
    with pytest.raises(ImageNotFound, match=r"^unix://.*: no such image: nowhere/no"):
        ask(docker_engine).inspect("nowhere/nothing:1")
