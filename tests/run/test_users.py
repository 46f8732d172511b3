"""Who runs a command: names and numbers, as docker run reads them."""

import pytest

from imagefs.errors import UsageError
from imagefs.run.users import MAX_ID, User, resolve

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
app:x:100:101:App:/home/app:/bin/sh
# a comment
broken:x:one:1::/:/bin/sh
short:x:5
1000:x:7:7:a name of digits:/seven:/bin/sh
large:x:99999999999:1::/:/bin/sh
home:x:8:8::/with\xffbyte:/bin/sh
"""
GROUP = b"root:x:0:\napp:x:101:\nextra:x:102:app,other\nmore:x:103:app\nbad:x:y:app\n"

MEANT = {
    "": User(0, 0, (), "/root"),
    "root": User(0, 0, (), "/root"),
    "0": User(0, 0, (), "/root"),
    "app": User(100, 101, (102, 103), "/home/app"),
    "100": User(100, 101, (102, 103), "/home/app"),
    "app:extra": User(100, 102, (), "/home/app"),
    "app:7": User(100, 7, (), "/home/app"),
    "app:": User(100, 101, (102, 103), "/home/app"),
    ":extra": User(0, 102, (), "/root"),
    "1000": User(7, 7, (), "/seven"),  # a name comes first
    "2000": User(2000, 0, (), "/"),  # without an entry, as docker run
    "2000:3000": User(2000, 3000, (), "/"),
    str(MAX_ID): User(MAX_ID, 0, (), "/"),
    "home": User(8, 8, (), "/with\ufffdbyte"),
}
REFUSED = {
    "nobody": "user 'nobody'",
    "broken": "user 'broken'",
    "short": "user 'short'",
    "large": "user 'large'",
    "-1": "user '-1'",
    str(MAX_ID + 1): "user",
    "99999999999999999999": "user",
    "٣": "user",
    "app:nothing": "group 'nothing'",
    "app:-1": "group '-1'",
    "app:extra:more": "group 'extra:more'",
}


@pytest.mark.parametrize("words", MEANT)
def test_meant(words: str) -> None:
    """A word finds its numbers, groups and home in the image's own files."""
    assert resolve(words, PASSWD, GROUP) == MEANT[words]


@pytest.mark.parametrize("words", REFUSED)
def test_refused(words: str) -> None:
    """Nobody is made up for a word that means nobody."""
    with pytest.raises(UsageError, match=REFUSED[words]):
        resolve(words, PASSWD, GROUP)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b":::::::\n" * 100, b"\xff\xfe"])
def test_files_that_make_no_sense(content: bytes) -> None:
    """Root needs no file, and no file can keep it from being root."""
    assert resolve("", content, content) == User(0, 0, (), "/")
    assert resolve("5:6", content, content) == User(5, 6, (), "/")
