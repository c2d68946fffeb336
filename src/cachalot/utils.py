"""Import paths that existing projects use: keys of queries and tables."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections

from cachalot.analysis.rawsql import canonical_table
from cachalot.conf import current
from cachalot.core.decisions import Decision
from cachalot.core.tags import any_of
from cachalot.engine.caches import query_cache
from cachalot.engine.tagkeys import tag_key
from cachalot.orm import reading
from cachalot.orm.connection import attach, session_of
from cachalot.orm.explaining import compile_request
from cachalot.stores.base import StoreAway

__all__ = ["UncachableQuery", "get_query_cache_key", "get_table_cache_key"]


class UncachableQuery(Exception):
    """The query is not cached; the message is the reason.

    .. versionadded:: 1.0
    """


def get_query_cache_key(compiler: Any) -> str:
    """Return the key of the result of a compiler's query, without the prefix of the Django cache.

    :param compiler: from ``queryset.query.get_compiler(alias)``.
    :raises UncachableQuery: its result is not kept.

    .. versionadded:: 1.0
    """
    config = current()
    session, cache = session_of(compiler.connection), query_cache(config.cache)
    if session is None or cache is None:
        raise UncachableQuery
    try:
        query = reading.plan(session, cache, compile_request(session, compiler), config)
    except (EmptyResultSet, StoreAway) as error:
        raise UncachableQuery(*error.args) from error
    if isinstance(query, Decision):
        raise UncachableQuery(str(query))
    return session.namespace(config).entry(query.name)


def get_table_cache_key(db_alias: str, table: str) -> str:
    """Return the key of a table's state, without the prefix of the Django cache.

    :param db_alias: key of ``DATABASES``.
    :param table: name of the table.
    :raises django.db.utils.ConnectionDoesNotExist: there is no such database.

    .. versionadded:: 1.0
    """
    config = current()
    session = attach(connections[db_alias])
    tag = any_of(canonical_table(table))
    return tag_key(session.namespace(config), session.primary_alias(config), tag, config)
