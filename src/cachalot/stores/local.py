"""The store in the memory of this process: marks are sets of intents, changed under a lock."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from cachalot.core.intents import left_by, marked_by
from cachalot.core.steps import Lifetime
from cachalot.stores.base import Tier
from cachalot.stores.django_cache import DjangoCacheStore, lease_milliseconds

if TYPE_CHECKING:
    from cachalot.core.steps import Create, Done, Mark

_lock = threading.RLock()
"""For all of them: two aliases may share their memory. It is held for some microseconds."""


def _renew_lock() -> None:
    """Give a forked process a lock that no thread of its parent holds."""
    global _lock  # noqa: PLW0603 - the one lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _now() -> int:
    return time.monotonic_ns() // 1_000_000


class LocalStore(DjangoCacheStore):
    """Django's cache in local memory."""

    tier = Tier.INTENTS

    def mark(self, step: Mark) -> dict[str, Any]:
        """Add an intent; see :class:`~cachalot.stores.base.Store`."""
        now = _now()
        end = now + lease_milliseconds()
        with _lock:
            got = self.get_many(step.keys)
            marks = [(key, marked_by(got.get(key), step.writer, now, end)) for key in step.keys]
            self.set_many(marks, Lifetime.LEASE)
            return self.get_many(step.watched) if step.watched else {}

    def done(self, step: Done) -> dict[str, Any]:
        """Take an intent away; see :class:`~cachalot.stores.base.Store`."""
        now = _now()
        with _lock:
            got = self.get_many([key for key, _token in step.tokens])
            self.set_many([step.clock], Lifetime.STATE)
            for key, token in step.tokens:
                mark, mine = left_by(got.get(key), step.writer, now)
                if mark is not None:
                    self.set_many([(key, mark)], Lifetime.LEASE)
                elif step.committed or mine:
                    self._end(key, token, Lifetime.DEPLOYMENT if key in step.brief else Lifetime.STATE)
            return self.get_many(step.watched) if step.watched else {}

    def _end(self, key: str, token: str, lifetime: Lifetime) -> None:
        if token:
            self.set_many([(key, token)], lifetime)
        else:
            self._call("delete", key)

    def create(self, step: Create) -> dict[str, Any]:
        """Give tokens to tags that have none; see :class:`~cachalot.stores.base.Store`."""
        with _lock:
            created = super().create(step)
            return {**self.get_many([key for key, _token in step.tokens]), **created}
