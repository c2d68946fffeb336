"""What the acceptance tests share beside the fixtures of all tests."""

from __future__ import annotations

import pytest

from cachalot.engine import stampede
from tests.acceptance.shapes import Library


@pytest.fixture
def library(transactional_db):
    """A few committed rows in every table."""
    return Library()


@pytest.fixture
def each_thread_a_process(monkeypatch):
    """Threads stand for processes: none waits for the query of another."""
    monkeypatch.setattr(stampede, "LONGEST_WAIT", 0.0)
