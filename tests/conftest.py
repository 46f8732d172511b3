"""Fixtures that all tests can ask for, and what keeps them apart from each other and the user."""

import gc
import logging
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.support.counts", "tests.support.engines"]

_USERS_OWN = ("DOCKER_", "IMAGEFS_", "XDG_", "NOTIFY_SOCKET")
_TESTS_OWN = "IMAGEFS_TEST_"


@pytest.fixture(autouse=True)
def _nothing_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache of its own, and no engine but the one that it starts."""
    for name in os.environ:
        if name.startswith(_USERS_OWN) and not name.startswith(_TESTS_OWN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IMAGEFS_CACHE", str(tmp_path / "imagefs-cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "imagefs-state"))


@pytest.fixture(autouse=True)
def _nothing_for_the_next_test() -> Iterator[None]:
    """Have a test fail that leaves the process other than it was, rather than one that follows."""
    before = _process()
    yield
    assert _process() == before


def _process() -> dict[str, object]:
    """What tests share, as they run in one process."""
    return {
        "log off": logging.root.manager.disable,
        "log level": logging.root.level,
        "collector on": gc.isenabled(),
        "directory": os.getcwd(),
        "environment": {name for name in os.environ if not name.startswith("PYTEST_")},
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }
