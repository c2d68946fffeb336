"""What every store must do, whatever cache is behind it.

A subject is a class that derives from :class:`StoreContract` and says how its cache is configured::

    class TestLocMemStore(StoreContract):
        backend = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import pytest
from django.core.cache import caches
from django.test import override_settings

from cachalot.core.protocol import is_mark
from cachalot.core.steps import SERVER, Add, Create, Done, Lifetime, Mark, SetMany, Timeout
from cachalot.engine.guard import Guard
from cachalot.stores import memcached
from cachalot.stores.base import StoreAway, StoreError, StoreRefused, Tier
from cachalot.stores.making import make_store
from cachalot.stores.memcached import MemcachedStore
from tests.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachalot.stores.base import Store
    from tests.servers import Server

#: The alias under which a subject is configured; ``default`` belongs to the pair under test.
ALIAS = "subject"
THREADS = 8
KEY = "c3:contract:{}".format


def values_of(store: Store, keys: list[str]) -> dict[str, Any]:
    """Return what is kept under some keys, without the name of the server."""
    return {key: value for key, value in store.get_many(keys).items() if key != SERVER}


CLOCK = KEY("clock")
ONE, TWO = KEY("one"), KEY("two")


def done(writer: str, *tags: str, committed: bool = True) -> Done:
    """Return the end of a write; the tokens are named after it."""
    return Done(
        writer, (CLOCK, f"clock of {writer}"), tuple((tag, f"of {writer}") for tag in tags), committed
    )


class StoreContract:
    """The laws of a store.

    :cvar backend: the entry of ``CACHES``; ``{address}`` in its location stands for that of the server.
    :cvar server: name of its server in ``tests.servers``; empty if it has none.
    :cvar largest: bytes of a value that its server refuses; 0 if it takes any.
    :cvar short: seconds of a short life.
    :cvar late: seconds after which a short life is over.
    """

    backend: ClassVar[dict[str, Any]]
    server: ClassVar[str] = ""
    largest: ClassVar[int] = 0
    short: ClassVar[float] = 0.15
    late: ClassVar[float] = 0.5

    def location(self, server: Server | None) -> str:
        """Return the ``LOCATION`` of the cache."""
        return "" if server is None else server.address

    @contextmanager
    def started(self) -> Iterator[Server | None]:
        """A private server, if the cache needs one."""
        if not self.server:
            yield None
            return
        if not SERVERS[self.server].available():
            pytest.skip(f"not installed: {self.server}")
        with SERVERS[self.server]() as server:
            yield server

    @pytest.fixture(scope="class")
    def shared(self) -> Iterator[Server | None]:
        """The server of all tests that leave it as it is."""
        with self.started() as server:
            yield server

    @pytest.fixture
    def process(self) -> Iterator[Server | None]:
        """The server of one test, which may stop it or change how it works."""
        with self.started() as server:
            yield server

    @pytest.fixture
    def configured(self, request: Any, settings: Any, tmp_path: Any) -> Iterator[None]:
        """The cache under its alias, empty."""
        server = request.getfixturevalue("process" if "process" in request.fixturenames else "shared")
        entry = {**self.backend, "LOCATION": self.location(server) or str(tmp_path)}
        with override_settings(CACHES={**settings.CACHES, ALIAS: entry}):
            caches[ALIAS].clear()
            yield
            caches[ALIAS].close()

    @contextmanager
    def short_lives(self) -> Iterator[None]:
        """Let leases and entries end soon."""
        with override_settings(CACHALOT_LEASE=self.short, CACHALOT_TIMEOUT=self.short):
            yield

    @pytest.fixture
    def store(self, configured: None) -> Store:
        """The subject."""
        return make_store(ALIAS)

    # Reading and writing.

    def test_only_what_is_present_is_returned(self, store: Store) -> None:
        """get_many leaves out what is absent; it does not map it to None."""
        store.set_many([(KEY("a"), "1")], Lifetime.STATE)
        assert values_of(store, [KEY("a"), KEY("b")]) == {KEY("a"): "1"}
        assert values_of(store, [KEY("b")]) == {}

    @pytest.mark.parametrize(
        "value", ["", "text", "ü€😀\n\t", "!mark", b"", b"\x00\xff\n", b"x" * 5000, b"1", "1"]
    )
    def test_value_comes_back_equal_in_type_and_content(self, store: Store, value: str | bytes) -> None:
        """What was stored as bytes is bytes again, and a text is a text."""
        store.set_many([(KEY("a"), value)], Lifetime.ENTRY)
        got = store.get_many([KEY("a")])[KEY("a")]
        assert got == value
        assert type(got) is type(value)

    @pytest.mark.parametrize("lifetime", [Lifetime.STATE, Lifetime.LEASE])
    def test_several_values(self, store: Store, lifetime: Lifetime) -> None:
        """set_many writes all of them, over what was there."""
        store.set_many([(KEY("b"), "old")], Lifetime.STATE)
        values = [(KEY(name), name) for name in "abcd"]
        store.set_many(values, lifetime)
        assert values_of(store, [key for key, _value in values]) == dict(values)

    def test_values_become_visible_in_their_order(self, store: Store) -> None:
        """Who sees the second value of one set_many sees the first as well: clock, then tokens."""
        first, second = KEY("first"), KEY("second")
        store.set_many([(first, "0"), (second, "0")], Lifetime.STATE)
        rounds = 60
        ended = threading.Event()
        wrong: list[tuple[str, str]] = []

        def watch() -> None:
            while not ended.is_set():
                later = store.get_many([second])[second]
                sooner = store.get_many([first])[first]
                if int(sooner) < int(later):
                    wrong.append((sooner, later))

        with ThreadPoolExecutor(2) as threads:
            watching = threads.submit(watch)
            for number in range(1, rounds):
                store.set_many([(first, str(number)), (second, str(number))], Lifetime.STATE)
            ended.set()
            watching.result()
        assert not wrong

    def test_add_writes_what_is_absent(self, store: Store) -> None:
        """Add writes an absent key, says so, and leaves a present one as it is."""
        assert store.add(KEY("a"), "1", Lifetime.STATE) is True
        assert store.add(KEY("a"), "2", Lifetime.STATE) is False
        assert values_of(store, [KEY("a")]) == {KEY("a"): "1"}

    def test_add_has_one_winner_among_threads(self, store: Store) -> None:
        """Of several threads that add one key at the same moment exactly one has written it."""
        for attempt in range(10):
            start = threading.Barrier(THREADS)

            def add(number: int, start: threading.Barrier = start, key: str = KEY(attempt)) -> bool:
                start.wait()
                return store.add(key, str(number), Lifetime.STATE)

            with ThreadPoolExecutor(THREADS) as threads:
                won = list(threads.map(add, range(THREADS)))
            assert won.count(True) == 1
            assert values_of(store, [KEY(attempt)]) == {KEY(attempt): str(won.index(True))}

    # Commits.

    def dark(self, store: Store, *tags: str) -> list[bool]:
        """Return which tags are marked."""
        got = store.get_many(tags)
        return [is_mark(got.get(tag)) for tag in tags]

    def test_commit(self, store: Store) -> None:
        """A tag is dark from the mark on, and has the new token when the write is done; so has the clock."""
        store.set_many([(ONE, "old")], Lifetime.STATE)
        store.mark(Mark((ONE, TWO), "w"))
        assert self.dark(store, ONE, TWO) == [True, True]
        store.done(done("w", ONE, TWO))
        assert values_of(store, [CLOCK, ONE, TWO]) == {CLOCK: "clock of w", ONE: "of w", TWO: "of w"}

    def test_write_that_did_not_commit(self, store: Store) -> None:
        """What was marked gets a token again."""
        store.mark(Mark((ONE,), "w"))
        store.done(done("w", ONE, committed=False))
        assert self.dark(store, ONE) == [False]

    def test_commits_that_overlap(self, store: Store) -> None:
        """A tag is dark until the last of those who marked it is done, in whatever order they are."""
        if store.tier is not Tier.INTENTS:
            pytest.skip("it keeps one mark for all writers")
        for first, last in ("ab", "ba"):
            store.mark(Mark((ONE, TWO), "a"))
            store.mark(Mark((TWO, ONE), "b"))
            store.done(done(first, ONE, TWO))
            assert self.dark(store, ONE, TWO) == [True, True]
            store.done(done(last, ONE, TWO))
            assert values_of(store, [ONE, TWO]) == {ONE: f"of {last}", TWO: f"of {last}"}

    def test_write_that_was_marked_twice(self, store: Store) -> None:
        """A mark that was sent again after a broken connection is one intent."""
        store.mark(Mark((ONE,), "w"))
        store.mark(Mark((ONE,), "w"))
        store.done(done("w", ONE))
        assert self.dark(store, ONE) == [False]

    def test_invalidation_while_a_commit_is_in_flight(self, store: Store) -> None:
        """Who was never marked takes away no mark."""
        if store.tier is not Tier.INTENTS:
            pytest.skip("it keeps one mark for all writers")
        store.mark(Mark((ONE,), "w"))
        store.done(done("other", ONE))
        assert self.dark(store, ONE) == [True]

    def test_rollback_after_the_mark_was_lost(self, store: Store) -> None:
        """A write that changed nothing leaves a token alone that was created since; a commit does not."""
        store.set_many([(ONE, "created")], Lifetime.STATE)
        if store.tier is Tier.INTENTS:
            store.done(done("w", ONE, committed=False))
            assert values_of(store, [ONE]) == {ONE: "created"}
        store.done(done("w", ONE))
        assert values_of(store, [ONE]) == {ONE: "of w"}

    def test_dead_writer_among_living_ones(self, store: Store) -> None:
        """Each intent has a lease of its own: those who come later do not keep a dead one alive."""
        if store.tier is not Tier.INTENTS:
            pytest.skip("it keeps one mark for all writers")
        with self.short_lives():
            store.mark(Mark((ONE,), "dead"))
        ended = time.monotonic() + self.late
        while time.monotonic() < ended:
            with override_settings(CACHALOT_LEASE=30):
                store.mark(Mark((ONE,), "alive"))
                store.done(done("alive", ONE))
            time.sleep(self.short / 10)
        assert self.dark(store, ONE) == [False]

    def test_foreign_value_in_the_place_of_a_token(self, store: Store) -> None:
        """What nobody of us has written is replaced by a mark, and then by a token."""
        store.set_many([(ONE, b"\xff\x00"), (TWO, "!;;,x;,;9,")], Lifetime.STATE)
        store.mark(Mark((ONE, TWO), "w"))
        assert self.dark(store, ONE, TWO) == [True, True]
        store.done(done("w", ONE, TWO))
        assert values_of(store, [ONE, TWO]) == {ONE: "of w", TWO: "of w"}

    def test_keys_of_compare_and_swap_are_held(self, store: Store) -> None:
        """pylibmc reads the bytes of a key after it has let go of those that it has made of a text."""
        if not isinstance(store, MemcachedStore):
            pytest.skip("it has no compare and swap")
        seen: list[Any] = []

        class Watching:
            def __getattr__(self, name: str) -> Any:
                method = getattr(client, name)

                def call(key: Any, *args: Any) -> Any:
                    seen.append(key)
                    return method(key, *args)

                return call if name in {"gets", "cas"} else method

        client = memcached._client(caches[ALIAS])
        with mock.patch.object(memcached, "_client", return_value=Watching()):
            store.mark(Mark((ONE,), "w"))
            store.done(done("w", ONE))
            store.mark(Mark((ONE,), "w"))
        assert len(seen) > 3
        assert {type(key) for key in seen} == {bytes}
        assert self.dark(store, ONE) == [True]

    def test_token_that_is_removed(self, store: Store) -> None:
        """An empty token leaves nothing that a reader could take for the last one; intents of others stay."""
        if store.tier is not Tier.INTENTS:
            pytest.skip("it cannot remove a value in one step")
        store.set_many([(ONE, "before"), (TWO, "before")], Lifetime.STATE)
        store.mark(Mark((ONE, TWO), "a"))
        store.mark(Mark((TWO,), "b"))
        removed = Done("a", (CLOCK, "later"), ((ONE, ""), (TWO, "")), committed=True)
        store.done(removed)
        assert values_of(store, [ONE]) == {}
        assert self.dark(store, TWO) == [True]
        assert store.create(Create((CLOCK, "new"), ((ONE, "1"),), frozenset({ONE})))[ONE] == "1"
        store.done(Done("b", (CLOCK, "later"), ((TWO, ""),), committed=True))
        assert values_of(store, [TWO]) == {}

    def test_keys_that_are_watched(self, store: Store) -> None:
        """MARK and DONE say what is under other keys, as it is afterwards."""
        if store.tier is not Tier.INTENTS:
            pytest.skip("it need not say")
        store.set_many([(TWO, "token")], Lifetime.STATE)
        watched = (TWO, KEY("absent"))
        for answer in (
            store.mark(Mark((ONE,), "w", watched)),
            store.done(Done("w", (CLOCK, "later"), ((ONE, "new"),), True, watched)),
        ):
            assert {key: value for key, value in answer.items() if key != SERVER} == {TWO: "token"}

    def test_creation(self, store: Store) -> None:
        """Absent tags get their tokens after the clock; what is present stays, and is told if it is known."""
        store.set_many([(ONE, "there")], Lifetime.STATE)
        got = store.create(Create((CLOCK, "new"), ((ONE, "1"), (TWO, "2"))))
        assert got[TWO] == "2"
        assert got.get(ONE, "there") == "there"
        assert values_of(store, [CLOCK, ONE, TWO]) == {CLOCK: "new", ONE: "there", TWO: "2"}

    def test_creation_beside_a_mark(self, store: Store) -> None:
        """No token is put in the place of a mark."""
        store.mark(Mark((ONE,), "w"))
        store.create(Create((CLOCK, "new"), ((ONE, "1"),)))
        assert self.dark(store, ONE) == [True]

    def test_many_writers_at_once(self, store: Store) -> None:
        """While threads mark and end their writes on two tags, whoever is in flight sees them dark."""
        if store.tier is not Tier.INTENTS:
            pytest.skip("it keeps one mark for all writers")

        def write(number: int) -> list[bool]:
            seen: list[bool] = []
            for turn in range(10):
                writer = f"{number}-{turn}"
                tags = (ONE, TWO) if number % 2 else (TWO, ONE)
                store.mark(Mark(tags, writer))
                seen += self.dark(store, ONE, TWO)
                store.done(done(writer, *tags))
            return seen

        with ThreadPoolExecutor(THREADS) as threads:
            assert all(all(seen) for seen in threads.map(write, range(THREADS)))
        assert self.dark(store, ONE, TWO) == [False, False]

    def test_commit_while_the_server_is_away(self, store: Store, process: Server | None) -> None:
        """A mark and an end that did not arrive are noticed."""
        self.end(process, store)
        with pytest.raises(StoreAway):
            store.mark(Mark((ONE,), "w"))
        with pytest.raises(StoreAway):
            store.done(done("w", ONE))
        with pytest.raises(StoreAway):
            store.create(Create((CLOCK, "new"), ((ONE, "1"),)))

    # Lives.

    def test_leases_and_entries_end(self, store: Store) -> None:
        """A lease and an entry are gone after their time, a token is not, nor an entry with a longer time."""
        with self.short_lives():
            store.set_many([(KEY("lease"), "!1")], Lifetime.LEASE)
            store.set_many([(KEY("entry"), b"1")], Lifetime.ENTRY)
            store.set_many([(KEY("state"), "1")], Lifetime.STATE)
            store.set_many([(KEY("long"), b"1")], Timeout(60))
        store.set_many([(KEY("short"), b"1")], Timeout(self.short))
        keys = [KEY("lease"), KEY("entry"), KEY("state"), KEY("long"), KEY("short")]
        time.sleep(self.late)
        assert values_of(store, keys) == {KEY("state"): "1", KEY("long"): b"1"}

    def test_entry_without_life(self, store: Store) -> None:
        """What may stay for no time at all is not there a moment later, nor is what it would replace."""
        store.set_many([(KEY("entry"), b"before")], Lifetime.ENTRY)
        with override_settings(CACHALOT_TIMEOUT=0), suppress(StoreRefused):
            store.set_many([(KEY("entry"), b"rows")], Lifetime.ENTRY)
        assert values_of(store, [KEY("entry")]) == {}

    def test_key_whose_lease_has_ended_can_be_added(self, store: Store) -> None:
        """The end of a lease is absence."""
        with self.short_lives():
            store.set_many([(KEY("a"), "!1")], Lifetime.LEASE)
        time.sleep(self.late)
        assert store.add(KEY("a"), "2", Lifetime.STATE) is True

    # Refusals and absence.

    def test_value_that_is_too_large(self, store: Store) -> None:
        """A value that the server refuses is refused, and the cache is not taken to be away."""
        if not self.largest:
            pytest.skip("it takes values of any size")
        guard = Guard(store)
        value = b"\x00\xff" * (self.largest // 2 + 1)
        assert guard.ask(SetMany(((KEY("a"), value),), Lifetime.ENTRY)) is False
        assert not guard.closed()
        assert guard.ask(Add(KEY("b"), "1", Lifetime.STATE)) is True
        assert values_of(store, [KEY("a"), KEY("b")]) == {KEY("b"): "1"}

    @pytest.mark.parametrize("lifetime", [Lifetime.STATE, Lifetime.LEASE])
    def test_write_while_the_server_is_away(
        self, store: Store, process: Server | None, lifetime: Lifetime
    ) -> None:
        """A mark or a token that did not arrive is noticed."""
        self.end(process, store)
        with pytest.raises(StoreAway):
            store.set_many([(KEY("a"), "1"), (KEY("b"), "2")], lifetime)

    def test_entry_while_the_server_is_away(self, store: Store, process: Server | None) -> None:
        """An entry that did not arrive is noticed as well; it may look refused."""
        self.end(process, store)
        with pytest.raises(StoreError):
            store.set_many([(KEY("a"), b"1")], Lifetime.ENTRY)

    def test_add_while_the_server_is_away(self, store: Store, process: Server | None) -> None:
        """Add does not say that another one was first."""
        self.end(process, store)
        with pytest.raises(StoreAway):
            store.add(KEY("a"), "1", Lifetime.STATE)

    def test_read_while_the_server_is_away(self, store: Store, process: Server | None) -> None:
        """A read finds nothing, or says that the server is away; it raises nothing else."""
        self.end(process, store)
        try:
            assert values_of(store, [KEY("a")]) == {}
        except StoreAway:
            return

    def test_server_that_comes_back(self, store: Store, process: Server | None) -> None:
        """After a restart the store works again."""
        self.end(process, store)
        with pytest.raises(StoreAway):
            store.set_many([(KEY("a"), "1")], Lifetime.STATE)
        assert process is not None
        process.restart(keep_data=False)
        deadline = time.monotonic() + 20
        while True:
            try:
                store.set_many([(KEY("a"), "2")], Lifetime.STATE)
                break
            except StoreAway:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert values_of(store, [KEY("a")]) == {KEY("a"): "2"}

    def end(self, process: Server | None, store: Store) -> None:
        """Take the server away from a connection that was in use."""
        if process is None:
            pytest.skip("it has no server")
        store.get_many([KEY("a")])
        process.kill()
