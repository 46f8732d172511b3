"""The ids of a user namespace: what subuid(5) gives, and what is said where none can be had."""

import os
from pathlib import Path

from imagefs.run import idmap
from imagefs.run.idmap import IdMap, Range
from tests.run.conftest import World
from tests.support.runnable import busybox

LINES = """# a comment
somebody:100000:65536
0:200000:10
root:300000:5
0:x:5
0:1:0
0:4294967290:10
0:400000:3:4
"""


def test_ranges_follow_each_other(tmp_path: Path) -> None:
    """All ranges of a user count, by name or number, and lines that make no sense do not."""
    file = tmp_path / "subuid"
    file.write_text(LINES)
    assert idmap.subordinate(file, 0) == (Range(1, 200_000, 10), Range(11, 300_000, 5))
    assert idmap.subordinate(file, 12_345) == ()
    assert idmap.subordinate(tmp_path / "none", 0) == ()


def test_root_has_the_ids_that_there_are() -> None:
    """Root of the machine has all ids, and is told from root of a namespace by that."""
    if os.geteuid() == 0:
        assert idmap.of_caller().has(2**31, 2**31)
        assert not idmap.of_caller().root_alone


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
