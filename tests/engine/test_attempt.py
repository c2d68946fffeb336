"""A commit of which the cache could not be told: what the guard asks, and what it remembers."""

from __future__ import annotations

from contextlib import suppress

import pytest

from cachalot.core.protocol import WriteKeys
from cachalot.core.steps import Committed, GetMany
from cachalot.engine.guard import Guard
from cachalot.stores.base import StoreAway, Tier

WRITE = WriteKeys(("tag",), "clock")


class Away:
    """A store that does not answer."""

    tier = Tier.INTENTS

    def __getattr__(self, name):
        def call(*_args):
            raise StoreAway(name)

        return call


@pytest.fixture
def guard():
    """A guard whose store is away."""
    return Guard(Away())


def test_order_of_an_unmarked_commit(guard):
    """The fallback is prepared before the commit, not after it."""
    done = []
    guard.commit(
        WRITE, lambda: done.append("commit") or Committed.YES, lambda: done.append("prepare") or True
    )
    assert done == ["prepare", "commit"]
    assert guard.undelivered() == 1


def test_fallback_that_refuses(guard):
    """What the fallback raises reaches the caller; nothing is committed, remembered or locked."""
    done = []

    def refuse():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guard.commit(WRITE, lambda: done.append("commit") or Committed.YES, refuse)
    assert done == []
    assert guard.undelivered() == 0
    assert guard._unmarked == 0


def test_fallback_that_lets_it_be_forgotten(guard):
    """Nothing is remembered when the fallback says so."""
    guard.commit(WRITE, lambda: Committed.YES, lambda: False)
    assert guard.undelivered() == 0


def test_outages_are_counted_once(guard):
    """An outage counts when it begins, however often it is met."""
    now = 0.0
    guard._now = lambda: now
    for _ in range(5):
        with suppress(StoreAway):
            guard.ask(GetMany(("tag",)))
        now += 100
    assert guard.outages == 1
