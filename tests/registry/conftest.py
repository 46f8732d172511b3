"""What the tests of registries share: one that anybody may ask, and a user without secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagefs.store.store import Store
from tests.support.registries import RunningRegistry, registry


@pytest.fixture(scope="session")
def open_registry() -> Iterator[RunningRegistry]:
    with registry() as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials; whoever ran the tests may have some."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")
