"""Raw statements: what reaches the database without a compiler.

Every statement passes the execute wrapper, also those of the ORM, which announces its own text beforehand.
The rest is read by the tokenizer: reads pass, writes are noted or carried out between MARK and DONE, what is
not understood changes everything, and BEGIN, COMMIT, ROLLBACK, SAVEPOINT and SET move the session.
``callproc``, ``copy`` and the like do not pass the wrapper, so the cursor's class is extended for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from cachalot.analysis.rawsql import Kind, Statement, analyse
from cachalot.analysis.writes import effects_of_statement
from cachalot.conf import current
from cachalot.core.tags import NOTHING, Effects
from cachalot.engine.caches import query_cache
from cachalot.orm.notices import announce
from cachalot.orm.relations import with_relations

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

    from cachalot.engine.cache import QueryCache
    from cachalot.engine.session import Session

Execute = Callable[[], Any]

_UNKNOWN = (Statement(Kind.UNKNOWN, "", frozenset(), frozenset(), frozenset(), frozenset()),)
_EDGES = frozenset({Kind.BEGIN, Kind.COMMIT, Kind.ROLLBACK, Kind.PREPARE_TRANSACTION})
_DEFINES = frozenset({"CREATE", "ALTER", "DROP", "RENAME"})
_COMMITS_FIRST = frozenset({Kind.UNKNOWN, Kind.BEGIN, Kind.CONTEXT})
"""Kinds among which are the statements that end a transaction of MySQL by themselves (manual, 13.3.3)."""


class StatementWrapper:
    """The execute wrapper of one connection.

    :param session: its session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Run one statement of a cursor."""
        session = self._session
        if session.initialising:
            return execute(sql, params, many, context)
        if isinstance(sql, str) and sql in session.expected:
            _before(session)
            result = execute(sql, params, many, context)
            _pin(session)
            return result
        text = text_of(sql, context)
        return run_raw(session, text, lambda: execute(sql, params, many, context), params)


def text_of(sql: Any, context: Any) -> str | None:
    """Return the text of a statement, ``None`` if it cannot be known."""
    if isinstance(sql, str):
        return sql
    if isinstance(sql, (bytes, bytearray)):
        try:
            return sql.decode()
        except UnicodeDecodeError:
            return None
    as_string = getattr(sql, "as_string", None)
    if as_string is None:
        return None
    try:
        return str(as_string(context["cursor"].cursor))
    except Exception:  # noqa: BLE001 - a statement that cannot be written out is one that is not understood
        return None


def run_raw(session: Session, sql: str | None, execute: Execute, params: Any = None) -> Any:
    """Run a raw statement.

    :param sql: its text, ``None`` if it cannot be known.
    :param execute: runs it.
    :param params: its parameters, for settings of the session.
    """
    statements = _UNKNOWN if sql is None else analyse(sql, session.connection.vendor)
    cache = query_cache(current().cache)
    if cache is None:
        return execute()
    _before(session, statements, sql or "")
    try:
        return _run(session, cache, statements, sql or "", execute, params)
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
) -> Any:
    single = statements[0] if len(statements) == 1 else None
    if single is not None and (single.kind in _EDGES or session.begun_by(single)):
        return _run_edge(session, cache, single, execute, fixes=_fixes(sql))
    if session.connection.vendor == "mysql" and any(_commits(one) for one in statements):
        return _run_commit(session, cache, statements, sql, execute)
    effects = _effects(session, statements)
    if any(one.kind in _EDGES or session.begun_by(one) for one in statements):
        return _run_mixed(session, cache, statements, effects, execute)
    outside = session.outside()
    result = _run_write(session, cache, statements, effects, execute) if effects else execute()
    _after(session, statements, sql, params, outside=outside)
    return result


def _effects(session: Session, statements: tuple[Statement, ...]) -> Effects:
    config = current()
    total = NOTHING
    for statement in statements:
        if not config.invalidate_raw and statement.verb not in _DEFINES:
            continue
        total |= effects_of_statement(statement, session.connection.vendor, config)
    return with_relations(session, total, config)


def _before(session: Session, statements: tuple[Statement, ...] = (), sql: str = "") -> None:
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


def _pin(session: Session) -> None:
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
    session: Session, cache: QueryCache, statements: tuple[Statement, ...], sql: str, execute: Execute
) -> Any:
    transaction = session.transaction()
    effects = _effects(session, statements) | (NOTHING if transaction is None else transaction.effects())
    result = cache.finish(session, effects, execute, "raw")
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
        clock = cache.read_clock(session.namespace(current())) if fixes else None
        result = execute()
        _note_edge(session, statement, clock, fixes=fixes)
    if statement.chain:
        session.begun()
    return result


def _note_edge(session: Session, statement: Statement, clock: str | None, *, fixes: bool) -> None:
    if statement.kind is not Kind.BEGIN:
        session.rolled_back()
        return
    session.begun()
    if statement.isolation:
        session.level_changed(statement.isolation)
    transaction = session.transaction()
    if transaction is not None and fixes:
        transaction.clock, transaction.clock_read = clock, True


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
        elif statement.kind in _EDGES or session.begun_by(statement):
            session.ended()
    still = session.transaction()
    if still is not None:
        still.note(total)
        still.clock_read = True
    return result


def _after(
    session: Session, statements: tuple[Statement, ...], sql: str, params: Any, *, outside: bool
) -> None:
    for statement in statements:
        kind = statement.kind
        if kind is Kind.CONTEXT:
            session.setting_changed(statement, sql, params)
            if statement.verb == "USE":
                session.setting_unknown()
        elif kind is Kind.ISOLATION:
            session.level_changed(statement.isolation)
        elif kind is Kind.SAVEPOINT:
            session.savepoint(statement.name, begins=outside)
        elif kind is Kind.RELEASE:
            session.release(statement.name)
        elif kind is Kind.ROLLBACK_TO:
            session.roll_back_to(statement.name)
        elif kind is Kind.UNKNOWN and _makes_temporary(sql):
            session.setting_unknown()
        if kind in {Kind.READ, Kind.WRITE, Kind.UNKNOWN}:
            _pin(session)


def _makes_temporary(sql: str) -> bool:
    """Return whether a statement may make a temporary table, which no other connection sees."""
    text = sql.upper()
    return not text or "TEMP" in text or "ATTACH" in text


# What does not pass the execute wrapper.

_COPIES = frozenset({"copy", "copy_expert", "copy_from", "copy_to", "stream", "executescript"})


class _Seeing:
    """Mixed into the class of a cursor wrapper."""

    _cachalot_session: Session

    def callproc(self, procname: str, params: Any = None, kparams: Any = None) -> Any:
        """Call a stored procedure, after which anything may have changed."""

        def execute() -> Any:
            return super(_Seeing, self).callproc(procname, params, kparams)  # type: ignore[misc]

        return run_raw(self._cachalot_session, None, execute)

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)  # type: ignore[misc]
        if name in _COPIES:
            return _SEEN[name](self._cachalot_session, value, self)
        return value


_classes: dict[type, type] = {}


def seeing_cursor(cursor: CursorWrapper, session: Session) -> CursorWrapper:
    """Let a cursor's ``callproc``, ``copy`` and ``executescript`` be seen."""
    kind = type(cursor)
    seeing = _classes.get(kind)
    if seeing is None:
        # CursorDebugWrapper has some of them as methods of its own, which __getattr__ would not see.
        own = {name: _seen_method(kind, name) for name in _COPIES if hasattr(kind, name)}
        seeing = _classes[kind] = type(kind.__name__, (_Seeing, kind), {"__module__": kind.__module__, **own})
    cursor.__class__ = seeing
    cursor.__dict__["_cachalot_session"] = session
    return cursor


def _seen_method(kind: type, name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        original = partial(getattr(kind, name), self)
        return _SEEN[name](self._cachalot_session, original, self)(*args, **kwargs)

    return method


def _seen_copy(session: Session, copy: Callable[..., Any], cursor: Any) -> Callable[..., Any]:
    """psycopg 3: ``with cursor.copy(statement) as copy``, whose rows arrive until the block ends."""

    @contextmanager
    def seen(statement: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        _before(session)
        manager = copy(statement, *args, **kwargs)
        value = manager.__enter__()
        left: list[Any] = []

        def leave() -> None:
            left.append(manager.__exit__(None, None, None))

        try:
            yield value
        except BaseException as error:
            if not manager.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            run_raw(session, text_of(statement, {"cursor": cursor}), leave)

    return seen


def _seen_statement(session: Session, run: Callable[..., Any], cursor: Any) -> Callable[..., Any]:
    """``copy_expert`` of psycopg2, and ``executescript`` of SQLite."""

    def seen(statement: Any, *args: Any, **kwargs: Any) -> Any:
        return run_raw(
            session, text_of(statement, {"cursor": cursor}), lambda: run(statement, *args, **kwargs)
        )

    return seen


def _seen_script(session: Session, run: Callable[..., Any], _cursor: Any) -> Callable[..., Any]:
    """``executescript`` of SQLite commits what is open before it begins."""

    def seen(script: Any) -> Any:
        text = f"COMMIT; {script}" if isinstance(script, str) else None
        return run_raw(session, text, lambda: run(script))

    return seen


def _seen_table(session: Session, run: Callable[..., Any], _cursor: Any) -> Callable[..., Any]:
    """``copy_from(file, table)`` of psycopg2."""

    def seen(file: Any, table: str, *args: Any, **kwargs: Any) -> Any:
        return run_raw(session, f'COPY "{table}" FROM STDIN', lambda: run(file, table, *args, **kwargs))

    return seen


def _seen_nothing(_session: Session, run: Callable[..., Any], _cursor: Any) -> Callable[..., Any]:
    return run


def _seen_stream(session: Session, run: Callable[..., Any], cursor: Any) -> Callable[..., Any]:
    """``stream`` of psycopg 3, whose rows arrive until the iteration ends."""

    def seen(statement: Any, *args: Any, **kwargs: Any) -> Any:
        _before(session)
        text = text_of(statement, {"cursor": cursor})
        if text is not None and all(
            one.kind is Kind.READ for one in analyse(text, session.connection.vendor)
        ):
            return run(statement, *args, **kwargs)
        return run_raw(session, text, lambda: iter(list(run(statement, *args, **kwargs))))

    return seen


_SEEN: dict[str, Callable[[Session, Callable[..., Any], Any], Callable[..., Any]]] = {
    "copy": _seen_copy,
    "copy_expert": _seen_statement,
    "copy_from": _seen_table,
    "copy_to": _seen_nothing,
    "stream": _seen_stream,
    "executescript": _seen_script,
}
