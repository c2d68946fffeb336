"""Protocols that are wrong, each in one way: a checker that finds nothing in them proves nothing.

Some are those of other caches, some are ours with one line changed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cachalot.core import protocol
from cachalot.core.protocol import Found
from cachalot.core.steps import Add, Commit, Committed, Done, GetMany, Lifetime, Mark, SetMany
from cachalot.engine.transaction import Frame, Transaction
from tests.model.processes import commit_of, fill, handed_out, in_table, keys, write_keys
from tests.model.world import (
    CLOCK,
    ENTRY,
    Draw,
    Pin,
    Process,
    Query,
    Read,
    Serve,
    Stored,
    Tick,
    Write,
    open_entry,
    tag,
)

if TYPE_CHECKING:
    from collections.abc import Generator

ONE_TAG = write_keys((0,))


def bumped(draw: Draw) -> SetMany:
    """Return the step that gives the one tag a new token, whatever is there."""
    return SetMany(((CLOCK, draw()), (tag(0), draw())), Lifetime.STATE)


# Time stamps (django-cachalot 2.9.1): an entry is valid if it was stored after the last invalidation.


def later(entry: Stored, times: tuple[Any, ...], server: str) -> bool:
    """Return whether an entry was stored after the invalidations of all tags."""
    return all(time is None or entry.stamp >= time for time in times)


@cache
def timing_reader() -> Process:
    """Stores its rows under the time after the query."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Read()
        got = yield GetMany((ENTRY, tag(0)))
        if ENTRY in got and later(got[ENTRY], (got.get(tag(0)),), ""):
            yield Serve(got[ENTRY].versions)
            return
        versions = yield Query()
        time = yield Tick()
        yield from fill(time, versions)

    return Process(program)


def _note_time() -> Generator[Any, Any, None]:
    time = yield Tick()
    yield SetMany(((tag(0), time),), Lifetime.STATE)


@cache
def timing_autocommit_writer() -> Process:
    """Notes the time before the statement that commits by itself."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield from _note_time()
        yield Commit()

    return Process(program, (0,))


@cache
def timing_atomic_writer() -> Process:
    """Notes the time after the commit."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Commit()
        yield from _note_time()

    return Process(program, (0,))


# Tokens without marks.


@cache
def bump_before_commit() -> Process:
    """Invalidates, then commits."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield bumped(draw)
        yield Commit()

    return Process(program, (0,))


@cache
def bump_after_commit() -> Process:
    """Commits, then invalidates."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Commit()
        yield bumped(draw)

    return Process(program, (0,))


# Ours, with one line changed.


@cache
def stamps_after_the_query() -> Process:
    """Reads the tokens for the stamp when the rows are there."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Read()
        answer = yield from protocol.read(keys(), open_entry, draw)
        if answer.found is Found.HIT:
            yield from handed_out(answer)
            return
        versions = yield Query()
        token = (yield GetMany((tag(0),))).get(tag(0))
        if isinstance(token, str) and not protocol.is_mark(token):
            yield from fill(protocol.stamp((tag(0),), (token,)), versions)

    return Process(program)


@cache
def stores_while_dark() -> Process:
    """Takes a mark for a token."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Read()
        got = yield GetMany((ENTRY, tag(0)))
        now = protocol.stamp((tag(0),), (str(got.get(tag(0))),))
        entry = open_entry(got.get(ENTRY))
        if entry is not None and entry.stamp == now:
            yield Serve(tuple(entry.payload))
            return
        versions = yield Query()
        yield from fill(now, versions)

    return Process(program)


@cache
def ends_an_unknown_commit() -> Process:
    """Ends a commit of which nothing is known."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        writer = yield from protocol.mark(ONE_TAG, draw)
        yield Commit()
        yield Done(writer, (CLOCK, draw()), ((tag(0), draw()),), committed=True)

    return Process(program, (0,))


@cache
def bumps_instead_of_done() -> Process:
    """Ends its commit with a token, whoever else is in flight."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield from protocol.mark(ONE_TAG, draw)
        if (yield Commit()) is not Committed.UNKNOWN:
            yield bumped(draw)

    return Process(program, (0,))


@cache
def says_that_nothing_happened() -> Process:
    """Ends a commit as if it had been rolled back."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        writer = yield from protocol.mark(ONE_TAG, draw)
        if (yield Commit()) is not Committed.UNKNOWN:
            yield Done(writer, (CLOCK, draw()), ((tag(0), draw()),), committed=False)

    return Process(program, (0,))


@cache
def heals_with_a_token() -> Process:
    """Puts a token in the place of a foreign value."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Read()
        got = yield GetMany((ENTRY, tag(0)))
        token = got.get(tag(0))
        if token is not None and not isinstance(token, str):
            token = draw()
            yield SetMany(((tag(0), token),), Lifetime.STATE)
        if token is not None and not protocol.is_mark(token):
            versions = yield Query()
            yield from fill(protocol.stamp((tag(0),), (token,)), versions)

    return Process(program)


@cache
def adds_in_two_steps() -> Process:
    """A reader whose cache adds a value by looking and then writing."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Read()
        token = (yield GetMany((ENTRY, tag(0)))).get(tag(0))
        if token is None:
            token = draw()
            if tag(0) in (yield GetMany((tag(0),))):
                return
            yield SetMany(((tag(0), token),), Lifetime.STATE)
        if not protocol.is_mark(token):
            versions = yield Query()
            yield from fill(protocol.stamp((tag(0),), (token,)), versions)

    return Process(program)


# Snapshots.


@cache
def snapshot_without_clock() -> Process:
    """Reads in a snapshot as one reads outside of it."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Pin()
        yield Read()
        answer = yield from protocol.read(keys(), open_entry, draw)
        yield from handed_out(answer)

    return Process(program)


@cache
def snapshot_with_clock_before_tokens() -> Process:
    """Looks at the clock too early: a commit may be completed between the two."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        clock = yield from protocol.clock(CLOCK, draw)
        yield Pin()
        now = yield from protocol.clock(CLOCK, draw)
        yield Read()
        answer = yield from protocol.read(keys(), open_entry, draw)
        if now == clock:
            yield from handed_out(answer)

    return Process(program)


@cache
def snapshot_with_late_clock() -> Process:
    """Reads the clock after its first statement."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Pin()
        clock = yield from protocol.clock(CLOCK, draw)
        if clock is not None:
            yield Read()
            answer = yield from protocol.read_in_snapshot(keys(), clock, open_entry, draw)
            yield from handed_out(answer)

    return Process(program)


@cache
def snapshot_with_clock_of_any_server() -> Process:
    """Compares the clock, and not the server that it is of."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        clock = (yield GetMany((CLOCK,))).get(CLOCK)
        yield Pin()
        yield Read()
        answer = yield from protocol.read(keys(), open_entry, draw)
        now = (yield GetMany((CLOCK,))).get(CLOCK)
        if clock is not None and now == clock:
            yield from handed_out(answer)

    return Process(program)


@cache
def tokens_before_clock() -> Process:
    """A DONE whose clock comes last."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Mark((tag(0),), draw())
        yield Commit()
        yield SetMany(((tag(0), draw()),), Lifetime.STATE)
        yield SetMany(((CLOCK, draw()),), Lifetime.STATE)

    return Process(program, (0,))


@cache
def creates_without_clock() -> Process:
    """Draws an absent token, and leaves the clock alone."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Read()
        got = yield GetMany((ENTRY, tag(0)))
        token = draw()
        if tag(0) not in got and (yield Add(tag(0), token, Lifetime.STATE)):
            versions = yield Query()
            yield from fill(protocol.stamp((tag(0),), (token,)), versions)

    return Process(program)


# Replicas.


@cache
def stores_what_a_replica_says() -> Process:
    """Reads from a replica as one reads from the primary."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Read()
        answer = yield from protocol.read(keys(), open_entry, draw)
        yield from handed_out(answer)

    return Process(program, replica=True)


# Transactions.


def _transaction() -> Transaction:
    return Transaction([Frame("", None)])  # type: ignore[arg-type]


@cache
def forgets_everything_at_a_savepoint() -> Process:
    """Rolls back to a savepoint, and forgets what was written before it too."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Write((1, 0))
        transaction = _transaction()
        transaction.note(in_table(1))
        yield Write((1, 1))
        transaction = _transaction()
        yield Write((1, 0))
        yield from commit_of(transaction, draw)

    return Process(program, (0, 1), transaction=True)


@cache
def shares_what_it_has_written() -> Process:
    """Reads in a transaction that has written, and keeps the rows for everybody."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Write((1, 0))
        yield Read()
        answer = yield from protocol.read(keys(2), open_entry, draw)
        yield from handed_out(answer)
        yield from protocol.commit(write_keys((0,)), draw)

    return Process(program, (0,), transaction=True)
