"""Ids cut short: what they are cut to, and that no two ever become one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagefs.image.short_id import short_id, short_ids

A, B = "a" * 12, "b" * 12


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        pytest.param([], [], id="none"),
        pytest.param([f"sha256:{A}{'0' * 52}"], [A], id="alone"),
        pytest.param([f"sha256:{A}{'0' * 52}"] * 2, [A] * 2, id="twice the same"),
        pytest.param([f"sha256:{A}0", f"sha256:{B}0"], [A, B], id="apart anyway"),
        pytest.param([f"sha256:{A}00", f"sha256:{A}1"], [f"{A}0", f"{A}1"], id="clash"),
        pytest.param(
            [f"sha256:{A}00", f"sha256:{A}010", f"sha256:{A}011", f"sha256:{B}"],
            [f"{A}00", f"{A}010", f"{A}011", B],
            id="only as long as it takes",
        ),
        pytest.param([f"sha256:{A}0", f"v1:{A}0"], [f"sha256-{A}0", f"v1-{A}0"], id="algorithm"),
        pytest.param([f"sha256:{A}", f"sha512:{A}77"], [A, f"{A}7"], id="one begins the other"),
        pytest.param([A, "abc"], [A, "abc"], id="no algorithm, few digits"),
    ],
)
def test_short_ids(ids: list[str], short: list[str]) -> None:
    """An id has twelve digits, and as many more as set it apart."""
    assert [short_ids(ids)[one] for one in ids] == short


@given(st.lists(st.from_regex(r"(sha256|v1):a{11,13}[ab]{0,4}", fullmatch=True)))
def test_no_two_ids_become_one(ids: list[str]) -> None:
    """However much ids have in common, each has a name of its own."""
    short = short_ids(ids)
    assert len(set(short.values())) == len(short) == len(set(ids))


def test_one_id_is_cut_without_its_algorithm() -> None:
    """Where nothing can clash, twelve digits do."""
    assert short_id(f"sha256:{A}{B}") == A
