"""The switch that ends caching in every process at once: one value in the cache itself.

Each process looks at it at most every half second, by its own monotonic clock, and goes on with what it saw
last while the cache does not answer. Only reads look at it. Writes go on to invalidate, so nothing that is
stored when the cache is switched on again can be stale.

The value lives as long as a token does, 30 days, because memcached knows no longer life. Where it is evicted
the cache is on again, which is slow to be noticed but never wrong.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cachalot.core.keys import FORMAT, PROBE, draw
from cachalot.core.steps import GetMany, Lifetime, SetMany
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.engine.guard import Guard

KEY: Final = f"{FORMAT}:switch"
"""One for all databases and projects that share the cache."""

_OFF: Final = "off"
_ON: Final = "on"

PAUSE: Final = 0.5
"""Seconds between two looks of one process."""


class Switch:
    """The switch of one cache, as this process sees it.

    :param guard: the way to the cache.
    :param now: a clock that only goes forward, in seconds.
    """

    def __init__(self, guard: Guard, now: Callable[[], float] = time.monotonic) -> None:
        self._guard = guard
        self._now = now
        self._off = False
        self._look_at = 0.0

    def is_off(self) -> bool:
        """Return whether the cache was switched off, as far as is known. Never raises for the cache."""
        now = self._now()
        if now >= self._look_at:
            # First, so that the threads that come meanwhile do not ask as well.
            self._look_at = now + PAUSE
            with suppress(StoreAway):  # What was seen last holds.
                self._off = self._read()
        return self._off

    def look(self) -> bool:
        """Return whether the cache is switched off at this moment, once it has shown that it answers.

        :raises StoreAway: it does not answer.
        """
        # Some clients return nothing where there is no server; none of them takes a value there.
        self._write(PROBE, draw(), Lifetime.LEASE)
        self._off = self._read()
        return self._off

    def turn(self, *, off: bool) -> None:
        """Switch the cache off or on: in this process now, in others at their next look.

        :raises StoreAway: the cache does not answer.
        """
        self._write(KEY, _OFF if off else _ON, Lifetime.STATE)
        self._off = off

    def _read(self) -> bool:
        # Whatever else stands there has not switched it off.
        return bool(self._guard.ask(GetMany((KEY,))).get(KEY) == _OFF)

    def _write(self, key: str, value: str, lifetime: Lifetime) -> None:
        if not self._guard.ask(SetMany(((key, value),), lifetime)):
            raise StoreAway("the cache did not take the value")
