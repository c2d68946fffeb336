"""What the acceptance tests share beside the fixtures of all tests."""

from __future__ import annotations

import pytest

from tests.acceptance.shapes import Library


@pytest.fixture
def library(transactional_db):
    """A few committed rows in every table."""
    return Library()
