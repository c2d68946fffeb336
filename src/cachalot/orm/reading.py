"""Answers one read of the ORM: from the cache, or from the database."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import Error

from cachalot.analysis.policies import policy_of
from cachalot.analysis.reads import read_params, read_text
from cachalot.analysis.schema import model_facts
from cachalot.analysis.shapes import found_in
from cachalot.conf import Config, current
from cachalot.core.decisions import Decision, Outcome, Reason
from cachalot.core.keys import digest
from cachalot.core.protocol import SIGN
from cachalot.core.tags import EPOCH, any_of, dependencies, whole_of
from cachalot.engine import facts, scopes, stampede
from cachalot.engine.caches import query_cache
from cachalot.engine.lookups import Lookup, Query
from cachalot.observe.events import ReadEvent, emit, wanted
from cachalot.orm import auditing, results, tablekeys
from cachalot.orm.relations import tables_behind
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachalot.engine.cache import QueryCache
    from cachalot.engine.session import Session

logger = logging.getLogger("cachalot")

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
    policy = policy_of(tables, config)
    if not policy.enabled:
        return Decision.bypass(Reason.TABLE, ", ".join(sorted(tables)))
    if query_cache(policy.cache) is None:
        return Decision.bypass(Reason.CACHE_UNFIT, policy.cache)
    context = session.context(config)
    if context is None:
        return Decision.bypass(Reason.CONTEXT)
    key = digest(context, request.sql.encode("utf-8", "surrogatepass"), encoded, request.shape())
    name = key.hex()
    if config.query_keygen is not None:
        name = f"{digest(str(config.query_keygen(request.compiler)).encode()).hex()}:{name}"
    query = Query(key, name, dependencies(tables), context, policy, session.is_replica(config))
    return _refined(session, cache, request, query, config)


def _refined(session: Session, cache: QueryCache, request: Request, query: Query, config: Config) -> Query:
    """Let a query depend on rows and columns, as far as they are known.

    :raises StoreAway: the cache does not answer.
    """
    try:
        return _finer(session, cache, request, query, config)
    except StoreAway:
        raise
    except Exception:
        # A fault of ours: the result ends with every write to its tables.
        logger.exception("It cannot be told which rows a query depends on.")
        return query


def _finer(session: Session, cache: QueryCache, request: Request, query: Query, config: Config) -> Query:
    known = tablekeys.facts_of(session, cache, config) if query.policy.granularity == "row" else None
    if known is None:
        return query
    place = (query.name, query.replica)
    kept = known.queries.get(place)
    if kept is not None:
        return kept
    shape = tablekeys.shape_of_request(session, cache, known, request, config)
    if shape is None:
        return query
    tags = shape.tags(request.params)
    behind = query.tables() - {tag.table for tag in tags}
    signs = {whole_of(keys.table): SIGN + keys.sign for keys in shape.keys if whole_of(keys.table) in tags}
    if signs:
        signs[EPOCH] = known.epoch
    parts = shape.dynamic(tags)
    loose = tuple(dict.fromkeys(any_of(part.table) for part in parts))
    tags = (*tags, *map(any_of, sorted(behind)), *loose)
    refined = replace(query, tags=tags, signs=signs, loose=loose, finds=partial(found_in, parts), keys={})
    if request.sql in known.shapes and query.tables() <= model_facts().managed:
        if len(known.queries) > facts.MAX_QUERIES:
            known.queries.clear()
        known.queries[place] = refined
    return refined


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
    lookup = cache.look(session, query, config)
    if lookup.outdated:
        query, lookup = _looked_anew(session, cache, request, query, config)
    lookup = _refreshed(lookup)
    if lookup.frames is not None:
        return _served(session, cache, request, query, lookup)
    ticket = lookup.ticket
    alone = ticket is None or not ticket.shared or ticket.transaction is not None or request.chunked
    if alone or lookup.decision.outcome is not Outcome.MISS:
        return _run_and_keep(session, cache, request, query, lookup)
    return _run_in_turn(session, cache, request, query, lookup)


def _looked_anew(
    session: Session, cache: QueryCache, request: Request, query: Query, config: Config
) -> tuple[Query, Lookup]:
    """Look again, after the schema has changed or another release has written to the tables of a query."""
    root = session.namespace(config).root
    facts.forget(cache.alias, root)
    for _ in range(2):
        try:
            query = _refined(session, cache, request, _coarse(query), config)
        except StoreAway:
            break
        lookup = cache.look(session, query, config)
        if not lookup.outdated:
            return query, lookup
        facts.disagreed(root, query.tables())
        facts.forget(cache.alias, root)
    query = _coarse(query)
    return query, cache.look(session, query, config)


def _coarse(query: Query) -> Query:
    """Let a query depend on its tables and nothing finer."""
    return replace(query, tags=dependencies(query.tables()), signs={}, loose=(), keys=None)


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
    try:
        session.connection.ensure_connection()
    except Error:
        raise
    except Exception:  # noqa: BLE001 - a connection may be forbidden: Django says so in its own way
        return _run_and_keep(session, cache, request, query, lookup)

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


def _listed(rows: Any, request: Request) -> list[Any]:
    """Return the rows of a result that was not streamed."""
    if request.single:
        return [] if rows is None else [rows]
    return [row for chunk in rows for row in chunk]


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
        found = None
        if query.loose and not request.chunked:
            found = query.finds(_listed(rows, request))
        kept = cache.keep(session, ticket, payload, time.perf_counter() - asked, config, found)
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
