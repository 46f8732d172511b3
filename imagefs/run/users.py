"""Who runs a command: the user and groups that a word means in an image's own passwd and group.

Pure: the files' bytes in, numbers out. The files are a stranger's: lines that make no sense are
passed over, as the C library does. Any thread may call it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from imagefs.errors import UsageError

MAX_ID = 2**31 - 1
"""The largest uid and gid that is taken: what a number beyond it means, programs disagree on."""


@dataclass(frozen=True, slots=True)
class User:
    """Numbers, as the command sees them, and its home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(words: str, passwd: bytes, group: bytes) -> User:
    """Return whom `user[:group]`, of names or numbers, means; nothing is root.

    A name comes before a number of the same look. Without a group, the user's own counts, and all
    groups that list the user. Raises UsageError.
    """
    user, _, wanted = words.partition(":")
    found = _find(user or "0", passwd, 7)
    name, uid, gid, home = user, _number(user or "0"), 0, "/"
    if found is not None:
        name, uid, gid, home = found[0], _number(found[2]), _number(found[3]) or 0, found[5]
    if uid is None:
        raise UsageError(f"user {user!r}: the image's /etc/passwd has no such user")
    if not wanted:
        groups = (_number(one[2]) for one in _lines(group, 4) if name in one[3].split(","))
        return User(uid, gid, tuple(dict.fromkeys(one for one in groups if one is not None)), home)
    line = _find(wanted, group, 4)
    own = _number(line[2]) if line is not None else _number(wanted)
    if own is None:
        raise UsageError(f"group {wanted!r}: the image's /etc/group has no such group")
    return User(uid, own, (), home)


def _find(word: str, content: bytes, fields: int) -> list[str] | None:
    lines = [line for line in _lines(content, fields) if _number(line[2]) is not None]
    by_name = (line for line in lines if line[0] == word)
    by_number = (line for line in lines if word and _number(line[2]) == _number(word))
    return next(by_name, None) or next(by_number, None)


def _lines(content: bytes, fields: int) -> Iterator[list[str]]:
    for line in content.decode("utf-8", "replace").split("\n"):
        found = line.split(":")
        if len(found) == fields and "\0" not in line:
            yield found


def _number(text: str) -> int | None:
    if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_ID:
        return int(text)
    return None
