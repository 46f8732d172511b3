"""Fixtures that all tests can ask for, and what keeps them apart from the user's own files."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["tests.counts", "tests.engines"]

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
