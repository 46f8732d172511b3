"""Who runs commands of images in the tests: root, and ordinary users with and without more ids."""

import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.needs import need_run
from tests.support.users import DAEMON, NOBODY, User, others

SUBORDINATE = 200_000
_BIND = """
echo "$1:200000:65536" >"$2/subids"
mount --bind "$2/subids" /etc/subuid && mount --bind "$2/subids" /etc/subgid
"""


class World(NamedTuple):
    """Root; a user with subordinate ids; a user with none. Each sees the same files."""

    root: User
    rich: User
    poor: User


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Have such users, in a mount namespace that has its own /etc/subuid."""
    need_run()
    with others(0, NOBODY, DAEMON) as (root, rich, poor):
        shared = root.home.parent
        done = root.run("sh", "-c", _BIND, "sh", str(NOBODY), shared)
        assert done.status == 0, done.err
        for one in (root, rich, poor):
            one.directory("other")
        yield World(root, rich, poor)
        assert _processes(shared) == []


def _processes(shared: object) -> list[str]:
    """Return the processes that are still there of those that users have started."""
    found = subprocess.run(["pgrep", "-af", str(shared)], capture_output=True, check=False)
    return [line for line in found.stdout.decode().splitlines() if " -m imagefs " in line]


@pytest.fixture(params=["root", "rich", "poor"])
def user(request: pytest.FixtureRequest, world: World) -> User:
    """Be each of them in turn."""
    found = getattr(world, request.param)
    assert isinstance(found, User)
    return found


@pytest.fixture(params=["root", "poor"])
def someone(request: pytest.FixtureRequest, world: World) -> User:
    """Be root, and somebody who has nothing."""
    found = getattr(world, request.param)
    assert isinstance(found, User)
    return found
