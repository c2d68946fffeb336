"""Answers one read of the ORM: from the cache, or from the database."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachalot.analysis.reads import read_params, read_text
from cachalot.conf import Config, current
from cachalot.core.decisions import Decision, Outcome, Reason
from cachalot.core.keys import digest
from cachalot.core.tags import dependencies
from cachalot.engine import scopes, stampede
from cachalot.engine.caches import query_cache
from cachalot.engine.lookups import Lookup, Query
from cachalot.observe.events import ReadEvent, emit, wanted
from cachalot.orm import auditing, results
from cachalot.orm.relations import tables_behind
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachalot.engine.cache import QueryCache
    from cachalot.engine.session import Session

_NO_TABLES: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Request:
    """One read, compiled.

    :param compiler: the compiler.
    :param sql: the text.
    :param params: its parameters.
    :param traced: canonical names of the tables that the compiler reported.
    :param single: whether one row is wanted.
    :param chunked: whether the rows are wanted as they come.
    :param run: runs it on the database.
    :param started: when it began, by ``time.perf_counter``.
    """

    compiler: Any
    sql: str
    params: Any
    traced: frozenset[str]
    single: bool
    chunked: bool
    run: Callable[[], Any]
    started: float

    def shape(self) -> bytes:
        """Return what, beside the statement, decides how the rows of the driver are handed on."""
        compiler = self.compiler
        if self.single:
            return b"1:%d" % (compiler.col_count or 0)
        return b"n:%d" % (compiler.col_count if getattr(compiler, "has_extra_select", False) else 0)


def refusal_before_compiling(session: Session, query: Any, *, chunked: bool) -> Decision | None:
    """Return why a read must not be cached, as far as that can be said without its text."""
    config = current()
    mode = scopes.mode.get()
    if not config.enabled or mode in {scopes.Mode.OFF, scopes.Mode.OFF_AND_EVALUATED}:
        return Decision.bypass(Reason.DISABLED)
    connection = session.connection
    if not config.caches_database(connection.alias, connection.vendor, connection.settings_dict["ENGINE"]):
        return Decision.bypass(Reason.DATABASE, connection.alias)
    cache = query_cache(config.cache)
    if cache is None:
        return Decision.bypass(Reason.CACHE_UNFIT, config.cache)
    if cache.switch.is_off():
        return Decision.bypass(Reason.SWITCHED_OFF)
    if query.explain_info:
        return Decision.bypass(Reason.EXPLAIN)
    if query.select_for_update:
        return Decision.bypass(Reason.LOCKING)
    if session.work.writing:
        return Decision.bypass(Reason.WRITES, "in the middle of a write")
    if session.broken():
        return Decision.bypass(Reason.NOT_UNDERSTOOD, "the connection is in need of repair")
    if chunked and not config.cache_iterators:
        return Decision.bypass(Reason.ITERATOR)
    return None


def plan(session: Session, cache: QueryCache, request: Request, config: Config) -> Query | Decision:
    """Return the query to look for, or why there is none.

    :raises StoreAway: the cache does not answer a question about a relation.
    """
    encoded = read_params(request.params)
    if isinstance(encoded, Decision):
        return encoded
    text = read_text(request.sql, session.connection.vendor, request.traced, config)
    if text.refusal is not None:
        return text.refusal
    tables = text.tables
    if text.relations:
        behind = tables_behind(session, cache, text.relations, config)
        if behind is None:
            return Decision.bypass(Reason.UNKNOWN_RELATION, ", ".join(sorted(text.relations)))
        tables |= behind
    context = session.context(config)
    if context is None:
        return Decision.bypass(Reason.CONTEXT)
    key = digest(context, request.sql.encode("utf-8", "surrogatepass"), encoded, request.shape())
    name = key.hex()
    if config.query_keygen is not None:
        name = f"{digest(str(config.query_keygen(request.compiler)).encode()).hex()}:{name}"
    return Query(key, name, dependencies(tables), context, session.is_replica(config))


def answer(session: Session, request: Request) -> Any:
    """Answer a read.

    :returns: rows in the shape that was asked for.
    """
    config = current()
    cache = query_cache(config.cache)
    if cache is None:
        return request.run()
    try:
        query = plan(session, cache, request, config)
    except StoreAway as error:
        query = Decision.bypass(Reason.CACHE_AWAY, str(error))
    if isinstance(query, Decision):
        try:
            return request.run()
        finally:
            report(session, query, request.sql, _NO_TABLES, request.started)
    lookup = _refreshed(cache.look(session, query, config))
    if lookup.frames is not None:
        return _served(session, cache, request, query, lookup)
    ticket = lookup.ticket
    alone = ticket is None or not ticket.shared or ticket.transaction is not None or request.chunked
    if alone or lookup.decision.outcome is not Outcome.MISS:
        return _run_and_keep(session, cache, request, query, lookup)
    return _run_in_turn(session, cache, request, query, lookup)


def _served(session: Session, cache: QueryCache, request: Request, query: Query, lookup: Lookup) -> Any:
    """Hand a hit on; some are audited before."""
    config = current()
    if auditing.due(session, request, query, lookup.ticket, config):
        decision, frames = auditing.audit(session, cache, request, query, lookup, config)
        report(session, decision, request.sql, query.tables(), request.started, audited=True)
        return _handed_on(frames, request)
    report(session, lookup.decision, request.sql, query.tables(), request.started, lookup.saved)
    return _handed_on(lookup.frames or [], request)


def _run_in_turn(session: Session, cache: QueryCache, request: Request, query: Query, lookup: Lookup) -> Any:
    """Run a query, unless somebody else is about to have its result."""
    config = current()
    key = session.namespace(config).entry(query.name)
    # Who has the turn must not wait for a connection that somebody who waits for him has, in a pool.
    session.connection.ensure_connection()

    def look() -> Lookup:
        return cache.look(session, query, config)

    for _ in range(stampede.ATTEMPTS):
        with stampede.turn((cache.alias, key)) as (turn, mine):
            if mine:
                lookup = stampede.after_other_processes(cache.guard, key, lookup, look, config.fill_lease)
                if lookup.frames is None:
                    return _run_and_keep(session, cache, request, query, lookup, turn)
        if not mine:
            lookup = look()
        if lookup.frames is not None:
            return _served(session, cache, request, query, lookup)
        if not turn.kept:
            break
    return _run_and_keep(session, cache, request, query, lookup)


def _refreshed(lookup: Lookup) -> Lookup:
    """In a refreshing scope a hit is run all the same, and kept."""
    if lookup.frames is None or scopes.mode.get() is not scopes.Mode.REFRESH:
        return lookup
    return Lookup(Decision.bypass(Reason.DISABLED, "refreshing"), ticket=lookup.ticket)


def _handed_on(frames: Iterable[Any], request: Request) -> Any:
    if request.single:
        return next(iter(frames))[0]
    return iter(frames) if request.chunked else list(frames)


def _run_and_keep(
    session: Session,
    cache: QueryCache,
    request: Request,
    query: Query,
    lookup: Lookup,
    turn: stampede.Turn | None = None,
) -> Any:
    config, ticket = current(), lookup.ticket
    asked = time.perf_counter()
    rows = request.run()

    def keep(payload: bytes) -> Reason | None:
        if ticket is None:
            return None
        kept = cache.keep(session, ticket, payload, time.perf_counter() - asked, config)
        return None if kept or not ticket.shared else Reason.SERVER_REFUSED

    def tell(reason: Reason | None) -> None:
        if turn is not None:
            turn.kept = reason is None
        decision = lookup.decision if reason is None else Decision.miss(reason)
        report(session, decision, request.sql, query.tables(), request.started)

    if request.chunked and not isinstance(rows, list):
        if ticket is not None:
            return results.collecting(iter(rows), keep, tell, config)
        tell(None)
    elif ticket is not None:
        tell(results.keep_whole([[rows]] if request.single else rows, keep, config))
    else:
        tell(None)
    return rows


def report(
    session: Session,
    decision: Decision,
    sql: str,
    tables: frozenset[str],
    started: float,
    saved: float = 0.0,
    *,
    audited: bool = False,
) -> None:
    """Tell those who listen about a read."""
    if wanted():
        seconds = time.perf_counter() - started
        emit(ReadEvent(decision, session.connection.alias, sql, tables, seconds, saved, audited))
