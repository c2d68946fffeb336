"""What may be written in a setting: each kind of value with its test and its normal form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.apps import apps
from django.utils.module_loading import import_string

SUPPORTED_ONLY: Final = "supported_only"

# The names under which projects ask for what happens anyway.
_BUILT_IN_KEYGENS: Final = frozenset(
    {"cachalot.utils.get_query_cache_key", "cachalot.utils.get_table_cache_key"}
)


@dataclass(frozen=True)
class Kind:
    """What may be written in a setting.

    :param expects: the values that are accepted, to be read after "must be".
    :param parse: returns the normalised value; raises :exc:`TypeError`, :exc:`ValueError` or
        :exc:`ImportError` for any other value.
    """

    expects: str
    parse: Callable[[Any], Any]


def _bool(value: object) -> bool:
    # 0 and 1 come from environment parsers; "False" would be true, so text is refused.
    if isinstance(value, int) and value in {0, 1}:
        return bool(value)
    raise TypeError


def _text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise TypeError


def _names(value: object) -> frozenset[str]:
    # A lone string is a collection of letters: the mistake this check exists for.
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise TypeError
    return frozenset(_text(item) for item in value)


def _lower_names(value: object) -> frozenset[str]:
    return frozenset(name.lower() for name in _names(value))


def _databases(value: object) -> frozenset[str] | None:
    return None if value == SUPPORTED_ONLY else _names(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if not math.isfinite(value) or value < 0:
        raise ValueError
    return float(value)


def _number_or_none(value: object) -> float | None:
    return None if value is None else _number(value)


def _positive_number(value: object) -> float:
    number = _number(value)
    if number == 0:
        raise ValueError
    return number


def _share(value: object) -> float:
    share = _number(value)
    if share > 1:
        raise ValueError
    return share


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    if value < 0:
        raise ValueError
    return value


def _failure_policy(value: object) -> str:
    if _text(value) not in {"outbox", "journal", "raise", "ignore"}:
        raise ValueError
    return str(value)


def _granularity(value: object) -> str:
    if _text(value) not in {"row", "table"}:
        raise ValueError
    return str(value)


def _hook(value: object) -> Callable[..., Any] | None:
    if value is None or callable(value):
        return value
    path = _text(value)
    if not apps.models_ready:
        # The module of a hook may import models. Until that is possible, what was read is not kept.
        raise ValueError
    found = _import(path)
    if not callable(found):
        raise TypeError
    return found


def _import(path: str) -> object:
    try:
        return import_string(path)
    except Exception as error:  # whatever the module of the project raises is a fault of the setting
        raise ImportError(f"{type(error).__name__}: {error}") from error


def _keygen(value: object) -> Callable[..., Any] | None:
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    path = value if isinstance(value, str) else f"{module}.{name}"
    return None if path in _BUILT_IN_KEYGENS else _hook(value)


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return {_text(name): what for name, what in value.items()}


def _replicas(value: object) -> Mapping[str, str]:
    primaries = {alias: _text(primary) for alias, primary in _mapping(value).items()}
    return {alias: _primary_of(alias, primaries) for alias in primaries}


def _primary_of(alias: str, primaries: Mapping[str, str]) -> str:
    """Follow a replica of a replica up to the database that is written to."""
    seen = set()
    while alias in primaries:
        if alias in seen:
            raise ValueError
        seen.add(alias)
        alias = primaries[alias]
    return alias


def _dependencies(value: object) -> Mapping[str, frozenset[str]]:
    return {
        table: frozenset({also}) if isinstance(also, str) and also else _names(also)
        for table, also in _mapping(value).items()
    }


BOOL: Final = Kind("True or False", _bool)
CACHE_ALIAS: Final = Kind("the alias of a cache in CACHES, as a string", _text)
DATABASE_ALIASES: Final = Kind(
    "'supported_only', or a list, tuple or set of aliases in DATABASES", _databases
)
NAMES: Final = Kind("a list, tuple or set of strings", _names)
LOWER_NAMES: Final = Kind("a list, tuple or set of strings", _lower_names)
SECONDS: Final = Kind("a number of seconds, 0 or more", _number)
SOME_SECONDS: Final = Kind("a number of seconds above 0", _positive_number)
SECONDS_OR_NONE: Final = Kind("a number of seconds, 0 or more, or None", _number_or_none)
SHARE: Final = Kind("a number from 0.0 to 1.0", _share)
COUNT: Final = Kind("a whole number, 0 or more", _count)
GRANULARITY: Final = Kind("'row' or 'table'", _granularity)
FAILURE_POLICY: Final = Kind("'outbox', 'journal', 'raise' or 'ignore'", _failure_policy)
HOOK: Final = Kind("None, a callable, or the dotted path of one that can be imported", _hook)
KEYGEN: Final = Kind("None, a callable, or the dotted path of one that can be imported", _keygen)
REPLICAS: Final = Kind("a dictionary from the alias of a replica to the alias of its primary", _replicas)
DEPENDENCIES: Final = Kind(
    "a dictionary from a table name to a list, tuple or set of table names", _dependencies
)

_POLICY: Final[Mapping[str, Kind]] = {
    "enabled": BOOL,
    "timeout": SECONDS_OR_NONE,
    "granularity": GRANULARITY,
    "cache": CACHE_ALIAS,
}


def _policy(value: object) -> Mapping[str, Any]:
    return {name: _POLICY[name].parse(what) for name, what in _mapping(value).items()}


def _policies(value: object) -> Mapping[str, Mapping[str, Any]]:
    try:
        return {name: _policy(options) for name, options in _mapping(value).items()}
    except KeyError as error:
        raise ValueError from error


POLICIES: Final = Kind(
    "a dictionary from 'app.Model', a table name or a pattern to a dictionary with some of 'enabled' (True "
    "or False), 'timeout' (seconds or None), 'granularity' ('row' or 'table') and 'cache' (an alias)",
    _policies,
)
