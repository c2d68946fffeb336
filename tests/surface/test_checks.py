"""The system checks: what each one reports, and what none of them minds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core import checks as django_checks
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.test import override_settings

from cachalot import checks, conf
from cachalot.stores.base import Concern, StoreAway
from cachalot.stores.django_cache import DjangoCacheStore

DATABASE_BACKEND = "django.core.cache.backends.db.DatabaseCache"
DUMMY_BACKEND = "django.core.cache.backends.dummy.DummyCache"
LOCMEM_BACKEND = "django.core.cache.backends.locmem.LocMemCache"
DOCUMENTED = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()


class SubclassedCache(LocMemCache):
    """What many projects have: a supported backend with something added."""


class SubclassedDatabaseCache(DatabaseCache):
    """A subclass is what its base is."""


class WrappedCache:
    """A proxy that is no subclass of anything, as tools that watch a cache make them."""

    def __init__(self, location, params):
        self.cache = LocMemCache(location, params)

    def __getattr__(self, name):
        return getattr(self.cache, name)


class ReadOnlyCache(BaseCache):
    """Has not the methods that BaseCache leaves to it."""

    def __init__(self, _location, params):
        super().__init__(params)

    def get(self, key, default=None, version=None):
        """Return nothing."""
        return default


class BrokenCache:
    """Cannot even be made."""

    def __init__(self, location, params):
        raise ModuleNotFoundError("its client is not installed")


def caches_with(backend):
    """The setting with another backend."""
    return {"default": {"BACKEND": backend, "LOCATION": "checks"}, "second": {"BACKEND": LOCMEM_BACKEND}}


def ids(messages):
    """The part of the ids that the reader knows."""
    return [message.id.removeprefix("cachalot.") for message in messages]


def all_messages():
    """Every message of every check of this package, those of `check --deploy` too."""
    registered = django_checks.registry.registry.get_checks(include_deployment_checks=True)
    ours = [check for check in registered if check.__module__ == checks.__name__]
    return [message for check in ours for message in check(app_configs=None)]


@pytest.fixture(autouse=True)
def _registered():
    checks.register()


@pytest.fixture
def engine(monkeypatch):
    """Pretends that the default database is of another vendor, with an engine path that nobody knows."""

    def pretend(vendor, **options):
        connection = connections["default"]
        monkeypatch.setattr(type(connection), "vendor", vendor)
        monkeypatch.setitem(connection.settings_dict, "ENGINE", "somebody.elses.engine")
        for name, value in options.items():
            monkeypatch.setitem(connection.settings_dict, name, value)

    return pretend


def test_registering_twice_reports_once():
    """Registering is idempotent, because ready() may run more than once in tests."""
    before = len(django_checks.registry.registry.registered_checks)
    checks.register()
    assert len(django_checks.registry.registry.registered_checks) == before


@pytest.mark.django_db(databases=["default", "other"])
def test_error_fails_the_command():
    """The checks run as a part of manage.py check, where an error stops a deployment."""
    call_command("check")
    with override_settings(CACHALOT_CACHE="nope"), pytest.raises(SystemCheckError, match=r"cachalot\.E001"):
        call_command("check")


@override_settings(CACHALOT_TIMEOUT="60", CACHALOT_REPLICAS=["replica"])
def test_wrong_type_is_an_error_that_says_what_happens_meanwhile():
    """E002: each wrong value is named, with what is expected, an example, and the effect until then."""
    timeout, replicas = sorted(checks.check_values(), key=lambda message: "REPLICAS" in message.msg)
    assert ids([timeout, replicas]) == ["E002", "E002"]
    assert timeout.msg == "CACHALOT_TIMEOUT must be a number of seconds, 0 or more, or None, not '60'."
    assert (
        timeout.hint == "For example: CACHALOT_TIMEOUT = 86400. Until this is put right, its default is used."
    )
    assert replicas.hint.endswith("nothing is cached.")


@override_settings(CACHALOT_KEY_CONTEXT="tests.nowhere.hook")
def test_dotted_path_that_cannot_be_imported_is_an_error():
    """E002: the reason of the failed import is in the message."""
    (message,) = checks.check_values()
    assert ids([message]) == ["E002"]
    assert "No module named" in message.msg


@override_settings(CACHALOT_UNCACHEABLE_TABLES=["auth_user"])
def test_misspelt_setting_is_a_warning():
    """W006: a setting that has no effect is named, with the one that was meant."""
    (message,) = checks.check_names()
    assert ids([message]) == ["W006"]
    assert message.hint == "Did you mean 'CACHALOT_UNCACHABLE_TABLES'?"


@override_settings(CACHALOT_CACHE="secnd")
def test_unknown_cache_alias_is_an_error():
    """E001: an alias that is not in CACHES."""
    assert ids(all_messages()) == ["E001"]
    assert checks.check_cache_aliases()[0].hint == "Did you mean 'second'?"


@override_settings(CACHALOT_DATABASES=["default", "nope"])
def test_unknown_database_alias_is_an_error():
    """E001: an alias in CACHALOT_DATABASES that is not in DATABASES; the known ones are still judged."""
    assert ids(checks.check_database_aliases()) == ["E001"]
    assert checks.check_databases() == []
    assert "'default'" in checks.check_database_aliases()[0].hint


@override_settings(CACHALOT_REPLICAS={"replica": "default"})
def test_unknown_replica_is_an_error():
    """E001: an alias in CACHALOT_REPLICAS that is not in DATABASES."""
    (message,) = checks.check_database_aliases()
    assert message.msg == "CACHALOT_REPLICAS names 'replica', which is not in DATABASES."


@pytest.mark.parametrize("backend", [DATABASE_BACKEND, f"{__name__}.SubclassedDatabaseCache"])
def test_database_cache_is_an_error(backend):
    """E003: a cache in the database costs more than it saves and cannot hold the state; subclasses too."""
    with override_settings(CACHES=caches_with(backend)):
        assert ids(all_messages()) == ["E003"]


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (DUMMY_BACKEND, "it keeps nothing"),
        (f"{__name__}.ReadOnlyCache", "it has no set(), add()"),
        (f"{__name__}.BrokenCache", "its client is not installed"),
        ("no.such.Backend", "No module named"),
    ],
)
def test_cache_that_cannot_do_it_is_a_warning(backend, why):
    """W001: a backend without what is needed."""
    with override_settings(CACHES=caches_with(backend)):
        (message,) = checks.check_cache()
        assert ids([message]) == ["W001"]
        assert why in message.msg
        assert ids(checks.check_shared_cache()) == []


@pytest.mark.parametrize(
    "backend", [LOCMEM_BACKEND, f"{__name__}.SubclassedCache", f"{__name__}.WrappedCache"]
)
def test_subclassed_or_wrapped_backend_is_fine(backend):
    """A backend is judged by what it can do, not by its path."""
    with override_settings(CACHES=caches_with(backend)):
        assert checks.check_cache() == []


def test_cache_of_one_process_is_a_warning_only_for_deployment():
    """W005: locmem is what one wants in development, and wrong in production."""
    run_checks = partial(django_checks.run_checks, tags=["caches"])
    with override_settings(CACHES=caches_with(LOCMEM_BACKEND)):
        assert run_checks() == []
        assert [message.id for message in run_checks(include_deployment_checks=True)] == ["cachalot.W005"]


def test_wrapped_engine_of_a_supported_vendor_is_fine(engine):
    """An engine is judged by connection.vendor, not by its path."""
    engine("postgresql")
    with override_settings(CACHALOT_DATABASES=["default"]):
        assert checks.check_databases() == []


def test_project_without_a_supported_database_is_a_warning(engine):
    """W002: nothing would be cached, and the user may vouch for the engine."""
    engine("microsoft")
    assert ids(checks.check_databases()) == ["W002"]
    with override_settings(CACHALOT_ADDITIONAL_SUPPORTED_DATABASES=["somebody.elses.engine"]):
        assert checks.check_databases() == []
    with override_settings(CACHALOT_USE_UNSUPPORTED_DATABASE=True):
        assert checks.check_databases() == []


def test_unsupported_engine_that_was_chosen_is_a_warning(engine):
    """W003: it is cached because it was asked for, and silent once it was vouched for."""
    engine("microsoft")
    with override_settings(CACHALOT_DATABASES=["default"]):
        (message,) = checks.check_databases()
        assert ids([message]) == ["W003"]
        assert "['somebody.elses.engine']" in message.hint
        with override_settings(CACHALOT_USE_UNSUPPORTED_DATABASE=True):
            assert checks.check_databases() == []


@override_settings(CACHALOT_DATABASES=[])
def test_no_database_chosen_is_a_warning():
    """W004: an empty collection caches nothing."""
    assert ids(checks.check_databases()) == ["W004"]


def test_same_database_name_on_two_servers_is_a_warning(engine, monkeypatch):
    """W008: two aliases may be copies of one another, until the settings say whether they are."""
    engine("postgresql", NAME="shop", HOST="primary.local")
    monkeypatch.setitem(connections["other"].settings_dict, "NAME", "shop")
    monkeypatch.setitem(connections["other"].settings_dict, "HOST", "replica.local")
    (message,) = checks.check_undeclared_replicas()
    assert ids([message]) == ["W008"]
    assert "CACHALOT_REPLICAS = {'other': 'default'}" in message.hint
    with override_settings(CACHALOT_REPLICAS={"other": "default"}):
        assert checks.check_undeclared_replicas() == []
    monkeypatch.setitem(connections["other"].settings_dict, "TEST", {"MIRROR": "default"})
    assert checks.check_undeclared_replicas() == []


def test_one_database_under_two_aliases_is_fine(engine, monkeypatch):
    """The same name on the same server is one database, which is seen without being told."""
    engine("postgresql", NAME="shop", HOST="primary.local", PORT="")
    for name, value in {"NAME": "shop", "HOST": "primary.local", "PORT": ""}.items():
        monkeypatch.setitem(connections["other"].settings_dict, name, value)
    assert checks.check_undeclared_replicas() == []


@override_settings(
    CACHALOT_ONLY_CACHABLE_TABLES=["auth_usr"],
    CACHALOT_UNCACHABLE_TABLES=["django_migrations", "AUTH_GROUP", "legacy", "made_elsewhere"],
    CACHALOT_ADDITIONAL_TABLES=["legacy"],
    CACHALOT_WRITE_DEPENDENCIES={"auth_user": ["audit_log"]},
)
def test_table_that_no_model_has_is_a_warning():
    """W007: a table that is neither a model's nor declared has a misspelt name, or must be declared."""
    messages = checks.check_tables()
    assert set(ids(messages)) == {"W007"}
    assert [(message.msg.split()[0], message.hint) for message in messages] == [
        ("CACHALOT_ONLY_CACHABLE_TABLES", "Did you mean 'auth_user'?"),
        ("CACHALOT_UNCACHABLE_TABLES", "If it exists: CACHALOT_ADDITIONAL_TABLES = ['made_elsewhere']."),
        ("CACHALOT_WRITE_DEPENDENCIES", "If it exists: CACHALOT_ADDITIONAL_TABLES = ['audit_log']."),
    ]


@override_settings(
    CACHALOT_TABLES={
        "auth.User": {},
        "auth_group": {},
        "sessions.*": {},
        "*_made_up": {"timeout": 1},
        "auth.Grupp": {"enabled": False},
    }
)
def test_policy_that_fits_no_table_is_a_warning():
    """W007: a name or a pattern in CACHALOT_TABLES that means no table of a model."""
    messages = checks.check_tables()
    assert ids(messages) == ["W007", "W007"]
    assert [(message.msg.split()[4:8], message.hint) for message in messages] == [
        (
            ["for", "the", "pattern", "'*_made_up',"],
            "Write 'app.Model', the name of a table, or a pattern such as 'shop_*'.",
        ),
        (["for", "the", "table", "or"], "Did you mean 'auth.group'?"),
    ]


@override_settings(CACHALOT_TABLES={"auth.User": {"cache": "secnd"}, "auth.Group": {"cache": "second"}})
def test_unknown_cache_of_a_policy_is_an_error():
    """E001: an alias in CACHALOT_TABLES that is not in CACHES."""
    (message,) = checks.check_cache_aliases()
    assert (message.id, message.hint) == ("cachalot.E001", "Did you mean 'second'?")
    assert message.msg == "CACHALOT_TABLES names 'secnd', which is not in CACHES."


@pytest.mark.parametrize(
    "value",
    [
        ["auth.User"],
        {"auth.User": False},
        {"auth.User": {"timeot": 3}},
        {"auth.User": {"timeout": "3"}},
        {"auth.User": {"granularity": "column"}},
        {"auth.User": {"enabled": "no"}},
        {"auth.User": {"cache": None}},
        {3: {}},
    ],
)
def test_policy_of_another_form_is_an_error(value):
    """E002: what is not a dictionary of known options; nothing is cached meanwhile."""
    with override_settings(CACHALOT_TABLES=value):
        (message,) = checks.check_values()
        assert message.id == "cachalot.E002"
        assert "nothing is cached" in message.hint
        assert not conf.current().enabled


@override_settings(CACHALOT_ONLY_CACHABLE_APPS=["auth", "sesions"], CACHALOT_UNCACHABLE_APPS=["zzz"])
def test_app_that_is_not_installed_is_a_warning():
    """W007: an app label that nothing answers to."""
    messages = checks.check_apps()
    assert ids(messages) == ["W007", "W007"]
    assert messages[0].hint == "Did you mean 'sessions'?"


@pytest.mark.parametrize(("toolbar", "expected"), [("6.0.0", ["W009"]), ("6.1.0", []), ("8.0.0", [])])
def test_toolbar_that_cannot_show_bytes_is_a_warning(monkeypatch, toolbar, expected):
    """W009: one version of the toolbar breaks each page that uses the cache."""
    assert checks.check_debug_toolbar() == []
    installed = SimpleNamespace(module=SimpleNamespace(VERSION=toolbar))
    monkeypatch.setitem(checks.apps.app_configs, "debug_toolbar", installed)
    assert ids(checks.check_debug_toolbar()) == expected


def test_every_message_has_a_hint(engine):
    """What is wrong comes with what to do."""
    engine("microsoft")
    with override_settings(
        CACHALOT_CACHE="nope", CACHALOT_DATABASES=["default", "nope"], CACHALOT_TIMEOUT="x", CACHALOT_TYPO=1
    ):
        messages = all_messages()
    assert sorted(ids(messages)) == ["E001", "E001", "E002", "W003", "W006"]
    assert all(message.hint for message in messages)


def test_no_check_opens_a_connection(monkeypatch):
    """Checks run where the servers cannot be reached, such as while an image is built."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a check opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    for connection in connections.all():
        monkeypatch.setattr(connection, "connect", refuse)
    all_messages()


@pytest.mark.parametrize("concern", list(Concern))
def test_cache_server_that_makes_the_guarantees_weaker(monkeypatch, concern):
    """Each concern of a store has a check of its own, with its sentence and a hint."""
    monkeypatch.setattr(DjangoCacheStore, "concerns", lambda _store: [concern])
    monkeypatch.setattr(checks, "make_store", DjangoCacheStore)
    (message,) = checks.check_cache_server()
    assert concern.value in message.msg
    assert message.hint
    assert f'id="{message.id.rpartition(".")[2].lower()}"' in DOCUMENTED


def test_cache_server_that_does_not_answer(monkeypatch):
    """What cannot be asked is not judged."""

    def concerns(_store):
        raise StoreAway("no route")

    monkeypatch.setattr(DjangoCacheStore, "concerns", concerns)
    monkeypatch.setattr(checks, "make_store", DjangoCacheStore)
    assert checks.check_cache_server() == []
