"""JSON of strangers: what is read of it, and what is refused before it takes memory."""

import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagefs.archive import members
from imagefs.errors import CorruptArchive
from imagefs.image import config, json_shape
from imagefs.image.safe_json import MAX_DEPTH, MAX_VALUES, BadJsonError, loads

MIB = 1 << 20

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "Expecting value"),
    "no UTF-8": (lambda: b'"\xff"', "utf-8"),
    "UTF-16": (lambda: "[]".encode("utf-16"), "utf-8"),
    "a string without end": (lambda: b'["' + b'\\"' * (4 * MIB), "Unterminated"),
    "a string that ends in half an escape": (lambda: b"[" * 50 + b'"a\\' + b"," * 60, "escape"),
    "arrays in arrays": (lambda: b"[" * (8 * MIB), "deep in each other"),
    "objects in objects": (lambda: b'{"a":' * (2 * MIB), "deep in each other"),
    "one level too many": (
        lambda: b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        "deep in each other",
    ),
    "empty arrays": (lambda: b"[" + b"[]," * (5 * MIB) + b"0]", "holds more than"),
    "empty objects": (lambda: b"[" + b"{}," * (5 * MIB) + b"0]", "holds more than"),
    "objects of one": (lambda: b"[" + b'{"a":0},' * (2 * MIB) + b"0]", "holds more than"),
    "short strings": (lambda: b"[" + '"é",'.encode() * (3 * MIB) + b"0]", "holds more than"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    """Other JSON than images have is one error of one line, and takes little more than itself."""
    make, says = REFUSED[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(BadJsonError, match=says) as refusal:
            loads(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + MIB
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)


def test_what_just_passes() -> None:
    """Limits count values, not what only looks like them inside of strings."""
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert len(loads(b"[" + b"0," * (MAX_VALUES - 1) + b"0]")) == MAX_VALUES
    said = '[{"\\",:' * MAX_VALUES
    assert loads(json.dumps([said]).encode()) == [said]
    assert loads(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


def test_a_number_of_very_many_digits_is_no_integer() -> None:
    """It is passed over where nobody asks for it, as in Go, and is no size of anything."""
    many = b"9" * 5000
    assert loads(b'{"a": %b, "b": [-%b], "c": %b}' % (many, many, many[:4000])) == {
        "a": math.inf,
        "b": [-math.inf],
        "c": 10**4000 - 1,
    }


def test_half_pairs_become_characters() -> None:
    """What cannot be written to a terminal or a file does not come in; whole pairs do."""
    said = loads(rb'{"a\ud800": ["\uDC00b", "\ud83d\ude00", "\\ud800"]}')
    assert said == {"a\ufffd": ["\ufffdb", "\U0001f600", "\\ud800"]}
    json.dumps(said, ensure_ascii=False).encode()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda some: st.lists(some) | st.dictionaries(st.text(), some),
    ),
    st.booleans(),
)
def test_all_other_json_is_as_python_has_it(value: Any, escaped: bool) -> None:
    """What is written as JSON is read as it was."""
    assert loads(json.dumps(value, ensure_ascii=escaped).encode()) == value


class _NoFiles:
    place = "a.tar"


DEEP = b"[" * 100_000
READERS: dict[str, Callable[[], object]] = {
    "a configuration": lambda: config.parse(DEEP),
    "a manifest": lambda: members.parse(_NoFiles(), "manifest.json", DEEP),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", READERS)
def test_readers_say_what_is_not_json(name: str) -> None:
    """Whatever JSON is of, one that is too deep is a CorruptArchive in one line."""
    with pytest.raises(CorruptArchive, match="is not JSON: its values lie more than 100 deep"):
        READERS[name]()


def test_an_engine_that_says_nonsense_says_nothing() -> None:
    """An error message that is no JSON of ours is left out."""
    assert json_shape.error_message(DEEP) is None
