"""MARK, COMMIT, DONE with stamps that were read before the query: the protocol that keeps every hit true.

The state of a tag is one value in the cache: a *token* (random, never issued twice), a *mark* (commits that
touch the tag are in flight: the tag is *dark*) or nothing. A stored result, an *entry*, carries a *stamp*: a
digest of the tokens of all the tags it depends on, as they were read **before** its query began, and of the
name of the server that gave them.

    read     get the entry and the tokens in one step; serve the entry if its stamp is their digest.
             Otherwise run the query and store its rows under the tokens that were read before it.
    commit   MARK: put an intent in the place of the token of every tag written, with a lease;
             COMMIT; DONE: take the intent away; the last one leaves a new token.

Why a served entry is never older than the read. Let an entry be served, and let a commit *c* write one of its
tags after the entry's query took its snapshot. The stamp was read before that snapshot. If it was read before
the MARK of *c* then MARK destroyed the token, tokens never return, and the entry cannot be served from MARK
on, which is before *c*. If it was read after the MARK then it was either the mark itself (an entry is never
stored under a mark) or what DONE or the end of the lease left, both of which come after *c*, against the
assumption. So there is no such commit: the entry equals the database at the instant at which the first of the
tokens was read by the reader. It follows that several tokens need not be read at one instant.

What can die at any point. Before MARK: nothing has happened. Between MARK and DONE: the lease ends, the tag
is *absent*, and whoever reads next draws a new token, under which no entry exists. After DONE: nothing is
left to do. Eviction of a token is the same as the end of a lease. The lease must outlast a commit.

Overlapping commits. A mark is the set of the intents of all writers, each with its own lease, where the cache
can change a value in one step: Redis (a script), memcached (compare and swap), local memory (a lock). Other
caches keep one mark for all writers: the DONE of the first of two overlapping commits takes away the mark of
the second. Between the COMMIT and the DONE of the second an entry may then be served that is older than it;
for longer only if the second dies in between. In every cache a mark that is evicted opens the same window.

Another server. A cache that fails over to a replica, or comes back from an old dump, has lost writes: old
tokens return. So the name of the server, new at every start and at every change of its role, is part of
every stamp and of the clock: what was stored under the tokens of one server is never served by another. A
commit whose MARK was lost on the way has the window of an evicted mark, until its DONE.

Snapshots. In a REPEATABLE READ transaction, or one of SQLite, the snapshot may be older than the tokens, so
"read before the query" is not enough. The *clock* is a random value per database that changes with every
DONE, before the tokens do, and before an absent token is created (that may be the end of a dead writer's
lease). The transaction reads the clock before its first statement. As long as the clock has not changed after
the tokens were read, no commit has been completed since before the snapshot, and those in flight are dark:
the shared cache and the snapshot agree. From the first change on the transaction is served by the database
and by its own results only; it stores nothing under a token that it has created. The order of the steps is
what matters: DONE writes clock then tokens, a snapshot read reads tokens then clock. A transaction that is
older than half a lease must stop sharing: a reader that was held up for so long between changing the clock
and creating a token could otherwise hide the end of a dead writer's lease from it.

Prior art: leases of memcached (Nishtala et al., NSDI 2013) and the validation of read sets in optimistic
concurrency control (Kung and Robinson, TODS 1981; Larson et al., VLDB 2011). Rejected: clocks (a slow one
brings old entries back), counters (an evicted counter starts again), deleting entries (a slow reader stores
them again), and invalidating only before or only after the commit (a reader in the gap stores the old rows
for good).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from cachalot.core.envelope import Entry
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
    Step,
)

MARK = "!"
"""First character of a mark; no token begins with it."""

CREATED = "+"
"""First character of a token that a reader drew because there was none."""

Draw = Callable[[], str]
"""Returns a text that was never returned before, in any process."""

OpenEntry = Callable[[Any], Entry | None]
"""Returns the entry that a value of the cache holds, ``None`` if it is not one of ours for this key."""

Steps = Generator[Step, Any, "Answer"]


class Found(enum.Enum):
    """What a read found in the cache."""

    HIT = "hit"
    NEW = "new"
    CHANGED = "changed"
    UNDECODABLE = "undecodable"
    RACED = "raced"
    DARK = "dark"
    SNAPSHOT = "snapshot"
    LAGGING = "lagging"


@dataclass(frozen=True)
class Answer:
    """The result of a read.

    :param found: what was found.
    :param entry: the entry to serve, for a hit; for ``CHANGED`` the one that must not be served any more.
    :param stamp: under which the rows of the query may be stored; ``None`` if they must not be.
    """

    found: Found
    entry: Entry | None = None
    stamp: bytes | None = None


def stamp(keys: Sequence[str], tokens: Sequence[str], server: str = "") -> bytes:
    """Return the digest of tags and their tokens.

    :param keys: keys of the tags, in the order of the query's dependencies.
    :param tokens: their tokens, in the same order.
    :param server: name of the server that gave them; empty if it has none.
    :returns: 16 bytes.
    """
    text = "\n".join(f"{key}\t{token}" for key, token in zip(keys, tokens, strict=True))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=server.encode()).digest()


def is_mark(value: object) -> bool:
    """Return whether ``value``, read from the key of a tag, says that a commit is in flight."""
    return isinstance(value, str) and value.startswith(MARK)


@dataclass(frozen=True)
class Keys:
    """The keys that one query is about.

    :param entry: key of its entry; ``None`` when only the stamp is wanted.
    :param tags: keys of all tags it depends on.
    :param clock: key of the clock of its database.
    :param holds: keys that say that a replica may lag behind; empty unless the query runs on a replica.
    """

    entry: str | None
    tags: tuple[str, ...]
    clock: str
    holds: tuple[str, ...] = ()


def read(keys: Keys, open_entry: OpenEntry, draw: Draw) -> Steps:
    """Look for an entry, outside of snapshots.

    :param keys: the keys of the query.
    :param open_entry: turns the value of the entry's key into an entry.
    :param draw: source of new tokens.
    :returns: a generator of steps that returns an :class:`Answer`.
    """
    got = yield GetMany(_asked(keys))
    answer = _judge(keys, got, open_entry) or (yield from _create_tokens(keys, got, draw))
    return (yield from _unless_lagging(keys, answer))


def read_in_snapshot(keys: Keys, clock: str, open_entry: OpenEntry, draw: Draw) -> Steps:
    """Look for an entry from inside a transaction whose snapshot may be older than the tokens.

    :param clock: value of the clock, read before the first statement of the transaction.

    The other parameters and the result are those of :func:`read`.
    """
    got = yield GetMany(_asked(keys))
    now = yield GetMany((keys.clock,))
    if _clock_value(keys.clock, now) != clock or now.get(SERVER) != got.get(SERVER):
        return Answer(Found.SNAPSHOT)
    answer = _judge(keys, got, open_entry)
    if answer is not None:
        return (yield from _unless_lagging(keys, answer))
    # For those who come later: nothing may be stored under tokens that are younger than this snapshot.
    yield from _create_tokens(keys, got, draw)
    return Answer(Found.SNAPSHOT)


def _asked(keys: Keys) -> tuple[str, ...]:
    return keys.tags if keys.entry is None else (keys.entry, *keys.tags)


def _unless_lagging(keys: Keys, answer: Answer) -> Steps:
    """Let nothing be stored that a replica may have answered without the last write.

    DONE sets the holds before the tokens. So who has read the new token, and reads the holds after it, sees
    them.
    """
    if not keys.holds or answer.stamp is None or answer.found is Found.HIT:
        return answer
    held = yield GetMany(keys.holds)
    return Answer(Found.LAGGING) if any(key in held for key in keys.holds) else answer


def _judge(keys: Keys, got: dict[str, Any], open_entry: OpenEntry) -> Answer | None:
    """Return the answer that what was read allows; ``None`` if a token is absent or not a token."""
    tokens = [got.get(key) for key in keys.tags]
    if any(is_mark(token) for token in tokens):
        return Answer(Found.DARK)
    texts = [token for token in tokens if isinstance(token, str)]
    if len(texts) != len(tokens):
        return None
    now = stamp(keys.tags, texts, got.get(SERVER, ""))
    value = None if keys.entry is None else got.get(keys.entry)
    if value is None:
        return Answer(Found.NEW, stamp=now)
    entry = open_entry(value)
    if entry is None:
        return Answer(Found.UNDECODABLE, stamp=now)
    if entry.stamp != now:
        return Answer(Found.CHANGED, entry, now)
    return Answer(Found.HIT, entry, now)


def _create_tokens(keys: Keys, got: dict[str, Any], draw: Draw) -> Steps:
    """Draw tokens for tags that have none. The clock goes first: that may be a lease that has ended."""
    foreign = tuple(key for key in keys.tags if not isinstance(got.get(key, ""), str))
    if foreign:
        # Not ours. A mark of our own ends the illness when its lease does; a token would erase the mark that
        # a writer may have set since, and that writer may die. The clock first: a cache that answers
        # everything with garbage is found out by it, before a tag is made dark.
        yield SetMany(((keys.clock, draw()),), Lifetime.STATE)
        yield Mark(foreign, draw())
        return Answer(Found.RACED)
    clock = (keys.clock, draw())
    absent = tuple((key, CREATED + draw()) for key in keys.tags if key not in got)
    now = yield Create(clock, absent)
    tokens = [got[key] if key in got else now.get(key) for key in keys.tags]
    texts = [token for token in tokens if isinstance(token, str) and not is_mark(token)]
    if len(texts) != len(tokens) or now.get(SERVER) != got.get(SERVER):
        return Answer(Found.RACED)
    return Answer(Found.NEW, stamp=stamp(keys.tags, texts, got.get(SERVER, "")))


def fill(entry_key: str, value: bytes) -> Generator[Step, Any, bool]:
    """Store an entry. No comparison is needed: under a dead stamp it can never be served.

    :param entry_key: key of the entry.
    :param value: the sealed entry, whose stamp came from the :class:`Answer` to the read.
    :returns: a generator of steps that returns whether the cache has taken it.
    """
    taken: bool = yield SetMany(((entry_key, value),), Lifetime.ENTRY)
    return taken


@dataclass(frozen=True)
class WriteKeys:
    """The keys that one or more writes to a database are about.

    :param tags: keys of all tags written.
    :param clock: key of the clock of the database.
    :param holds: keys to set while replicas may lag behind; empty if there are none.
    """

    tags: tuple[str, ...]
    clock: str
    holds: tuple[str, ...] = ()


def mark(keys: WriteKeys, draw: Draw) -> Generator[Step, Any, str]:
    """Say that a commit is about to happen; the first part of :func:`commit`.

    :returns: a generator of steps that returns the name of the writer.
    """
    writer = draw()
    yield Mark(keys.tags, writer)
    return writer


def commit(keys: WriteKeys, draw: Draw) -> Generator[Step, Any, None]:
    """Commit a transaction, or run a statement that commits by itself.

    A commit whose outcome is unknown leaves the marks where they are: the server may still commit, and the
    lease ends later than that.

    :param keys: the keys of what is written.
    :param draw: source of new tokens.
    """
    writer = yield from mark(keys, draw)
    outcome = yield Commit()
    if outcome is not Committed.UNKNOWN:
        yield from _done(keys, writer, draw, committed=outcome is Committed.YES)


def bump(keys: WriteKeys, draw: Draw) -> Generator[Step, Any, None]:
    """Give tags new tokens after a write; by itself, invalidate what others have committed.

    The parameters are those of :func:`commit`.
    """
    return _done(keys, draw(), draw, committed=True)


def _done(keys: WriteKeys, writer: str, draw: Draw, *, committed: bool) -> Generator[Step, Any, None]:
    if keys.holds:
        yield SetMany(tuple((key, draw()) for key in keys.holds), Lifetime.HOLD)
    yield Done(writer, (keys.clock, draw()), tuple((key, draw()) for key in keys.tags), committed)


def clock(clock_key: str, draw: Draw) -> Generator[Step, Any, str | None]:
    """Read the clock before the first statement of a snapshot.

    :returns: a generator of steps that returns its value, ``None`` when it cannot be relied on.
    """
    got = yield GetMany((clock_key,))
    value = _clock_value(clock_key, got)
    if value is not None:
        return value
    # Whose clock it is that was created is known only by reading it again.
    if not (yield Add(clock_key, draw(), Lifetime.STATE)):
        return None
    return _clock_value(clock_key, (yield GetMany((clock_key,))))


def _clock_value(clock_key: str, got: dict[str, Any]) -> str | None:
    value = got.get(clock_key)
    return f"{value} {got.get(SERVER, '')}" if isinstance(value, str) else None
