"""Tests of imagefs, and the means they share."""

import pytest

pytest.register_assert_rewrite("tests.support.conformance")
