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

Tags that are found in the rows. A list of books with their authors depends on the rows of these authors; who
they are is known when the query has run, too late to read their tokens before it. So the token of
``any(author)``, the *loose* tag, is read before the query in the place of theirs, and again after theirs were
read, or created, behind the query (``settle``). Every write to the table marks it before it commits. Is it
still the same token, then no such write was marked, committed and ended in between; one that had marked the
token of a row alone is seen as a mark; one that marks it later destroys what was read. So the tokens of the
rows are as good as if they had been read before the query. They go into the stamp, and their names into the
entry, because the next reader cannot know them; it reads them after the entry, and a token that is still the
same then was so when the first one was read.

Writers of other releases. Which tags of rows a write changes follows from the keys of its table, as the
models and the catalogue state them. Two releases in one deployment may disagree. So the token of ``whole(T)``
is *signed* with a digest of these facts by the reader who creates it, and read by every reader of a finer tag
of the table, which uses it under its own sign only. A writer that changes finer tags learns from its MARK
which sign is there. If it is another one then it marks ``whole(T)`` as well, before it commits: everything
that was stored under the other sign is dark. Its DONE leaves a token that is signed by nobody, for some
minutes, in which all read ``any(T)``. A token that was created between the MARK and the DONE of such a writer
is found by its DONE: results stored meanwhile live until then, which is the one window this leaves. In the
same way a reader whose facts are older than the token of the epoch says (DDL) learns them anew.

Prior art: leases of memcached (Nishtala et al., NSDI 2013) and the validation of read sets in optimistic
concurrency control (Kung and Robinson, TODS 1981; Larson et al., VLDB 2011). Rejected: clocks (a slow one
brings old entries back), counters (an evicted counter starts again), deleting entries (a slow reader stores
them again), and invalidating only before or only after the commit (a reader in the gap stores the old rows
for good).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    Life,
    Lifetime,
    Mark,
    SetMany,
    Step,
)

MARK = "!"
"""First character of a mark; no token begins with it."""

CREATED = "+"
"""First character of a token that a reader drew because there was none."""

SIGN = "#"
"""First character of the sign at the end of a token, where tokens are signed."""

UNSIGNED = f"{SIGN}mixed"
"""The sign of nobody."""

Draw = Callable[[], str]
"""Returns a text that was never returned before, in any process."""

OpenEntry = Callable[[Any], Entry | None]
"""Returns the entry that a value of the cache holds, ``None`` if it is not one of ours for this key."""

NameKeys = Callable[[tuple[bytes, ...]], tuple[str, ...]]
"""Returns the keys of the tags that have these names."""

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
    OUTDATED = "outdated"


class _State(enum.Enum):
    """Whether there is a token for each of some tags, a mark for one, or for one neither."""

    LIT = "lit"
    DARK = "dark"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """The result of a read.

    :param found: what was found.
    :param entry: the entry to serve, for a hit; for ``CHANGED`` the one that must not be served any more.
    :param stamp: under which the rows of the query may be stored; ``None`` if they must not be.
    :param tokens: those in the stamp, by the keys of their tags, and the name of the server; if there are
        loose tags, or if only the stamp was wanted.
    """

    found: Found
    entry: Entry | None = None
    stamp: bytes | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)


def stamp(keys: Sequence[str], tokens: Sequence[str], server: str = "") -> bytes:
    """Return the digest of tags and their tokens.

    :param keys: keys of the tags, in the order of the query's dependencies.
    :param tokens: their tokens, in the same order.
    :param server: name of the server that gave them; empty if it has none.
    :returns: 16 bytes.
    """
    text = "\n".join([f"{key}\t{token}" for key, token in zip(keys, tokens, strict=True)])
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
    :param loose: keys of further tags, which an entry that names others in their place does not depend on.
    :param guessed: keys of tags that the entry probably names.
    :param signs: the end that the tokens of some tags must have.
    :param passing: keys of tags whose tokens need not outlive the entry.
    """

    entry: str | None
    tags: tuple[str, ...]
    clock: str
    holds: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    signs: Mapping[str, str] = field(default_factory=dict)
    passing: frozenset[str] = frozenset()

    def signed(self, tokens: Mapping[str, str]) -> bool:
        """Return whether tokens, by the keys of their tags, have the signs they must have."""
        return all(tokens[key].endswith(sign) for key, sign in self.signs.items())


def no_names(_names: tuple[bytes, ...]) -> tuple[str, ...]:
    """Turn names of tags into keys where entries name none."""
    return ()


def read(keys: Keys, open_entry: OpenEntry, draw: Draw, names: NameKeys = no_names) -> Steps:
    """Look for an entry, outside of snapshots.

    :param keys: the keys of the query.
    :param open_entry: turns the value of the entry's key into an entry.
    :param draw: source of new tokens.
    :param names: turns the names of tags into their keys.
    :returns: a generator of steps that returns an :class:`Answer`.
    """
    got = yield GetMany(_asked(keys))
    answer = yield from _judge(keys, got, open_entry, names)
    if answer is None:
        answer = yield from _create_tokens(keys, got, draw)
        entry = open_entry(got[keys.entry]) if keys.entry in got and answer.found is Found.NEW else None
        if entry is not None:
            answer = replace(answer, found=Found.CHANGED, entry=entry)
    return (yield from _unless_lagging(keys, answer))


def read_in_snapshot(
    keys: Keys, clock: str, open_entry: OpenEntry, draw: Draw, names: NameKeys = no_names
) -> Steps:
    """Look for an entry from inside a transaction whose snapshot may be older than the tokens.

    :param clock: value of the clock, read before the first statement of the transaction.

    The other parameters and the result are those of :func:`read`.
    """
    got = yield GetMany(_asked(keys))
    answer = yield from _judge(keys, got, open_entry, names)
    now = yield GetMany((keys.clock,))
    if _clock_value(keys.clock, now) != clock or now.get(SERVER) != got.get(SERVER):
        return Answer(Found.SNAPSHOT)
    if answer is not None:
        return (yield from _unless_lagging(keys, answer))
    # For those who come later: nothing may be stored under tokens that are younger than this snapshot.
    yield from _create_tokens(keys, got, draw)
    return Answer(Found.SNAPSHOT)


def _asked(keys: Keys) -> tuple[str, ...]:
    asked = (*keys.tags, *keys.loose, *keys.guessed)
    return asked if keys.entry is None else (keys.entry, *asked)


def _unless_lagging(keys: Keys, answer: Answer) -> Steps:
    """Let nothing be stored that a replica may have answered without the last write.

    DONE sets the holds before the tokens. So who has read the new token, and reads the holds after it, sees
    them.
    """
    if not keys.holds or answer.stamp is None or answer.found is Found.HIT:
        return answer
    held = yield GetMany(keys.holds)
    return Answer(Found.LAGGING) if any(key in held for key in keys.holds) else answer


def _judge(
    keys: Keys, got: dict[str, Any], open_entry: OpenEntry, names: NameKeys
) -> Generator[Step, Any, Answer | None]:
    """Return the answer that what was read allows; ``None`` if a token is absent or not a token."""
    state = _state(keys.tags, got)
    if state is not _State.LIT:
        return Answer(Found.DARK) if state is _State.DARK else None
    if not keys.signed(got):
        return Answer(Found.OUTDATED)
    value = None if keys.entry is None else got.get(keys.entry)
    entry = None if value is None else open_entry(value)
    if entry is not None and entry.more and (yield from _unchanged(keys, got, entry, names(entry.more))):
        return Answer(Found.HIT, entry, entry.stamp)
    state = _state(keys.loose, got)
    if state is not _State.LIT:
        return Answer(Found.DARK) if state is _State.DARK else None
    answer = _answer(Found.NEW, keys, got)
    if value is None:
        return answer
    if entry is None:
        return replace(answer, found=Found.UNDECODABLE)
    hit = not entry.more and entry.stamp == answer.stamp
    return replace(answer, found=Found.HIT if hit else Found.CHANGED, entry=entry)


def _unchanged(
    keys: Keys, got: dict[str, Any], entry: Entry, more: tuple[str, ...]
) -> Generator[Step, Any, bool]:
    """Return whether the tags that an entry names have the tokens that are in its stamp."""
    unread = tuple(key for key in more if key not in got)
    if unread:
        # A guess that was not there is asked for again: that is rare, and costs what it costs.
        now = yield GetMany(unread)
        if now.get(SERVER) != got.get(SERVER):
            return False
        got = {**got, **now}
    if _state(more, got) is not _State.LIT:
        return False
    asked = (*keys.tags, *more)
    return stamp(asked, [got[key] for key in asked], got.get(SERVER, "")) == entry.stamp


def _state(keys: Sequence[str], got: Mapping[str, Any]) -> _State:
    """Return what the values of tags say together: a mark on one is a mark on all."""
    state = _State.LIT
    for key in keys:
        value = got.get(key)
        if not isinstance(value, str):
            state = _State.UNKNOWN
        elif value.startswith(MARK):
            return _State.DARK
    return state


def _is_token(value: object) -> bool:
    """Return whether a value is a token."""
    return isinstance(value, str) and not is_mark(value)


def _answer(found: Found, keys: Keys, got: Mapping[str, Any]) -> Answer:
    """Return the answer under the tokens that were read."""
    asked = (*keys.tags, *keys.loose)
    now = stamp(asked, [got[key] for key in asked], got.get(SERVER, ""))
    wanted = keys.loose or keys.entry is None
    kept = {key: got[key] for key in (*asked, SERVER) if key in got} if wanted else {}
    return Answer(found, stamp=now, tokens=kept)


def _create_tokens(keys: Keys, got: dict[str, Any], draw: Draw) -> Steps:
    """Draw tokens for tags that have none. The clock goes first: that may be a lease that has ended."""
    asked = (*keys.tags, *keys.loose)
    foreign = tuple(key for key in asked if not isinstance(got.get(key, ""), str))
    if foreign:
        # Not ours. A mark of our own ends the illness when its lease does; a token would erase the mark that
        # a writer may have set since, and that writer may die. The clock first: a cache that answers
        # everything with garbage is found out by it, before a tag is made dark.
        yield SetMany(((keys.clock, draw()),), Lifetime.STATE)
        yield Mark(foreign, draw())
        return Answer(Found.RACED)
    clock = (keys.clock, draw())
    absent = tuple((key, CREATED + draw() + _sign_of(keys, key)) for key in asked if key not in got)
    now = yield Create(clock, absent, keys.passing)
    merged = {**now, **{key: got[key] for key in asked if key in got}}
    if not all(_is_token(merged.get(key)) for key in asked) or now.get(SERVER) != got.get(SERVER):
        return Answer(Found.RACED)
    return _answer(Found.NEW, keys, merged) if keys.signed(merged) else Answer(Found.OUTDATED)


def _sign_of(keys: Keys, key: str) -> str:
    """Return how a new token is to be signed; a sign that is a whole token is of one that was there."""
    sign = keys.signs.get(key, "")
    return sign if sign.startswith(SIGN) else ""


def settle(
    keys: Keys, tokens: Mapping[str, str], more: tuple[str, ...], draw: Draw
) -> Generator[Step, Any, bytes | None]:
    """Read the tokens of tags that were found in the rows of a query, after it has run.

    :param keys: the keys of the query.
    :param tokens: of the :class:`Answer` to the read before the query.
    :param more: keys of the tags that take the place of the loose ones.
    :returns: a generator of steps that returns the stamp for an entry that names them; ``None`` if there is
        none, because somebody writes to their tables.
    """
    got = yield GetMany((*more, *keys.loose))
    if any(key in got and not _is_token(got[key]) for key in more):
        return None
    absent = tuple((key, CREATED + draw()) for key in more if key not in got)
    if absent:
        created = yield Create((keys.clock, draw()), absent, keys.passing | frozenset(more))
        now = yield GetMany(keys.loose)
        if not created.get(SERVER) == now.get(SERVER) == got.get(SERVER):
            return None
        got = {**created, **{key: got[key] for key in more if key in got}, **now}
    changed = any(got.get(key) != tokens[key] for key in keys.loose)
    if changed or got.get(SERVER) != tokens.get(SERVER) or not all(_is_token(got.get(key)) for key in more):
        return None
    found = [*(tokens[key] for key in keys.tags), *(got[key] for key in more)]
    return stamp((*keys.tags, *more), found, tokens.get(SERVER, ""))


def fill(entry_key: str, value: bytes, life: Life = Lifetime.ENTRY) -> Generator[Step, Any, bool]:
    """Store an entry. No comparison is needed: under a dead stamp it can never be served.

    :param entry_key: key of the entry.
    :param value: the sealed entry, whose stamp came from the :class:`Answer` to the read.
    :param life: how long it may stay.
    :returns: a generator of steps that returns whether the cache has taken it.
    """
    taken: bool = yield SetMany(((entry_key, value),), life)
    return taken


@dataclass(frozen=True)
class WriteKeys:
    """The keys that one or more writes to a database are about.

    :param tags: keys of all tags written.
    :param clock: key of the clock of the database.
    :param holds: keys to set while replicas may lag behind; empty if there are none.
    :param signs: by the keys of ``whole`` of the tables written, the end their tokens must have for ``tags``
        to be all that has to be.
    :param passing: keys of those ``tags`` whose tokens are removed rather than replaced.
    :param epoch: key of the epoch, and its token when the facts about the tables were learned; ``None`` if
        ``tags`` do not follow from such facts.
    """

    tags: tuple[str, ...]
    clock: str
    holds: tuple[str, ...] = ()
    signs: Mapping[str, str] = field(default_factory=dict)
    passing: frozenset[str] = frozenset()
    epoch: tuple[str, str] | None = None

    def watched(self) -> tuple[str, ...]:
        """Return the keys whose values decide whether ``tags`` are enough."""
        return (*self.signs, *(() if self.epoch is None else self.epoch[:1]))

    def outdated(self, got: Mapping[str, Any]) -> bool:
        """Return whether the facts from which ``tags`` follow may be older than the schema."""
        token = None if self.epoch is None else got.get(self.epoch[0])
        return _is_token(token) and self.epoch is not None and token != self.epoch[1]

    def strange(self, got: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the keys of ``signs`` that were signed by somebody who may depend on other tags."""
        return tuple(
            key
            for key, sign in self.signs.items()
            if _is_token(got.get(key)) and not got[key].endswith((sign, UNSIGNED))
        )


def mark(keys: WriteKeys, draw: Draw) -> Generator[Step, Any, str]:
    """Say that a commit may be about to happen, of which nobody will say how it has ended.

    :returns: a generator of steps that returns the name of the writer.
    """
    writer = draw()
    yield Mark(keys.tags, writer)
    return writer


@dataclass(frozen=True)
class _Marked:
    """What a writer has marked beyond its own tags.

    :param writer: its name.
    :param strange: keys of tags with the sign of somebody else.
    :param unsure: keys of tags that are marked because its own facts may be out of date.
    """

    writer: str
    strange: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()


def _mark(keys: WriteKeys, draw: Draw) -> Generator[Step, Any, _Marked]:
    writer = draw()
    got = yield Mark(keys.tags, writer, keys.watched())
    if not keys.signs:
        return _Marked(writer)
    strange = keys.strange(got)
    unsure = tuple(key for key in keys.signs if key not in strange) if keys.outdated(got) else ()
    if strange or unsure:
        yield Mark(strange + unsure, writer)
    return _Marked(writer, strange, unsure)


def commit(keys: WriteKeys, draw: Draw) -> Generator[Step, Any, bool]:
    """Commit a transaction, or run a statement that commits by itself.

    A commit whose outcome is unknown leaves the marks where they are: the server may still commit, and the
    lease ends later than that.

    :param keys: the keys of what is written.
    :param draw: source of new tokens.
    :returns: a generator of steps that returns whether the facts about the tables are to be learned anew.
    """
    marked = yield from _mark(keys, draw)
    outcome = yield Commit()
    late = False
    if outcome is not Committed.UNKNOWN:
        late = yield from _done(keys, marked, draw, committed=outcome is Committed.YES)
    return bool(marked.unsure) or late


def bump(keys: WriteKeys, draw: Draw) -> Generator[Step, Any, bool]:
    """Give tags new tokens after a write; by itself, invalidate what others have committed.

    The parameters are those of :func:`commit`.
    """
    return _done(keys, _Marked(draw()), draw, committed=True)


def _done(keys: WriteKeys, marked: _Marked, draw: Draw, *, committed: bool) -> Generator[Step, Any, bool]:
    """Say how a commit has ended, and return whether a sign or the epoch has changed meanwhile."""
    if keys.holds:
        yield SetMany(tuple((key, draw()) for key in keys.holds), Lifetime.HOLD)
    clock = (keys.clock, draw())
    tokens = [(key, "" if key in keys.passing else draw()) for key in keys.tags]
    tokens += [(key, "") for key in marked.unsure]
    tokens += [(key, draw() + UNSIGNED) for key in marked.strange]
    brief = frozenset(marked.strange)
    got = yield Done(marked.writer, clock, tuple(tokens), committed, keys.watched(), brief)
    if not committed or not keys.signs:
        return False
    strange = keys.strange(got)
    unsure = tuple(key for key in keys.signs if key not in strange) if keys.outdated(got) else ()
    if strange or unsure:
        tokens = [(key, draw() + UNSIGNED) for key in strange] + [(key, "") for key in unsure]
        clock = (keys.clock, draw())
        yield Done(marked.writer, clock, tuple(tokens), committed, brief=frozenset(strange))
    return bool(strange or unsure)


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
