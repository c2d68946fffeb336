"""Subclasses of the compilers of a backend, made once per class: all of the ORM passes through them.

A compiler for reads asks the cache before it asks the database. A compiler for writes says what it will
change, and announces the text it sends, so that the cursor's seam does not take it for a raw statement. What
a compiler for reads sends is looked at there like any other statement: it may call a function that writes.
Both report what they compile to the trace of the statement.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from django.core.exceptions import EmptyResultSet
from django.db.models.sql.compiler import (
    SQLCompiler,
    SQLDeleteCompiler,
    SQLInsertCompiler,
    SQLUpdateCompiler,
)
from django.db.models.sql.constants import GET_ITERATOR_CHUNK_SIZE, MULTI, SINGLE

from cachalot.analysis.trace import Recording, Trace
from cachalot.analysis.writes import effects_of_query
from cachalot.conf import current
from cachalot.core.decisions import Decision, Reason
from cachalot.core.tags import Effects
from cachalot.engine.caches import query_cache
from cachalot.orm import reading, tablekeys, writing
from cachalot.orm.relations import with_relations
from cachalot.orm.statements import judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.engine.session import Session
    from cachalot.orm.rowwrites import RowWrite

_SESSION = "_cachalot_session"
_classes: dict[type, type] = {}


def traced_class(cls: type) -> type:
    """Return the subclass of a backend's compiler that the connection uses instead.

    A class that is no compiler of Django's is returned as it is: its reads are not cached, its statements are
    raw.
    """
    traced = _classes.get(cls)
    if traced is None:
        traced = _classes[cls] = _make(cls)
    return traced


def _make(cls: type) -> type:
    if not issubclass(cls, SQLCompiler):
        return cls
    writes = issubclass(cls, (SQLInsertCompiler, SQLUpdateCompiler, SQLDeleteCompiler))
    mixin: type = WriteSeam if writes else ReadSeam
    return type(cls.__name__, (mixin, cls), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


class Seam:
    """What both kinds of compilers do: they trace."""

    connection: Any
    query: Any
    using: str

    def compile(self, node: Any) -> Any:
        """Compile a node, and record it."""
        trace = self._cachalot_trace()
        if trace is None:
            return super().compile(node)  # type: ignore[misc]
        return trace.compiled(self, node, super().compile)  # type: ignore[misc]

    def _cachalot_trace(self) -> Trace | None:
        session = self.connection.__dict__.get(_SESSION)
        return None if session is None else session.work.trace


class ReadSeam(Seam):
    """Mixed into compilers of SELECT."""

    _cachalot_compiled: tuple[str, Any] | None = None

    def as_sql(self, *args: Any, **kwargs: Any) -> Any:
        """Return the statement; once it was compiled to be looked up, it is not compiled again to be run."""
        compiled, self._cachalot_compiled = self._cachalot_compiled, None
        if compiled is not None:
            return compiled
        trace = self._cachalot_trace()
        if trace is None:
            return super().as_sql(*args, **kwargs)  # type: ignore[misc]
        return trace.scope(self, lambda: super(ReadSeam, self).as_sql(*args, **kwargs))  # type: ignore[misc]

    def execute_sql(
        self,
        result_type: Any = MULTI,
        chunked_fetch: bool = False,
        chunk_size: int = GET_ITERATOR_CHUNK_SIZE,
    ) -> Any:
        """Answer from the cache, or run the statement."""

        def run() -> Any:
            return super(ReadSeam, self).execute_sql(result_type, chunked_fetch, chunk_size)  # type: ignore[misc]

        session = self.connection.__dict__.get(_SESSION)
        if session is None:
            return run()
        session.work.reading += 1
        try:
            return self._read(session, run, result_type, chunked_fetch)
        finally:
            session.work.reading -= 1

    def _read(self, session: Session, run: Callable[[], Any], result_type: Any, chunked_fetch: bool) -> Any:
        started = time.perf_counter()
        if result_type not in (MULTI, SINGLE):
            return self._run_uncached(session, run, Decision.bypass(Reason.CURSOR), started)
        refusal = reading.refusal_before_compiling(session, self.query, chunked=chunked_fetch)
        if refusal is not None:
            return self._run_uncached(session, run, refusal, started)
        trace = Trace()
        before, session.work.trace = session.work.trace, trace
        try:
            sql, params = self.as_sql()
        except EmptyResultSet:
            return iter([]) if result_type == MULTI else None
        finally:
            session.work.trace = before
        if not sql:
            return iter([]) if result_type == MULTI else None
        self._cachalot_compiled = (sql, params)
        request = reading.Request(
            self, sql, params, frozenset(trace.tables), result_type == SINGLE, chunked_fetch, run, started
        )
        try:
            return reading.answer(session, request)
        finally:
            self._cachalot_compiled = None

    def _run_uncached(
        self, session: Session, run: Callable[[], Any], decision: Decision, started: float
    ) -> Any:
        """Run a statement that is compiled only by being run; its own text is that of a read of the ORM."""
        try:
            sql, params = self.as_sql()
        except EmptyResultSet:
            return run()
        self._cachalot_compiled = (sql, params)
        try:
            return run()
        finally:
            self._cachalot_compiled = None
            reading.report(session, decision, sql, frozenset(), started)


class WriteSeam(Seam):
    """Mixed into compilers of INSERT, UPDATE and DELETE."""

    _cachalot_running = False
    _cachalot_row_write: RowWrite | None = None

    def as_sql(self, *args: Any, **kwargs: Any) -> Any:
        """Return the statement, or the statements, and announce the text."""
        session = self.connection.__dict__.get(_SESSION)
        if session is None or not session.work.writing:
            return super().as_sql(*args, **kwargs)  # type: ignore[misc]
        row_write = self._cachalot_row_write
        trace = Trace() if row_write is None else Recording(marking=False)
        before, session.work.trace = session.work.trace, trace
        try:
            result = trace.scope(self, lambda: super(WriteSeam, self).as_sql(*args, **kwargs))  # type: ignore[misc]
        except EmptyResultSet:
            if row_write is not None:
                row_write.sends_nothing()
            raise
        finally:
            session.work.trace = before
        if row_write is not None and isinstance(result, tuple) and not result[0]:
            row_write.sends_nothing()
        if row_write is not None and isinstance(trace, Recording) and isinstance(result, tuple) and result[0]:
            row_write.rewrites(self, trace, result, _columns_set(self.query))
        texts = [sql for sql, _params in (result if isinstance(result, list) else [result])]
        if row_write is not None and isinstance(result, list):
            row_write.sends(self.query, texts)
        session.work.expected = session.work.expected.union(texts)
        if row_write is not None:
            session.work.row_writes = {**session.work.row_writes, **dict.fromkeys(texts, row_write)}
        if trace.expressions:
            for text in texts:
                session.work.surprises |= judge(session, text).effects
        return result

    def assemble_as_sql(self, fields: Any, value_rows: Any) -> Any:
        """Return placeholders and parameters of an INSERT, and note its rows."""
        row_write = self._cachalot_row_write
        if row_write is not None:
            row_write.inserts(self.query, fields, value_rows)
        return super().assemble_as_sql(fields, value_rows)  # type: ignore[misc]

    def execute_sql(self, *args: Any, **kwargs: Any) -> Any:
        """Run the write."""
        return self._write(lambda: super(WriteSeam, self).execute_sql(*args, **kwargs))  # type: ignore[misc]

    def execute_returning_sql(self, *args: Any, **kwargs: Any) -> Any:
        """Run the write and return columns of the rows written (Django 6.0)."""
        return self._write(lambda: super(WriteSeam, self).execute_returning_sql(*args, **kwargs))  # type: ignore[misc]

    def _write(self, run: Callable[[], Any]) -> Any:
        session = self.connection.__dict__.get(_SESSION)
        config = current()
        cache = None if session is None else query_cache(config.cache)
        if session is None or cache is None or self._cachalot_running:
            return run()
        effects = with_relations(session, effects_of_query(self.query, config), config)
        row_write = self._cachalot_row_write = tablekeys.row_write(
            session, cache, self.query, effects, config
        )
        self._cachalot_running = True
        try:
            return writing.run(session, cache, effects, run, self._learned(effects, row_write))
        finally:
            self._cachalot_running = False
            self._cachalot_row_write = None

    def _learned(self, effects: Effects, row_write: RowWrite | None) -> Callable[[Any], Effects] | None:
        """Return what says, given the result of a write, what it has changed."""
        if row_write is None:
            return None
        table = frozenset({row_write.table})

        def learned(result: Any) -> Effects:
            if not row_write.understood or row_write.unseen:
                return effects
            if isinstance(self, SQLInsertCompiler):
                fields = self.returning_fields or ()
                if not self.connection.features.can_return_columns_from_insert:
                    fields = [self.query.get_meta().pk]  # the last number that was drawn
                found = row_write.effects_of_insert(list(map(self._column_returned, fields)), result)
            else:
                found = row_write.effects()
            return found | Effects(effects.whole - table) if found else found

        return learned

    def _column_returned(self, field: Any) -> str | None:
        """Return the column of a value that an INSERT gives back; ``None`` if that is not what is stored."""
        shown = self.get_converters([field.get_col(field.model._meta.db_table)])  # type: ignore[attr-defined]
        return None if shown else str(field.column)


def _columns_set(query: Any) -> frozenset[str] | None:
    """Return the columns that an UPDATE sets; ``None`` for another statement."""
    values = getattr(query, "values", None)
    return frozenset(field.column for field, _model, _value in values) if isinstance(values, list) else None
