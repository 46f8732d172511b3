"""Which layer took something away, beside the obvious way to find it: each snapshot, walked."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from imagefs.tree import deletions
from imagefs.tree.compare import changes
from imagefs.tree.deletions import Deletions
from imagefs.tree.tree import Tree
from tests.support.tars import layer
from tests.support.trees import tree_of_layers
from tests.tree.test_compare import Members, open_both
from tests.vfs.test_merge_properties import LAYERS


def paths(tree: Tree) -> Iterator[bytes]:
    for walked in tree.walk():
        for name, _ in walked.entries:
            yield walked.path + b"/" + name if walked.path else name


def agree(tree: Tree) -> None:
    names = tree.snapshots()
    shown = [set(paths(tree.at(f"snapshots/{name}"))) for name in names]
    wanted: dict[bytes, str | None] = {b"never": None, b"d/never": None}
    for path in set().union(*shown) - shown[-1]:
        top = max(at for at, one in enumerate(shown) if path in one)
        wanted[path] = names[top + 1]
    asked = Deletions(tree)
    for path in sorted(wanted):
        origin = asked.origin(path)
        assert (origin and origin.layer) == wanted[path], path


@pytest.mark.parametrize("few", [0, deletions._FEW])
def test_it_is_what_a_look_at_each_snapshot_finds(few: int) -> None:
    """For all that any snapshot shows and the last one does not, however many are asked for."""

    @settings(max_examples=100, deadline=None)
    @given(LAYERS, LAYERS)
    def check(first: list[Members], second: list[Members]) -> None:
        layers = [layer(members) for members in first + second]
        with tempfile.TemporaryDirectory() as folder:
            agree(open_both((layers, layers), Path(folder))[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deletions, "_FEW", few)
        check()


@pytest.mark.parametrize("inside", ["", "usr/", "usr/{}/"])
def test_layers_and_what_they_never_had_do_not_multiply(inside: str, tmp_path: Path) -> None:
    """Of another image's many names, each is not looked for in each layer."""
    count, number = 40, 300
    others: list[dict[str, Any]] = [{f"{inside.format(n)}other{n}": "" for n in range(number)}]
    own: list[dict[str, Any]] = [
        {f"{inside.format(n)}own{at}": "" for n in range(at, number, count)} for at in range(count)
    ]
    old = tree_of_layers(list(map(layer, others)), tmp_path / "old")
    new = tree_of_layers(list(map(layer, own)), tmp_path / "new")
    looks = 0
    lookup = new.fs.lookup

    def counted(node: int, name: bytes) -> Any:
        nonlocal looks
        looks += 1
        return lookup(node, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new.fs, "lookup", counted)
        found = [one for one in changes(old, new) if one.kind == "D"]
    assert len(found) == number
    assert all(one.origin is None for one in found)
    assert looks < 8 * number + 2 * deletions._FEW * count
