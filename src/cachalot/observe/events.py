"""What the engine did, as plain values, and who is told.

A listener is called in the thread that did the work. A listener that raises is logged and removed: watching
never breaks what is watched. :func:`record` collects the events of one context (a request, a test), which
follows the context through ``sync_to_async`` as ContextVars do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachalot.core.decisions import Decision

logger = logging.getLogger("cachalot")


@dataclass(frozen=True)
class ReadEvent:
    """One read of the ORM.

    :param decision: what became of it.
    :param alias: database alias.
    :param sql: text of the statement, placeholders in place; empty when it was never compiled.
    :param tables: names of the tables it depends on, as far as known.
    :param seconds: wall time of the whole read.
    :param saved: wall seconds that the database took when the entry was made, for a hit; else 0.
    :param audited: whether a result was found and the database was asked for it all the same, to compare.
    """

    decision: Decision
    alias: str
    sql: str
    tables: frozenset[str]
    seconds: float
    saved: float = 0.0
    audited: bool = False


@dataclass(frozen=True)
class WriteEvent:
    """One invalidation that was delivered or remembered.

    :param alias: database alias.
    :param tables: names of the tables that were invalidated.
    :param everything: whether all tables of the database were.
    :param source: ``"orm"``, ``"raw"``, ``"transaction"`` or ``"api"``.
    """

    alias: str
    tables: frozenset[str]
    everything: bool
    source: str


@dataclass(frozen=True)
class CacheEvent:
    """The cache server went away, came back, or refused a value; or a row went to or left the outbox.

    :param kind: ``"away"``, ``"back"``, ``"refused"``, ``"undecodable"``, ``"outbox"`` or ``"drained"``.
    :param detail: a sentence for the log.
    :param number: how many rows.
    """

    kind: str
    detail: str
    number: int = 1


@dataclass(frozen=True)
class AuditEvent:
    """An audited hit differed from the database although no write was announced.

    :param alias: database alias.
    :param sql: text of the statement, placeholders in place.
    :param tables: names of the tables it depends on.
    :param tags: what would have ended the result, as text.
    :param difference: a sentence for the log, without values.
    """

    alias: str
    sql: str
    tables: frozenset[str]
    tags: tuple[str, ...]
    difference: str


Event = ReadEvent | WriteEvent | CacheEvent | AuditEvent
Listener = Callable[[Event], None]

_listeners: tuple[Listener, ...] = ()
_recording: ContextVar[tuple[list[Event], ...]] = ContextVar("cachalot_recording", default=())


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call ``listener`` with each event from now on.

    :param listener: called with the event.
    :returns: a function that ends the subscription; calling it twice does no harm.
    """
    global _listeners  # noqa: PLW0603 - the one registry of listeners, replaced as a whole so readers need no lock
    if listener not in _listeners:
        _listeners = (*_listeners, listener)
    return lambda: _unsubscribe(listener)


def _unsubscribe(listener: Listener) -> None:
    global _listeners  # noqa: PLW0603 - see subscribe
    _listeners = tuple(one for one in _listeners if one is not listener)


@contextmanager
def record() -> Iterator[list[Event]]:
    """Collect the events of this context in a list.

    :returns: a context manager whose value is the list, filled as events happen.
    """
    events: list[Event] = []
    token = _recording.set((*_recording.get(), events))
    try:
        yield events
    finally:
        _recording.reset(token)


def wanted() -> bool:
    """Return whether anybody would see an event."""
    return bool(_listeners) or bool(_recording.get())


def emit(event: Event) -> None:
    """Tell everybody who listens about ``event``."""
    for events in _recording.get():
        events.append(event)
    for listener in _listeners:
        try:
            listener(event)
        except Exception:  # a broken listener must not break the query it watches
            logger.exception("A listener of cachalot raised and was removed: %r", listener)
            _unsubscribe(listener)
