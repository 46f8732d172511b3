"""A browser for the tests of pages."""

from collections.abc import Iterator

import pytest

from tests.support.browser import Browser, started


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The session's browser."""
    one = started()
    yield one
    one.driver.quit()
