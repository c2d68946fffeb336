"""``{% get_last_invalidation %}`` in Django templates."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.template import Context, Template

from cachalot import api


@pytest.fixture
def asked(monkeypatch):
    """Every call of the API, which answers 12.5."""
    calls = []

    def get_last_invalidation(*tables_or_models, cache_alias=None, db_alias=None):
        calls.append((tables_or_models, cache_alias, db_alias))
        return 12.5

    monkeypatch.setattr(api, "get_last_invalidation", get_last_invalidation)
    return calls


def render(source, **context):
    """The text that a template becomes."""
    return Template("{% load cachalot %}" + source).render(Context(context))


def test_value_is_kept_in_a_variable(asked):
    """The tag of the documentation: several models, then a variable."""
    assert render("{% get_last_invalidation 'auth.User' 'auth.Group' as t %}[{{ t }}]") == "[12.5]"
    assert asked == [(("auth.User", "auth.Group"), None, None)]


def test_value_is_printed_without_a_variable(asked):
    """Without `as` the tag prints the time."""
    assert render("{% get_last_invalidation %}") == "12.5"
    assert asked == [((), None, None)]


def test_aliases_may_come_from_the_context(asked):
    """Arguments are expressions like those of any tag."""
    render(
        "{% get_last_invalidation table cache_alias='second' db_alias=alias %}",
        table="auth_user",
        alias="other",
    )
    assert asked == [(("auth_user",), "second", "other")]


@pytest.mark.django_db(transaction=True)
def test_value_changes_with_a_write():
    """A fragment keyed by the tag's value is rendered anew after a write."""
    source = "{% get_last_invalidation 'auth.Group' as t %}{{ t }}"
    before = float(render(source))
    Group.objects.create(name="editors")
    assert float(render(source)) > before
