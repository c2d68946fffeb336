"""What happens when the cache is away: the one place where an error of the cache ends.

Reads and writes of the user never fail because of the cache, and a server that does not answer costs one
time-out, not one per query: after an error nothing is asked of the cache for a while (a circuit breaker;
Nygard, Release It!, 2007). Reads go to the database meanwhile. Invalidations that could not be delivered are
remembered here, and nothing is served again by this process before they have been delivered. What outlives
the process is the business of ``attempt`` and ``outbox``: they are asked before a commit of which the cache
does not know.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from cachalot.core import protocol
from cachalot.core.keys import PROBE, draw
from cachalot.core.protocol import WriteKeys
from cachalot.core.steps import (
    Add,
    Commit,
    Committed,
    Create,
    Done,
    GetMany,
    Lifetime,
    Mark,
    SetMany,
    StoreStep,
    is_entry,
)
from cachalot.observe.events import CacheEvent, emit
from cachalot.stores.base import Store, StoreAway, StoreRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

logger = logging.getLogger("cachalot")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0

Result = TypeVar("Result")


@dataclass
class _Late:
    """Invalidations of one database that could not be delivered."""

    tags: set[str] = field(default_factory=set)
    passing: set[str] = field(default_factory=set)
    holds: set[str] = field(default_factory=set)
    uncertain: bool = False


_guards: WeakSet[Guard] = WeakSet()


def _after_fork() -> None:
    """Give a forked process locks that no thread of its parent holds."""
    for guard in _guards:
        guard.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Guard:
    """A store that may be away.

    :param store: the store.
    :param now: a clock that only goes forward, in seconds.
    :ivar outages: how often the store has gone away.
    """

    def __init__(self, store: Store, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now = now
        self._lock = threading.RLock()
        self._pause = 0.0
        self._until = 0.0
        self._undelivered: dict[str, _Late] = {}
        self._unmarked = 0
        self._trying = False
        self.outages = 0
        self.tier = store.tier
        _guards.add(self)

    def renew_lock(self) -> None:
        """Forget who holds the lock, and the commits of threads that this process does not have."""
        self._lock = threading.RLock()
        self._unmarked = 0

    def closed(self) -> bool:
        """Return whether the cache is to be left alone for now."""
        return self._pause > 0 and self._now() < self._until

    def remember(self, keys: WriteKeys, *, uncertain: bool = False) -> None:
        """Keep an invalidation that could not be delivered: its tags must die before anything is served.

        :param uncertain: whether the commit may still be going to happen.
        """
        with self._lock:
            late = self._undelivered.setdefault(keys.clock, _Late())
            # Nobody has said who depends on finer tags meanwhile: all that reads them ends.
            late.tags.update(keys.tags, keys.signs)
            late.passing.update(keys.passing, keys.signs)
            late.holds.update(keys.holds)
            late.uncertain |= uncertain

    def commit(
        self,
        keys: WriteKeys,
        execute: Callable[[], Committed],
        unmarked: Callable[[], bool] | None = None,
    ) -> bool:
        """Carry out the whole of ``protocol.commit``; the cache cannot make it fail.

        :param keys: the keys of what is written.
        :param execute: commits on the database and says what is known about it; must not raise.
        :param unmarked: called before ``execute`` when the cache could not be told; says whether this process
            is to remember ``keys``.
        :returns: whether the facts from which ``keys`` follow are to be learned anew.
        :raises Exception: what ``unmarked`` raises; then nothing is committed.
        """
        steps = protocol.commit(keys, draw)
        try:
            self.deliver()
            step = next(steps)
            while not isinstance(step, Commit):
                step = steps.send(self.ask(step))
        except StoreAway:
            self._commit_unmarked(keys, execute, unmarked)
            return False
        try:
            return self._finish(steps, execute())
        except StoreAway:
            self.remember(keys)
            return False

    def _finish(self, steps: Generator[Any, Any, bool], outcome: Committed) -> bool:
        """Carry out the DONE of a commit."""
        try:
            step = steps.send(outcome)
            while True:
                step = steps.send(self.ask(step))
        except StopIteration as stop:
            return bool(stop.value)

    def _commit_unmarked(
        self, keys: WriteKeys, execute: Callable[[], Committed], unmarked: Callable[[], bool] | None
    ) -> None:
        """Commit although the cache could not be told before; this process serves nothing meanwhile."""
        with self._lock:
            self._unmarked += 1
        try:
            remembered = unmarked is None or unmarked()
            uncertain = execute() is Committed.UNKNOWN
            if remembered:
                self.remember(keys, uncertain=uncertain)
        finally:
            with self._lock:
                self._unmarked = max(0, self._unmarked - 1)  # a child that was forked meanwhile
        with suppress(StoreAway):
            self.deliver()

    def undelivered(self) -> int:
        """Return how many tags wait for the cache to come back."""
        with self._lock:
            return sum(len(late.tags) for late in self._undelivered.values())

    def run(self, steps: Generator[Any, Any, Result]) -> Result:
        """Carry out a generator of store steps.

        :param steps: a generator of ``core.protocol`` that has not been started.
        :returns: what it returns.
        :raises StoreAway: the cache does not answer, or is left alone after an error.
        """
        self.deliver()
        if self._unmarked:
            raise StoreAway("a commit is in flight that the cache does not know of")
        try:
            answer: Any = None
            while True:
                answer = self.ask(steps.send(answer))
        except StopIteration as stop:
            result: Result = stop.value
            return result

    def ask(self, step: StoreStep) -> Any:
        """Carry out one step.

        :raises StoreAway: the cache does not answer, or is left alone after an error.
        """
        if self._pause and not self._may_try():
            raise StoreAway("the cache did not answer a moment ago")
        try:
            answer = self._carry_out(step)
        except StoreRefused as error:
            emit(CacheEvent("refused", str(error)))
            return False
        except StoreAway as error:
            if isinstance(step, SetMany) and is_entry(step.lifetime) and self._answers():
                # A value the server refuses (too large, out of memory) looks the same as no server in some
                # clients.
                emit(CacheEvent("refused", str(error)))
                return False
            self._open(error)
            raise
        if self._pause:
            self._close()
        return answer

    def deliver(self) -> None:
        """Deliver what was remembered.

        :raises StoreAway: the cache does not answer, or is left alone after an error.
        """
        if not self._undelivered:
            return
        with self._lock:
            for clock_key, late in list(self._undelivered.items()):
                # A question first: a server that is still away costs one call, also where errors are
                # swallowed.
                self.ask(GetMany((clock_key,)))
                passing = frozenset(late.passing)
                keys = WriteKeys(tuple(late.tags), clock_key, tuple(late.holds), passing=passing)
                # What may still be committed is marked, as it would have been; the lease does the rest.
                self.tell((protocol.mark if late.uncertain else protocol.bump)(keys, draw))
                del self._undelivered[clock_key]

    def tell(self, steps: Generator[Any, Any, Any]) -> None:
        """Carry out steps whose answers do not matter, also while a commit is in flight.

        :raises StoreAway: the cache does not answer, or is left alone after an error.
        """
        with suppress(StopIteration):
            step = next(steps)
            while True:
                step = steps.send(self.ask(step))

    def _carry_out(self, step: StoreStep) -> Any:
        store = self._store
        if isinstance(step, GetMany):
            return store.get_many(step.keys)
        if isinstance(step, Add):
            return store.add(step.key, step.value, step.lifetime)
        if isinstance(step, Create):
            return store.create(step)
        if isinstance(step, Mark):
            return store.mark(step)
        if isinstance(step, Done):
            return store.done(step)
        store.set_many(step.values, step.lifetime)
        return True

    def _answers(self) -> bool:
        """Return whether the cache still takes something small."""
        try:
            self._store.set_many(((PROBE, draw()),), Lifetime.LEASE)
        except StoreAway:
            return False
        return True

    def _may_try(self) -> bool:
        """Let one thread ask when the pause is over, and keep the others away until it has its answer."""
        with self._lock:
            if self._now() < self._until:
                return False
            self._trying = True
            self._until = self._now() + self._pause
            return True

    def _open(self, error: StoreAway) -> None:
        with self._lock:
            first = not self._pause
            self.outages += first
            if first or self._trying:
                self._trying = False
                self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
                self._until = self._now() + self._pause * random.uniform(0.8, 1.2)  # noqa: S311 - spreads retries
        if first:
            logger.warning("The cache does not answer; queries go to the database until it does. %s", error)
            emit(CacheEvent("away", str(error)))

    def _close(self) -> None:
        with self._lock:
            self._pause = self._until = 0.0
            self._trying = False
        logger.warning("The cache answers again.")
        emit(CacheEvent("back", ""))
