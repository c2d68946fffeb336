"""What the acceptance tests share beside the fixtures of all tests."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from tests.acceptance.shapes import Library


@pytest.fixture
def library(transactional_db):
    """A few committed rows in every table."""
    return Library()


@pytest.fixture(scope="module")
def kept_library(django_db_setup, django_db_blocker):
    """The same rows for all tests of a file, which may change values but must leave every row there.

    Emptying all tables after each test takes longer than most tests here.
    """
    with django_db_blocker.unblock():
        yield Library()
        call_command("flush", verbosity=0, interactive=False)
