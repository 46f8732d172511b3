"""Ids cut short for people: as few digits as tell them apart, and never fewer than twelve.

Owns the only place where an id is cut. What is cut is for names and messages; whoever looks
something up uses the whole id. Pure; any thread may call it.
"""

from collections.abc import Iterable
from itertools import pairwise, takewhile

DIGITS = 12
"""How much of an id people are shown, here as in Docker's own lists."""


def short_id(whole: str) -> str:
    """Return the beginning of one id's digits, without its algorithm."""
    return _digits(whole)[:DIGITS]


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return a short name for each id, no two alike: longer where ids begin with the same digits.

    Ids that differ in their algorithm alone are told apart by it.
    """
    by_digits: dict[str, list[str]] = {}
    for whole in dict.fromkeys(ids):
        by_digits.setdefault(_digits(whole), []).append(whole)
    # In this order, an id has most in common with one of its neighbours.
    order = sorted(by_digits)
    bounds = [0, *(_in_common(*pair) for pair in pairwise(order)), 0]
    short: dict[str, str] = {}
    for digits, around in zip(order, pairwise(bounds), strict=False):
        cut = digits[: max(DIGITS, max(around) + 1)]
        alike = by_digits[digits]
        for whole in alike:
            short[whole] = cut if len(alike) == 1 else whole.replace(":", "-", 1)
    return short


def _in_common(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _digits(whole: str) -> str:
    return whole.rpartition(":")[2]
