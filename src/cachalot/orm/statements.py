"""What a raw statement does to the cache and to the session, before and after it is run."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cachalot.analysis.rawsql import Kind, Statement, analyse
from cachalot.analysis.writes import effects_of_statement, unknown_functions
from cachalot.conf import current
from cachalot.core.decisions import Decision, Reason
from cachalot.core.tags import EVERYTHING, NOTHING, Effects
from cachalot.engine.caches import query_cache
from cachalot.orm.notices import announce
from cachalot.orm.reading import report
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

_ROWS = frozenset({"DELETE", "INSERT", "MERGE", "REPLACE", "UPDATE", "WITH"})
"""Verbs of statements that change rows and nothing else; TRUNCATE ends a transaction of MySQL."""

_INSERTS = frozenset({"INSERT", "REPLACE", "WITH"})

_RUNS_CODE = frozenset({"CALL", "DO", "EXECUTE"})
_CALLED = re.compile(r"""\s*CALL\s+(?:["`]?\w+["`]?\.)*["`]?(\w+)""", re.IGNORECASE)
_LEVELS = frozenset({"default_transaction_isolation", "transaction_isolation", "tx_isolation"})
_COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_TEMPORARY = re.compile(
    r"\b(?:CREATE\s+(?:OR\s+REPLACE\s+)?|INTO\s+)(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\b"
    r"|[\"`]?\b(?:temp|pg_temp\w*)[\"`]?\s*\.|^\s*ATTACH\b",
    re.IGNORECASE,
)
_DIRTY = re.compile(r"^\s*PRAGMA\b.*\bread_uncommitted\b", re.IGNORECASE)
"""After it connections to one SQLite in memory see what is not committed."""


class Judged(NamedTuple):
    """One text, understood as far as it can be before it is run.

    :param statements: the statements in it.
    :param effects: what they change that the cache must hear of.
    :param calls: for each statement, whether it calls functions that may write.
    """

    statements: tuple[Statement, ...]
    effects: Effects
    calls: tuple[bool, ...]

    def reads(self) -> bool:
        """Return whether nothing but rows is asked for."""
        return not self.effects and all(one.kind is Kind.READ for one in self.statements)


def judge(session: Session, sql: str | None) -> Judged:
    """Find out what a text does. The catalogue may be asked, so not while the connection is busy.

    :param sql: the text, ``None`` if it cannot be known.
    """
    statements = UNKNOWN if sql is None else analyse(sql, session.connection.vendor)
    calls = tuple(_calls_writers(session, one) for one in statements)
    return Judged(statements, _effects(session, statements, calls), calls)


def run_raw(
    session: Session,
    sql: str | None,
    execute: Execute,
    params: Any = None,
    judged: Judged | None = None,
    *,
    once: bool = False,
) -> Any:
    """Run a raw statement.

    :param sql: its text, ``None`` if it cannot be known.
    :param execute: runs it.
    :param params: its parameters, for settings of the session.
    :param judged: what it does, where that had to be found out before it began.
    :param once: whether it is sent once, and has ended when ``execute`` returns.
    """
    started = time.perf_counter()
    text = sql or ""
    if judged is None:
        before(session, () if sql is None else analyse(sql, session.connection.vendor), text)
        judged = judge(session, sql)
    cache = query_cache(current().cache)
    if cache is None:
        result = execute()
        _after(session, judged, text, params, outside=False)
        return result
    try:
        result = _run(session, cache, judged, text, execute, params, once=once)
    finally:
        if session.transaction() is None:
            announce(session)
    if judged.reads() and not session.work.reading:
        tables = frozenset[str]().union(*(one.reads for one in judged.statements))
        report(session, Decision.bypass(Reason.RAW), text, tables, started)
    return result


def _run(
    session: Session,
    cache: QueryCache,
    judged: Judged,
    sql: str,
    execute: Execute,
    params: Any,
    *,
    once: bool,
) -> Any:
    statements, effects, _calls = judged
    single = statements[0] if len(statements) == 1 else None
    if single is not None and _prepares(session, single):
        cache.writes.prepare(session, single.name)
    if single is not None and (single.kind in _EDGES or session.begun_by(single)):
        return _run_edge(session, cache, single, execute, fixes=_fixes(sql))
    if session.connection.vendor == "mysql" and any(_commits(one) for one in statements):
        return _run_commit(session, cache, statements, effects, sql, execute)
    if any(one.kind in _EDGES or session.begun_by(one) for one in statements):
        return _run_mixed(session, cache, statements, effects, execute)
    outside = session.outside()
    if effects:
        wrappable = once and single is not None and _wrappable(session, single, sql)
        result = _run_write(session, cache, statements, effects, execute, wrappable=wrappable)
    else:
        result = execute()
    _after(session, judged, sql, params, outside=outside)
    return result


def _effects(session: Session, statements: tuple[Statement, ...], calls: tuple[bool, ...]) -> Effects:
    """Return what statements change that the cache must hear of.

    With ``CACHALOT_INVALIDATE_RAW = False`` it hears of the schema only; but a transaction that has written
    in this way must not let others see what it reads.
    """
    config = current()
    told = untold = NOTHING
    for statement, calls_writers in zip(statements, calls, strict=True):
        effects = EVERYTHING if calls_writers else effects_of_statement(statement, config)
        if config.invalidate_raw or statement.verb in _DEFINES:
            told |= effects
        else:
            untold |= effects
    transaction = session.transaction()
    if untold and transaction is not None:
        transaction.note(with_relations(session, untold, config), told=False)
    return with_relations(session, told, config)


def _calls_writers(session: Session, statement: Statement) -> bool:
    """Return whether a statement calls functions that may change rows, as far as the catalogue knows."""
    config = current()
    functions = unknown_functions(statement, session.connection.vendor, config)
    return bool(functions) and may_write(session, functions, config)


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


def _prepares(session: Session, statement: Statement) -> bool:
    """Return whether a statement is the last before which a transaction can write and then be prepared."""
    if session.connection.vendor == "mysql":
        # Between XA END and XA PREPARE nothing can be written any more (manual, XA Transaction States).
        return statement.verb == "XA" and statement.kind is Kind.HARMLESS
    return statement.kind is Kind.PREPARE_TRANSACTION


def _wrappable(session: Session, statement: Statement, sql: str) -> bool:
    """Return whether a statement that commits by itself does the same inside a transaction of its own."""
    if session.connection.vendor == "sqlite" and ("RETURNING" in sql.upper() or statement.verb in _INSERTS):
        # With RETURNING it is under way until its last row is fetched, and the COMMIT would fail. And the row
        # of the outbox would be the answer to last_insert_rowid().
        return False
    return statement.kind is Kind.WRITE and statement.verb in _ROWS


def _run_write(
    session: Session,
    cache: QueryCache,
    statements: tuple[Statement, ...],
    effects: Effects,
    execute: Execute,
    *,
    wrappable: bool,
) -> Any:
    transaction = session.transaction()
    ends = session.connection.vendor == "mysql" and any(one.kind in _COMMITS_FIRST for one in statements)
    if transaction is not None and ends:
        # It may have committed what came before; and if it has not, that is still to be committed.
        transaction.note(effects)
        return cache.writes.finish(session, transaction.effects(), execute, "raw")
    return cache.writes.run(session, effects, execute, "raw", wrappable=wrappable)


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
    result = cache.writes.finish(session, total, execute, "raw")
    for one in statements:
        if one.verb in {"LOCK", "UNLOCK"}:
            session.tables_locked = one.verb == "LOCK"
    if any(one.name == "autocommit" for one in statements):
        session.autocommit_set(off=sql.rstrip(" ;\n").upper().endswith(("0", "OFF", "FALSE")))
    return result


def _run_edge(
    session: Session, cache: QueryCache, statement: Statement, execute: Execute, *, fixes: bool
) -> Any:
    """Run BEGIN, COMMIT, ROLLBACK or PREPARE TRANSACTION sent as a statement."""
    if statement.kind is Kind.BEGIN and session.transaction() is None:
        cache.writes.between(session)
    if statement.kind is Kind.COMMIT or session.begun_by(statement):
        result = cache.writes.commit(session, execute)
    elif statement.kind is Kind.BEGIN and session.connection.vendor == "mysql":
        result = cache.writes.commit(session, execute)
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
    result = cache.writes.finish(session, total, execute, "raw")
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


def _after(session: Session, judged: Judged, sql: str, params: Any, *, outside: bool) -> None:
    for statement, calls_writers in zip(judged.statements, judged.calls, strict=True):
        kind = statement.kind
        if kind is Kind.CONTEXT and statement.name in _LEVELS:
            session.level_changed("", once=False)
        elif kind is Kind.CONTEXT:
            session.setting_changed(statement, sql, params)
            if statement.verb == "USE" or _DIRTY.search(sql):
                session.setting_unknown()
        elif kind is Kind.ISOLATION:
            vendor, once = session.connection.vendor, _is_for_one_transaction(sql)
            session.level_changed(statement.isolation, once=once and vendor == "postgresql")
            session.level_pending = once and vendor == "mysql"
        elif kind is Kind.SAVEPOINT:
            session.savepoint(statement.name, begins=outside)
        elif kind is Kind.RELEASE:
            session.release(statement.name)
        elif kind is Kind.ROLLBACK_TO:
            session.roll_back_to(statement.name)
        elif kind is Kind.UNKNOWN and (not sql or _TEMPORARY.search(_COMMENT.sub(" ", sql))):
            # Of a temporary table no other connection sees what this one sees under its name.
            session.setting_unknown()
        elif calls_writers or _runs_code(statement, sql):
            # It may have changed a setting, out of sight.
            session.setting_unknown()
        if kind in {Kind.READ, Kind.WRITE, Kind.UNKNOWN}:
            pin(session)


def _runs_code(statement: Statement, sql: str) -> bool:
    """Return whether a statement runs code of the database for which nobody has vouched."""
    if statement.verb not in _RUNS_CODE:
        return False
    called = _CALLED.match(sql)
    return called is None or called[1].lower() not in current().stable_functions


def _is_for_one_transaction(sql: str) -> bool:
    return sql.upper().split()[:2] == ["SET", "TRANSACTION"]
