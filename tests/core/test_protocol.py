"""The protocol, step by step and in every order, and proof that the enumerator would see it broken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cachalot.core import protocol
from cachalot.core.protocol import CREATED, MARK, Answer, Found, Keys, WriteKeys
from cachalot.core.steps import Add, Commit, Committed, GetMany, Lifetime, SetMany
from tests.core.interleavings import (
    CLOCK,
    ENTRY,
    HOLD,
    Draw,
    Enumerator,
    Pin,
    Process,
    Query,
    Serve,
    Verdict,
    World,
    entry_of,
    handed_out,
    keys,
    open_entry,
    reader,
    snapshot_reader,
    tag,
    tokens,
    write_keys,
    writer,
)

if TYPE_CHECKING:
    from collections.abc import Generator


def search(*processes: Process, **options: Any) -> Verdict:
    """Follow every order of the steps of some processes."""
    return Enumerator(World(processes, **options)).run()


# -- step by step


ONE = Keys("e", ("a",), "w")
TWO = Keys("e", ("a", "b"), "w")


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
        entry = entry_of(now, (1,))
        asked, answer = played(protocol.read(ONE, open_entry, draws()), {"e": entry, "a": "t"})
        assert asked == [GetMany(("e", "a"))]
        assert answer == Answer(Found.HIT, entry, now)

    def test_entry_under_other_tokens(self):
        """An entry under an old stamp is not served, and may be replaced under the tokens read."""
        entry = entry_of(protocol.stamp(("a",), ("old",)), (1,))
        _, answer = played(protocol.read(ONE, open_entry, draws()), {"e": entry, "a": "t"})
        assert answer == Answer(Found.CHANGED, None, protocol.stamp(("a",), ("t",)))

    def test_commit_in_flight_on_one_of_two_tags(self):
        """One dark tag is enough: nothing is served and nothing may be stored."""
        entry = entry_of(protocol.stamp(("a", "b"), ("t", MARK)), (1,))
        got = {"e": entry, "a": "t", "b": f"{MARK}x"}
        _, answer = played(protocol.read(TWO, open_entry, draws()), got)
        assert answer == Answer(Found.DARK)

    def test_dark_tag_beside_an_absent_one(self):
        """No token is created while another tag of the query is dark."""
        asked, answer = played(protocol.read(TWO, open_entry, draws()), {"b": f"{MARK}x"})
        assert len(asked) == 1
        assert answer.stamp is None

    def test_absent_tokens(self):
        """Absent tokens are added after the clock has changed, and the rows may be stored under them."""
        asked, answer = played(protocol.read(TWO, open_entry, draws("1", "2")), {"a": "t"}, True, True)
        created = CREATED + "2"
        assert asked[1:] == [
            SetMany((("w", "1"),), Lifetime.STATE),
            Add("b", created, Lifetime.STATE),
        ]
        assert answer == Answer(Found.NEW, None, protocol.stamp(("a", "b"), ("t", created)))

    def test_token_that_another_process_created_first(self):
        """Who loses the race for a token does not know it, and must not store."""
        _, answer = played(protocol.read(ONE, open_entry, draws("1", "2")), {}, True, False)
        assert answer == Answer(Found.RACED)

    @pytest.mark.parametrize("value", [b"garbage", 7, ["x"]])
    def test_value_under_the_key_that_is_no_entry(self, value):
        """What cannot be opened is a miss that may be repaired."""
        _, answer = played(protocol.read(ONE, open_entry, draws()), {"e": value, "a": "t"})
        assert answer == Answer(Found.UNDECODABLE, None, protocol.stamp(("a",), ("t",)))

    @pytest.mark.parametrize("value", [b"!", 7, ["x"], 0])
    def test_token_that_is_no_token(self, value):
        """A foreign value in the place of a token is never part of a hit, whatever the entry's stamp says."""
        entry = entry_of(protocol.stamp(("a",), (str(value),)), (1,))
        generator = protocol.read(ONE, open_entry, draws("1", "2", "3"))
        generator.send(None)
        try:
            generator.send({"e": entry, "a": value})
            while True:
                generator.send(True)
        except StopIteration as stop:
            answer = stop.value
        assert answer.found is not Found.HIT

    def test_replica_that_may_lag(self):
        """A hit is served on a replica at any time; rows of its own are not stored while it may lag."""
        held = Keys("e", ("a",), "w", ("h",))
        now = protocol.stamp(("a",), ("t",))
        hit = {"e": entry_of(now, (1,)), "a": "t", "h": "x"}
        assert answered(protocol.read(held, open_entry, draws()), hit).found is Found.HIT
        miss = {"a": "t", "h": "x"}
        assert answered(protocol.read(held, open_entry, draws()), miss) == Answer(Found.LAGGING)


class TestCommit:
    """The steps around a commit."""

    KEYS = WriteKeys(("a", "b"), "w")

    def test_order_of_the_steps(self):
        """All tags become dark, the database commits, the clock changes and then the tokens."""
        asked, known = played(protocol.commit(self.KEYS, draws(*"1234")), True, Committed.YES, True)
        mark = f"{MARK}1"
        assert asked == [
            SetMany((("a", mark), ("b", mark)), Lifetime.LEASE),
            Commit(),
            SetMany((("w", "2"), ("a", "3"), ("b", "4")), Lifetime.STATE),
        ]
        assert known is True

    def test_commit_that_was_rolled_back(self):
        """After a commit that failed for sure the tags get tokens again at once."""
        asked, _ = played(protocol.commit(self.KEYS, draws(*"1234")), True, Committed.NO, True)
        assert len(asked) == 3

    def test_commit_whose_outcome_is_unknown(self):
        """The marks stay: the server may still commit."""
        asked, _ = played(protocol.commit(self.KEYS, draws(*"1234")), True, Committed.UNKNOWN)
        assert asked[-1] == Commit()

    def test_replicas(self):
        """What says that replicas may lag is written before the tokens."""
        asked, _ = played(protocol.bump(WriteKeys(("a",), "w", ("h",)), draws(*"123")), True, True)
        assert [step.lifetime for step in asked] == [Lifetime.HOLD, Lifetime.STATE]


class TestClock:
    """The clock before a snapshot."""

    def test_present(self):
        """The value of the clock is returned as it is."""
        assert played(protocol.clock("w", draws()), {"w": "x"})[1] == "x"

    def test_absent(self):
        """An absent clock is created."""
        asked, value = played(protocol.clock("w", draws("1")), {}, True)
        assert asked[1] == Add("w", "1", Lifetime.STATE)
        assert value == "1"

    def test_created_by_another_at_the_same_moment(self):
        """Who loses the race cannot rely on the clock."""
        assert played(protocol.clock("w", draws("1")), {}, False)[1] is None

    def test_clock_that_has_moved(self):
        """A transaction whose clock has moved is not served even a valid entry, and stores nothing."""
        got = {"e": entry_of(protocol.stamp(("a",), ("t",)), (1,)), "a": "t"}
        steps = protocol.read_in_snapshot(ONE, "x", open_entry, draws())
        assert played(steps, got, {"w": "y"})[1] == Answer(Found.SNAPSHOT)

    def test_clock_that_was_evicted(self):
        """An absent clock is a clock that has moved."""
        steps = protocol.read_in_snapshot(ONE, "x", open_entry, draws())
        assert played(steps, {"a": "t"}, {})[1] == Answer(Found.SNAPSHOT)

    def test_absent_token_inside_a_snapshot(self):
        """A token younger than the snapshot is nothing to store under."""
        steps = protocol.read_in_snapshot(ONE, "x", open_entry, draws("1", "2"))
        assert played(steps, {}, {"w": "x"}, True, True)[1] == Answer(Found.SNAPSHOT)


# -- in every order


ACCIDENTS = {"crashes": 1, "evictions": 1, "lost": 1}


class TestOneWriterPerTag:
    """While no two commits overlap on a tag, both guarantees hold, whatever dies or is evicted."""

    @pytest.mark.parametrize("present", [(), tokens()], ids=["absent", "present"])
    @pytest.mark.parametrize("readers", [1, 2])
    def test_readers_while_one_commits(self, readers, present):
        """G1 and G2 hold in every order of one writer and one or two readers, with every accident."""
        found = search(writer(), *[reader()] * readers, present=present, **ACCIDENTS)
        assert not found.g1
        assert not found.g2
        assert found.hits or readers == 1

    def test_keys_read_and_written_one_by_one(self):
        """No exchange has to be atomic, as long as keys are read and written in their order."""
        found = search(writer(0, 1), reader(2), reader(2), tags=2, present=tokens(2), atomic=False, crashes=1)
        assert (found.g1, found.g2) == ([], [])
        assert found.hits

    def test_two_writers_on_two_tags_of_one_query(self):
        """Commits on different tags may overlap."""
        found = search(writer(0), writer(1), reader(2), reader(2), tags=2, present=tokens(2))
        assert (found.g1, found.g2) == ([], [])
        assert found.hits

    @pytest.mark.parametrize("reads_first", [False, True], ids=["pinned", "first read pins"])
    def test_snapshot_while_one_commits(self, reads_first):
        """Inside a snapshot every hit equals the snapshot, and what is stored is true for everybody."""
        found = search(
            writer(),
            snapshot_reader(reads_first=reads_first),
            reader(),
            present=tokens(),
            **ACCIDENTS,
            short=True,
        )
        assert (found.g1, found.g2) == ([], [])
        assert found.hits

    def test_two_snapshots_while_one_commits(self):
        """Snapshots of different age do not mislead one another."""
        found = search(writer(), snapshot_reader(), snapshot_reader(reads_first=True), present=tokens())
        assert (found.g1, found.g2) == ([], [])
        assert found.hits

    def test_snapshot_when_tokens_are_absent_at_first(self):
        """A token drawn because a lease ended misleads no snapshot that is shorter than a lease."""
        found = search(writer(), snapshot_reader(), reader(), crashes=1, lost=1, short=True)
        assert (found.g1, found.g2) == ([], [])
        assert found.hits

    def test_snapshot_with_keys_read_and_written_one_by_one(self):
        """The order of clock and tokens is enough; no exchange has to be atomic."""
        found = search(
            writer(),
            snapshot_reader(),
            reader(),
            present=tokens(),
            atomic=False,
            crashes=1,
            evictions=1,
            short=True,
        )
        assert (found.g1, found.g2) == ([], [])

    @pytest.mark.parametrize("atomic", [True, False], ids=["at once", "one by one"])
    def test_replica_that_lags(self, atomic):
        """What a lagging replica answers is never stored under the tokens of a write it does not have."""
        found = search(writer(replica=True), reader(replica=True), present=tokens(), atomic=atomic, crashes=1)
        assert found.g1 == []

    def test_replica_and_primary(self):
        """Readers of the primary may store while a replica lags."""
        found = search(writer(replica=True), reader(replica=True), reader(), present=tokens(), crashes=1)
        assert found.g1 == []

    def test_foreign_value_in_the_place_of_a_token(self):
        """To heal a tag that holds a foreign value must not erase the mark of a writer that may die."""
        found = search(writer(), reader(), reader(), present=((tag(0), 7),), crashes=1)
        assert (found.g1, found.g2) == ([], [])


class TestLimits:
    """What the plain form of the protocol does not promise; each has its shortest way there."""

    def test_two_commits_that_overlap_on_a_tag(self):
        """Between the second COMMIT and its DONE an older entry may be served; no longer if nobody dies."""
        found = search(writer(), writer(), reader(), reader(), present=tokens())
        assert found.g2
        assert found.g1 == []

    def test_second_of_two_overlapping_writers_dies(self):
        """The window stays open if the second writer dies in it, for the life of the entry."""
        assert search(writer(), writer(), reader(), present=tokens(), crashes=1).g1

    def test_snapshot_older_than_a_lease(self):
        """A snapshot that outlives the lease of a dead writer, and a reader as slow, may store old rows."""
        assert search(writer(), snapshot_reader(), reader(), crashes=1).g1


# -- twins that are wrong


def naive_bump(at: protocol.WriteKeys, draw: Draw) -> Generator[Any, Any, None]:
    """Give the tags new tokens, without a mark."""
    yield SetMany(((at.clock, draw()), *((key, draw()) for key in at.tags)), Lifetime.STATE)


def stamped_after_the_query() -> Process:
    """Reads the tokens for the stamp when the rows are there."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        answer = yield from protocol.read(keys(), open_entry, draw)
        if answer.found is Found.HIT and answer.entry is not None:
            yield Serve(tuple(answer.entry.payload))
            return
        versions = yield Query()
        got = yield GetMany((tag(0),))
        if isinstance(got.get(tag(0)), str) and not protocol.is_mark(got[tag(0)]):
            yield from protocol.fill(ENTRY, entry_of(protocol.stamp((tag(0),), (got[tag(0)],)), versions))

    return Process(program)


def bump_before_commit() -> Process:
    """Invalidates, then commits."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield from naive_bump(write_keys((0,)), draw)
        yield Commit()

    return Process(program, (0,))


def bump_after_commit() -> Process:
    """Commits, then invalidates."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Commit()
        yield from naive_bump(write_keys((0,)), draw)

    return Process(program, (0,))


def tokens_before_clock() -> Process:
    """A DONE whose clock comes last."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield SetMany(((tag(0), MARK + draw()),), Lifetime.LEASE)
        yield Commit()
        yield SetMany(((tag(0), draw()),), Lifetime.STATE)
        yield SetMany(((CLOCK, draw()),), Lifetime.STATE)

    return Process(program, (0,))


def snapshot_without_clock() -> Process:
    """Reads in a snapshot as one reads outside of it."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Pin()
        answer = yield from protocol.read(keys(), open_entry, draw)
        yield from handed_out(answer)

    return Process(program)


def snapshot_with_clock_before_tokens() -> Process:
    """Looks at the clock too early: a commit may be completed between the two."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        clock = yield from protocol.clock(CLOCK, draw)
        yield Pin()
        now = yield GetMany((CLOCK,))
        answer = yield from protocol.read(keys(), open_entry, draw)
        if now.get(CLOCK) != clock:
            answer = Answer(Found.SNAPSHOT)
        yield from handed_out(answer)

    return Process(program)


def snapshot_with_late_clock() -> Process:
    """Reads the clock after its first statement."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Pin()
        clock = yield from protocol.clock(CLOCK, draw)
        if clock is not None:
            answer = yield from protocol.read_in_snapshot(keys(), clock, open_entry, draw)
            yield from handed_out(answer)

    return Process(program)


def creates_without_clock() -> Process:
    """Draws an absent token, and leaves the clock alone."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        got = yield GetMany((ENTRY, tag(0)))
        if tag(0) in got:
            return
        token = draw()
        if (yield Add(tag(0), token, Lifetime.STATE)):
            versions = yield Query()
            yield from protocol.fill(ENTRY, entry_of(protocol.stamp((tag(0),), (token,)), versions))

    return Process(program)


def stores_while_dark() -> Process:
    """Takes a mark for a token."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        got = yield GetMany((ENTRY, tag(0)))
        now = protocol.stamp((tag(0),), (str(got.get(tag(0))),))
        entry = open_entry(got.get(ENTRY))
        if entry is not None and entry.stamp == now:
            yield Serve(tuple(entry.payload))
            return
        versions = yield Query()
        yield from protocol.fill(ENTRY, entry_of(now, versions))

    return Process(program)


def forgets_the_mark_of_an_unknown_commit() -> Process:
    """Ends a commit of which nothing is known with new tokens."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield SetMany(((tag(0), MARK + draw()),), Lifetime.LEASE)
        yield Commit()
        yield from naive_bump(write_keys((0,)), draw)

    return Process(program, (0,))


def adds_in_two_steps() -> Process:
    """A reader whose cache adds a value by looking and then writing."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        got = yield GetMany((ENTRY, tag(0)))
        token = got.get(tag(0))
        if token is None:
            token = draw()
            there = yield GetMany((tag(0),))
            if tag(0) in there:
                return
            yield SetMany(((tag(0), token),), Lifetime.STATE)
        if protocol.is_mark(token):
            return
        versions = yield Query()
        yield from protocol.fill(ENTRY, entry_of(protocol.stamp((tag(0),), (token,)), versions))

    return Process(program)


class TestEnumerator:
    """A checker that finds nothing proves nothing: it finds what is wrong with wrong protocols."""

    def test_stamp_read_after_the_query(self):
        """Old rows are stored under the tokens of a commit they have not seen."""
        assert search(writer(), stamped_after_the_query(), present=tokens()).g1

    def test_bump_before_commit_only(self):
        """Old rows are stored under the new token before the commit, for good."""
        assert search(bump_before_commit(), reader(), present=tokens()).g1

    def test_bump_after_commit_only(self):
        """Between commit and bump old rows are served; if the writer dies there, for good."""
        found = search(bump_after_commit(), reader(), reader(), present=tokens())
        assert found.g2
        assert found.g1 == []
        assert search(bump_after_commit(), reader(), reader(), present=tokens(), crashes=1).g1

    def test_snapshot_reader_that_ignores_the_clock(self):
        """Rows of an old snapshot are stored under the tokens of a later commit."""
        found = search(writer(), snapshot_without_clock(), reader(), present=tokens())
        assert found.g1
        assert found.g2

    def test_snapshot_reader_that_reads_the_clock_after_its_snapshot(self):
        """A commit between the snapshot and the clock is not noticed."""
        assert search(writer(), snapshot_with_late_clock(), present=tokens()).g1

    def test_snapshot_reader_that_compares_the_clock_before_the_tokens(self):
        """A commit between the clock and the tokens is not noticed."""
        assert search(writer(), snapshot_with_clock_before_tokens(), present=tokens()).g1

    def test_done_that_writes_tokens_before_the_clock(self):
        """A snapshot reader in the gap takes the new token for one that its snapshot knows."""
        assert search(tokens_before_clock(), snapshot_reader(), present=tokens()).g1

    def test_reader_that_creates_tokens_and_leaves_the_clock_alone(self):
        """After the end of a dead writer's lease nothing tells old snapshots that their time is over."""
        found = search(writer(), creates_without_clock(), snapshot_reader(), present=tokens(), crashes=1)
        assert found.g1

    def test_rows_stored_under_a_mark(self):
        """A mark is no token: rows from before the commit are served until DONE."""
        assert search(writer(), stores_while_dark(), stores_while_dark(), present=tokens()).g2

    def test_tokens_after_a_commit_of_which_nothing_is_known(self):
        """The server commits after the mark is gone."""
        process = forgets_the_mark_of_an_unknown_commit()
        assert search(process, reader(), present=tokens(), lost=1).g1

    def test_add_that_is_not_atomic(self):
        """A token written over a mark lets old rows be stored; if the writer dies, for good."""
        assert search(writer(), adds_in_two_steps(), reader()).g2
        assert search(writer(), adds_in_two_steps(), crashes=1).g1

    def test_too_many_states(self):
        """A search that would not end says so."""
        with pytest.raises(RuntimeError, match="more than 10 states"):
            Enumerator(World((writer(), reader()))).run(limit=10)

    def test_hold_key_is_known(self):
        """The keys of the enumerator are those that the protocol is given."""
        assert keys(replica=True).holds == write_keys((0,), replica=True).holds == (HOLD,)
