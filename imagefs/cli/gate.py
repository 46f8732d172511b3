"""Rules that an image's waste must keep, for builds that are to fail otherwise.

Owns the names of the rules: dive's, so that its users find them, and one of our own. What they are
judged by is exact: no byte counts that the root shows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from imagefs.cli.quantities import size
from imagefs.errors import UsageError, shortage
from imagefs.text import size_text
from imagefs.tree.waste import Waste

_RATIO = re.compile(r"[0-9]{1,9}(\.[0-9]{0,18})?|\.[0-9]{1,18}")
_LINE = re.compile(r"""\s*(\w+)\s*:\s*(?:"([^"]*)"|'([^']*)'|([^#'"]*?))\s*(?:#.*)?""")
_OFF = {"", "disabled", "off", "false"}
_MOST = 1 << 16
DIVE = ("lowestEfficiency", "highestWastedBytes", "highestUserWastedPercent")
OURS = "fail-above"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule, what it allows and what was found, in words, and whether it is kept."""

    rule: str
    limit: str
    found: str
    kept: bool


def judge(rules: Mapping[str, str], waste: Waste) -> list[Verdict]:
    """Return what becomes of each rule; a limit that is none is a UsageError."""
    return [_judge(name, limit, waste) for name, limit in rules.items() if not is_off(limit)]


def is_off(limit: str) -> bool:
    """Tell whether a limit stands for none, as dive has it."""
    return limit.strip().lower() in _OFF


def _judge(name: str, limit: str, waste: Waste) -> Verdict:
    if name == "lowestEfficiency":
        found = efficiency(waste)
        return Verdict(name, f"at least {limit}", _decimal(found), found >= _ratio(name, limit))
    if name == "highestUserWastedPercent":
        found = user_wasted(waste)
        return Verdict(name, f"at most {limit}", _decimal(found), found <= _ratio(name, limit))
    if name == OURS and limit.rstrip().endswith("%"):
        most = _ratio(name, limit.rstrip()[:-1].rstrip(), 100)
        found = 1 - efficiency(waste)
        return Verdict(name, f"at most {limit}", f"{float(found * 100):.2f}%", found <= most)
    kept = waste.lost <= size(limit)
    return Verdict(name, f"at most {limit}", f"{size_text(waste.lost)} ({waste.lost} bytes)", kept)


def _ratio(name: str, text: str, whole: int = 1) -> Fraction:
    """Return a number from 0 to `whole` as a part of it."""
    ratio = Fraction(text.strip()) / whole if _RATIO.fullmatch(text.strip()) else Fraction(-1)
    if not 0 <= ratio <= 1:
        percent = "%" if whole == 100 else ""
        raise UsageError(
            f"{name}: {text + percent!r} is not a number from 0{percent} to {whole}{percent}"
        )
    return ratio


def _decimal(found: Fraction) -> str:
    return f"{float(found):.4f}"


def efficiency(waste: Waste) -> Fraction:
    """Return how much of what all layers bring the root shows, 1 where they bring nothing."""
    return Fraction(waste.brought - waste.lost, waste.brought) if waste.brought else Fraction(1)


def user_wasted(waste: Waste) -> Fraction:
    """Return the hidden bytes of all layers beside what all but the bottom one bring."""
    brought = sum(layer.brought for layer in waste.layers[1:])
    return Fraction(waste.lost, brought) if brought else Fraction(0)


def read_dive_ci(path: Path) -> dict[str, str]:
    """Return the rules of a file of dive's, `.dive-ci`; UsageError where it is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST + 1)
        text = content.decode()
    except OSError as error:
        raise UsageError(shortage(error) or str(error)) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8") from error
    if len(content) > _MOST:
        raise UsageError(f"{path} has more than {_MOST} bytes: it is no .dive-ci")
    rules: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.split("#")[0].strip()
        match = _LINE.fullmatch(line)
        if bare in ("", "---", "...", "rules:"):
            continue
        if match is None or match[1] not in DIVE:
            raise UsageError(
                f"{path}: line {number} is none of dive's rules, which are {', '.join(DIVE)}"
            )
        rules[match[1]] = next((part for part in match.groups()[1:] if part is not None), "")
    return rules
