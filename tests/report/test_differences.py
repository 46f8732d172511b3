"""What a report of two images tells of how they differ, and the page that shows it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from imagefs.report.differences import differences
from imagefs.report.page import page
from imagefs.report.survey import survey
from imagefs.tree.waste import Examined
from tests.support.browser import Browser
from tests.support.tars import layer
from tests.tree.test_waste import examined

BASE = layer({"etc/motd": "old words", "d/a": "123", "same": "s"})
OLD = layer({"x": "1"})
NEW = layer({"etc/motd": "new", ".wh.d": "", "n/new": "12345"})


def configured(one: Examined, said: Mapping[str, object]) -> Examined:
    """The same image with another configuration."""
    config = json.dumps({"config": said}).encode()
    return one._replace(image=replace(one.image, config=config))


@pytest.fixture
def both(tmp_path: Path) -> tuple[Examined, Examined]:
    """Two images that have their bottom layer in common."""
    old, new = examined([BASE, OLD], tmp_path), examined([BASE, NEW], tmp_path)
    return (
        configured(old, {"User": "root", "Env": ["A=1", "B=2"], "Cmd": ["sh"]}),
        configured(new, {"User": "<b>me</b>", "Env": ["A=1", "C=3"], "Cmd": ["sh"]}),
    )


def test_what_differs_is_told(both: tuple[Examined, Examined]) -> None:
    """The layers that are shared, and what only one of the configurations says."""
    found = differences(*(one.image for one in both))
    assert found.shared == 1
    assert found.facts == [
        ("User", "root", "<b>me</b>"),
        ("B (environment)", "2", None),
        ("C (environment)", None, "3"),
    ]


@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("width", [320, 800, 1400])
def test_two_images_stand_side_by_side(
    browser: Browser, both: tuple[Examined, Examined], tmp_path: Path, width: int
) -> None:
    """Whoever looks at it finds what differs first; nothing is cut off, and axe finds no fault."""
    path = tmp_path / "two.html"
    path.write_text(page(list(map(survey, both)), differences(*(one.image for one in both))))
    browser.show(path, width, dark=width == 800)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.faults() == []
    assert browser.logged() == []
    assert browser.requests() == [path.as_uri()]
    text = browser.run("return document.querySelector('main > section').innerText")
    for words in ("What differs", "<b>me</b>", "B (environment)", "nothing", "14 B before"):
        assert words in text
    # Each map goes its own way.
    browser.run("location.hash = '#map-1/0'")
    crumbs = "return [...document.querySelectorAll('.crumbs ol')].map((one) => one.innerText)"
    before, after = browser.run(crumbs)
    assert before != after
