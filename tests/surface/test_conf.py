"""The settings: defaults, normalised values, wrong values, and changes at run time."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from django.apps import apps
from django.conf import settings
from django.test import override_settings

from cachalot import cachalot_settings, conf
from cachalot.conf import BY_NAME, SETTINGS, Config, current


def context_of(connection):
    """A hook, to be named by its path."""
    return connection.alias


PATH = f"{__name__}.context_of"


def test_every_field_is_a_setting():
    """The table of settings and the fields of the config are the same list."""
    assert [one.field for one in SETTINGS] == [field.name for field in dataclasses.fields(Config)]
    assert all(one.name == f"CACHALOT_{one.field.upper()}" for one in SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: one.name)
def test_default_is_a_valid_value(setting):
    """A default is written as a project would write it, passes its own check and is described."""
    assert setting.fault(setting.default) is None
    assert setting.kind.parse(setting.default) == getattr(Config(), setting.field)
    assert setting.doc.endswith(".")


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("CACHALOT_ENABLED", 0, False),
        ("CACHALOT_CACHE", "second", "second"),
        ("CACHALOT_DATABASES", "supported_only", None),
        ("CACHALOT_DATABASES", ["default", "default"], frozenset({"default"})),
        ("CACHALOT_DATABASES", (), frozenset()),
        ("CACHALOT_TIMEOUT", None, None),
        ("CACHALOT_TIMEOUT", 60, 60.0),
        ("CACHALOT_UNCACHABLE_TABLES", {"a", "B"}, frozenset({"a", "B"})),
        ("CACHALOT_STABLE_FUNCTIONS", ["My_Func"], frozenset({"my_func"})),
        ("CACHALOT_QUERY_KEYGEN", "cachalot.utils.get_query_cache_key", None),
        ("CACHALOT_TABLE_KEYGEN", "cachalot.utils.get_table_cache_key", None),
        ("CACHALOT_KEY_CONTEXT", context_of, context_of),
        ("CACHALOT_REPLICAS", {"a": "b", "b": "c"}, {"a": "c", "b": "c"}),
        ("CACHALOT_WRITE_DEPENDENCIES", {"a": ["b", "c"], "d": "e"}, {"a": {"b", "c"}, "d": {"e"}}),
        ("CACHALOT_MAX_ROWS", 0, 0),
        ("CACHALOT_ON_CACHE_FAILURE", "raise", "raise"),
    ],
)
def test_written_value_is_normalised(name, written, read):
    """What is read has one type, however it was written."""
    with override_settings(**{name: written}):
        value = getattr(current(), BY_NAME[name].field)
    assert value == read
    assert type(value) is type(read)


def test_dotted_path_is_the_callable_it_names():
    """A hook may be given by its path."""
    with override_settings(CACHALOT_KEY_CONTEXT=PATH, CACHALOT_QUERY_KEYGEN=PATH):
        assert current().key_context.__name__ == "context_of"
        assert current().query_keygen is current().key_context


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("CACHALOT_ENABLED", "False"),
        ("CACHALOT_CACHE", None),
        ("CACHALOT_CACHE", ""),
        ("CACHALOT_DATABASES", "default"),
        ("CACHALOT_DATABASES", [1]),
        ("CACHALOT_TIMEOUT", "60"),
        ("CACHALOT_TIMEOUT", True),
        ("CACHALOT_TIMEOUT", -1),
        ("CACHALOT_TIMEOUT", float("nan")),
        ("CACHALOT_UNCACHABLE_TABLES", "auth_user"),
        ("CACHALOT_QUERY_KEYGEN", "no.such.module"),
        ("CACHALOT_QUERY_KEYGEN", "cachalot.conf.PREFIX"),
        ("CACHALOT_TABLE_KEYGEN", 3),
        ("CACHALOT_LEASE", 0),
        ("CACHALOT_ON_CACHE_FAILURE", "Outbox"),
        ("CACHALOT_ON_CACHE_FAILURE", None),
        ("CACHALOT_OUTBOX_INTERVAL", -1),
        ("CACHALOT_MAX_ROWS", 1.5),
        ("CACHALOT_MAX_BYTES", True),
        ("CACHALOT_REPLICA_LAG", None),
    ],
)
def test_wrong_value_reads_as_the_default(name, wrong):
    """A wrong value never raises at run time; the default holds, and the log says so."""
    with override_settings(**{name: wrong}):
        assert current() == Config()
    assert BY_NAME[name].fault(wrong).startswith("must be ")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("CACHALOT_KEY_CONTEXT", "no.such.module"),
        ("CACHALOT_REPLICAS", ["replica"]),
        ("CACHALOT_REPLICAS", {"a": "b", "b": "a"}),
        ("CACHALOT_REPLICAS", {"a": "a"}),
        ("CACHALOT_WRITE_DEPENDENCIES", {"a": 1}),
        ("CACHALOT_WRITE_DEPENDENCIES", {"a": ""}),
    ],
)
def test_wrong_value_that_could_serve_wrong_rows_ends_caching(name, wrong):
    """Rows of another tenant are worse than no cache: without a valid value nothing is served."""
    with override_settings(**{name: wrong}):
        assert not current().enabled


def test_wrong_value_is_logged_once(caplog):
    """A server that was started without checks says in its log what is wrong, but not at each query."""
    with override_settings(CACHALOT_TIMEOUT="soon"):
        current()
        current()
    assert [
        record.getMessage() for record in caplog.records if "CACHALOT_TIMEOUT" in record.getMessage()
    ] == [
        "CACHALOT_TIMEOUT must be a number of seconds, 0 or more, or None, not 'soon'. Its default is used."
    ]


def test_module_of_a_hook_that_raises_is_a_fault_of_the_setting(tmp_path, monkeypatch):
    """Whatever an imported module raises, reading the settings does not."""
    (tmp_path / "broken_hook_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(CACHALOT_QUERY_KEYGEN="broken_hook_module.hook"):
        assert current().query_keygen is None
        fault = BY_NAME["CACHALOT_QUERY_KEYGEN"].fault("broken_hook_module.hook")
    assert "ZeroDivisionError" in fault


def test_config_is_kept_until_a_setting_changes():
    """Work derived from the config may be kept for as long as the same object is returned."""
    before = current()
    assert current() is before
    with override_settings(SOMETHING_ELSE=1):
        assert current() is before
    with override_settings(CACHALOT_MAX_ROWS=5):
        assert current().max_rows == 5
    assert current() == before


def test_change_without_a_signal_is_seen_after_reload(monkeypatch):
    """Whoever changes a setting by hand says so with reload()."""
    current()
    monkeypatch.setattr(settings, "CACHALOT_MAX_ROWS", 7, raising=False)
    cachalot_settings.reload()
    try:
        assert cachalot_settings.CACHALOT_MAX_ROWS == 7
    finally:
        monkeypatch.undo()
        cachalot_settings.reload()


def test_change_during_a_read_is_not_lost(monkeypatch):
    """A thread that read before a change must not keep what it read after the change."""
    reading, changed = threading.Event(), threading.Event()
    read = conf._read

    def slow_read():
        config = read()
        reading.set()
        assert changed.wait(10)
        return config

    conf.forget()
    monkeypatch.setattr(conf, "_read", slow_read)
    thread = threading.Thread(target=current)
    thread.start()
    assert reading.wait(10)
    monkeypatch.setattr(conf, "_read", read)
    with override_settings(CACHALOT_MAX_ROWS=9):
        changed.set()
        thread.join()
        assert current().max_rows == 9


def test_hook_is_not_imported_before_models_are_ready(monkeypatch):
    """The module of a hook may import models; until it can, nothing is served and nothing is remembered."""
    monkeypatch.setattr(apps, "models_ready", False)
    with override_settings(CACHALOT_KEY_CONTEXT=PATH):
        assert not current().enabled
        monkeypatch.undo()
        assert current().enabled


def test_public_names_answer_with_the_values_of_today():
    """cachalot_settings has every setting under the name it has in a project."""
    assert cachalot_settings.CACHALOT_ENABLED is True
    assert cachalot_settings.CACHALOT_DATABASES == "supported_only"
    with override_settings(CACHALOT_ENABLED=False, CACHALOT_DATABASES=["default"]):
        assert cachalot_settings.CACHALOT_ENABLED is False
        chosen = cachalot_settings.CACHALOT_DATABASES
    assert chosen == {"default"}
    assert set(dir(cachalot_settings)) == {*BY_NAME, "reload"}


def test_unknown_name_is_an_attribute_error():
    """Both hasattr and getattr with a default work as on any object."""
    assert not hasattr(cachalot_settings, "CACHALOT_NOPE")


def test_public_names_cannot_be_assigned():
    """A value set there would silently be lost, so it is refused."""
    with pytest.raises(AttributeError, match="override_settings"):
        cachalot_settings.CACHALOT_ENABLED = False


@pytest.mark.parametrize(
    ("config", "vendor", "expected"),
    [
        (Config(), "postgresql", True),
        (Config(), "microsoft", False),
        (Config(use_unsupported_database=True), "microsoft", True),
        (Config(additional_supported_databases=frozenset({"an.engine"})), "microsoft", True),
        (Config(databases=frozenset({"default"})), "microsoft", True),
        (Config(databases=frozenset({"other"})), "postgresql", False),
        (Config(databases=frozenset()), "postgresql", False),
    ],
)
def test_database_is_judged_by_vendor_unless_it_was_chosen(config, vendor, expected):
    """An alias that is named is cached; otherwise what the engine speaks decides, not its path."""
    assert config.caches_database("default", vendor, "an.engine") is expected
