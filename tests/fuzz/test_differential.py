"""Our scan beside other readers of tars: a short run, always the same, and what is excepted."""

import functools
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest

from tests.fuzz.differential import ACCEPTED, Go, Run, accepted, available, difference, go, ours
from tests.fuzz.headermutation import tars
from tests.support.headers import END, GNU, file, header, long_name, pax
from tests.support.needs import unavailable

SEED = "imagefs"
BATCHES = 10


@functools.cache
def reader() -> Go:
    """Go's reader, compiled once."""
    found = go()
    if found is None:
        unavailable("go", "the Go compiler is missing (apt install golang-go)")
    return found


def test_engines_see_what_we_see(count: Callable[[str, int], None]) -> None:
    """Where Go reads a tar, which is what engines read with, we see the same members."""
    run = Run(SEED, go_reader=reader(), tools=())
    for _ in range(BATCHES):
        run.batch()
    assert [said for said, _ in run.findings] == []
    assert run.counts["read by Go"] > run.counts["executions"] / 10
    count("differential fuzzing: tars", run.counts["executions"])


def test_no_reader_alone_sees_what_we_see() -> None:
    """Without Go, what we read of a tar is what Python or one of the installed tools reads."""
    run = Run(SEED, go_reader=None, tools=available())
    run.batch(60)
    alone = [tar for _, tar in run.findings if reader()([tar])[0] is not None]
    found = [difference(ours(tar), reader()([tar])[0] or []) for tar in alone]
    assert not any(found), found


def test_tars_of_one_seed_are_the_same() -> None:
    """What a run found can be found again."""
    first, second = (list(islice(tars(Random(SEED)), 20)) for _ in range(2))
    assert first == second


HOLE = pax([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"0")])
EXAMPLES = {
    "a hole and no map": HOLE + file(b"f"),
    "global records": pax([(b"uid", b"7"), (b"mtime", b"1.5")], b"g") + file(b"f"),
    "a wrong global record": pax([(b"mtime", b"x")], b"g") + file(b"f"),
    "a number with a plus sign": pax([(b"uid", b"+7")]) + file(b"f"),
    "a negative size of what has no content": pax([(b"size", b"-1")]) + header(b"d/", b"5"),
    "long names of GNU beside pax's": pax([(b"path", b"p")]) + long_name(b"l") + header(magic=GNU),
    "a sparse file's name and no map": pax([(b"GNU.sparse.name", b"s")]) + file(b"f"),
    "a prefix in a GNU header": header(b"f", magic=GNU, tail=b"pre/fix"),
    "beyond Linux": pax([(b"path", b"p/" * 3000)]) + file(b"f"),
    "extended headers together": pax([(b"comment", b"c" * 600_000)]) * 2 + file(b"f"),
}


AS_GO = frozenset(
    {
        "long names of GNU beside pax's",
        "a sparse file's name and no map",
        "a prefix in a GNU header",
    }
)
"""Where Go and we see the same, and tar programs do not."""


@pytest.mark.parametrize("row", ACCEPTED)
def test_what_is_accepted_is_as_said(row: str) -> None:
    """Each accepted difference has an example, which is told from what is wrong."""
    tar = EXAMPLES[row] + END
    (theirs,) = reader()([tar])
    assert theirs is not None
    mine = ours(tar)
    if row in AS_GO:
        assert not difference(mine, theirs)
    else:
        assert difference(mine, theirs)
        assert accepted(tar, mine, theirs) == row
    (plain,) = reader()([file(b"f") + END])
    assert plain is not None
    assert accepted(file(b"g") + END, ours(file(b"g") + END), plain) == ""
