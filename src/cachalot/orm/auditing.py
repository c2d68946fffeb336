"""Audits hits: asks the database as well, and tells when it says something else although nobody wrote.

Why a difference is a fault and not a race. A hit was valid when the first of its tokens was read. The
database is asked after that, and the tokens are read once more after the database has answered. If they still
are those of the stamp then no commit that touches a tag of the statement was announced between the query of
the entry and the second reading, and none is in flight: a commit sets its mark before it happens. So both
results are of one state of these tables, and if they differ, somebody wrote unseen (a trigger, another
program, the connection of the driver), the statement does not follow from its tables, or cachalot is wrong.
If the tokens have changed nothing can be said, and nothing is said. In a snapshot the same holds, because a
hit there is a statement about the snapshot.

The caller gets the rows of the database whenever they differ. A result that was found wrong ends: its entry
is overwritten by one that nobody can be served. The rows just read are not stored instead, because inside a
transaction the unseen write may be one that is not committed.

Replicas are not audited: what they lag behind looks like a hidden write. Nor are statements that ask for a
random order.
"""

from __future__ import annotations

import logging
import random
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import Error

from cachalot.analysis.lexer import lex
from cachalot.codecs.comparing import Order, difference
from cachalot.core.decisions import Decision, Reason
from cachalot.observe.events import AuditEvent, emit
from cachalot.signals import audit_failed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from cachalot.conf import Config
    from cachalot.engine.cache import QueryCache
    from cachalot.engine.lookups import Lookup, Query, Ticket
    from cachalot.engine.session import Session
    from cachalot.orm.reading import Request

logger = logging.getLogger("cachalot")

_NOT_COMPARABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What the cells of somebody else's types may raise when they are compared."""


class AuditError(AssertionError):
    """A hit differed from the database although no write was announced (``CACHALOT_AUDIT_RAISE``).

    .. versionadded:: 3.0
    """


class Audited(NamedTuple):
    """What became of a hit that was audited.

    :param decision: hit if the database says the same.
    :param frames: chunks of rows, of the entry or of the database.
    """

    decision: Decision
    frames: Iterable[Any]


class _Fetched(NamedTuple):
    """What the database says.

    :param frames: chunks of rows.
    :param rest: further chunks; ``None`` if there are none.
    """

    frames: list[Any]
    rest: Generator[Any, None, None] | None = None

    def all(self) -> Iterator[Any]:
        """Return all chunks, those not fetched yet as they come."""
        try:
            yield from self.frames
            if self.rest is not None:
                yield from self.rest
        finally:
            self.close()

    def close(self) -> None:
        """Close the cursor."""
        if self.rest is not None:
            self.rest.close()


def due(session: Session, request: Request, query: Query, ticket: Ticket | None, config: Config) -> bool:
    """Return whether a hit is one of those to audit."""
    if not config.audit_rate or ticket is None or random.random() >= config.audit_rate:  # noqa: S311 - a sample
        return False
    if query.replica or (config.cache_random and "RAND" in request.sql.upper()):
        return False
    return session.transaction() is None or not _dies_of_errors(session) or _has_savepoints(session)


def audit(
    session: Session, cache: QueryCache, request: Request, query: Query, found: Lookup, config: Config
) -> Audited:
    """Compare a hit with the database.

    :param found: the hit, with its ticket.
    :raises AuditError: they differ, and ``CACHALOT_AUDIT_RAISE`` is set.
    """
    frames = found.frames or []
    kept = _rows(frames, request)
    try:
        with _unharmed(session):
            fetched = _fetch(request, len(kept))
        said = difference(kept, _rows(fetched.frames, request), _order(session, request, len(kept)))
    except (Error, *_NOT_COMPARABLE) as error:
        if config.audit_raise:
            raise
        # The text of an error may hold values.
        logger.warning("A hit could not be audited: %s. %s", type(error).__name__, request.sql)
        return Audited(found.decision, frames)
    if not said:
        return Audited(found.decision, frames)
    if found.ticket is None or not cache.unwritten(session, found.ticket, config):
        return Audited(Decision.miss(Reason.CHANGED, "while it was audited"), fetched.all())
    cache.end(session, found.ticket, config)
    _tell(session, request, query, said)
    if config.audit_raise:
        fetched.close()
        raise AuditError(f"{said}: {request.sql}")
    return Audited(Decision.miss(Reason.AUDITED, said), fetched.all())


def _rows(frames: Iterable[Any], request: Request) -> list[Any]:
    rows = list(chain.from_iterable(frames))
    return [] if request.single and rows == [None] else rows


def _fetch(request: Request, enough: int) -> _Fetched:
    """Run a statement; of an iterator fetch only so many rows as it takes to see that there are too many."""
    rows = request.run()
    if request.single:
        return _Fetched([[rows]])
    if isinstance(rows, list):
        return _Fetched(rows)
    frames: list[Any] = []
    for chunk in rows:
        frames.append(chunk)
        enough -= len(chunk)
        if enough < 0:
            return _Fetched(frames, rows)
    return _Fetched(frames)


def _order(session: Session, request: Request, rows: int) -> Order:
    """Return what a statement says about its rows, of which there are so many in the cache."""
    if _is_ordered(request.sql, session.connection.vendor):
        return Order.FIXED
    query = request.compiler.query
    full = query.high_mark is not None and rows >= query.high_mark - query.low_mark
    return Order.ARBITRARY if full or query.low_mark or query.distinct_fields else Order.ANY


def _is_ordered(sql: str, vendor: str) -> bool:
    """Return whether a statement ends with an ORDER BY of its own, outside of all parentheses."""
    depth = 0
    for kind, value, _text in lex(sql, vendor) or ():
        depth += (kind == "(") - (kind == ")")
        if value == "ORDER" and kind == "w" and not depth:
            return True
    return False


def _dies_of_errors(session: Session) -> bool:
    """Return whether an error ends the transaction: on PostgreSQL, where a hit would not have done so."""
    return bool(session.connection.vendor == "postgresql")


def _has_savepoints(session: Session) -> bool:
    """Return whether Django makes savepoints in this transaction; not in one begun by a statement."""
    return not session.connection.autocommit


@contextmanager
def _unharmed(session: Session) -> Iterator[None]:
    """Let an error of the database leave the transaction as it was."""
    connection = session.connection
    if session.transaction() is None or not _dies_of_errors(session):
        yield
        return
    savepoint: Any = connection.savepoint()
    try:
        yield
    except BaseException:
        try:
            connection.savepoint_rollback(savepoint)
            connection.savepoint_commit(savepoint)
        except Error:
            # PostgreSQL would answer a COMMIT with ROLLBACK, in silence.
            connection.needs_rollback = True
        raise
    connection.savepoint_commit(savepoint)


def _tell(session: Session, request: Request, query: Query, said: str) -> None:
    """Tell everybody who may want to know; values of parameters only the receivers of the signal."""
    alias, tables = session.connection.alias, query.tables()
    tags = tuple(map(str, query.tags))
    logger.error(
        "An audit found that a result kept for the database %r is wrong: %s. Ends with a change of: %s. %s",
        alias,
        said,
        ", ".join(tags),
        request.sql,
    )
    emit(AuditEvent(alias, request.sql, tables, tags, said))
    audit_failed.send_robust(
        alias, sql=request.sql, params=request.params, tables=tables, tags=tags, difference=said
    )
