"""What the acceptance tests share beside the fixtures of all tests."""

from __future__ import annotations

from contextlib import suppress

import pytest
from django.db import connection

from cachalot.engine import stampede
from tests.acceptance.shapes import Library
from tests.testapp.models import Author, Book


@pytest.fixture
def library(transactional_db):
    """A few committed rows in every table."""
    return Library()


@pytest.fixture
def each_thread_a_process(monkeypatch):
    """Threads stand for processes: none waits for the query of another."""
    monkeypatch.setattr(stampede, "LONGEST_WAIT", 0.0)


@pytest.fixture
def books():
    """Two authors, a and b, each with a book, x and y."""
    authors = [Author.objects.create(name=name) for name in "ab"]
    return [Book.objects.create(title=title, author=one) for title, one in zip("xy", authors, strict=True)]


@pytest.fixture(params=["with rows", "without"])
def both(request, monkeypatch):
    """Once as usual, and once as Django alone does it."""
    if request.param == "without":
        monkeypatch.setattr("cachalot.orm.compilers.query_cache", lambda _alias: None)
    return request.param


@pytest.fixture
def new_connection(transactional_db):
    """Whatever a test does to the connection, the next one has another."""
    yield
    connection.execute_wrappers[:] = connection.execute_wrappers[:1]
    with suppress(Exception):
        connection.connection.rollback()
    with suppress(Exception):
        connection.close()
    connection.connection = None
