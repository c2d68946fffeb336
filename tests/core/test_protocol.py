"""The protocol, step by step; ``tests/model`` has it in every order."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from cachalot.core import protocol
from cachalot.core.envelope import Entry
from cachalot.core.protocol import CREATED, MARK, Answer, Found, Keys, WriteKeys
from cachalot.core.steps import (
    SERVER,
    Add,
    Commit,
    Committed,
    Create,
    Done,
    GetMany,
    Lifetime,
    Mark,
    SetMany,
)

ONE = Keys("e", ("a",), "w")
TWO = Keys("e", ("a", "b"), "w")


class Stored(NamedTuple):
    """An entry, as it lies in the cache."""

    stamp: bytes


def opened(value):
    """Return the entry that a value of the cache is."""
    return Entry(value.stamp, 0, b"") if isinstance(value, Stored) else None


def draws(*texts: str):
    """Return a source of tokens that are known beforehand."""
    return iter(texts).__next__


def played(generator, *answers):
    """Send answers to a generator; return what it asked, and what it returned at the end."""
    asked = []
    try:
        asked.append(next(generator))
        for answer in answers:
            asked.append(generator.send(answer))  # noqa: PERF401 - what was asked before the end must be kept
    except StopIteration as stop:
        return asked, stop.value
    raise AssertionError(f"it goes on and asks {asked[-1]}")


def answered(generator, cache):
    """Let a generator read from a cache that nobody writes; return what it returned at the end."""
    try:
        asked = next(generator)
        while True:
            asked = generator.send({key: cache[key] for key in asked.keys if key in cache})
    except StopIteration as stop:
        return stop.value


class TestRead:
    """What a read makes of what it finds."""

    def test_entry_under_the_tokens_of_now(self):
        """An entry is served exactly if its stamp is the digest of the tokens."""
        now = protocol.stamp(("a",), ("t",))
        entry = Stored(now)
        asked, answer = played(protocol.read(ONE, opened, draws()), {"e": entry, "a": "t"})
        assert asked == [GetMany(("e", "a"))]
        assert answer == Answer(Found.HIT, opened(entry), now)

    def test_entry_under_the_tokens_of_another_server(self):
        """Tokens that came back with an old copy of the cache are not those of the entry."""
        stored = Stored(protocol.stamp(("a",), ("t",), "one"))
        one, other = ({"e": stored, "a": "t", SERVER: name} for name in ("one", "other"))
        assert played(protocol.read(ONE, opened, draws()), one)[1].found is Found.HIT
        _, answer = played(protocol.read(ONE, opened, draws()), other)
        assert answer == Answer(Found.CHANGED, opened(stored), protocol.stamp(("a",), ("t",), "other"))

    def test_entry_under_other_tokens(self):
        """An entry under an old stamp is not served, and may be replaced under the tokens read."""
        entry = Stored(protocol.stamp(("a",), ("old",)))
        _, answer = played(protocol.read(ONE, opened, draws()), {"e": entry, "a": "t"})
        assert answer == Answer(Found.CHANGED, opened(entry), protocol.stamp(("a",), ("t",)))

    def test_commit_in_flight_on_one_of_two_tags(self):
        """One dark tag is enough: nothing is served and nothing may be stored."""
        entry = Stored(protocol.stamp(("a", "b"), ("t", MARK)))
        got = {"e": entry, "a": "t", "b": f"{MARK}x"}
        _, answer = played(protocol.read(TWO, opened, draws()), got)
        assert answer == Answer(Found.DARK)

    def test_dark_tag_beside_an_absent_one(self):
        """No token is created while another tag of the query is dark."""
        asked, answer = played(protocol.read(TWO, opened, draws()), {"b": f"{MARK}x"})
        assert len(asked) == 1
        assert answer.stamp is None

    def test_absent_tokens(self):
        """Absent tokens are created after the clock has changed, and the rows may be stored under them."""
        created = CREATED + "2"
        steps = protocol.read(TWO, opened, draws("1", "2"))
        asked, answer = played(steps, {"a": "t"}, {"b": created})
        assert asked[1:] == [Create(("w", "1"), (("b", created),))]
        assert answer == Answer(Found.NEW, None, protocol.stamp(("a", "b"), ("t", created)))

    def test_token_that_another_process_created_first(self):
        """Its token is as good as ours, if the store says which it is."""
        _, answer = played(protocol.read(ONE, opened, draws("1", "2")), {}, {"a": "theirs"})
        assert answer == Answer(Found.NEW, None, protocol.stamp(("a",), ("theirs",)))

    @pytest.mark.parametrize(
        "there", [{}, {"a": f"{MARK}x;1,"}, {"a": 7}], ids=["unknown", "mark", "foreign"]
    )
    def test_no_token_after_the_race_for_it(self, there):
        """Who loses the race for a token and does not learn of one must not store."""
        _, answer = played(protocol.read(ONE, opened, draws("1", "2")), {}, there)
        assert answer == Answer(Found.RACED)

    def test_token_created_on_another_server(self):
        """Tokens of two servers are no stamp."""
        got, now = {"a": "t", SERVER: "one"}, {"b": "u", SERVER: "other"}
        _, answer = played(protocol.read(TWO, opened, draws("1", "2")), got, now)
        assert answer == Answer(Found.RACED)

    def test_foreign_value_beside_an_absent_token(self):
        """What is not ours is marked after the clock, so that it ends with a lease; nothing is created."""
        steps = protocol.read(TWO, opened, draws("1", "2"))
        asked, answer = played(steps, {"a": 7}, True, True)
        assert asked[1:] == [SetMany((("w", "1"),), Lifetime.STATE), Mark(("a",), "2")]
        assert answer == Answer(Found.RACED)

    @pytest.mark.parametrize("value", [b"garbage", 7, ["x"]])
    def test_value_under_the_key_that_is_no_entry(self, value):
        """What cannot be opened is a miss that may be repaired."""
        _, answer = played(protocol.read(ONE, opened, draws()), {"e": value, "a": "t"})
        assert answer == Answer(Found.UNDECODABLE, None, protocol.stamp(("a",), ("t",)))

    @pytest.mark.parametrize("value", [b"!", 7, ["x"], 0])
    def test_token_that_is_no_token(self, value):
        """A foreign value in the place of a token is never part of a hit, whatever the entry's stamp says."""
        entry = Stored(protocol.stamp(("a",), (str(value),)))
        steps = protocol.read(ONE, opened, draws("1", "2"))
        _, answer = played(steps, {"e": entry, "a": value}, True, True)
        assert answer == Answer(Found.RACED)

    def test_replica_that_may_lag(self):
        """A hit is served on a replica at any time; rows of its own are not stored while it may lag."""
        held = Keys("e", ("a",), "w", ("h",))
        now = protocol.stamp(("a",), ("t",))
        hit = {"e": Stored(now), "a": "t", "h": "x"}
        assert answered(protocol.read(held, opened, draws()), hit).found is Found.HIT
        miss = {"a": "t", "h": "x"}
        assert answered(protocol.read(held, opened, draws()), miss) == Answer(Found.LAGGING)

    @pytest.mark.parametrize("server", [{}, {SERVER: "one"}], ids=["without a name", "with a name"])
    def test_replica_that_does_not_lag(self, server):
        """Without a hold the rows of a replica may be stored; the name of a server is no hold."""
        held = Keys("e", ("a",), "w", ("h",))
        _, answer = played(protocol.read(held, opened, draws()), {"a": "t", **server}, server)
        assert answer.stamp == protocol.stamp(("a",), ("t",), server.get(SERVER, ""))


class TestCommit:
    """The steps around a commit."""

    KEYS = WriteKeys(("a", "b"), "w")

    def test_order_of_the_steps(self):
        """All tags become dark, the database commits, the clock changes and then the tokens."""
        asked, _ = played(protocol.commit(self.KEYS, draws(*"1234")), True, Committed.YES, True)
        assert asked == [
            Mark(("a", "b"), "1"),
            Commit(),
            Done("1", ("w", "2"), (("a", "3"), ("b", "4")), committed=True),
        ]

    def test_commit_that_was_rolled_back(self):
        """After a commit that failed for sure the intents go at once."""
        asked, _ = played(protocol.commit(self.KEYS, draws(*"1234")), True, Committed.NO, True)
        assert asked[2:] == [Done("1", ("w", "2"), (("a", "3"), ("b", "4")), committed=False)]

    def test_commit_whose_outcome_is_unknown(self):
        """The marks stay: the server may still commit."""
        asked, _ = played(protocol.commit(self.KEYS, draws(*"1234")), True, Committed.UNKNOWN)
        assert asked[-1] == Commit()

    def test_replicas(self):
        """What says that replicas may lag is written before the tokens."""
        asked, _ = played(protocol.bump(WriteKeys(("a",), "w", ("h",)), draws(*"1234")), True, True)
        assert asked[0] == SetMany((("h", "2"),), Lifetime.HOLD)
        assert isinstance(asked[1], Done)

    def test_invalidation_of_what_others_have_committed(self):
        """A bump is a DONE of nobody's commit: it leaves the intents of others, and counts as committed."""
        asked, _ = played(protocol.bump(WriteKeys(("a",), "w"), draws(*"123")), True)
        assert asked == [Done("1", ("w", "2"), (("a", "3"),), committed=True)]


class TestClock:
    """The clock before a snapshot."""

    def test_present(self):
        """The value of the clock is returned, with the name of its server."""
        assert played(protocol.clock("w", draws()), {"w": "x"})[1] == "x "
        assert played(protocol.clock("w", draws()), {"w": "x", SERVER: "one"})[1] == "x one"

    def test_absent(self):
        """An absent clock is created, and read again to learn whose it is."""
        asked, value = played(protocol.clock("w", draws("1")), {}, True, {"w": "1", SERVER: "one"})
        assert asked[1:] == [Add("w", "1", Lifetime.STATE), GetMany(("w",))]
        assert value == "1 one"

    def test_evicted_at_once(self):
        """A clock that is gone before it is read again cannot be relied on."""
        assert played(protocol.clock("w", draws("1")), {}, True, {})[1] is None

    def test_created_by_another_at_the_same_moment(self):
        """Who loses the race cannot rely on the clock."""
        assert played(protocol.clock("w", draws("1")), {}, False)[1] is None

    def test_clock_that_has_moved(self):
        """A transaction whose clock has moved is not served even a valid entry, and stores nothing."""
        got = {"e": Stored(protocol.stamp(("a",), ("t",))), "a": "t"}
        steps = protocol.read_in_snapshot(ONE, "x ", opened, draws())
        assert played(steps, got, {"w": "y"})[1] == Answer(Found.SNAPSHOT)

    def test_clock_that_was_evicted(self):
        """An absent clock is a clock that has moved."""
        steps = protocol.read_in_snapshot(ONE, "x ", opened, draws())
        assert played(steps, {"a": "t"}, {})[1] == Answer(Found.SNAPSHOT)

    @pytest.mark.parametrize("name", ["one", None])
    def test_clock_of_another_server(self, name):
        """A clock that came back with an old copy of the cache is another clock."""
        got, now = {"a": "t", SERVER: "other"}, {"w": "x", SERVER: "other"}
        steps = protocol.read_in_snapshot(ONE, f"x {name or ''}", opened, draws())
        assert played(steps, got, now)[1] == Answer(Found.SNAPSHOT)

    def test_tokens_of_another_server_than_the_clock(self):
        """The clock says nothing about the tokens of another server."""
        got, now = {"a": "t", SERVER: "one"}, {"w": "x", SERVER: "other"}
        steps = protocol.read_in_snapshot(ONE, "x other", opened, draws())
        assert played(steps, got, now)[1] == Answer(Found.SNAPSHOT)

    def test_absent_token_inside_a_snapshot(self):
        """A token younger than the snapshot is nothing to store under."""
        steps = protocol.read_in_snapshot(ONE, "x ", opened, draws("1", "2"))
        asked, answer = played(steps, {}, {"w": "x"}, {"a": CREATED + "2"})
        assert asked[2:] == [Create(("w", "1"), (("a", CREATED + "2"),))]
        assert answer == Answer(Found.SNAPSHOT)

    def test_entry_inside_a_snapshot(self):
        """While the clock has not moved an entry is served."""
        stored = Stored(protocol.stamp(("a",), ("t",), "one"))
        got, now = {"e": stored, "a": "t", SERVER: "one"}, {"w": "x", SERVER: "one"}
        steps = protocol.read_in_snapshot(ONE, "x one", opened, draws())
        assert played(steps, got, now)[1].found is Found.HIT
