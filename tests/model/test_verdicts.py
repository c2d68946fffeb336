"""What the search says about our protocol and about wrong ones, row by row of the table in its design.

The rows are those of the table "Anomalies"; G2 is freshness (S there), G1 is convergence (P there).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.model import twins
from tests.model.processes import reader, savepoints, snapshot_reader, stored, tokens, writer
from tests.model.search import Search
from tests.model.world import CLOCK, ENTRY, Exchange, Tier, World, tag

if TYPE_CHECKING:
    from tests.model.search import Verdict

ACCIDENTS = {"crashes": 1, "evictions": 1, "lost": 1}
FOREIGN = ((tag(0), 7),)


def holds(found: Verdict, *, hits: bool = True) -> None:
    """Fail unless nothing is wrong; a world in which nothing is ever served shows nothing."""
    assert (found.g1, found.g2) == ([], [])
    assert bool(found.hits) is hits


def goes(way: list[str], *essential: str) -> None:
    """Fail unless a shortest way to a violation takes these steps, in this order, among its own."""
    rest = iter(way)
    missing = next((step for step in essential if not any(step in line for line in rest)), None)
    assert missing is None, f"no {missing!r} there in {way}"


class TestOtherCaches:
    """Protocols of other caches, and the first thoughts of anybody."""

    def test_time_noted_before_the_statement(self, search):
        """Row "cachalot autocommit": rows older than a commit, stored with a later time, stay for good."""
        found = search(
            twins.timing_autocommit_writer(), twins.timing_reader(), twins.timing_reader(), valid=twins.later
        )
        essential = ("W0 stores tag0", "R1 queries (0,)", "W0 commits", "R1 stores entry")
        goes(found.g1, *essential)
        goes(found.g2, *essential, "R2 reads entry tag0, serves (0,)")

    def test_time_noted_after_the_commit(self, search):
        """Row "cachalot atomic": rows queried before the commit get a time after the invalidation."""
        found = search(
            twins.timing_atomic_writer(), twins.timing_reader(), twins.timing_reader(), valid=twins.later
        )
        goes(found.g1, "R1 queries (0,)", "W0 commits", "W0 stores tag0", "R1 looks", "R1 stores entry")
        assert found.g2

    def test_bump_before_the_commit(self, search):
        """Row "random token bumped before commit only": the new token is read, then the old rows."""
        found = search(twins.bump_before_commit(), reader(), reader(), present=tokens())
        essential = ("W0 stores clock tag0", "R1 reads entry tag0", "R1 queries (0,)", "W0 commits")
        goes(found.g1, *essential, "R1 stores entry")
        goes(found.g2, *essential, "R2 reads entry tag0, serves (0,)")

    def test_bump_after_the_commit(self, search):
        """Row "random token bumped after commit only": hits in the window between the two."""
        found = search(twins.bump_after_commit(), reader(), reader(), present=stored())
        assert found.g2 == ["W0 commits", "R1 reads entry tag0, serves (0,)"]
        assert found.g1 == []

    def test_bump_after_the_commit_and_a_crash(self, search):
        """Row "random token bumped after commit only", with a crash: the window stays open."""
        found = search(twins.bump_after_commit(), reader(), present=stored(), crashes=1)
        assert found.g1 == ["W0 commits", "W0 dies"]


class TestOverwrittenMarks:
    """Our protocol on a cache that keeps one mark for all writers."""

    def test_one_writer(self, search):
        """Row "overwrite-mark + bump, 1 writer/tag": nothing is wrong, whatever dies or is evicted."""
        holds(search(writer(), reader(), reader(), present=stored(), tier=Tier.OVERWRITE, **ACCIDENTS))

    def test_two_writers_on_tags_of_their_own(self, search):
        """Row "overwrite-mark + bump, 1 writer/tag": commits on different tags of a query may overlap."""
        found = search(
            *(writer(0), writer(1), reader(2), reader(2)),
            tags=2,
            present=tokens(2),
            tier=Tier.OVERWRITE,
            crashes=1,
        )
        holds(found)

    def test_two_overlapping_writers(self, search):
        """Row "same, 2 overlapping writers on a tag": the first DONE takes the mark of the second away."""
        found = search(writer(), writer(), reader(), reader(), present=tokens(), tier=Tier.OVERWRITE)
        assert found.g2 == [
            "W0 marks tag0",
            "W0 commits",
            "W1 marks tag0",
            "W0 done clock tag0",
            "R2 reads entry tag0",
            "R2 queries (1,)",
            "W1 commits",
            "R2 stores entry",
            "R3 reads entry tag0, serves (1,)",
        ]
        assert found.g1 == []

    def test_second_of_two_overlapping_writers_dies(self, search):
        """Row "same, 2 overlapping writers on a tag", with a crash: the window stays open."""
        found = search(writer(), writer(), reader(), present=tokens(), tier=Tier.OVERWRITE, crashes=1)
        goes(found.g1, "W1 marks", "W0 done", "R2 queries (1,)", "W1 commits", "W1 dies", "R2 stores entry")

    def test_snapshot(self, search):
        """Row "SI reader with db write clock captured before the snapshot", with one mark for all."""
        found = search(
            *(writer(), snapshot_reader(), reader()),
            present=tokens(),
            tier=Tier.OVERWRITE,
            short=True,
            **ACCIDENTS,
        )
        holds(found)

    def test_foreign_value(self, search):
        """To heal a tag that holds a foreign value does not shorten the mark of a writer that may die."""
        found = search(writer(), reader(), reader(), present=FOREIGN, tier=Tier.OVERWRITE, crashes=1)
        holds(found)


class TestIntents:
    """Our protocol on a cache that knows every commit in flight."""

    @pytest.mark.parametrize("present", [(), tokens(), stored()], ids=["absent", "tokens", "entry"])
    def test_one_writer(self, search, present):
        """Row "intent set", one writer: nothing is wrong, whatever dies, is lost or is evicted."""
        holds(search(writer(), reader(), reader(), present=present, **ACCIDENTS))

    def test_two_writers(self, search):
        """Row "intent set, 2 and 3 writers": where one mark for all is wrong, nothing is wrong."""
        holds(search(writer(), writer(), reader(), reader(), present=tokens()))

    def test_three_writers(self, search):
        """Row "intent set, 2 and 3 writers"."""
        holds(search(writer(), writer(), writer(), reader(), reader(), present=tokens()))

    @pytest.mark.parametrize("present", [(), tokens()], ids=["absent", "tokens"])
    def test_crash_of_one_or_two_of_two_writers(self, search, present):
        """Row "intent set + crash at any step": the leases end, each its own."""
        holds(search(writer(), writer(), reader(), reader(), present=present, crashes=2))

    def test_crash_of_two_of_three_writers(self, search):
        """Row "intent set + crash at any step", three writers."""
        holds(search(writer(), writer(), writer(), reader(), present=stored(), crashes=2))

    def test_two_writers_and_everything(self, search):
        """Row "intent set + crash at any step", also with a late commit and an evicted key."""
        holds(search(writer(), writer(), reader(), present=stored(), crashes=2, evictions=1, lost=1))

    def test_lease_that_ends_under_a_live_writer(self, search):
        """Row "lease may expire under a live writer": a window, closed again by DONE."""
        found = search(writer(), reader(), reader(), present=tokens(), hasty=True)
        essential = ("W0 marks", "lease of W0 on tag0 ends", "R1 queries (0,)", "W0 commits", "R1 stores")
        goes(found.g2, *essential, "R2 reads entry tag0, serves (0,)")
        assert found.g1 == []

    def test_evicted_mark(self, search):
        """Row "mark evicted", nobody dies: a window, closed again by DONE."""
        found = search(writer(), writer(), reader(), reader(), present=tokens(), marks=1)
        essential = ("W0 marks", "mark of tag0 is evicted", "R2 queries (0,)", "W0 commits", "R2 stores")
        goes(found.g2, *essential, "R3 reads entry tag0, serves (0,)")
        assert found.g1 == []

    def test_evicted_mark_and_crash(self, search):
        """Row "mark evicted and writer crashes after commit": the double fault."""
        found = search(writer(), reader(), reader(), present=tokens(), marks=1, crashes=1)
        essential = ("W0 marks", "mark of tag0 is evicted", "R1 queries (0,)", "W0 commits", "W0 dies")
        goes(found.g1, *essential, "R1 stores entry")
        assert found.g2

    def test_commit_that_is_carried_out_late(self, search):
        """Row "crash with the COMMIT still in flight, lease > commit delay": the marks are still there."""
        holds(search(writer(), writer(), reader(), reader(), present=tokens(), lost=2))

    def test_commit_that_is_carried_out_after_the_lease(self, search):
        """Row "lease shorter than the commit delay": the lease must outlast a commit."""
        found = search(writer(), reader(), reader(), present=tokens(), lost=1, hasty=True)
        essential = ("loses the server", "lease of W0 on tag0 ends", "R1 queries (0,)", "carried out late")
        goes(found.g1, *essential, "R1 stores entry")
        assert found.g2

    def test_own_writes(self, search):
        """A process that has written sees it, and so does everybody else (G3)."""
        holds(search(writer(reads=1), writer(reads=1), reader(), present=stored(), crashes=1))

    def test_foreign_value_in_the_place_of_a_token(self, search):
        """To heal a tag that holds a foreign value must not erase the mark of a writer that may die."""
        holds(search(writer(), writer(), reader(), reader(), present=FOREIGN, crashes=1))

    @pytest.mark.parametrize("key", [ENTRY, CLOCK])
    def test_foreign_value_in_the_place_of_an_entry_or_the_clock(self, search, key):
        """What is not ours is replaced, or not relied on, and nothing is wrong meanwhile."""
        processes = (writer(), snapshot_reader(), reader())
        holds(search(*processes, present=(*tokens(), (key, 7)), crashes=1, short=True))

    @pytest.mark.usefixtures("thorough")
    def test_three_writers_and_everything(self, search):
        """Row "intent set + crash at any step", the largest world."""
        found = search(
            *(writer(), writer(), writer(), reader(), reader()),
            present=tokens(),
            crashes=2,
            evictions=1,
        )
        holds(found)


class TestTwoTags:
    """Row "two tags, non-atomic multi-get and non-atomic MARK/DONE, opposite mark orders, crashes"."""

    OPPOSITE = (writer(0, 1), writer(1, 0))

    @pytest.mark.parametrize("exchange", [Exchange.ONE_BY_ONE, Exchange.ENTRY_LAST])
    @pytest.mark.parametrize("tier", Tier)
    def test_one_writer_and_two_readers(self, search, exchange, tier):
        """Keys that are read and written one by one, in their order or the entry last."""
        world = {"tags": 2, "present": stored(2), "exchange": exchange, "tier": tier}
        holds(search(writer(0, 1), reader(2), reader(2), **world, crashes=1))

    @pytest.mark.parametrize("exchange", [Exchange.ONE_BY_ONE, Exchange.ENTRY_LAST])
    def test_two_writers(self, search, exchange):
        """Two writers that mark the tags in opposite orders; one of them may die."""
        world = {"tags": 2, "present": stored(2), "exchange": exchange}
        holds(search(*self.OPPOSITE, reader(2), **world, crashes=1))

    def test_two_writers_and_no_token(self, search):
        """The same when the tokens have to be created."""
        found = search(*self.OPPOSITE, reader(2), tags=2, exchange=Exchange.ONE_BY_ONE)
        holds(found, hits=False)

    def test_evicted_keys(self, search):
        """The same when a token, the entry or the clock is evicted."""
        world = {"tags": 2, "present": stored(2), "exchange": Exchange.ONE_BY_ONE}
        holds(search(writer(0, 1), reader(2), **world, crashes=1, evictions=2))

    @pytest.mark.parametrize("exchange", [Exchange.AT_ONCE, Exchange.ONE_BY_ONE])
    @pytest.mark.parametrize("tags", [(0, 1), (1, 0)], ids=["first", "last"])
    def test_query_of_one_of_the_tags_that_are_written(self, search, tags, exchange):
        """Each of the tags that a commit writes is dark and gets a token, not only one of them."""
        world = {"tags": 2, "query": 1, "present": (*stored(), (tag(1), "old1")), "exchange": exchange}
        holds(search(writer(*tags), writer(1), reader(), reader(), **world, crashes=1))

    def test_writers_of_one_tag_and_of_both(self, search):
        """A query of two tags, while each of them and both of them are written."""
        holds(search(writer(0), writer(1), writer(0, 1), reader(2), tags=2, present=stored(2), crashes=1))

    @pytest.mark.usefixtures("thorough")
    @pytest.mark.parametrize("exchange", [Exchange.ONE_BY_ONE, Exchange.ENTRY_LAST])
    def test_two_writers_and_two_readers(self, search, exchange):
        """The whole row."""
        world = {"tags": 2, "present": tokens(2), "exchange": exchange}
        holds(search(*self.OPPOSITE, reader(2), reader(2), **world, crashes=1))

    @pytest.mark.usefixtures("thorough")
    def test_two_readers_and_no_token(self, search):
        """Two readers that create the tokens, of a writer that may die."""
        holds(search(writer(0, 1), reader(2), reader(2), tags=2, exchange=Exchange.ONE_BY_ONE, crashes=1))


class TestSnapshots:
    """Readers in REPEATABLE READ, whose snapshot may be older than the tokens."""

    def test_reader_that_fills_freely(self, search):
        """Row "SI reader fills freely": rows of an old snapshot are stored under later tokens."""
        found = search(writer(), twins.snapshot_without_clock(), reader(), present=tokens())
        essential = ("R1 fixes its snapshot (0,)", "W0 commits", "W0 done", "R1 queries (0,)", "R1 stores")
        goes(found.g1, *essential)
        assert found.g2

    @pytest.mark.parametrize("present", [(), tokens(), stored()], ids=["absent", "tokens", "entry"])
    @pytest.mark.parametrize("reads_first", [False, True], ids=["pinned", "first read pins"])
    def test_one_writer(self, search, reads_first, present):
        """Row "SI reader with db write clock captured before the snapshot"."""
        processes = (writer(), snapshot_reader(reads_first=reads_first), reader())
        holds(search(*processes, present=present, crashes=1, lost=1, short=True))

    def test_evicted_keys(self, search):
        """The same when a token, the entry or the clock is evicted."""
        holds(search(writer(), snapshot_reader(), reader(), present=tokens(), **ACCIDENTS, short=True))

    def test_two_writers(self, search):
        """The same with two writers."""
        processes = (writer(), writer(), snapshot_reader(), reader())
        holds(search(*processes, present=tokens(), crashes=1, short=True))

    def test_two_snapshots_of_different_age(self, search):
        """Snapshots do not mislead one another."""
        processes = (writer(), snapshot_reader(), snapshot_reader(reads_first=True))
        holds(search(*processes, present=tokens(), crashes=1, short=True))

    @pytest.mark.parametrize("present", [(), tokens()], ids=["absent", "tokens"])
    def test_keys_read_and_written_one_by_one(self, search, present):
        """The order of clock and tokens is enough; no exchange has to be atomic."""
        processes = (writer(), snapshot_reader(), reader())
        world = {"present": present, "exchange": Exchange.ONE_BY_ONE, "short": True}
        holds(search(*processes, **world, crashes=1, lost=1))

    def test_snapshot_that_outlives_a_lease(self, search):
        """What is forbidden to transactions older than half a lease, where tokens are created in steps."""
        processes = (writer(), snapshot_reader(), reader())
        found = search(*processes, crashes=1, exchange=Exchange.ONE_BY_ONE)
        essential = (
            "R2 creates clock tag0 (1)",
            "R1 reads clock",
            "R1 fixes its snapshot (0,)",
            "W0 commits",
        )
        goes(found.g1, *essential, "W0 dies", "lease of W0 on tag0 ends", "R2 creates clock tag0 (2)")
        assert found.g2

    def test_snapshot_that_outlives_a_lease_while_tokens_are_created_in_one_step(self, search):
        """Where clock and tokens are written at one instant no transaction is too old."""
        holds(search(writer(), snapshot_reader(), reader(), crashes=1))

    def test_clock_read_after_the_snapshot(self, search):
        """A commit between the snapshot and the clock is not noticed."""
        found = search(writer(), twins.snapshot_with_late_clock(), present=tokens())
        goes(found.g1, "R1 fixes its snapshot", "W0 done", "R1 reads clock", "R1 queries (0,)", "R1 stores")

    def test_clock_compared_before_the_tokens(self, search):
        """A commit between the clock and the tokens is not noticed."""
        found = search(writer(), twins.snapshot_with_clock_before_tokens(), present=tokens())
        goes(found.g1, "W0 commits", "R1 reads clock", "W0 done", "R1 reads entry tag0", "R1 queries (0,)")

    def test_done_that_writes_tokens_before_the_clock(self, search):
        """A reader in the gap takes the new token for one that its snapshot knows."""
        found = search(twins.tokens_before_clock(), snapshot_reader(), present=tokens())
        goes(found.g1, "W0 stores tag0", "R1 queries (0,)", "R1 stores entry")

    def test_tokens_created_without_the_clock(self, search):
        """After the end of a dead writer's lease nothing tells old snapshots that their time is over."""
        processes = (writer(), twins.creates_without_clock(), snapshot_reader())
        found = search(*processes, present=tokens(), crashes=1)
        goes(found.g1, "W0 commits", "W0 dies", "lease of W0 on tag0 ends", "R1 adds tag0", "R2 stores entry")

    @pytest.mark.usefixtures("thorough")
    def test_two_writers_and_everything(self, search):
        """Two writers and all accidents."""
        processes = (writer(), writer(), snapshot_reader(), reader())
        holds(search(*processes, present=tokens(), **ACCIDENTS, short=True))

    @pytest.mark.usefixtures("thorough")
    def test_two_tags_one_by_one(self, search):
        """Two tags that have to be created, all keys one by one."""
        processes = (writer(0, 1), snapshot_reader(2), reader(2))
        holds(search(*processes, tags=2, exchange=Exchange.ONE_BY_ONE, crashes=1, short=True))


class TestFailover:
    """A cache that goes back to what it held at an earlier moment."""

    NAMED = stored(server="server 0")

    def test_servers_without_names(self, search):
        """Row "cache failover to a replica that lost writes": the old token comes back."""
        found = search(writer(), reader(), reader(), present=stored(), failovers=1)
        assert found.g1 == [
            "a copy of the cache is made",
            "W0 marks tag0",
            "W0 commits",
            "W0 done clock tag0",
            "the copy takes over",
        ]
        assert found.g2

    def test_servers_with_names(self, search):
        """Row "with epoch rotation on server identity change": the window of one commit."""
        found = search(writer(), reader(), reader(), present=self.NAMED, failovers=2, names=True)
        essential = ("W0 marks", "the copy takes over", "R1 queries (0,)", "W0 commits", "R1 stores entry")
        goes(found.g2, *essential, "R2 reads entry tag0, serves (0,)")
        assert found.g1 == []

    @pytest.mark.parametrize("exchange", [Exchange.AT_ONCE, Exchange.APART])
    def test_commit_that_has_ended_before(self, search, exchange):
        """The same row: only a commit in flight has a window, and only until its DONE."""
        processes = (writer(), writer(), reader())
        world = {"present": self.NAMED, "failovers": 1, "names": True, "exchange": exchange}
        assert search(*processes, **world, evictions=1).g1 == []

    def test_snapshot(self, search):
        """The clock of another server is not ours, even if it says the same."""
        processes = (writer(), snapshot_reader(), reader())
        assert search(*processes, present=self.NAMED, failovers=1, names=True).g1 == []

    def test_clock_without_the_name_of_its_server(self, search):
        """A clock that came back hides the commits that it had seen."""
        processes = (writer(), twins.snapshot_with_clock_of_any_server())
        found = search(*processes, present=tokens(), failovers=1, names=True)
        goes(found.g1, "R1 reads clock", "W0 done", "the copy takes over", "R1 queries (0,)", "R1 stores")

    def test_writer_that_dies_as_well(self, search):
        """A lost mark and a crash between COMMIT and DONE: the double fault again."""
        found = search(writer(), reader(), present=self.NAMED, failovers=1, names=True, crashes=1)
        goes(found.g1, "W0 marks", "the copy takes over", "W0 commits", "W0 dies")

    def test_commit_that_is_carried_out_late_as_well(self, search):
        """A lost mark and a commit of which nothing is known: the double fault again."""
        found = search(writer(), reader(), present=self.NAMED, failovers=1, names=True, lost=1)
        goes(found.g1, "loses the server", "the copy takes over", "R1 queries (0,)", "carried out late")


class TestTransactions:
    """Writers with savepoints, and reads of what a transaction has written."""

    @pytest.mark.parametrize("released", [False, True], ids=["rolled back", "released"])
    def test_savepoint(self, search, released):
        """What was rolled back is not invalidated, what was released is, and nobody else sees any of it."""
        processes = (savepoints(released=released), writer(1), reader(2))
        holds(search(*processes, tags=2, present=stored(2), crashes=1))

    def test_savepoint_and_two_readers(self, search):
        """The same with readers that fill and readers that hit."""
        holds(search(savepoints(), reader(2), reader(2), tags=2, present=tokens(2), **ACCIDENTS))

    def test_savepoint_that_takes_too_much_with_it(self, search):
        """What was written before a savepoint must outlive its rollback."""
        found = search(twins.forgets_everything_at_a_savepoint(), reader(2), tags=2, present=stored(2))
        goes(found.g1, "W0 commits")

    def test_own_rows_that_are_shared(self, search):
        """What a transaction has written must not be stored for others before it has committed (G4)."""
        processes = (twins.shares_what_it_has_written(), reader(2))
        found = search(*processes, tags=2, present=tokens(2))
        goes(found.g2, "W0 queries (1, 0)", "W0 stores entry", "R1 reads entry tag0 tag1, serves (1, 0)")
        assert found.g1


class TestReplicas:
    """Readers of a replica that may lag."""

    @pytest.mark.parametrize("exchange", [Exchange.AT_ONCE, Exchange.ONE_BY_ONE])
    @pytest.mark.parametrize("writers", [1, 2])
    def test_replica_that_lags(self, search, exchange, writers):
        """What a lagging replica answers is never stored under the tokens of a write it does not have."""
        processes = (*[writer(replica=True)] * writers, reader(replica=True))
        assert search(*processes, present=stored(), exchange=exchange, crashes=1, lost=1).g1 == []

    def test_replica_and_primary(self, search):
        """Readers of the primary may store while a replica lags."""
        processes = (writer(replica=True), reader(replica=True), reader())
        found = search(*processes, present=tokens(), crashes=1, evictions=1)
        assert found.g1 == []
        assert found.hits

    @pytest.mark.parametrize("names", [False, True], ids=["without names", "with names"])
    def test_replica_that_has_caught_up(self, search, names):
        """What a replica answers is stored when it is known not to lag, and served to others."""
        reads = reader(replica=True)
        found = search(writer(replica=True), reads, reads, present=tokens(), names=names)
        assert found.g1 == []
        assert found.hits

    def test_replica_that_is_believed(self, search):
        """Old rows are stored under the new token."""
        found = search(writer(replica=True), twins.stores_what_a_replica_says(), present=tokens())
        goes(
            found.g1, "W0 commits", "W0 done", "R1 queries (0,)", "R1 stores entry", "the replica catches up"
        )

    def test_replica_and_failover(self, search):
        """A cache that has lost writes has lost that a replica may lag as well."""
        processes = (writer(replica=True), reader(replica=True))
        found = search(*processes, present=tokens(), failovers=1, names=True)
        goes(found.g1, "W0 commits", "the copy takes over", "R1 queries (0,)", "the replica catches up")


class TestOneLineChanged:
    """Our protocol with one line changed."""

    def test_stamp_read_after_the_query(self, search):
        """Old rows are stored under the tokens of a commit they have not seen."""
        found = search(writer(), twins.stamps_after_the_query(), present=tokens())
        goes(found.g1, "R1 queries (0,)", "W0 commits", "W0 done", "R1 reads tag0", "R1 stores entry")

    def test_rows_stored_under_a_mark(self, search):
        """A mark is no token: rows from before the commit are served until DONE."""
        reads = twins.stores_while_dark()
        found = search(writer(), reads, reads, present=tokens())
        goes(found.g2, "W0 marks", "R1 reads", "R1 queries (0,)", "W0 commits", "R2 reads entry")

    def test_unknown_commit_that_is_ended(self, search):
        """The server commits after the mark is gone."""
        found = search(twins.ends_an_unknown_commit(), reader(), present=tokens(), lost=1)
        goes(
            found.g1, "loses the server", "W0 done", "R1 queries (0,)", "carried out late", "R1 stores entry"
        )

    def test_token_in_the_place_of_the_intents_of_others(self, search):
        """Where marks are sets, DONE must leave the others in them."""
        writes = twins.bumps_instead_of_done()
        found = search(writes, writes, reader(), reader(), present=tokens())
        goes(found.g2, "W1 marks", "W0 stores clock tag0", "R2 queries (1,)", "W1 commits", "R2 stores entry")

    def test_commit_that_is_said_not_to_have_been(self, search):
        """A write that has committed gives a token also to a tag whose mark was evicted."""
        found = search(twins.says_that_nothing_happened(), reader(), present=tokens(), marks=1)
        goes(found.g1, "W0 marks", "evicted", "R1 queries (0,)", "W0 commits", "W0 done", "R1 stores entry")

    def test_token_in_the_place_of_a_foreign_value(self, search):
        """A token written over a mark lets old rows be stored; if the writer dies, for good."""
        found = search(writer(), twins.heals_with_a_token(), present=FOREIGN, crashes=1)
        goes(found.g1, "R1 reads", "W0 marks", "R1 stores tag0", "R1 queries (0,)", "W0 commits", "W0 dies")

    def test_add_that_is_not_atomic(self, search):
        """A token written over a mark that came in between, the same."""
        found = search(writer(), twins.adds_in_two_steps(), reader(), crashes=1)
        goes(found.g1, "R1 reads tag0", "W0 marks", "R1 stores tag0", "R1 queries (0,)", "W0 commits")
        assert found.g2


class TestSearch:
    """The search itself."""

    def test_too_many_states(self):
        """A search that would not end says so."""
        with pytest.raises(RuntimeError, match="more than 10 states"):
            Search(World((writer(), reader()))).run(limit=10)

    def test_equal_processes_begin_in_their_order(self):
        """Of equal processes the first begins first; unequal ones begin in any order, to the same verdict."""
        equal = Search(World((writer(), writer(), reader()), present=stored(), crashes=1)).run()
        unequal = World((writer(), writer.__wrapped__(), reader()), present=stored(), crashes=1)
        found = Search(unequal).run()
        assert equal.states < found.states < 2 * equal.states
        assert (equal.g1, equal.g2) == (found.g1, found.g2) == ([], [])
