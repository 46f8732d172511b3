"""Sizes and times as people write them on a command line."""

import pytest

from imagefs.cli.quantities import seconds, size
from imagefs.errors import UsageError

KIB, GIB, TIB = 1024, 1024**3, 1024**4


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("512 bytes", 512),
        ("1 byte", 1),
        ("1k", 1000),
        ("1K", 1000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1Ki", KIB),
        ("1KiB", KIB),
        ("1kib", KIB),
        ("500M", 500 * 1000**2),
        ("500 MiB", 500 * KIB**2),
        ("20G", 20 * 1000**3),
        ("20GB", 20 * 1000**3),
        ("20GiB", 20 * GIB),
        ("20 gi", 20 * GIB),
        ("1.5G", 1_500_000_000),
        ("1.5GiB", 3 * GIB // 2),
        (".5TiB", TIB // 2),
        ("0.1GB", 100_000_000),
        ("2TB", 2 * 1000**4),
        ("3PiB", 3 * 1024**5),
        ("1E", 1000**6),
        (" 7 M ", 7_000_000),
    ],
)
def test_sizes(text: str, count: int) -> None:
    """Units count by 1000, as sizes are shown, and by 1024 where an i says so; the case is free."""
    assert size(text) == count


@pytest.mark.parametrize(
    "text",
    ["", "G", "-1", "1.", "1,5G", "1 2", "5iB", "5Bi", "5Z", "1e3", "nan", "inf", "1GiBi", "٣G",
     "1G 2M", "9" * 40, "0x10", "1GB/s"],
)  # fmt: skip
def test_what_is_no_size(text: str) -> None:
    """It is the user's mistake, and the message says what there is."""
    with pytest.raises(UsageError, match="is no size; write a number with K, M, G or T"):
        size(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0s", 0),
        ("90s", 90),
        ("90 sec", 90),
        ("1 second", 1),
        ("30m", 1800),
        ("30min", 1800),
        ("2 minutes", 120),
        ("36h", 129600),
        ("36 hours", 129600),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("1d 12h", 129600),
        ("2W", 1209600),
        ("2 weeks", 1209600),
        ("1 day", 86400),
    ],
)
def test_times(text: str, count: float) -> None:
    """A unit may be written out, and several be added up."""
    assert seconds(text) == count


@pytest.mark.parametrize(
    "text", ["", "5", "h", "-5m", "5 months", "5ms", "5y", "1h30", "1e3s", "٣s"]
)
def test_what_is_no_time(text: str) -> None:
    """What could mean two things, such as a month, is refused."""
    with pytest.raises(UsageError, match="is no time; write a number with s, m, h, d or w"):
        seconds(text)
