"""Settings as data: every ``CACHALOT_*`` setting with its type, default and meaning.

:class:`Config` is the one table. A field ``x`` is the setting ``CACHALOT_X``; what may be written there and
what it means stands beside it, and validation, the system checks and the tests of the documentation read it.

:func:`current` answers with the values of today. Importing this module reads nothing, and without configured
Django settings the defaults answer. A value of the wrong type is reported by the check ``cachalot.E002`` and
logged; at run time its default is used, except where that could serve wrong rows: then nothing is served.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core.signals import setting_changed

from cachalot import kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger("cachalot")

PREFIX: Final = "CACHALOT_"
OUTBOX_TABLE: Final = "cachalot_outbox"
SUPPORTED_VENDORS: Final = frozenset({"sqlite", "postgresql", "mysql"})

# ------------------------------------------------------------------------------------------------------------
# The settings
# ------------------------------------------------------------------------------------------------------------


def _setting(default: object, kind: kinds.Kind, doc: str, *, vital: bool = False) -> Any:
    """Declare one setting, as :func:`dataclasses.field` does.

    :param default: as it would be written in the settings of a project.
    :param kind: what may be written there.
    :param doc: a sentence for people.
    :param vital: whether a wrong value must end caching, because the default could serve wrong rows.
    """
    metadata = {"default": default, "kind": kind, "doc": doc, "vital": vital}
    return field(default_factory=lambda: kind.parse(default), metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Every setting, checked and normalised; the field ``x`` is the setting ``CACHALOT_X``.

    ``Config()`` has the defaults. It never changes: :func:`current` returns another one when a setting has
    changed, so work derived from it may be kept for as long as ``current()`` returns the same object.

    .. versionadded:: 3.0
    """

    enabled: bool = _setting(
        True, kinds.BOOL, "Whether results are served from the cache. When False, writes still invalidate."
    )
    cache: str = _setting("default", kinds.CACHE_ALIAS, "Alias of the cache in CACHES that is used.")
    databases: frozenset[str] | None = _setting(
        kinds.SUPPORTED_ONLY,
        kinds.DATABASE_ALIASES,
        "Aliases of the databases whose reads are cached; 'supported_only' means every SQLite, PostgreSQL "
        "and MySQL or MariaDB database.",
    )
    use_unsupported_database: bool = _setting(
        False, kinds.BOOL, "Whether databases of other vendors are cached too, and without a warning."
    )
    additional_supported_databases: frozenset[str] = _setting(
        (),
        kinds.NAMES,
        "Dotted paths of further database engines that count as supported, as in DATABASES['ENGINE'].",
    )
    timeout: float | None = _setting(
        86400, kinds.SECONDS_OR_NONE, "Seconds after which a result expires at the latest; None means never."
    )
    cache_random: bool = _setting(False, kinds.BOOL, "Whether statements with order_by('?') are cached.")
    cache_iterators: bool = _setting(True, kinds.BOOL, "Whether results read through .iterator() are cached.")
    invalidate_raw: bool = _setting(
        True,
        kinds.BOOL,
        "Whether SQL sent through a cursor is looked at and invalidates the tables it writes to.",
    )
    only_cachable_tables: frozenset[str] = _setting(
        (),
        kinds.NAMES,
        "When this or the next is not empty, only statements all of whose tables are listed are cached.",
    )
    only_cachable_apps: frozenset[str] = _setting(
        (), kinds.NAMES, "App labels whose tables are added to CACHALOT_ONLY_CACHABLE_TABLES."
    )
    uncachable_tables: frozenset[str] = _setting(
        ("django_migrations",), kinds.NAMES, "Tables whose statements are never cached."
    )
    uncachable_apps: frozenset[str] = _setting(
        (), kinds.NAMES, "App labels whose tables are added to CACHALOT_UNCACHABLE_TABLES."
    )
    additional_tables: frozenset[str] = _setting(
        (),
        kinds.NAMES,
        "Tables without a model that belong to the project and may be cached and invalidated.",
    )
    query_keygen: Callable[..., Any] | None = _setting(  # noqa: RUF009 - it returns a field
        None,
        kinds.KEYGEN,
        "Called with the compiler; returns text that is added to the key of the result, which stays free of "
        "collisions whatever it returns.",
    )
    table_keygen: Callable[..., Any] | None = _setting(  # noqa: RUF009 - it returns a field
        None,
        kinds.KEYGEN,
        "Called with a database alias and a table name; returns the name under which the state of the table "
        "is kept. Tables of one name are invalidated together.",
    )
    final_sql_check: bool = _setting(
        False, kinds.BOOL, "Accepted and without effect: the dependencies are always complete."
    )
    key_context: Callable[..., Any] | None = _setting(  # noqa: RUF009 - it returns a field
        None,
        kinds.HOOK,
        "Called with the database connection before each read; its value becomes part of the key. For "
        "row-level security and whatever else changes what a statement sees.",
        vital=True,
    )
    replicas: Mapping[str, str] = _setting(
        {},
        kinds.REPLICAS,
        "Which database aliases are replicas of which: a write to one invalidates all.",
        vital=True,
    )
    replica_lag: float = _setting(
        5.0, kinds.SECONDS, "Seconds after a write during which what a replica answers is not stored."
    )
    write_dependencies: Mapping[str, frozenset[str]] = _setting(
        {},
        kinds.DEPENDENCIES,
        "Which tables also change when one is written to: by triggers, cascades and rules Django cannot see.",
        vital=True,
    )
    stable_functions: frozenset[str] = _setting(
        (),
        kinds.LOWER_NAMES,
        "SQL functions of your own whose result follows from their arguments and the tables alone.",
    )
    lease: float = _setting(
        30.0,
        kinds.SOME_SECONDS,
        "Seconds that one commit may take at most before others stop waiting for its end.",
    )
    fill_lease: float = _setting(
        0.0,
        kinds.SECONDS,
        "Seconds for which a process that misses may be alone in running a query; others look for its result "
        "meanwhile, for no longer than the query took the last time. 0: each process runs it.",
    )
    on_cache_failure: str = _setting(
        "outbox",
        kinds.FAILURE_POLICY,
        "What becomes of a write that the cache cannot be told of: 'outbox' keeps its invalidation in a "
        "table of the same database, in the same transaction ('journal' where there is no such table); "
        "'journal' keeps it in the memory of the process; 'raise' refuses the write; 'ignore' forgets it.",
    )
    outbox_interval: float = _setting(
        10.0,
        kinds.SECONDS,
        "Seconds after which a process looks into the outbox again before it serves a result.",
    )
    granularity: str = _setting(
        "row",
        kinds.GRANULARITY,
        "What a write ends: 'row' the results that depend on a row or column it has changed, where the cache "
        "in use can tell; 'table' all results that depend on its table.",
    )
    tables: Mapping[str, Mapping[str, Any]] = _setting(
        {},
        kinds.POLICIES,
        "Another policy for some tables, by 'app.Model', name or pattern: 'enabled', 'timeout', "
        "'granularity', 'cache'. The strictest of the tables of a query wins.",
        vital=True,
    )
    max_rows: int = _setting(20_000, kinds.COUNT, "Results with more rows are not stored.")
    max_bytes: int = _setting(4 * 1024 * 1024, kinds.COUNT, "Results with more bytes are not stored.")
    audit_rate: float = _setting(
        0.0,
        kinds.SHARE,
        "Share of the hits, from 0.0 to 1.0, that are compared with the rows of the database.",
    )
    audit_raise: bool = _setting(
        False, kinds.BOOL, "Whether a hit that differs from the database raises AuditError. For tests."
    )

    def longest_timeout(self) -> float | None:
        """Return for how many seconds a result may be kept at most, ``None`` for ever."""
        timeouts = [self.timeout, *(one["timeout"] for one in self.tables.values() if "timeout" in one)]
        return None if None in timeouts else max(timeouts)

    def supports(self, vendor: str, engine: str) -> bool:
        """Return whether databases of this kind are cached without being asked for by alias.

        :param vendor: ``connection.vendor``, so that a wrapped or subclassed engine counts as what it is.
        :param engine: ``connection.settings_dict["ENGINE"]``.
        """
        return (
            vendor in SUPPORTED_VENDORS
            or self.use_unsupported_database
            or engine in self.additional_supported_databases
        )

    def caches_database(self, alias: str, vendor: str, engine: str) -> bool:
        """Return whether reads of a database may be cached.

        :param alias: database alias.
        :param vendor: ``connection.vendor``.
        :param engine: ``connection.settings_dict["ENGINE"]``.
        """
        return self.supports(vendor, engine) if self.databases is None else alias in self.databases


@dataclass(frozen=True)
class Setting:
    """One line of the table of settings.

    :param name: such as ``CACHALOT_TIMEOUT``.
    :param field: the field of :class:`Config`.
    :param default: as it would be written in the settings of a project.
    :param kind: what may be written there.
    :param doc: a sentence for people.
    :param vital: whether a wrong value ends caching, because the default could serve wrong rows.
    """

    name: str
    field: str
    default: Any
    kind: kinds.Kind
    doc: str
    vital: bool

    def fault(self, value: object) -> str | None:
        """Return what is wrong with a value, as the end of a sentence, or ``None``."""
        try:
            self.kind.parse(value)
        except ImportError as error:
            return f"must be {self.kind.expects} ({error})"
        except (TypeError, ValueError):
            return f"must be {self.kind.expects}, not {value!r}"
        return None


SETTINGS: Final[tuple[Setting, ...]] = tuple(
    Setting(name=PREFIX + one.name.upper(), field=one.name, **one.metadata) for one in fields(Config)
)
BY_NAME: Final[Mapping[str, Setting]] = {one.name: one for one in SETTINGS}


def written() -> dict[str, Any]:
    """Return the known settings that the project has written, as written; none without Django settings."""
    if not settings.configured and not os.environ.get(ENVIRONMENT_VARIABLE):
        return {}
    return {name: getattr(settings, name) for name in BY_NAME if hasattr(settings, name)}


def _read() -> Config:
    values: dict[str, Any] = {}
    trusted = True
    for name, value in written().items():
        setting = BY_NAME[name]
        fault = setting.fault(value)
        if fault is None:
            values[setting.field] = setting.kind.parse(value)
            continue
        trusted = trusted and not setting.vital
        if apps.models_ready:
            logger.error(
                "%s %s. %s", name, fault, "Nothing is cached." if setting.vital else "Its default is used."
            )
    config = Config(**values)
    return config if trusted else replace(config, enabled=False)


# ------------------------------------------------------------------------------------------------------------
# The values of today
# ------------------------------------------------------------------------------------------------------------

_config: Config | None = None
_changes = 0
_lock = threading.Lock()


def current() -> Config:
    """Return the settings of today; a global read unless one has changed."""
    config = _config
    return _renew() if config is None else config


def _renew() -> Config:
    global _config  # noqa: PLW0603 - the one kept value, replaced as a whole so that readers need no lock
    seen = _changes
    config = _read()
    # Reading runs outside the lock, because it may import a hook; so what it read may be old by now.
    with _lock:
        if seen == _changes and apps.models_ready and settings.configured:
            _config = config
    return config


def forget() -> None:
    """Read every setting anew when next asked, after a change that sent no ``setting_changed``."""
    global _config, _changes  # noqa: PLW0603 - see _renew
    with _lock:
        _config = None
        _changes += 1


def _forget_when_changed(*, setting: str, **_kwargs: object) -> None:
    if setting.startswith(PREFIX) or setting in {"DATABASES", "CACHES", "INSTALLED_APPS"}:
        forget()


setting_changed.connect(_forget_when_changed, dispatch_uid="cachalot.conf")


class CachalotSettings:
    """The settings under their public names: ``cachalot_settings.CACHALOT_ENABLED``.

    Values are checked and normalised, collections are frozen sets. They are read-only; in tests use
    :func:`django.test.override_settings`.
    """

    def __getattr__(self, name: str) -> Any:
        """Return the value of today of a setting."""
        setting = BY_NAME.get(name)
        if setting is None:
            raise AttributeError(f"cachalot has no setting {name!r}")
        value = getattr(current(), setting.field)
        return kinds.SUPPORTED_ONLY if value is None and setting.field == "databases" else value

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a value set here would be lost at the next change of a setting."""
        raise AttributeError(
            f"{name} is read-only here: use the settings of the project or override_settings"
        )

    def __dir__(self) -> list[str]:
        """Return the names of the settings, for people at a prompt."""
        return ["reload", *BY_NAME]

    def reload(self) -> None:
        """Read every setting anew; needed only after a change that sent no ``setting_changed``."""
        forget()


cachalot_settings: Final = CachalotSettings()
