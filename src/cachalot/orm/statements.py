"""What a raw statement does to the cache and to the session, before and after it is run."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from cachalot.analysis.rawsql import Kind, Statement, analyse
from cachalot.analysis.writes import effects_of_statement, unknown_functions
from cachalot.conf import current
from cachalot.core.tags import EVERYTHING, NOTHING, Effects
from cachalot.engine.caches import query_cache
from cachalot.orm.notices import announce
from cachalot.orm.relations import may_write, with_relations

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.engine.cache import QueryCache
    from cachalot.engine.session import Session

    Execute = Callable[[], Any]

UNKNOWN = (Statement(Kind.UNKNOWN, ""),)
_EDGES = frozenset({Kind.BEGIN, Kind.COMMIT, Kind.ROLLBACK, Kind.PREPARE_TRANSACTION})
_DEFINES = frozenset({"CREATE", "ALTER", "DROP", "RENAME"})
_COMMITS_FIRST = frozenset({Kind.UNKNOWN, Kind.BEGIN, Kind.CONTEXT})
"""Kinds among which are the statements that end a transaction of MySQL by themselves (manual, 13.3.3)."""

_RUNS_CODE = frozenset({"CALL", "DO", "EXECUTE"})
_CALLED = re.compile(r"""\s*CALL\s+(?:["`]?\w+["`]?\.)*["`]?(\w+)""", re.IGNORECASE)
_LEVELS = frozenset({"default_transaction_isolation", "transaction_isolation", "tx_isolation"})
_COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_TEMPORARY = re.compile(
    r"\b(?:CREATE\s+(?:OR\s+REPLACE\s+)?|INTO\s+)(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\b|^\s*ATTACH\b",
    re.IGNORECASE,
)


def run_raw(
    session: Session,
    sql: str | None,
    execute: Execute,
    params: Any = None,
    effects: Effects | None = None,
) -> Any:
    """Run a raw statement.

    :param sql: its text, ``None`` if it cannot be known.
    :param execute: runs it.
    :param params: its parameters, for settings of the session.
    :param effects: what it changes, where that must be found out before it begins.
    """
    statements = UNKNOWN if sql is None else analyse(sql, session.connection.vendor)
    cache = query_cache(current().cache)
    if cache is None:
        result = execute()
        _after(session, statements, sql or "", params, outside=False)
        return result
    before(session, statements, sql or "")
    if effects is None:
        effects = effects_of(session, statements)
    try:
        return _run(session, cache, statements, sql or "", execute, params, effects)
    finally:
        if session.transaction() is None:
            announce(session)


def _run(
    session: Session,
    cache: QueryCache,
    statements: tuple[Statement, ...],
    sql: str,
    execute: Execute,
    params: Any,
    effects: Effects,
) -> Any:
    single = statements[0] if len(statements) == 1 else None
    if single is not None and (single.kind in _EDGES or session.begun_by(single)):
        return _run_edge(session, cache, single, execute, fixes=_fixes(sql))
    if session.connection.vendor == "mysql" and any(_commits(one) for one in statements):
        return _run_commit(session, cache, statements, effects, sql, execute)
    if any(one.kind in _EDGES or session.begun_by(one) for one in statements):
        return _run_mixed(session, cache, statements, effects, execute)
    outside = session.outside()
    result = _run_write(session, cache, statements, effects, execute) if effects else execute()
    _after(session, statements, sql, params, outside=outside)
    return result


def effects_of(session: Session, statements: tuple[Statement, ...]) -> Effects:
    """Return what statements change that the cache must hear of.

    With ``CACHALOT_INVALIDATE_RAW = False`` it hears of the schema only; but a transaction that has written
    in this way must not let others see what it reads.
    """
    config = current()
    told = untold = NOTHING
    for statement in statements:
        effects = _effects_of_one(session, statement)
        if config.invalidate_raw or statement.verb in _DEFINES:
            told |= effects
        else:
            untold |= effects
    transaction = session.transaction()
    if untold and transaction is not None:
        transaction.note(with_relations(session, untold, config), told=False)
    return with_relations(session, told, config)


def _effects_of_one(session: Session, statement: Statement) -> Effects:
    config = current()
    vendor = session.connection.vendor
    functions = unknown_functions(statement, vendor, config)
    if functions and may_write(session, functions, config):
        return EVERYTHING
    return effects_of_statement(statement, config)


def before(session: Session, statements: tuple[Statement, ...] = (), sql: str = "") -> None:
    """Read the clock before a statement that may fix a snapshot."""
    cache = query_cache(current().cache)
    if cache is None:
        return
    if statements and all(one.kind in _FIXES_NOTHING for one in statements) and not _fixes(sql):
        return
    cache.before_statement(session, current())


_FIXES_NOTHING = frozenset(
    {
        Kind.BEGIN,
        Kind.SAVEPOINT,
        Kind.RELEASE,
        Kind.ROLLBACK_TO,
        Kind.ROLLBACK,
        Kind.CONTEXT,
        Kind.ISOLATION,
        Kind.HARMLESS,
    }
)


def _fixes(sql: str) -> bool:
    """Return whether a BEGIN takes its snapshot at once (IMMEDIATE, WITH CONSISTENT SNAPSHOT)."""
    words = sql.upper().split()
    return "IMMEDIATE" in words or "EXCLUSIVE" in words or "SNAPSHOT" in words


def pin(session: Session) -> None:
    """Note that a statement has fixed the snapshot of the transaction."""
    transaction = session.transaction()
    if transaction is not None:
        transaction.pinned = True


def _run_write(
    session: Session, cache: QueryCache, statements: tuple[Statement, ...], effects: Effects, execute: Execute
) -> Any:
    transaction = session.transaction()
    ends = session.connection.vendor == "mysql" and any(one.kind in _COMMITS_FIRST for one in statements)
    if transaction is not None and ends:
        # It may have committed what came before; and if it has not, that is still to be committed.
        transaction.note(effects)
        return cache.finish(session, transaction.effects(), execute, "raw")
    return cache.write(session, effects, execute, "raw")


def _commits(statement: Statement) -> bool:
    """Return whether a statement that changes no rows ends a transaction of MySQL (manual, 13.3.3)."""
    return statement.name == "autocommit" or statement.verb in {"LOCK", "UNLOCK"}


def _run_commit(
    session: Session,
    cache: QueryCache,
    statements: tuple[Statement, ...],
    effects: Effects,
    sql: str,
    execute: Execute,
) -> Any:
    transaction = session.transaction()
    total = effects | (NOTHING if transaction is None else transaction.effects())
    result = cache.finish(session, total, execute, "raw")
    if any(one.name == "autocommit" for one in statements):
        session.autocommit_set(off=sql.rstrip(" ;\n").upper().endswith(("0", "OFF", "FALSE")))
    return result


def _run_edge(
    session: Session, cache: QueryCache, statement: Statement, execute: Execute, *, fixes: bool
) -> Any:
    """Run BEGIN, COMMIT, ROLLBACK or PREPARE TRANSACTION sent as a statement."""
    if statement.kind is Kind.COMMIT or session.begun_by(statement):
        result = cache.commit(session, execute)
    elif statement.kind is Kind.BEGIN and session.connection.vendor == "mysql":
        result = cache.commit(session, execute)
        session.begun()
    else:
        started = time.monotonic()
        clock = cache.read_clock(session.namespace(current())) if fixes else None
        result = execute()
        _note_edge(session, statement, clock, started, fixes=fixes)
    if statement.chain:
        session.begun()
    return result


def _note_edge(
    session: Session, statement: Statement, clock: str | None, started: float, *, fixes: bool
) -> None:
    if statement.kind is not Kind.BEGIN:
        session.rolled_back()
        return
    session.begun()
    if statement.isolation:
        session.transaction()
        session.level_changed(statement.isolation, once=True)
    transaction = session.transaction()
    if transaction is not None and fixes:
        transaction.clock, transaction.clock_read, transaction.clock_seconds = clock, True, started


_FOLLOWED = frozenset({Kind.READ, Kind.WRITE, Kind.HARMLESS, Kind.BEGIN, Kind.COMMIT, Kind.ROLLBACK})
"""Kinds of statements beside a BEGIN or a COMMIT in one text that leave the session as it is."""


def _run_mixed(
    session: Session, cache: QueryCache, statements: tuple[Statement, ...], effects: Effects, execute: Execute
) -> Any:
    """Run several statements in one text, some of which begin or end a transaction: it may commit all."""
    transaction = session.transaction()
    total = effects | (NOTHING if transaction is None else transaction.effects())
    result = cache.finish(session, total, execute, "raw")
    for statement in statements:
        if statement.kind is Kind.BEGIN:
            session.begun()
            if statement.isolation:
                session.setting_unknown()
        elif statement.kind is Kind.ROLLBACK:
            session.rolled_back()
        elif statement.kind in _EDGES or session.begun_by(statement):
            session.ended()
    if not all(one.kind in _FOLLOWED for one in statements):
        session.setting_unknown()
    still = session.transaction()
    if still is not None:
        still.note(total)
        still.clock, still.clock_read = None, True
    return result


def _after(
    session: Session, statements: tuple[Statement, ...], sql: str, params: Any, *, outside: bool
) -> None:
    for statement in statements:
        kind = statement.kind
        if kind is Kind.CONTEXT and statement.name in _LEVELS:
            session.level_changed("", once=False)
        elif kind is Kind.CONTEXT:
            session.setting_changed(statement, sql, params)
            if statement.verb == "USE":
                session.setting_unknown()
        elif kind is Kind.ISOLATION:
            once = session.connection.vendor == "postgresql" and _is_for_one_transaction(sql)
            session.level_changed(statement.isolation, once=once)
        elif kind is Kind.SAVEPOINT:
            session.savepoint(statement.name, begins=outside)
        elif kind is Kind.RELEASE:
            session.release(statement.name)
        elif kind is Kind.ROLLBACK_TO:
            session.roll_back_to(statement.name)
        elif kind is Kind.UNKNOWN and (not sql or _TEMPORARY.search(_COMMENT.sub(" ", sql))):
            # Of a temporary table no other connection sees what this one sees under its name.
            session.setting_unknown()
        elif _may_set(session, statement, sql):
            session.setting_unknown()
        if kind in {Kind.READ, Kind.WRITE, Kind.UNKNOWN}:
            pin(session)


def _may_set(session: Session, statement: Statement, sql: str) -> bool:
    """Return whether code of the database has run that may have changed a setting, out of sight."""
    config = current()
    if statement.verb in _RUNS_CODE:
        called = _CALLED.match(sql)
        return called is None or called[1].lower() not in config.stable_functions
    functions = unknown_functions(statement, session.connection.vendor, config)
    return bool(functions) and may_write(session, functions, config)


def _is_for_one_transaction(sql: str) -> bool:
    return sql.upper().split()[:2] == ["SET", "TRANSACTION"]
