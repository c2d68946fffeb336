"""Processes made of the generators that are shipped, and of the shipped record of a transaction."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cachalot.core import protocol
from cachalot.core.protocol import Answer, Found, Keys, WriteKeys
from cachalot.core.steps import Commit
from cachalot.core.tags import Effects
from cachalot.engine.transaction import Frame, Transaction
from tests.model.world import (
    CLOCK,
    ENTRY,
    HOLD,
    Draw,
    Pin,
    Process,
    Query,
    Read,
    Serve,
    Stored,
    Write,
    open_entry,
    tag,
    tag_names,
)

if TYPE_CHECKING:
    from collections.abc import Generator


def keys(tags: int = 1, *, replica: bool = False) -> Keys:
    """Return the keys of the one query."""
    return Keys(ENTRY, tag_names(tags), CLOCK, (HOLD,) if replica else ())


def write_keys(tags: tuple[int, ...], *, replica: bool = False, removes: bool = False) -> WriteKeys:
    """Return the keys of a write.

    :param removes: whether tokens are removed in the end, as those of rows are.
    """
    written = tuple(map(tag, tags))
    passing = frozenset(written if removes else ())
    return WriteKeys(written, CLOCK, (HOLD,) if replica else (), passing=passing)


def tokens(tags: int = 1) -> tuple[tuple[str, str], ...]:
    """Return a token for each tag, to begin with."""
    return tuple((tag(number), f"old{number}") for number in range(tags))


def stored(tags: int = 1, server: str = "") -> tuple[tuple[str, Any], ...]:
    """Return a token for each tag and an entry under them, to begin with."""
    first = tokens(tags)
    stamp = protocol.stamp(tag_names(tags), [token for _key, token in first], server)
    return (*first, (ENTRY, Stored(stamp, (0,) * tags)))


def fill(stamp: bytes, versions: Any) -> Generator[Any, Any, Any]:
    """Store rows."""
    return protocol.fill(ENTRY, Stored(stamp, tuple(versions)))  # type: ignore[arg-type]


def handed_out(answer: Answer) -> Generator[Any, Any, None]:
    """Serve a hit, or run the query and keep what it returns.

    A query whose rows are not kept is left out: what a database says is true.
    """
    if answer.found is Found.HIT and answer.entry is not None:
        yield Serve(tuple(answer.entry.payload))
    elif answer.stamp is not None:
        versions = yield Query()
        yield from fill(answer.stamp, versions)


def read_once(tags: int, draw: Draw, *, replica: bool = False) -> Generator[Any, Any, None]:
    """Read outside of snapshots."""
    yield Read()
    answer = yield from protocol.read(keys(tags, replica=replica), open_entry, draw)
    yield from handed_out(answer)


@cache
def reader(tags: int = 1, *, replica: bool = False) -> Process:
    """Return a process that reads once, outside of snapshots."""
    return Process(lambda draw: read_once(tags, draw, replica=replica), replica=replica)


@cache
def snapshot_reader(tags: int = 1, *, reads_first: bool = False) -> Process:
    """Return a process that reads in a REPEATABLE READ transaction.

    :param reads_first: whether its first statement is the query; otherwise another statement has fixed the
        snapshot, and the query follows.
    """

    def program(draw: Draw) -> Generator[Any, Any, None]:
        clock = yield from protocol.clock(CLOCK, draw)
        if not reads_first:
            yield Pin()
        if clock is None:
            return
        if reads_first:
            # A hit is not served while no statement has fixed the snapshot.
            answer = yield from protocol.read_in_snapshot(keys(tags), clock, open_entry, draw)
            versions = yield Pin()
            if answer.stamp is not None and answer.found is not Found.HIT:
                yield from fill(answer.stamp, versions)
        yield Read()
        again = yield from protocol.read_in_snapshot(keys(tags), clock, open_entry, draw)
        yield from handed_out(again)

    return Process(program)


@cache
def writer(*tags: int, replica: bool = False, reads: int = 0, removes: bool = False) -> Process:
    """Return a process that writes and commits.

    :param reads: of how many tags the query is that it reads afterwards; none by default.
    :param removes: whether it removes tokens in the end.
    """
    written = tags or (0,)

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield from protocol.commit(write_keys(written, replica=replica, removes=removes), draw)
        if reads:
            yield from read_once(reads, draw)

    return Process(program, written)


def in_table(*tags: int) -> Effects:
    """Return the effects of a statement that changes tags; the name of a table is the key of its tag."""
    return Effects(frozenset(map(tag, tags)))


def commit_of(transaction: Transaction, draw: Draw) -> Generator[Any, Any, None]:
    """Commit what a transaction has written, as the engine does it."""
    written = WriteKeys(tuple(sorted(transaction.effects().tables)), CLOCK)
    if written.tags:
        yield from protocol.commit(written, draw)
    else:
        yield Commit()


@cache
def savepoints(*, released: bool = False, reads: bool = True) -> Process:
    """Return a process with a savepoint: it writes tag 0, then both tags after the savepoint.

    :param released: whether the savepoint is released; otherwise what came after it is rolled back.
    :param reads: whether the transaction reads at its end; what it has written is not shared.
    """

    def program(draw: Draw) -> Generator[Any, Any, None]:
        transaction = Transaction([Frame("", None)])  # type: ignore[arg-type]
        transaction.note(in_table(0))
        yield Write((1, 0))
        transaction.savepoint("inner", None)  # type: ignore[arg-type]
        transaction.note(in_table(0, 1))
        yield Write((2, 1))
        if released:
            transaction.release("inner")
        else:
            transaction.roll_back_to("inner")
            yield Write((1, 0))
        if reads:
            yield from read_inside(transaction, draw)
        yield from commit_of(transaction, draw)

    return Process(program, (0, 1), transaction=True)


def read_inside(transaction: Transaction, draw: Draw) -> Generator[Any, Any, None]:
    """Read in a READ COMMITTED transaction, as the engine does it: what it has written stays its own."""
    yield Read()
    mine = bool(transaction.written().tables & set(tag_names(2)))
    asked = Keys(None if mine else ENTRY, tag_names(2), CLOCK)
    answer = yield from protocol.read(asked, open_entry, draw)
    if answer.found is Found.HIT and answer.entry is not None:
        yield Serve(tuple(answer.entry.payload))
        return
    versions = yield Query()
    if answer.stamp is not None and not mine:
        yield from fill(answer.stamp, versions)
