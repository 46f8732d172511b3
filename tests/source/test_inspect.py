"""`imagefs inspect`: what a source holds, before anything of it is mounted."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import users
from tests.support.saved import docker_save
from tests.support.tars import layer
from tests.support.users import User

LAYERS = (layer({"etc/": "", "etc/motd": "hello\n"}), layer({"srv/": ""}))
STEPS = ("ADD base", "COPY \x1b[2J srv")


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests."""
    with users.caller(tmp_path / "home") as one:
        yield one


def test_all_there_is_to_know_is_shown(user: User) -> None:
    """Format, names, id, platform, and each layer with its digest, size and step; as JSON, too."""
    archive = user.file("app.tar", docker_save(*LAYERS, tags=["app:v1", "app:v2"], steps=STEPS))
    found = json.loads(user.does("inspect", "--json", archive))
    [image] = found["images"]
    assert image["names"] == ["app:v1", "app:v2"]
    assert image["platform"] == "linux/amd64"
    assert [one["created_by"] for one in image["layers"]] == list(STEPS)
    shown = user.does("inspect", archive)
    for words in (found["format"], image["id"], "app:v1, app:v2", "linux/amd64", STEPS[0]):
        assert words in shown
    for one in image["layers"]:
        assert one["diff_id"] in shown


def test_nothing_shown_commands_the_terminal(user: User) -> None:
    """Control characters of an image are shown escaped."""
    archive = user.file("app.tar", docker_save(*LAYERS, steps=STEPS))
    assert r"COPY \x1b[2J srv" in user.does("inspect", archive)


def test_nothing_is_left_in_the_cache(user: User) -> None:
    """Looking at an archive neither indexes nor copies it."""
    user.does("inspect", user.file("app.tar", docker_save(*LAYERS)))
    found = [
        path for name in ("layers", "images", "index") for path in user.cache.glob(f"{name}/**/*")
    ]
    kept = [path for path in found if path.is_file()]
    assert kept == []


def test_what_is_no_image_fails(user: User) -> None:
    """An error is one line, and exit status 1."""
    answer = user.imagefs("inspect", user.file("no.tar", "words " * 500))
    assert (answer.status, answer.err.count("\n")) == (1, 1)
    assert "no.tar" in answer.err
