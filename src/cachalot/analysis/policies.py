"""Which policy holds for a query: what ``CACHALOT_TABLES`` says about each of its tables, joined."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from cachalot.analysis.rawsql import canonical_table
from cachalot.analysis.schema import ModelFacts, model_facts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachalot.conf import Config

_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Policy:
    """How the results of a query are kept.

    :param enabled: whether they are kept at all.
    :param timeout: for how many seconds, ``None`` for ever.
    :param granularity: ``"row"`` or ``"table"``.
    :param cache: alias of the cache that holds them. The state of the tables stays in ``CACHALOT_CACHE``.
    """

    enabled: bool
    timeout: float | None
    granularity: str
    cache: str


_Kept = dict[frozenset[str], Policy]

_kept: tuple[Any, Any, _Kept] = (None, None, {})

MAX_KEPT = 4096


def policy_of(tables: frozenset[str], config: Config) -> Policy:
    """Return the strictest of the policies of some tables.

    :param tables: canonical names.
    :param config: the settings of today.
    """
    global _kept  # noqa: PLW0603 - replaced as a whole together with what it was derived from
    facts = model_facts()
    if _kept[0] is not config or _kept[1] is not facts or len(_kept[2]) > MAX_KEPT:
        _kept = (config, facts, {})
    kept = _kept[2]
    known = kept.get(tables)
    if known is None:
        known = kept[tables] = _strictest([_of_one(table, config, facts) for table in tables], config)
    return known


def homes(config: Config) -> frozenset[str]:
    """Return the aliases of the caches in which results may be kept."""
    return frozenset(
        {config.cache} | {options.get("cache", config.cache) for options in config.tables.values()}
    )


def _strictest(policies: list[Policy], config: Config) -> Policy:
    if not config.tables or not policies:
        return Policy(True, config.timeout, config.granularity, config.cache)
    granularities = {policy.granularity for policy in policies}
    homes = {policy.cache for policy in policies}
    return Policy(
        all(policy.enabled for policy in policies),
        min(
            (policy.timeout for policy in policies if policy.timeout is not None),
            default=None,
        ),
        "row" if granularities == {"row"} else "table",
        # In another cache only what belongs there as a whole: one that several processes share is stricter
        # than one that does not, and nobody says here which is which.
        homes.pop() if len(homes) == 1 else config.cache,
    )


def _of_one(table: str, config: Config, facts: ModelFacts) -> Policy:
    options: dict[str, Any] = {}
    for name in sorted(config.tables, key=_precision):
        if means(name, table, facts):
            options.update(config.tables[name])
    return Policy(
        options.get("enabled", True),
        options.get("timeout", config.timeout),
        options.get("granularity", config.granularity),
        options.get("cache", config.cache),
    )


def _precision(name: str) -> tuple[bool, int, str]:
    """Sort patterns before names, short patterns before long ones: who comes later has the last word."""
    return not is_pattern(name), len(name), name


def is_pattern(name: str) -> bool:
    """Return whether a name in ``CACHALOT_TABLES`` stands for several tables."""
    return not _WILD.isdisjoint(name)


def means(name: str, table: str, facts: ModelFacts) -> bool:
    """Return whether a name in ``CACHALOT_TABLES`` means a table.

    :param name: ``app.Model``, the name of a table, or a pattern for either (:mod:`fnmatch`); case does not
        matter.
    :param table: canonical name.
    """
    spellings: Iterable[str] = (table, *facts.labels.get(table, ()))
    if is_pattern(name):
        return any(fnmatchcase(spelling, name.lower()) for spelling in spellings)
    return canonical_table(name) == table or name.lower() in spellings
