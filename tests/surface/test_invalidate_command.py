"""``manage.py invalidate_cachalot``."""

from __future__ import annotations

from io import StringIO

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command

from cachalot import api


@pytest.fixture
def asked(monkeypatch):
    """Every call of the API: what was invalidated, in which cache, of which database."""
    calls = []

    def invalidate(*tables_or_models, cache_alias=None, db_alias=None):
        calls.append((set(tables_or_models), cache_alias, db_alias))

    monkeypatch.setattr(api, "invalidate", invalidate)
    return calls


def invalidate_cachalot(*arguments, **options):
    """What the command printed."""
    out = StringIO()
    call_command("invalidate_cachalot", *arguments, stdout=out, **options)
    return out.getvalue().strip()


def test_without_names_everything_is_invalidated(asked):
    """No argument means every table of every database."""
    assert invalidate_cachalot() == "Invalidated every table."
    assert asked == [(set(), None, None)]


def test_model_is_invalidated(asked):
    """A model is named as app_label.Model, in any case."""
    assert invalidate_cachalot("auth.User") == "Invalidated auth_user."
    assert invalidate_cachalot("AUTH.user") == "Invalidated auth_user."
    assert asked == [({User}, None, None)] * 2


def test_app_is_invalidated_with_the_tables_between_its_models(asked):
    """An app label means each of its models, and the many-to-many tables that Django made."""
    said = invalidate_cachalot("auth")
    models = set(apps.get_app_config("auth").get_models(include_auto_created=True))
    assert Group.permissions.through in models
    assert asked == [(models, None, None)]
    assert "auth_group_permissions" in said


def test_several_names_are_one_invalidation(asked):
    """Names add up."""
    assert invalidate_cachalot("auth.User", "auth.Group") == "Invalidated auth_group, auth_user."
    assert asked == [({User, Group}, None, None)]


@pytest.mark.parametrize("options", [("-c", "second", "-d", "other"), ("--cache", "second", "--db", "other")])
def test_aliases_are_handed_on(asked, options):
    """The command can be kept to one cache and one database."""
    said = invalidate_cachalot("auth.User", *options)
    assert said == "Invalidated auth_user of the database 'other' in the cache 'second'."
    assert asked == [({User}, "second", "other")]


def test_aliases_may_be_given_as_keywords(asked):
    """call_command takes the names of the API."""
    invalidate_cachalot("auth.User", cache_alias="second", db_alias="other")
    assert asked == [({User}, "second", "other")]


def test_app_without_models_is_not_everything(asked):
    """An app that has no models must not be taken for no argument at all."""
    assert "no model" in invalidate_cachalot("messages")
    assert asked == []


def test_quiet_command_prints_nothing(asked):
    """At verbosity 0 the command only works."""
    assert invalidate_cachalot("auth.User", verbosity=0) == ""
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aut"], "There is no app 'aut'. Did you mean 'auth'"),
        (["auth.Usr"], "There is no model of the app 'auth' 'usr'. Did you mean 'user'"),
        (["auth."], "There is no model of the app 'auth' ''"),
        (["auth", "-c", "secnd"], "There is no cache 'secnd'. Did you mean 'second'?"),
        (["auth", "-d", "zzz"], "There is no database 'zzz'. There is: default, other."),
    ],
)
def test_unknown_name_is_an_error_with_the_close_ones(asked, arguments, message):
    """A misspelt name invalidates nothing and says what was probably meant."""
    with pytest.raises(CommandError) as caught:
        invalidate_cachalot(*arguments)
    assert str(caught.value).startswith(message)
    assert asked == []


@pytest.mark.django_db(transaction=True)
def test_command_really_invalidates():
    """The time of the last invalidation moves."""
    before = api.get_last_invalidation("auth.User")
    invalidate_cachalot("auth.User")
    assert api.get_last_invalidation("auth.User") > before


def test_cache_that_does_not_answer_is_an_error(settings):
    """What was not invalidated is not reported as invalidated."""
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
    with pytest.raises(CommandError, match="'default' does not answer"):
        invalidate_cachalot("auth.User")
