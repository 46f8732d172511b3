"""What an image's configuration and its passwd say, as lines for a page. Pure: bytes in, words out.

All of it is a stranger's: whatever is not of the shape that it should be is shown as it is or left
out, and nothing is longer than a page can bear.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from imagefs.image import safe_json
from imagefs.report.capabilities import NAMES
from imagefs.text import printable

LONGEST = 400
"""Letters of a value that are shown."""
MOST = 60
"""Lines of a kind that are shown."""
_PLAIN = {
    "Entrypoint": "Entrypoint",
    "Cmd": "Command",
    "User": "User",
    "WorkingDir": "Working directory",
    "ExposedPorts": "Ports",
    "Volumes": "Volumes",
    "StopSignal": "Stop signal",
    "Healthcheck": "Health check",
    "Shell": "Shell",
    "OnBuild": "On build",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the configuration says: lines of a name and a value each; `left_out` were too many."""

    platform: str
    plain: list[tuple[str, str]]
    environment: list[tuple[str, str]]
    labels: list[tuple[str, str]]
    left_out: int


class Account(NamedTuple):
    """A line of passwd(5)."""

    name: str
    uid: str
    gid: str
    home: str
    shell: str


def facts(config: bytes) -> Facts:
    """Return what a configuration says."""
    try:
        said = safe_json.loads(config)
    except safe_json.BadJsonError:
        said = {}
    image = said if isinstance(said, dict) else {}
    inner = image.get("config")
    inner = inner if isinstance(inner, dict) else {}
    plain = [(title, shown(inner[key])) for key, title in _PLAIN.items() if inner.get(key)]
    for key, title in (("created", "Created"), ("author", "Author")):
        if image.get(key):
            plain.append((title, shown(image[key])))
    environment = _pairs(inner.get("Env"))
    labels = _pairs(inner.get("Labels"))
    left_out = max(0, len(environment) - MOST) + max(0, len(labels) - MOST)
    parts = (image.get(key) for key in ("os", "architecture", "variant"))
    platform = cut("/".join(part for part in parts if isinstance(part, str) and part), 60)
    return Facts(platform, plain, environment[:MOST], labels[:MOST], left_out)


def shown(value: Any) -> str:
    """Return a value of JSON in a line that is not too long."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        words = " ".join(one if one and one.isalnum() else json.dumps(one) for one in value)
    elif isinstance(value, dict) and not any(value.values()):
        words = " ".join(value)
    elif isinstance(value, str):
        words = value
    else:
        words = json.dumps(value, ensure_ascii=False)
    return cut(words)


def cut(words: str, longest: int = LONGEST) -> str:
    """Return words in letters that nothing obeys, cut where they are too long."""
    line = printable(words[: longest + 1])
    return line if len(line) <= longest else line[:longest] + "…"


def _pairs(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return sorted((cut(name), shown(one)) for name, one in value.items())
    if isinstance(value, list):
        parts = [one.partition("=") for one in value if isinstance(one, str)]
        return [(cut(name), cut(one)) for name, _, one in parts]
    return []


def accounts(passwd: bytes) -> list[Account]:
    """Return the accounts of a passwd, those that may log in first, in its order."""
    found = list(_accounts(passwd))
    return sorted(found, key=lambda one: one.shell.endswith(("nologin", "false")))[:MOST]


def _accounts(passwd: bytes) -> Iterator[Account]:
    for line in passwd.decode("utf-8", "surrogateescape").split("\n")[: 10 * MOST]:
        fields = line.split(":")
        if len(fields) == 7 and fields[0]:
            name, _, uid, gid, _, home, shell = (cut(field, 80) for field in fields)
            yield Account(name, uid, gid, home, shell)


def capabilities(value: bytes) -> str:
    """Return the capabilities of a file as words (capabilities(7), security.capability)."""
    numbers = [int.from_bytes(value[at : at + 4], "little") for at in range(0, len(value), 4)]
    if len(value) not in (12, 20, 24) or not 1 <= numbers[0] >> 24 <= 3:
        return "unknown"
    permitted, inheritable = numbers[1], numbers[2]
    if len(value) >= 20:
        permitted |= numbers[3] << 32
        inheritable |= numbers[4] << 32
    kinds = ("e" if numbers[0] & 1 else "") + ("p" if permitted else "")
    kinds += "i" if inheritable else ""
    both = permitted | inheritable
    names = [name for bit, name in enumerate(NAMES) if both >> bit & 1]
    others = bin(both >> len(NAMES)).count("1")
    return " ".join([*names, *([f"{others} unknown"] if others else []), f"+{kinds}"])
