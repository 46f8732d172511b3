"""What is read from an image's configuration."""

import json
from typing import Any

import pytest

from imagefs.image import config as image_config


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("2001-09-09T01:46:40.123456789Z", 1_000_000_000_123_456_000),
        ("2001-09-09T03:46:40.5+02:00", 1_000_000_000_500_000_000),
        ("2001-09-09T01:46:40", 10**18),
        ("9999-12-31T23:59:59Z", 253_402_300_799 * 10**9),
        ("0001-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", 0),
        ("yesterday", 0),
        ("", 0),
        (None, 0),
        (7, 0),
        ([], 0),
    ],
)
def test_when_an_image_was_made(text: Any, nanoseconds: int) -> None:
    """By RFC 3339, as far as datetime reads it; all else is no time and no error."""
    assert image_config.created(json.dumps({"created": text}).encode()) == nanoseconds


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000])
def test_a_configuration_without_a_time(content: bytes) -> None:
    """It is 0, also where the configuration is none."""
    assert image_config.created(content) == 0
