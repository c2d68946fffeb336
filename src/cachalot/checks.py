"""System checks: what is wrong with the settings, told before it costs anything.

Each message has an id (``cachalot.E001``, ``cachalot.W001``, …) and a hint that can be pasted. Engines are
judged by ``connection.vendor`` and caches by what they can do, so a subclassed or wrapped one is fine. No
check opens a connection, neither to a database nor to a cache; but ``check --deploy`` asks the cache server.
"""

from __future__ import annotations

from collections import defaultdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import CheckMessage, Error, Info, Tags
from django.core.checks import Warning as CheckWarning
from django.core.checks import register as register_check
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from cachalot import conf
from cachalot.analysis.policies import is_pattern, means
from cachalot.analysis.rawsql import canonical_table
from cachalot.analysis.schema import model_facts
from cachalot.engine.identity import namespace
from cachalot.stores.base import Concern, StoreAway
from cachalot.stores.making import make_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# What making a cache raises when its backend, or the client library of it, is not installed.
_CANNOT_BE_MADE = (ImportError, ImproperlyConfigured)
# The table of the migration recorder, which has no model that apps know.
_TABLES_WITHOUT_MODEL = frozenset({"django_migrations"})


def register() -> None:
    """Register every check; calling it again changes nothing."""
    for check in (check_values, check_names, check_cache_aliases, check_cache):
        register_check(check, Tags.caches)
    for check in (
        check_database_aliases,
        check_databases,
        check_undeclared_replicas,
        check_tables,
        check_apps,
    ):
        register_check(check, Tags.compatibility)
    register_check(check_debug_toolbar, Tags.compatibility)
    # In development a cache of one process is what one wants, so this one runs with `check --deploy`.
    register_check(check_shared_cache, Tags.caches, deploy=True)
    register_check(check_cache_server, Tags.caches, deploy=True)


# ------------------------------------------------------------------------------------------------------------
# Settings
# ------------------------------------------------------------------------------------------------------------


def check_values(**_kwargs: object) -> list[CheckMessage]:
    """Return E002 for each setting whose value is of the wrong type."""
    return [
        wrong_type(conf.BY_NAME[name], fault)
        for name, value in conf.written().items()
        if (fault := conf.BY_NAME[name].fault(value)) is not None
    ]


def wrong_type(setting: conf.Setting, fault: str) -> CheckMessage:
    """Return the message for a value of the wrong type."""
    meanwhile = "nothing is cached" if setting.vital else "its default is used"
    return Error(
        f"{setting.name} {fault}.",
        hint=f"For example: {setting.name} = {setting.default!r}. Until this is put right, {meanwhile}.",
        id="cachalot.E002",
    )


def check_names(**_kwargs: object) -> list[CheckMessage]:
    """Return W006 for each setting that begins like ours and is none."""
    unknown = (name for name in dir(settings) if name.startswith(conf.PREFIX) and name not in conf.BY_NAME)
    return [unknown_setting(name) for name in unknown]


def unknown_setting(name: str) -> CheckMessage:
    """Return the message for a name that is no setting."""
    return CheckWarning(
        f"{name} is not a setting of cachalot and has no effect.",
        hint=_did_you_mean(name, conf.BY_NAME) or "Remove it.",
        id="cachalot.W006",
    )


# ------------------------------------------------------------------------------------------------------------
# The cache
# ------------------------------------------------------------------------------------------------------------


def check_cache_aliases(**_kwargs: object) -> list[CheckMessage]:
    """Return E001 for each name in the settings that is not the alias of a cache."""
    return [
        unknown_alias(name, alias, "CACHES", settings.CACHES)
        for name, alias in _caches()
        if alias not in settings.CACHES
    ]


def _caches() -> Iterator[tuple[str, str]]:
    """Yield the settings that name a cache, each with its alias."""
    config = conf.current()
    yield "CACHALOT_CACHE", config.cache
    others = {options["cache"] for options in config.tables.values() if "cache" in options}
    for alias in sorted(others - {config.cache}):
        yield "CACHALOT_TABLES", alias


def check_cache(**_kwargs: object) -> list[CheckMessage]:
    """Return W001 or E003 for each cache in the settings that cannot do what is needed."""
    return [
        message
        for _setting, alias in _caches()
        if alias in settings.CACHES
        for message in _faults_of_backend(alias)
    ]


def _faults_of_backend(alias: str) -> list[CheckMessage]:
    try:
        cache = caches[alias]
    except _CANNOT_BE_MADE as error:
        return [unsupported_cache(alias, str(error))]
    if isinstance(cache, DatabaseCache):
        return [cache_in_database(alias)]
    if isinstance(cache, DummyCache):
        return [unsupported_cache(alias, "it keeps nothing, so no result is ever cached")]
    missing = ", ".join(
        f"{name}()" for name in ("get", "set", "add", "get_many", "set_many") if not _can(cache, name)
    )
    return [unsupported_cache(alias, f"it has no {missing}")] if missing else []


def check_shared_cache(**_kwargs: object) -> list[CheckMessage]:
    """Return W005 when the cache belongs to one process."""
    alias = conf.current().cache
    try:
        shared = alias not in settings.CACHES or not isinstance(caches[alias], LocMemCache)
    except _CANNOT_BE_MADE:
        shared = True  # nothing is known of it; check_cache reports the backend itself
    return [] if shared else [cache_of_one_process(alias)]


def check_cache_server(**_kwargs: object) -> list[CheckMessage]:
    """Return I001, W010, W011, W012 or W013 for what makes the guarantees weaker; asks the cache server."""
    alias = conf.current().cache
    if alias not in settings.CACHES:
        return []
    try:
        store = make_store(alias)
        return [weaker(alias, concern) for concern in store.concerns()] if store.fit else []
    except (*_CANNOT_BE_MADE, StoreAway):
        return []  # check_cache reports a backend, and a server that is away cannot be judged


_WEAKER = {
    Concern.OVERWRITE: (
        "cachalot.I001",
        "Use Redis or memcached with a backend of Django or django-redis if writes overlap often.",
    ),
    Concern.MARKS_GO_FIRST: ("cachalot.W010", "Set maxmemory-policy to allkeys-lru or allkeys-lfu."),
    Concern.REFUSES: ("cachalot.W011", "Set maxmemory-policy to allkeys-lru or allkeys-lfu."),
    Concern.NAMELESS: (
        "cachalot.W012",
        "Allow its user the command INFO, or run `manage.py invalidate_cachalot` after each failover.",
    ),
    Concern.EJECTS: (
        "cachalot.W013",
        "Use one memcached server, or see to it that a server comes back empty.",
    ),
}


def weaker(alias: str, concern: Concern) -> CheckMessage:
    """Return the message for a cache server that makes the guarantees weaker."""
    name, hint = _WEAKER[concern]
    kind = Info if concern is Concern.OVERWRITE else CheckWarning
    return kind(f"The cache {alias!r}: {concern.value}.", hint=hint, id=name)


def _can(cache: object, name: str) -> bool:
    """Return whether a cache has a method of its own; those BaseCache leaves to its subclasses only raise."""
    abstract = name in {"get", "set", "add"} and getattr(type(cache), name, None) is getattr(BaseCache, name)
    return callable(getattr(cache, name, None)) and not abstract


_REDIS_HINT = (
    "Use a cache that all processes share, for example: "
    "CACHES = {%r: {'BACKEND': 'django.core.cache.backends.redis.RedisCache', "
    "'LOCATION': 'redis://127.0.0.1:6379/1'}}"
)


def unsupported_cache(alias: str, why: str) -> CheckMessage:
    """Return the message for a backend that cannot hold results."""
    return CheckWarning(
        f"The backend of the cache {alias!r} is not supported: {why}.",
        hint=_REDIS_HINT % alias,
        id="cachalot.W001",
    )


def cache_in_database(alias: str) -> CheckMessage:
    """Return the message for a cache whose every access is a query."""
    return Error(
        f"The cache {alias!r} is stored in the database, where looking up a result is itself a query and an "
        "invalidation is part of the transaction.",
        hint=f"{_REDIS_HINT % alias}, or name another cache in CACHALOT_CACHE.",
        id="cachalot.E003",
    )


def cache_of_one_process(alias: str) -> CheckMessage:
    """Return the message for a cache that the other processes do not see."""
    return CheckWarning(
        f"The cache {alias!r} is not shared between processes: a write in one leaves old results in "
        "the others.",
        hint=_REDIS_HINT % alias,
        id="cachalot.W005",
    )


# ------------------------------------------------------------------------------------------------------------
# Databases
# ------------------------------------------------------------------------------------------------------------


def check_database_aliases(**_kwargs: object) -> list[CheckMessage]:
    """Return E001 for each name in the settings that is not the alias of a database."""
    config = conf.current()
    named = {
        "CACHALOT_DATABASES": config.databases or (),
        "CACHALOT_REPLICAS": {*config.replicas, *config.replicas.values()},
    }
    return [
        unknown_alias(name, alias, "DATABASES", connections)
        for name, aliases in named.items()
        for alias in sorted(aliases)
        if alias not in connections
    ]


def check_databases(**_kwargs: object) -> list[CheckMessage]:
    """Return W002, W003 or W004 when databases are chosen of which none, or not all, can be cached."""
    config = conf.current()
    if config.databases is None:
        return (
            []
            if any(config.supports(*_kind_of(alias)) for alias in connections)
            else [no_supported_database()]
        )
    if not config.databases:
        return [no_database_chosen()]
    chosen = sorted(alias for alias in config.databases if alias in connections)
    return [
        unsupported_engine(alias, engine)
        for alias, (vendor, engine) in zip(chosen, map(_kind_of, chosen), strict=True)
        if not config.supports(vendor, engine)
    ]


def _kind_of(alias: str) -> tuple[str, str]:
    """Return vendor and engine of a database, without connecting to it."""
    connection = connections[alias]
    return connection.vendor, connection.settings_dict["ENGINE"]


def unknown_alias(setting: str, alias: str, where: str, known: Iterable[str]) -> CheckMessage:
    """Return the message for an alias that does not exist."""
    aliases = sorted(known)
    there = ", ".join(map(repr, aliases)) or "nothing"
    return Error(
        f"{setting} names {alias!r}, which is not in {where}.",
        hint=_did_you_mean(alias, aliases) or f"There is: {there}.",
        id="cachalot.E001",
    )


def no_supported_database() -> CheckMessage:
    """Return the message for a project without a database that can be cached."""
    return CheckWarning(
        "None of the DATABASES is of a supported kind: SQLite, PostgreSQL, MySQL or MariaDB.",
        hint="Name the engine in CACHALOT_ADDITIONAL_SUPPORTED_DATABASES, or set "
        "CACHALOT_USE_UNSUPPORTED_DATABASE = True.",
        id="cachalot.W002",
    )


def unsupported_engine(alias: str, engine: str) -> CheckMessage:
    """Return the message for a chosen database of another kind."""
    return CheckWarning(
        f"The engine {engine!r} of the database {alias!r} in CACHALOT_DATABASES is not supported.",
        hint=f"Remove {alias!r}, or vouch for it: CACHALOT_ADDITIONAL_SUPPORTED_DATABASES = [{engine!r}].",
        id="cachalot.W003",
    )


def no_database_chosen() -> CheckMessage:
    """Return the message for an empty CACHALOT_DATABASES."""
    return CheckWarning(
        "CACHALOT_DATABASES is empty, so nothing is cached.",
        hint="CACHALOT_DATABASES = 'supported_only', or CACHALOT_ENABLED = False to switch caching off.",
        id="cachalot.W004",
    )


def check_undeclared_replicas(**_kwargs: object) -> list[CheckMessage]:
    """Return W008 for databases of one name on several servers that nothing connects."""
    config = conf.current()
    namesakes: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for alias in connections:
        vendor, engine = _kind_of(alias)
        name = str(connections[alias].settings_dict.get("NAME") or "")
        if name and config.supports(vendor, engine):
            namesakes[vendor, name].append(alias)
    return [
        undeclared_replica(name, aliases)
        for (_vendor, name), aliases in namesakes.items()
        if len({namespace(connections[alias], config, b"").root for alias in aliases}) > 1
    ]


def undeclared_replica(name: str, aliases: list[str]) -> CheckMessage:
    """Return the message for databases that may be copies of one another."""
    primary = "default" if "default" in aliases else aliases[0]
    replicas = {alias: primary for alias in aliases if alias != primary}
    return CheckWarning(
        f"The databases {', '.join(map(repr, aliases))} have the same name {name!r} on different servers. "
        "If they are copies of one another, a write to one must invalidate what was read from the others.",
        hint=f"If so: CACHALOT_REPLICAS = {replicas!r}. If not: SILENCED_SYSTEM_CHECKS = ['cachalot.W008'].",
        id="cachalot.W008",
    )


# ------------------------------------------------------------------------------------------------------------
# Tables and apps
# ------------------------------------------------------------------------------------------------------------


def check_tables(**_kwargs: object) -> list[CheckMessage]:
    """Return W007 for each table in the settings that no model has."""
    config = conf.current()
    known = {
        model._meta.db_table for model in apps.get_models(include_auto_created=True, include_swapped=True)
    }
    known |= _TABLES_WITHOUT_MODEL | config.additional_tables
    dependencies = config.write_dependencies
    named = {
        "CACHALOT_ONLY_CACHABLE_TABLES": config.only_cachable_tables,
        "CACHALOT_UNCACHABLE_TABLES": config.uncachable_tables,
        "CACHALOT_WRITE_DEPENDENCIES": frozenset(dependencies).union(*dependencies.values()),
    }
    return [*_unknown(named, known, unknown_table), *_policies_without_table(config, known)]


def _policies_without_table(config: conf.Config, known: set[str]) -> Iterator[CheckMessage]:
    facts = model_facts()
    tables = set(map(canonical_table, known))
    labels = {label for of_table in facts.labels.values() for label in of_table}
    for name in sorted(config.tables):
        if not any(means(name, table, facts) for table in tables):
            yield unknown_policy(name, known | labels)


def unknown_policy(name: str, known: set[str]) -> CheckMessage:
    """Return the message for a policy that no table has."""
    kind = "the pattern" if is_pattern(name) else "the table or model"
    return CheckWarning(
        f"CACHALOT_TABLES has a policy for {kind} {name!r}, which fits no table of a model.",
        hint=_did_you_mean(name, known)
        or "Write 'app.Model', the name of a table, or a pattern such as 'shop_*'.",
        id="cachalot.W007",
    )


def check_apps(**_kwargs: object) -> list[CheckMessage]:
    """Return W007 for each app label in the settings that is not installed."""
    config = conf.current()
    named = {
        "CACHALOT_ONLY_CACHABLE_APPS": config.only_cachable_apps,
        "CACHALOT_UNCACHABLE_APPS": config.uncachable_apps,
    }
    return list(_unknown(named, set(apps.app_configs), unknown_app))


def _unknown(
    named: Mapping[str, Iterable[str]], known: set[str], message: Callable[[str, str, set[str]], CheckMessage]
) -> Iterator[CheckMessage]:
    lowered = {name.lower() for name in known}  # databases fold the case of names, each in its own way
    for setting, names in named.items():
        for name in sorted(names):
            if name.lower() not in lowered:
                yield message(setting, name, known)


def unknown_table(setting: str, table: str, known: set[str]) -> CheckMessage:
    """Return the message for a table without a model."""
    hint = _did_you_mean(table, known) or f"If it exists: CACHALOT_ADDITIONAL_TABLES = [{table!r}]."
    return CheckWarning(
        f"{setting} names the table {table!r}, which no model has.", hint=hint, id="cachalot.W007"
    )


def unknown_app(setting: str, label: str, known: set[str]) -> CheckMessage:
    """Return the message for an app that is not installed."""
    hint = (
        _did_you_mean(label, known)
        or "The label of an app is the last part of its dotted path, unless it says so."
    )
    return CheckWarning(
        f"{setting} names the app {label!r}, which is not in INSTALLED_APPS.", hint=hint, id="cachalot.W007"
    )


def _did_you_mean(name: str, known: Iterable[Any]) -> str:
    matches = get_close_matches(name, list(known), n=1)
    return f"Did you mean {matches[0]!r}?" if matches else ""


# ------------------------------------------------------------------------------------------------------------
# Other packages
# ------------------------------------------------------------------------------------------------------------


def check_debug_toolbar(**_kwargs: object) -> list[CheckMessage]:
    """Return W009 for the one version of django-debug-toolbar whose cache panel cannot show binary values."""
    config = apps.app_configs.get("debug_toolbar")
    version = "" if config is None else str(getattr(config.module, "VERSION", ""))
    return [old_debug_toolbar()] if version.startswith("6.0") else []


def old_debug_toolbar() -> CheckMessage:
    """Return the message for a toolbar that fails where a cache is given bytes."""
    return CheckWarning(
        "The cache panel of django-debug-toolbar 6.0 raises DjangoUnicodeDecodeError on each page that reads "
        "or stores a binary value in a cache, such as a result of cachalot.",
        hint="pip install 'django-debug-toolbar>=6.1'",
        id="cachalot.W009",
    )
