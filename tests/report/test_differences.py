"""What a report of two images tells of how they differ, and the page that shows it."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from imagefs.report.differences import differences
from imagefs.report.folders import pruned
from imagefs.report.page import page
from imagefs.report.sums import ADDED, CHANGED, DELETED
from imagefs.report.survey import survey
from imagefs.tree.compare import changes
from imagefs.tree.tree import Tree
from tests.support.browser import Browser
from tests.support.tars import File, Hard, Node, layer
from tests.support.trees import tree_of_image, tree_of_layers
from tests.tree.test_waste import examined
from tests.vfs.test_merge_properties import LAYERS

BASE = layer({"etc/motd": "old words", "d/a": "123", "d/s/b": "45", "same": "s", "t": File("", 1)})
OLD = layer({"x": "1"})
NEW = layer({"etc/motd": "new", ".wh.d": "", "n/new": "12345", "same": File("s", mtime=9)})


def configured(tree: Tree, said: Mapping[str, object]) -> Tree:
    """The same tree of an image with another configuration."""
    config = json.dumps({"config": said}).encode()
    return tree_of_image(replace(tree.image, config=config), tree.fs)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Tree, Tree]:
    """Two images that have their bottom layer in common."""
    old = tree_of_layers([BASE, OLD], tmp_path / "old")
    new = tree_of_layers([BASE, NEW], tmp_path / "new")
    return (
        configured(old, {"User": "root", "Env": ["A=1", "B=2"], "Cmd": ["sh"]}),
        configured(new, {"User": "<b>me</b>", "Env": ["A=1", "C=3"], "Cmd": ["sh"]}),
    )


def test_what_differs_is_summed_up(trees: tuple[Tree, Tree]) -> None:
    """Paths by what became of them, the layers that are shared, what the configurations say."""
    found = differences(*trees)
    assert found.shared == 1
    # n and n/new; etc/motd; d with a, s and b in it, and x.
    assert found.names == {ADDED: 2, CHANGED: 1, DELETED: 5}
    assert found.sizes == {ADDED: 5, CHANGED: 3, DELETED: 6}
    assert found.grown == len("new") - len("old words")
    nodes = {one.name: one for one in pruned(found.paths, 100).all()}
    assert (nodes["d"].kind, nodes["d"].size, nodes["d"].count) == (DELETED, 5, 4)
    assert (nodes["motd"].kind, nodes["new"].kind, nodes["n"].kind) == (CHANGED, ADDED, ADDED)
    assert "same" not in nodes
    assert found.facts == [
        ("User", "root", "<b>me</b>"),
        ("B (environment)", "2", None),
        ("C (environment)", None, "3"),
    ]


@settings(max_examples=60, deadline=None)
@given(LAYERS, LAYERS)
def test_no_change_is_lost(
    one: list[list[tuple[str, Node]]], other: list[list[tuple[str, Node]]]
) -> None:
    """Each path that differs is counted, and one that was deleted with all that was in it."""
    with tempfile.TemporaryDirectory() as folder:
        old = tree_of_layers(map(layer, one), Path(folder, "old"))
        new = tree_of_layers(map(layer, other), Path(folder, "new"))
        found = differences(old, new)
        told = list(changes(old, new, ("mtime",)))
        kept = {walked.path for walked in new.walk()}
        gone = sum(
            1 + sum(len(each.entries) for each in old.walk(b"/" + change.path))
            if change.old is not None and change.old.mode >> 12 == 4
            else 1
            for change in told
            if change.new is None
        )
    assert found.names[ADDED] == sum(change.old is None for change in told)
    assert found.names[DELETED] == gone
    assert found.paths.count == sum(found.names.values())
    assert found.paths.total == sum(found.sizes.values())
    assert b"" in kept


def test_what_cannot_be_read_is_on_the_page(tmp_path: Path) -> None:
    """A hard link to nothing is like another and unlike a file; lost bytes are like nothing."""
    one = tree_of_layers([layer({"a": Hard("no"), "b": Hard("no"), "c": "lost"})], tmp_path / "old")
    other = tree_of_layers([layer({"a": Hard("no"), "b": "1", "c": "lost"})], tmp_path / "new")
    (archive,) = (tmp_path / "old").glob("*.tar")
    os.truncate(archive, 100)
    found = differences(one, other)
    nodes = {one.name: one.kind for one in pruned(found.paths, 9).all()}
    assert {"b": CHANGED, "c": CHANGED}.items() <= nodes.items()
    assert "a" not in nodes


@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("width", [320, 800, 1400])
def test_two_images_stand_side_by_side(
    browser: Browser, trees: tuple[Tree, Tree], tmp_path: Path, width: int
) -> None:
    """Whoever looks at it finds what differs first; nothing is cut off, and axe finds no fault."""
    surveys = [
        survey(examined(layers, tmp_path)._replace(image=tree.image))
        for layers, tree in zip(([BASE, OLD], [BASE, NEW]), trees, strict=True)
    ]
    path = tmp_path / "two.html"
    path.write_text(page(surveys, differences(*trees)))
    browser.show(path, width, dark=width == 800)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.faults() == []
    assert browser.logged() == []
    assert browser.requests() == [path.as_uri()]
    text = browser.run("return document.querySelector('main > section').innerText")
    for words in ("What differs", "<b>me</b>", "B (environment)", "nothing", "motd", "4 names"):
        assert words in text
    # Each map goes its own way.
    browser.run("location.hash = '#map-1/0'")
    crumbs = "return [...document.querySelectorAll('.crumbs ol')].map((one) => one.innerText)"
    before, after = browser.run(crumbs)
    assert before != after
