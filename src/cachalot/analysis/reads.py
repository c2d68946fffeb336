"""From a traced statement to what its result depends on, or to the reason why it must not be cached.

Two witnesses must agree. The trace has what the compiler compiled; the text has what is really sent. A table
that stands in the text but not in the trace (``extra(tables=…)``, ``RawSQL``, an expression that writes SQL
by itself), a function that is not known to follow from the tables, or a text that is not plainly one SELECT:
not cached. What the text says is kept per text, so it costs once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachalot.analysis.params import UnencodableParameter, encode_params, time_words
from cachalot.analysis.rawsql import Kind, analyse, canonical_table
from cachalot.analysis.schema import ModelFacts, model_facts
from cachalot.analysis.volatility import is_time_word, unstable
from cachalot.conf import OUTBOX_TABLE
from cachalot.core.decisions import Decision, Reason

if TYPE_CHECKING:
    from cachalot.conf import Config

MAX_KEPT = 4096
MAX_LENGTH = 8 * 1024
"""Readings of longer texts are not kept: there would be too many, with lists of values of every length."""

_RANDOM = frozenset({"random", "rand"})


@dataclass(frozen=True)
class Reading:
    """What is known about the text of a read.

    :param tables: canonical names of the tables it depends on.
    :param refusal: why it must not be cached; ``None`` if it may be.
    :param relations: those of its tables that no managed model owns.
    """

    tables: frozenset[str]
    refusal: Decision | None
    relations: frozenset[str] = frozenset()


_Kept = dict[tuple[str, str, frozenset[str]], Reading]

_kept: tuple[Any, Any, _Kept] = (None, None, {})


def _readings(config: Config, facts: ModelFacts) -> _Kept:
    """Return the readings made under today's settings and models; a thread that is late keeps to its own."""
    global _kept  # noqa: PLW0603 - replaced as a whole together with what it was derived from
    if _kept[0] is not config or _kept[1] is not facts or len(_kept[2]) > MAX_KEPT:
        _kept = (config, facts, {})
    return _kept[2]


def read_text(sql: str, vendor: str, traced: frozenset[str], config: Config) -> Reading:
    """Return what is known about a statement.

    :param sql: its text, with placeholders.
    :param vendor: of the database.
    :param traced: canonical names of the tables that the compiler reported.
    :param config: the settings of today.
    """
    facts = model_facts()
    kept = _readings(config, facts)
    key = (sql, vendor, traced)
    known = kept.get(key)
    if known is None:
        refusal = _refusal_of_text(sql, vendor, traced, config) or refusal_of_tables(traced, config)
        known = Reading(traced, refusal, traced - facts.managed)
        if len(sql) <= MAX_LENGTH:
            kept[key] = known
    return known


def _refusal_of_text(sql: str, vendor: str, traced: frozenset[str], config: Config) -> Decision | None:
    statements = analyse(sql, vendor)
    if len(statements) != 1:
        return Decision.bypass(Reason.NOT_UNDERSTOOD, f"{len(statements)} statements")
    statement = statements[0]
    if statement.kind is not Kind.READ:
        reason = Reason.WRITES if statement.kind is Kind.WRITE else Reason.NOT_UNDERSTOOD
        return Decision.bypass(reason, statement.verb)
    if statement.locking:
        return Decision.bypass(Reason.LOCKING)
    functions = unstable(
        statement.functions, vendor, config.stable_functions, random_allowed=config.cache_random
    )
    if functions:
        reason = Reason.RANDOM if functions <= _RANDOM else Reason.VOLATILE
        return Decision.bypass(reason, ", ".join(sorted(functions)))
    if any(is_time_word(literal) for literal in statement.literals):
        return Decision.bypass(Reason.TIME_WORD)
    untraced = statement.reads - traced
    if untraced:
        return Decision.bypass(Reason.UNTRACED_TABLE, ", ".join(sorted(untraced)))
    return None


def refusal_of_tables(tables: frozenset[str], config: Config) -> Decision | None:
    """Return why the settings exclude a statement over ``tables``, ``None`` if they do not."""
    apps = model_facts().by_app
    excluded = {OUTBOX_TABLE, *map(canonical_table, config.uncachable_tables)}.union(
        *(apps.get(label, ()) for label in config.uncachable_apps)
    )
    found = tables & excluded
    if config.only_cachable_tables or config.only_cachable_apps:
        allowed = set(map(canonical_table, config.only_cachable_tables)).union(
            *(apps.get(label, ()) for label in config.only_cachable_apps)
        )
        found |= tables - allowed
    return Decision.bypass(Reason.TABLE, ", ".join(sorted(found))) if found else None


def read_params(params: Any) -> bytes | Decision:
    """Return the parameters as typed bytes, or why a statement with them must not be cached."""
    try:
        encoded = encode_params(params)
    except UnencodableParameter as error:
        return Decision.bypass(Reason.PARAMETER, str(error))
    if time_words(params):
        return Decision.bypass(Reason.TIME_WORD)
    return encoded
