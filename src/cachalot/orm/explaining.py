"""What the cache would do with a queryset: the way of a read, without its last step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.core.exceptions import EmptyResultSet
from django.db import connections

from cachalot.analysis.trace import Trace
from cachalot.conf import Config, current
from cachalot.core.decisions import Decision, Reason
from cachalot.engine.caches import query_cache
from cachalot.orm import reading
from cachalot.orm.connection import session_of
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from cachalot.core.tags import Tag
    from cachalot.engine.cache import QueryCache
    from cachalot.engine.lookups import Query
    from cachalot.engine.session import Session


@dataclass(frozen=True)
class Found:
    """What was found out; see ``cachalot.api.Explanation``."""

    decision: Decision
    tables: tuple[str, ...] = ()
    invalidated_by: tuple[str, ...] = ()
    sql: str = ""
    key: str = ""


def explain_query(queryset: QuerySet[Any]) -> Found:
    """Return what the cache would do with a queryset."""
    session = session_of(connections[queryset.db])
    config = current()
    cache = query_cache(config.cache)
    if session is None:
        return Found(Decision.bypass(Reason.DISABLED, "cachalot is not installed"))
    refusal = reading.refusal_before_compiling(session, queryset.query, chunked=False)
    compiler = queryset.query.clone().get_compiler(queryset.db)
    try:
        request = compile_request(session, compiler)
    except EmptyResultSet:
        return Found(Decision.bypass(Reason.NOT_UNDERSTOOD, "no statement: the result is known to be empty"))
    if refusal is not None or cache is None:
        return Found(refusal or Decision.bypass(Reason.CACHE_UNFIT), sql=request.sql)
    try:
        query = reading.plan(session, cache, request, config)
    except StoreAway as error:
        query = Decision.bypass(Reason.CACHE_AWAY, str(error))
    if isinstance(query, Decision):
        return Found(query, tuple(sorted(request.traced)), sql=request.sql)
    return _looked_up(session, cache, query, request.sql, config)


def compile_request(session: Session, compiler: Any) -> reading.Request:
    """Compile a statement for a list of rows.

    :raises EmptyResultSet: its result is known without asking the database.
    """
    trace = Trace()
    before, session.work.trace = session.work.trace, trace
    try:
        sql, params = compiler.as_sql()
    finally:
        session.work.trace = before
    if not sql:
        raise EmptyResultSet
    tables = frozenset(trace.tables)
    return reading.Request(
        compiler, sql, params, tables, single=False, chunked=False, run=compiler.execute_sql, started=0.0
    )


def _shown(tag: Tag, query: Query) -> str:
    """Return a tag as it is shown; in the place of a loose one those rows are tried that are found."""
    return f"row({tag.table}, each that is found)" if tag in query.loose else str(tag)


def _looked_up(session: Session, cache: QueryCache, query: Query, sql: str, config: Config) -> Found:
    lookup = cache.look(session, query, config)
    return Found(
        lookup.decision,
        tuple(sorted(query.tables())),
        tuple(_shown(tag, query) for tag in query.tags),
        sql,
        session.namespace(config).entry(query.name),
    )
