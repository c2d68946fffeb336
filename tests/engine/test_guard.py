"""A cache that is away: what the user notices, what is served meanwhile, what is made up for."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from cachalot.core import protocol
from cachalot.core.envelope import Entry
from cachalot.core.keys import draw
from cachalot.core.protocol import MARK, Found, Keys, WriteKeys
from cachalot.core.steps import Add, Committed, GetMany, Lifetime, SetMany
from cachalot.engine.guard import FIRST_PAUSE, LONGEST_PAUSE, Guard
from cachalot.observe.events import CacheEvent, record
from cachalot.stores.base import StoreAway, StoreRefused, Tier

READ = Keys("entry", ("tag",), "clock")
WRITE = WriteKeys(("tag",), "clock")
#: The pause before a retry is spread by up to a fifth.
SPREAD = 1.2


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


class Store:
    """A dictionary that fails when it is told to, and remembers every call."""

    tier = Tier.OVERWRITE

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.away = False
        self.failing: Any = lambda _name, _keys: None
        self.calls: list[tuple[str, tuple[str, ...]]] = []

    def _called(self, name: str, keys: tuple[str, ...]) -> None:
        self.calls.append((name, keys))
        self.failing(name, keys)
        if self.away:
            raise StoreAway("no route")

    def get_many(self, keys):
        """Read."""
        self._called("get", tuple(keys))
        return {key: self.values[key] for key in keys if key in self.values}

    def set_many(self, values, lifetime):
        """Write."""
        self._called(f"set {lifetime.value}", tuple(key for key, _value in values))
        self.values.update(values)

    def mark(self, step):
        """Put a mark in the place of tokens."""
        self._called("mark", step.keys)
        self.values.update(dict.fromkeys(step.keys, MARK + step.writer))

    def done(self, step):
        """Write new tokens."""
        self._called("done", (step.clock[0], *(key for key, _token in step.tokens)))
        self.values.update([step.clock, *step.tokens])

    def create(self, step):
        """Write absent tokens."""
        self._called("create", tuple(key for key, _token in step.tokens))
        self.values.update([step.clock])
        return {key: self.values.setdefault(key, token) for key, token in step.tokens}

    def add(self, key, value, lifetime):
        """Write what is absent."""
        self._called("add", (key,))
        if key in self.values:
            return False
        self.values[key] = value
        return True


@pytest.fixture
def store():
    """A store that works, until it does not."""
    return Store()


@pytest.fixture
def clock():
    """The time, as the guard sees it."""
    return Clock()


@pytest.fixture
def guard(store, clock):
    """The subject."""
    return Guard(store, clock)


def open_entry(value):
    """Entries lie in this store as they are."""
    return value if isinstance(value, Entry) else None


def look(guard):
    """Read through the protocol."""
    return guard.run(protocol.read(READ, open_entry, draw))


def keep(guard, rows: bytes = b"rows"):
    """Read, and store rows."""
    answer = look(guard)
    assert answer.stamp is not None
    assert guard.run(protocol.fill("entry", Entry(answer.stamp, 0, rows)))
    assert look(guard).found is Found.HIT


def committing(guard, outcome=Committed.YES, keys=WRITE):
    """Commit something."""
    done = []

    def execute():
        done.append(1)
        return outcome

    guard.commit(keys, execute)
    assert done == [1]


class TestBreaker:
    """A server that does not answer is left alone for a while."""

    def test_one_error_and_many_queries(self, guard, store):
        """After an error nothing is asked of the server until the pause is over."""
        store.away = True
        for _ in range(10):
            with pytest.raises(StoreAway):
                look(guard)
        assert len(store.calls) == 1
        assert guard.closed()

    def test_server_that_is_back_when_the_pause_is_over(self, guard, store, clock, caplog):
        """The first answer after a pause ends it, is told once, and everything works as before."""
        store.away = True
        with record() as events, caplog.at_level(logging.WARNING, "cachalot"):
            with pytest.raises(StoreAway):
                look(guard)
            store.away = False
            clock.seconds += FIRST_PAUSE * SPREAD
            keep(guard)
        assert not guard.closed()
        assert [event.kind for event in events if isinstance(event, CacheEvent)] == ["away", "back"]
        assert len(caplog.records) == 2

    def test_server_that_stays_away(self, guard, store, clock):
        """Each failure makes the pause longer, up to a bound, and one call is lost per pause."""
        store.away = True
        pauses = []
        for _ in range(12):
            with pytest.raises(StoreAway):
                look(guard)
            started = clock.seconds
            while guard.closed():
                clock.seconds += 0.05
            pauses.append(clock.seconds - started)
        assert len(store.calls) == len(pauses)
        assert pauses[0] <= FIRST_PAUSE * SPREAD + 0.05
        assert pauses[3] > pauses[0]
        assert max(pauses) <= LONGEST_PAUSE * SPREAD + 0.05
        assert min(pauses[-3:]) >= LONGEST_PAUSE * 0.8

    def test_pause_is_short_again_after_a_good_time(self, guard, store, clock):
        """What was learned in one outage does not make the next one longer."""
        store.away = True
        for _ in range(5):
            with pytest.raises(StoreAway):
                look(guard)
            clock.seconds += LONGEST_PAUSE * SPREAD
        store.away = False
        look(guard)
        store.away = True
        with pytest.raises(StoreAway):
            look(guard)
        clock.seconds += FIRST_PAUSE * SPREAD
        assert not guard.closed()

    @pytest.mark.parametrize("refusal", [StoreRefused("too large"), StoreAway("SERVER_ERROR too large")])
    def test_value_that_the_server_refuses(self, guard, store, refusal):
        """A refused entry is counted, and the cache stays in use."""

        def failing(name, keys):
            if "entry" in keys and name.startswith("set"):
                raise refusal

        store.failing = failing
        with record() as events:
            assert guard.run(protocol.fill("entry", Entry(b"s" * 16, 0, b""))) is False
        assert [event.kind for event in events] == ["refused"]
        assert not guard.closed()
        assert guard.ask(Add("x", "1", Lifetime.STATE)) is True

    def test_entry_to_a_server_that_has_gone(self, guard, store):
        """An entry that failed because the server is away opens the breaker."""
        store.away = True
        with pytest.raises(StoreAway):
            guard.ask(SetMany((("entry", b"x"),), Lifetime.ENTRY))
        assert guard.closed()

    def test_token_is_never_taken_for_refused(self, guard, store):
        """Only an entry may be refused; a token that did not arrive is an outage."""
        store.failing = lambda name, _keys: (
            (_ for _ in ()).throw(StoreAway("x")) if name == "set state" else None
        )
        with pytest.raises(StoreAway):
            guard.ask(SetMany((("tag", "t"),), Lifetime.STATE))
        assert guard.closed()


class TestWrites:
    """Commits go on; what the cache was not told is made up for."""

    def test_mark_fails_and_the_server_comes_back_during_the_commit(self, guard, store, clock):
        """While a commit is in flight that the cache does not know of, nothing is served or stored."""
        keep(guard)
        seen = []

        def execute():
            store.away = False
            clock.seconds += FIRST_PAUSE * SPREAD
            for call in (
                lambda: look(guard),
                lambda: guard.run(protocol.fill("entry", Entry(b"s" * 16, 0, b""))),
            ):
                try:
                    seen.append(call())
                except StoreAway:
                    seen.append(None)
            return Committed.YES

        store.away = True
        guard.commit(WRITE, execute)
        assert seen == [None, None]
        assert look(guard).found is Found.CHANGED

    def test_mark_fails_and_the_server_stays_away(self, guard, store, clock):
        """What could not be said is said before the next thing is served, however late that is."""
        keep(guard)
        store.away = True
        committing(guard)
        assert guard.undelivered() == 1
        with pytest.raises(StoreAway):
            look(guard)
        store.away = False
        clock.seconds += LONGEST_PAUSE * SPREAD
        assert look(guard).found is Found.CHANGED
        assert guard.undelivered() == 0

    def test_order_of_making_up(self, guard, store, clock):
        """What is made up for is one DONE: the clock first, and before anything is read."""
        keep(guard)
        store.away = True
        committing(guard)
        store.away = False
        clock.seconds += LONGEST_PAUSE * SPREAD
        store.calls.clear()
        look(guard)
        done, read = (
            store.calls.index(("done", ("clock", "tag"))),
            store.calls.index(("get", ("entry", "tag"))),
        )
        assert done < read

    def test_done_fails(self, guard, store, clock):
        """After the commit nothing is served under the old tokens, although DONE was lost."""
        keep(guard)

        def failing(name, _keys):
            if name == "done":
                raise StoreAway("x")

        store.failing = failing
        committing(guard)
        store.failing = lambda _name, _keys: None
        with pytest.raises(StoreAway):
            look(guard)
        clock.seconds += LONGEST_PAUSE * SPREAD
        assert look(guard).found is Found.CHANGED

    def test_done_fails_and_another_process_reads(self, guard, store):
        """The mark is still there: another process serves nothing either."""
        keep(guard)
        store.failing = lambda name, _keys: (_ for _ in ()).throw(StoreAway("x")) if name == "done" else None
        committing(guard)
        store.failing = lambda _name, _keys: None
        assert look(Guard(store)).found is Found.DARK

    def test_commit_of_which_nothing_is_known(self, guard, store):
        """The marks stay when the outcome of a commit is unknown."""
        keep(guard)
        committing(guard, Committed.UNKNOWN)
        assert look(guard).found is Found.DARK

    def test_commit_of_which_nothing_is_known_during_an_outage(self, guard, store, clock):
        """Without a mark that stays, the rows before the commit must not be served when the cache is back."""
        keep(guard)
        store.away = True
        committing(guard, Committed.UNKNOWN)
        store.away = False
        clock.seconds += LONGEST_PAUSE * SPREAD
        assert look(guard).found is not Found.HIT

    def test_commit_that_comes_late_after_an_outage(self, guard, store, clock):
        """A commit of unknown outcome may still happen: until a lease is over nothing may be stored."""
        keep(guard)
        store.away = True
        committing(guard, Committed.UNKNOWN)
        store.away = False
        clock.seconds += LONGEST_PAUSE * SPREAD
        assert look(guard).stamp is None

    def test_several_commits_during_an_outage(self, guard, store, clock):
        """All tags of all databases are remembered, each once."""
        store.away = True
        committing(guard)
        committing(guard, keys=WriteKeys(("tag", "other"), "clock"))
        committing(guard, keys=WriteKeys(("tag",), "another clock"))
        assert guard.undelivered() == 3
        store.away = False
        clock.seconds += LONGEST_PAUSE * SPREAD
        look(guard)
        written = {key for name, keys in store.calls if name == "done" for key in keys}
        assert {"tag", "other", "clock", "another clock"} <= written

    def test_replicas_are_held_when_an_invalidation_is_made_up_for(self, guard, store, clock):
        """An invalidation that comes late says as well that replicas may lag."""
        keys = WriteKeys(("tag",), "clock", ("hold",))
        store.away = True
        committing(guard, keys=keys)
        store.away = False
        clock.seconds += LONGEST_PAUSE * SPREAD
        look(guard)
        assert "hold" in store.values

    def test_making_up_is_interrupted(self, guard, store, clock):
        """What could not be delivered at the second try either is still remembered."""
        store.away = True
        committing(guard)
        clock.seconds += LONGEST_PAUSE * SPREAD
        with pytest.raises(StoreAway):
            look(guard)
        assert guard.undelivered() == 1

    def test_write_after_an_outage_delivers_what_came_before(self, guard, store, clock):
        """A commit does not overtake what is remembered."""
        store.away = True
        committing(guard)
        store.away = False
        clock.seconds += LONGEST_PAUSE * SPREAD
        committing(guard, keys=WriteKeys(("other",), "clock"))
        assert guard.undelivered() == 0
        assert "tag" in store.values

    def test_error_of_the_cache_never_reaches_a_commit(self, guard, store):
        """Whatever step fails, the commit is carried out exactly once, and nothing is raised."""
        for failing_call in range(4):
            left = [failing_call]

            def failing(_name, _keys, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise StoreAway("x")

            store.failing = failing
            committing(Guard(store))

    def test_threads_that_make_up_at_once(self, store, clock):
        """While one thread delivers what was remembered, no other is served."""
        guard = Guard(store, clock)
        keep(guard)
        store.away = True
        committing(guard)
        store.away = False
        clock.seconds += LONGEST_PAUSE * SPREAD
        delivering, go_on = threading.Event(), threading.Event()

        def failing(name, _keys):
            if name == "done" and not delivering.is_set():
                delivering.set()
                assert go_on.wait(10)

        store.failing = failing
        found: list[Found] = []
        threads = [threading.Thread(target=lambda: found.append(look(guard).found)) for _ in range(2)]
        threads[0].start()
        assert delivering.wait(10)
        threads[1].start()
        threads[1].join(0.1)
        assert found == []
        go_on.set()
        for thread in threads:
            thread.join(10)
        assert found == [Found.CHANGED, Found.CHANGED]

    def test_questions_that_are_asked_of_the_store(self, guard, store):
        """A read that hits is one exchange."""
        keep(guard)
        store.calls.clear()
        look(guard)
        assert store.calls == [("get", ("entry", "tag"))]
        assert guard.ask(GetMany(("clock",)))
