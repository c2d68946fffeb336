"""Simultaneous misses of one query: who runs it, who waits, and for how long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cachalot.core.decisions import Decision, Reason
from cachalot.core.steps import Add, Lifetime
from cachalot.engine import stampede
from cachalot.engine.lookups import Lookup
from cachalot.stores.base import StoreAway

KEY = ("default", "entry")
STAMP = b"tokens"
MISS = Lookup(Decision.miss(Reason.CHANGED), saved=20.0, ticket=SimpleNamespace(stamp=STAMP))
HIT = Lookup(Decision.hit(), frames=[[1]])


@pytest.fixture
def waiting(monkeypatch):
    """Counts the threads that have come to wait."""
    came = threading.Semaphore(0)
    original = stampede.Turn.wait

    def wait(self):
        came.release()
        return original(self)

    monkeypatch.setattr(stampede.Turn, "wait", wait)
    return came


def test_one_of_many_threads_has_the_turn(waiting):
    """While one thread has the turn the others wait, and see afterwards whether it has kept anything."""
    others = 5

    def follow():
        with stampede.turn(KEY) as (turn, mine):
            return mine, turn.kept

    with ThreadPoolExecutor(others) as threads:
        with stampede.turn(KEY) as (turn, mine):
            followers = [threads.submit(follow) for _ in range(others)]
            for _ in followers:
                assert waiting.acquire(timeout=20)
            turn.kept = True
        assert mine
        assert [one.result(20) for one in followers] == [(False, True)] * others


def test_turn_ends_with_an_error(waiting):
    """An error of the query is that of its own thread; the others go on."""

    def follow():
        with stampede.turn(KEY) as (turn, mine):
            return mine, turn.kept

    def lead(follower):
        with stampede.turn(KEY):
            follower.append(threads.submit(follow))
            assert waiting.acquire(timeout=20)
            raise ZeroDivisionError

    follower = []
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(ZeroDivisionError):
            lead(follower)
        assert follower[0].result(20) == (False, False)
    with stampede.turn(KEY) as (_turn, mine):
        assert mine


def test_turn_that_is_lost(monkeypatch):
    """Who has waited in vain gives the turn up, so that nobody waits for it again."""
    monkeypatch.setattr(stampede, "LONGEST_WAIT", 0.0)
    lost = stampede.turn(KEY)
    lost.__enter__()[0].thread = 0
    with stampede.turn(KEY) as (_turn, mine):
        assert not mine
    with stampede.turn(KEY) as (_turn, mine):
        assert mine
    lost.__exit__(None, None, None)


def test_query_inside_itself():
    """Nobody waits for himself."""
    with stampede.turn(KEY) as (_outer, first), stampede.turn(KEY) as (_inner, second):
        assert (first, second) == (True, False)


def test_other_queries_do_not_wait():
    """A turn is that of one query in one cache."""
    with stampede.turn(KEY), stampede.turn(("default", "other")) as (_turn, mine):
        assert mine
    with stampede.turn(KEY), stampede.turn(("other", "entry")) as (_turn, mine):
        assert mine


class FakeGuard:
    """Remembers what it was asked, and answers what it was told to."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def ask(self, step):
        """Carry out a step."""
        self.asked.append(step)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def unexpected():
    """A look that must not happen."""
    raise AssertionError


def test_lease_is_not_asked_for_by_default():
    """Without CACHALOT_FILL_LEASE a miss costs nothing more."""
    guard = FakeGuard(answer=False)
    assert stampede.after_other_processes(guard, "entry", MISS, unexpected, 0.0) is MISS
    assert guard.asked == []


@pytest.mark.parametrize("answer", [True, StoreAway("gone")])
def test_who_gets_the_lease_runs_the_query(answer):
    """So does who cannot ask."""
    guard = FakeGuard(answer)
    assert stampede.after_other_processes(guard, "entry", MISS, unexpected, 5.0) is MISS
    assert guard.asked == [Add(f"entry:f:{STAMP.hex()}", "1", Lifetime.FILL)]


def test_lease_on_a_result_that_a_write_has_ended():
    """Who misses because of a write asks for another lease than those who stored what was there before it."""
    guard = FakeGuard(answer=True)
    later = replace(MISS, ticket=SimpleNamespace(stamp=b"later"))
    for miss in (MISS, later):
        stampede.after_other_processes(guard, "entry", miss, unexpected, 5.0)
    assert len({step.key for step in guard.asked}) == 2


def test_who_does_not_get_the_lease_takes_the_result_of_the_other():
    """It looks until the result is there."""
    found = iter([MISS, MISS, HIT])
    looked = stampede.after_other_processes(FakeGuard(answer=False), "entry", MISS, lambda: next(found), 20.0)
    assert looked is HIT


def test_query_whose_cost_is_not_known():
    """Nobody waits longer than the query would take: if that is not known, not at all."""
    first = Lookup(Decision.miss(Reason.NEW), ticket=SimpleNamespace(stamp=STAMP))
    assert stampede.after_other_processes(FakeGuard(answer=False), "entry", first, unexpected, 20.0) is first


def test_result_that_never_comes():
    """After the time that the query took the last time it is run."""
    cost = 0.05
    miss = Lookup(Decision.miss(Reason.CHANGED), saved=cost, ticket=SimpleNamespace(stamp=STAMP))
    started = time.monotonic()
    assert stampede.after_other_processes(FakeGuard(answer=False), "entry", miss, lambda: miss, 60.0) is miss
    assert cost <= time.monotonic() - started < 30


def test_table_that_becomes_dark_while_waiting():
    """What may not be stored is not waited for."""
    dark = Lookup(Decision.bypass(Reason.DARK))
    assert stampede.after_other_processes(FakeGuard(answer=False), "entry", MISS, lambda: dark, 60.0) is dark
