"""Pulls that are killed: what was whole is kept, and only the rest is asked for again."""

from pathlib import Path

from tests.support.killed_pulls import KilledPulls
from tests.support.registries import RunningRegistry


def test_killed_pulls(open_registry: RunningRegistry, tmp_path: Path) -> None:
    """`./scripts/soak pulls` kills a hundred."""
    pulls = KilledPulls(open_registry, seed=16)
    for number in range(4):
        pulls.kill_one(tmp_path / f"cache{number}")
