"""The ids of a user namespace: what subuid(5) gives, and what is said where none can be had."""

import os
from pathlib import Path

import pytest

from imagefs.run import idmap
from imagefs.run.idmap import IdMap, Range
from tests.run.conftest import World
from tests.support.runnable import busybox

LINES = """# a comment
somebody:100000:65536
{uid}:200000:10
root:300000:5
{uid}:x:5
{uid}:1:0
{uid}:4294967290:10
{uid}:400000:3:4
"""


def test_ranges_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranges of a user count, by name or number, and lines that make no sense do not."""
    files = tmp_path / "subuid", tmp_path / "subgid"
    for file in files:
        file.write_text(LINES.format(uid=os.geteuid()))
    monkeypatch.setattr(idmap, "SUBUID", files[0])
    monkeypatch.setattr(idmap, "SUBGID", files[1])
    monkeypatch.setattr(idmap, "_helper", lambda name: name)
    own = Range(0, os.geteuid(), 1)
    assert idmap.of_caller().uids == (own, Range(1, 200_000, 10), Range(11, 300_000, 5))
    assert idmap.of_caller().has(15, 15)
    assert not idmap.of_caller().has(16, 0)
    files[1].unlink()
    assert idmap.of_caller().root_alone, "uids without gids are of no use"


def test_whom_a_map_has() -> None:
    """Ids are there as far as the ranges go, and not beyond."""
    alone = IdMap((Range(0, 1000, 1),), (Range(0, 1000, 1),))
    assert alone.root_alone
    assert alone.has(0, 0)
    assert not alone.has(1, 0)
    assert not alone.has(0, 1)


def test_closed(world: World) -> None:
    """Where no user namespace may be made, one line says which setting to change."""
    archive = world.poor.file("closed.tar", busybox())
    # In a user namespace of its own, the setting is changed for what lies below it alone.
    close = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    own = ("unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", close, "sh")
    done = world.poor.run(*own, *world.poor.command("run", "-q", archive, "true"))
    assert (done.status, done.out) == (125, ""), done.err
    assert "sysctl -w user.max_user_namespaces" in done.err
    assert done.err.count("\n") == 1
