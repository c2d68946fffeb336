"""The public functions: invalidate, ask, switch off, explain, count."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import ContextDecorator, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from django.apps import apps
from django.conf import settings
from django.core.cache.backends.base import InvalidCacheBackendError
from django.db import connections
from django.db.models import Model, QuerySet

from cachalot.analysis.policies import homes
from cachalot.analysis.rawsql import canonical_table
from cachalot.analysis.schema import written_with
from cachalot.conf import current
from cachalot.core.tags import EPOCH, NOTHING, Effects, Tag, any_of
from cachalot.engine import registry, scopes
from cachalot.engine.attempt import CacheUnavailableError
from cachalot.engine.caches import query_cache
from cachalot.engine.tagkeys import tag_key
from cachalot.observe import counters
from cachalot.orm.connection import attach
from cachalot.orm.explaining import explain_query
from cachalot.orm.notices import announce
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from cachalot.core.decisions import Decision
    from cachalot.engine.cache import QueryCache

__all__ = [
    "CacheUnavailableError",
    "Explanation",
    "cachalot_disabled",
    "cachalot_refreshing",
    "explain",
    "get_last_invalidation",
    "invalidate",
    "invalidation_deferred",
    "is_switched_on",
    "stats",
    "switch_off",
    "switch_on",
    "tier",
]

TableOrModel = str | type[Model] | Model
Function = TypeVar("Function", bound=Callable[..., Any])


def _tables(tables_or_models: tuple[TableOrModel, ...]) -> frozenset[str]:
    """Return the canonical names of tables given as models, as ``app.Model`` or as table names."""
    return frozenset(canonical_table(_table(one)) for one in tables_or_models)


def _table(table_or_model: TableOrModel) -> str:
    if not isinstance(table_or_model, str):
        return str(table_or_model._meta.db_table)
    if table_or_model.count(".") == 1:
        try:
            return str(apps.get_model(table_or_model)._meta.db_table)
        except LookupError:
            pass  # the name of a table in a schema
    return table_or_model


def _aliases(chosen: str | None, known: Any) -> list[str]:
    return list(known) if chosen is None else [chosen]


def _caches(chosen: str | None) -> list[QueryCache]:
    if chosen is not None and chosen not in settings.CACHES:
        raise InvalidCacheBackendError(f"The connection '{chosen}' doesn't exist.")
    found = (query_cache(alias) for alias in _aliases(chosen, settings.CACHES))
    return [cache for cache in found if cache is not None]


def _caches_of_state(chosen: str | None) -> list[QueryCache]:
    """Return the caches that say whether results in a cache are valid; a policy may keep them elsewhere."""
    found, config = _caches(chosen), current()
    used = query_cache(config.cache)
    if used is not None and used not in found and chosen in homes(config):
        found.append(used)
    return found


def invalidate(
    *tables_or_models: TableOrModel, cache_alias: str | None = None, db_alias: str | None = None
) -> None:
    """End every cached result that depends on some tables.

    Inside a transaction the results end at once, and again when it commits.

    :param tables_or_models: models, instances, ``"app.Model"`` or names of tables; none at all means all
        tables.
    :param cache_alias: key of ``CACHES``; by default all caches, also those that were used under an earlier
        ``CACHALOT_CACHE``.
    :param db_alias: key of ``DATABASES``; by default all databases.
    :raises django.core.cache.backends.base.InvalidCacheBackendError: there is no such cache.
    :raises django.db.utils.ConnectionDoesNotExist: there is no such database.

    .. versionadded:: 1.0
    """
    effects = Effects(everything=True)
    if tables_or_models:
        effects = Effects(written_with(_tables(tables_or_models), current()))
    for alias in _aliases(db_alias, connections):
        session = attach(connections[alias])
        transaction = session.transaction()
        if transaction is not None:
            transaction.note(effects)
        for cache in _caches_of_state(cache_alias):
            cache.writes.invalidate(session, effects, announced=False)
        if transaction is None:
            session.notices.append(effects)
            announce(session)


def get_last_invalidation(
    *tables_or_models: TableOrModel, cache_alias: str | None = None, db_alias: str | None = None
) -> float:
    """Return when one of some tables was last invalidated, for the keys of template fragments and pages.

    The answer is different after each invalidation of any of the tables, and it never returns to an earlier
    one: when the cache has dropped what it knew, the answer is new.

    :param tables_or_models: models, instances, ``"app.Model"`` or names of tables; none at all means all
        tables of models.
    :param cache_alias: key of ``CACHES``; by default the cache in use.
    :param db_alias: key of ``DATABASES``; by default all databases.
    :returns: seconds since the epoch by the clock of the machine that wrote; 0.0 when never. While the cache
        does not answer: the time now.

    .. versionadded:: 1.0
    """
    config = current()
    tables = _tables(tables_or_models) or _tables(tuple(apps.get_models(include_auto_created=True)))
    tags: list[Tag] = [EPOCH, *(any_of(table) for table in sorted(tables))]
    tokens: list[str] = []
    for cache in _caches(cache_alias or config.cache):
        for alias in _aliases(db_alias, connections):
            session = attach(connections[alias])
            space = session.namespace(config)
            primary = session.primary_alias(config)
            pairs = [(tag, tag_key(space, primary, tag, config)) for tag in tags]
            try:
                tokens += registry.tokens_of_invalidations(cache, space, pairs)
            except StoreAway:
                return registry.now()
    return registry.joined(tokens)


class _Scope(ContextDecorator):
    """A scope that is a context manager and a decorator, for functions, coroutines and generators."""

    def __init__(self) -> None:
        self._tokens: list[Token[Any]] = []

    def _enter(self) -> Token[Any]:
        raise NotImplementedError

    def _leave(self, token: Token[Any]) -> None:
        raise NotImplementedError

    def __enter__(self) -> None:
        self._tokens.append(self._enter())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place in reversed(range(len(self._tokens))):
            # Tasks that share the scope may leave it in any order. Who leaves it in a context that it was not
            # entered in, as a generator may when it is closed, has nothing to put back there.
            with suppress(ValueError, RuntimeError):
                self._leave(self._tokens[place])
                del self._tokens[place]
                return
        self._tokens.pop()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _again(self) -> _Scope:
        raise NotImplementedError

    def __call__(self, function: Function) -> Function:
        """Return ``function`` run inside the scope."""
        again = self._again
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped_coroutine(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return await function(*args, **kwargs)

            return wrapped_coroutine  # type: ignore[return-value]
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def wrapped_generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
                return _stepwise(again, function(*args, **kwargs))

            return wrapped_generator  # type: ignore[return-value]
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            def wrapped_async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                return _stepwise_async(again, function(*args, **kwargs))

            return wrapped_async_generator  # type: ignore[return-value]

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with again():
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]


def _stepwise(scope: Callable[[], _Scope], generator: Any) -> Generator[Any, Any, Any]:
    """Run each step of a generator inside a scope, and nothing of the caller's between two steps."""
    step: Callable[[], Any] = functools.partial(next, generator)
    try:
        while True:
            with scope():
                value = step()
            try:
                step = functools.partial(generator.send, (yield value))
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - for the generator to handle
                step = functools.partial(generator.throw, error)
    except StopIteration as stop:
        return stop.value
    finally:
        with scope():
            generator.close()


async def _stepwise_async(scope: Callable[[], _Scope], generator: Any) -> AsyncGenerator[Any, Any]:
    """Run each step of an asynchronous generator inside a scope, and nothing of the caller's between two."""
    step: Callable[[], Any] = functools.partial(anext, generator)
    try:
        while True:
            with scope():
                value = await step()
            try:
                step = functools.partial(generator.asend, (yield value))
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - for the generator to handle
                step = functools.partial(generator.athrow, error)
    except StopAsyncIteration:
        return
    finally:
        with scope():
            await generator.aclose()


class cachalot_disabled(_Scope):  # noqa: N801 - a kept name
    """Run queries without the cache: nothing is served from it, nothing stored. Writes still invalidate.

    A context manager and a decorator, for synchronous and asynchronous code. Scopes nest, and an exception
    ends them.

    :param all_queries: whether querysets that were evaluated before are run again as well when used inside.

    .. versionadded:: 2.0
    """

    def __init__(self, all_queries: bool = False) -> None:
        super().__init__()
        self._all_queries = all_queries

    def _again(self) -> _Scope:
        return cachalot_disabled(self._all_queries)

    def _enter(self) -> Token[Any]:
        if not self._all_queries:
            inherited = scopes.mode.get() is scopes.Mode.OFF_AND_EVALUATED
            return scopes.mode.set(scopes.Mode.OFF_AND_EVALUATED if inherited else scopes.Mode.OFF)
        from cachalot.orm import querysets  # noqa: PLC0415 - wraps QuerySet only where it is asked for

        querysets.install()
        return scopes.mode.set(scopes.Mode.OFF_AND_EVALUATED)

    def _leave(self, token: Token[Any]) -> None:
        scopes.mode.reset(token)


class cachalot_refreshing(_Scope):  # noqa: N801 - named like cachalot_disabled
    """Run every query on the database, and store what it returns: for warming the cache.

    A context manager and a decorator, like :class:`cachalot_disabled`.

    .. versionadded:: 3.0
    """

    def _again(self) -> _Scope:
        return cachalot_refreshing()

    def _enter(self) -> Token[Any]:
        return scopes.mode.set(scopes.Mode.REFRESH)

    def _leave(self, token: Token[Any]) -> None:
        scopes.mode.reset(token)


@contextmanager
def invalidation_deferred() -> Iterator[None]:
    """Put invalidations off until the end of a block: one exchange with the cache for any number of writes.

    Reads of the same block do not use the cache for the tables written in it. Reads of others may be answered
    as they were before the block until it ends, and if the process dies in it, until the results expire: this
    is for imports that nobody looks at meanwhile. An exception does not lose an invalidation.

    :returns: a context manager, and a decorator.

    .. versionadded:: 3.0
    """
    if scopes.put_off() is not None:
        yield
        return
    collected = scopes.Deferred()
    token = scopes.deferred.set(collected)
    try:
        yield
    finally:
        with suppress(ValueError):  # A generator may be closed in another context than it was begun in.
            scopes.deferred.reset(token)
        for alias, effects in collected.close():
            _deliver(alias, effects)


def _deliver(alias: str, effects: Effects) -> None:
    cache = query_cache(current().cache)
    session = attach(connections[alias])
    if cache is not None and effects != NOTHING:
        transaction = session.transaction()
        if transaction is not None:
            transaction.note(effects)
        cache.writes.invalidate(session, effects, "transaction")
        announce(session)


@dataclass(frozen=True)
class Explanation:
    """What the cache would do with a queryset, and why.

    :param decision: hit, miss or bypass, with its reason.
    :param tables: names of the tables it depends on.
    :param invalidated_by: the tags whose change ends its result, as text.
    :param sql: the statement, placeholders in place; empty if it has none.
    :param key: key of the entry in the cache; empty for a bypass.
    """

    decision: Decision
    tables: tuple[str, ...]
    invalidated_by: tuple[str, ...]
    sql: str
    key: str

    def __str__(self) -> str:
        """Return the explanation as lines of text."""
        lines = [str(self.decision), f"SQL: {self.sql}"]
        if self.tables:
            lines.append(f"tables: {', '.join(self.tables)}")
        if self.invalidated_by:
            lines.append(f"ends with a change of: {', '.join(self.invalidated_by)}")
        return "\n".join(lines)


def explain(queryset: QuerySet[Any]) -> Explanation:
    """Return what the cache would do with a queryset now, why, and what would end its result.

    The queryset is compiled, but not run.

    :param queryset: any queryset.
    :raises TypeError: it is not a queryset.

    .. versionadded:: 3.0
    """
    if not isinstance(queryset, QuerySet):
        message = f"explain() takes a queryset, not {type(queryset).__name__}"
        raise TypeError(message)
    found = explain_query(queryset)
    return Explanation(found.decision, found.tables, found.invalidated_by, found.sql, found.key)


def switch_off(cache_alias: str | None = None) -> None:
    """Let every process that shares a cache run its reads on the database, from at most a second from now.

    Writes go on to invalidate, so that it can be switched on again at any time. It ends by itself after 30
    days, and when the cache is cleared or evicts it.

    :param cache_alias: key of ``CACHES``; by default the cache in use.
    :raises django.core.cache.backends.base.InvalidCacheBackendError: there is no such cache, or it cannot
        hold results.
    :raises cachalot.stores.base.StoreAway: the cache does not answer, and nothing was changed for certain.

    .. versionadded:: 3.0
    """
    _fit_cache(cache_alias).switch.turn(off=True)


def switch_on(cache_alias: str | None = None) -> None:
    """Let every process that shares a cache serve reads from it again, from at most a second from now.

    The parameter and what is raised are those of :func:`switch_off`.

    .. versionadded:: 3.0
    """
    _fit_cache(cache_alias).switch.turn(off=False)


def is_switched_on(cache_alias: str | None = None) -> bool:
    """Ask a cache whether it is switched on at this moment, and whether it answers.

    The parameter and what is raised are those of :func:`switch_off`.

    .. versionadded:: 3.0
    """
    return not _fit_cache(cache_alias).switch.look()


def _fit_cache(chosen: str | None) -> QueryCache:
    alias = chosen or current().cache
    for cache in _caches(alias):
        return cache
    raise InvalidCacheBackendError(f"The cache {alias!r} cannot hold results.")


def tier(cache_alias: str | None = None) -> str:
    """Return what a cache makes of commits that overlap on one table.

    ``"intents"``: every commit in flight is known, so a hit is never older than the read. ``"overwrite"``:
    the backend keeps one mark for all of them, so while two commits overlap a hit may be as old as the second
    of them is long. See docs/guarantees.md.

    :param cache_alias: key of ``settings.CACHES``; by default the cache in use.
    :raises django.core.cache.backends.base.InvalidCacheBackendError: there is no such cache, or it cannot
        hold results.

    .. versionadded:: 3.0
    """
    return _fit_cache(cache_alias).guard.tier.name.lower()


def stats() -> dict[str, Any]:
    """Return what this process has counted: hits, misses, bypasses by reason, faults of the cache.

    .. versionadded:: 3.0
    """
    return counters.snapshot()
