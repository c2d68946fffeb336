"""Lets a hit count as the query it stands for, where Django's tests count or read queries.

``assertNumQueries`` and ``CaptureQueriesContext`` read ``connection.queries_log``. A hit that has run nothing
is entered there with the text that it would have had. So a number of queries is accepted exactly if queries
run and hits together are that number: a query too many fails, and so does one that is missing without a hit.
A hit that an audit has run as well is in the log already: it is not entered twice, and the savepoint around
it does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachalot.core.decisions import Outcome
from cachalot.observe.events import ReadEvent, record
from cachalot.orm import reading

if TYPE_CHECKING:
    from collections import deque

    from cachalot.engine.session import Session

Answer = Callable[["Session", reading.Request], Any]

#: Whether a read is asked for the second time.
again: ContextVar[bool] = ContextVar("again", default=False)

#: What an audit sends to PostgreSQL around the statement that it runs inside a transaction.
SAVEPOINTS = ("SAVEPOINT ", "RELEASE SAVEPOINT ", "ROLLBACK TO SAVEPOINT ")


def install() -> Callable[[], None]:
    """Ask twice and enter hits in the log of queries from now on.

    :returns: a function that ends it.
    """
    original = reading.answer
    reading.answer = asking_twice(entering_hits(original))

    def uninstall() -> None:
        reading.answer = original

    return uninstall


def asking_twice(answer: Answer) -> Answer:
    """Return ``answer``, which answers one read, with what it has stored in the place of what was run.

    Django's tests seldom read the same twice, and most are over before anything was a hit.
    """

    def twice(session: Session, request: reading.Request) -> Any:
        rows = answer(session, request)
        if request.chunked:
            return rows
        token = again.set(True)
        try:
            return answer(session, replace(request, run=lambda: rows))
        finally:
            again.reset(token)

    return twice


def entering_hits(answer: Answer) -> Answer:
    """Return ``answer``, which answers one read, with its hits entered in the log."""

    def entering(session: Session, request: reading.Request) -> Any:
        connection = session.connection
        if not connection.queries_logged:
            return answer(session, request)
        log = connection.queries_log
        last = log[-1] if log else None
        with record() as events:
            result = answer(session, request)
        reads = [event for event in events if isinstance(event, ReadEvent)]
        if any(event.audited for event in reads):
            log.extend(one for one in taken_after(log, last) if not (one["sql"] or "").startswith(SAVEPOINTS))
        elif any(event.decision.outcome is Outcome.HIT for event in reads) and not again.get():
            log.append({"sql": text_of(request, connection), "time": "0.000"})
        return result

    return entering


def taken_after(log: deque[dict[str, str]], last: dict[str, str] | None) -> list[dict[str, str]]:
    """Take from the end of a log what was entered after ``last``."""
    # By identity: the log drops its oldest entries when it is full, so its length says nothing.
    taken = []
    while log and log[-1] is not last:
        taken.append(log.pop())
    return taken[::-1]


def text_of(request: reading.Request, connection: Any) -> str:
    """The text that the log would have for a read, with its parameters in it."""
    if connection.vendor == "postgresql":
        text: str = connection.ops.compose_sql(request.sql, request.params)
    else:
        # No cursor is needed, and none was opened.
        text = connection.ops.last_executed_query(None, request.sql, request.params)
    return text
