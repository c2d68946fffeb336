"""Helpers for the tests of projects that use cachalot.

``watch()`` records what became of each read; ``CacheAssertions`` has assertions over it for ``TestCase``
classes; ``reset()`` brings this process back to where it was after start-up.

.. versionadded:: 3.0
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cachalot.core.decisions import Decision, Outcome
from cachalot.engine import caches, facts
from cachalot.observe import counters
from cachalot.observe.events import Event, ReadEvent, record
from cachalot.orm.auditing import AuditError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["AuditError", "CacheAssertions", "Watch", "reset", "watch"]


class Watch:
    """What was seen in a :func:`watch` block."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    @property
    def reads(self) -> list[ReadEvent]:
        """The reads, in order."""
        return [event for event in self._events if isinstance(event, ReadEvent)]

    @property
    def decisions(self) -> list[Decision]:
        """What became of each read, in order."""
        return [event.decision for event in self.reads]

    def count(self, outcome: Outcome) -> int:
        """Return how many reads had an outcome."""
        return sum(decision.outcome is outcome for decision in self.decisions)

    @property
    def hits(self) -> int:
        """How many reads came from the cache."""
        return self.count(Outcome.HIT)

    @property
    def misses(self) -> int:
        """How many reads were run and may come from the cache next time."""
        return self.count(Outcome.MISS)

    @property
    def bypasses(self) -> int:
        """How many reads were not left to the cache."""
        return self.count(Outcome.BYPASS)


@contextmanager
def watch() -> Iterator[Watch]:
    """Record what becomes of the reads of this context.

    :returns: a context manager whose value is a :class:`Watch`.
    """
    with record() as events:
        yield Watch(events)


class CacheAssertions:
    """Assertions to mix into a ``TestCase``."""

    def assertCached(self, read: Callable[[], Any], message: str = "") -> None:  # noqa: N802 - unittest's style
        """Assert that running ``read`` again sends nothing to the database.

        :param read: a function that reads; it is called twice.
        :raises AssertionError: one of the reads of the second call was not a hit.
        """
        read()
        with watch() as seen:
            read()
        wrong = [str(one) for one in seen.decisions if one.outcome is not Outcome.HIT]
        if wrong or not seen.decisions:
            raise AssertionError(message or f"not cached: {wrong or 'nothing was read'}")

    def assertNotCached(self, read: Callable[[], Any], message: str = "") -> None:  # noqa: N802 - unittest's style
        """Assert that running ``read`` again sends all of it to the database again.

        :param read: a function that reads; it is called twice.
        :raises AssertionError: one of the reads of the second call was a hit.
        """
        read()
        with watch() as seen:
            read()
        if seen.hits:
            raise AssertionError(message or f"{seen.hits} reads were answered from the cache")


def reset() -> None:
    """Forget what this process knows about its caches and has counted, as a new process would.

    The content of the caches stays; clear them with ``django.core.cache.caches[alias].clear()``.
    """
    caches.forget()
    facts.forget_all()
    counters.reset()
