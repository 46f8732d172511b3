"""The JSON that programs may rely on has the fields that imagefs/cli/README.md lists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import users
from tests.support.needs import need_fuse
from tests.support.saved import docker_save
from tests.support.tars import layer
from tests.support.users import User

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "imagefs/cli/README.md").read_text()
# What stands in parentheses, or behind a semicolon, is told of a field.
ASIDE = r"\(.*?\)|;.*|, and with.*| as of.*"
FIELDS = {
    command: set(re.findall(r"`([a-z0-9_]+)`", re.sub(ASIDE, "", told)))
    for command, told in re.findall(r"^\| `([a-z -]+)` \| (.*) \|$", PAGE, re.MULTILINE)
}
CALLS = {
    "layers": "layers --json app.tar",
    "inspect": "inspect --json app.tar",
    "cache list": "cache list --json",
    "ls": "ls --json app.tar",
    "diff": "diff --json app.tar",
    "waste": "waste --json app.tar",
    "scan": "scan -q --json key app.tar",
    "scan --files": "scan -q --json --files app.tar",
    "mounts": "mounts --json",
}


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Whoever runs the tests, with an image."""
    with users.caller(tmp_path / "home") as one:
        one.file("app.tar", docker_save(layer({"a": "key\n"}), layer({"a": "no key\n"})))
        yield one


@pytest.mark.parametrize("command", CALLS)
def test_fields_are_as_promised(user: User, command: str) -> None:
    """None is missing, and none is there that the page does not tell of."""
    if command == "mounts":
        need_fuse()
        place = user.directory()
        user.does("mount", "-q", "app.tar", place)
    said = user.imagefs(*CALLS[command].split()).out
    if command == "mounts":
        user.does("unmount", place)
    lines = command in ("ls", "diff", "scan", "scan --files")
    found: Any = json.loads(said.splitlines()[0] if lines else said)
    found = found[0] if isinstance(found, list) else found
    assert set(found) == FIELDS[command]
