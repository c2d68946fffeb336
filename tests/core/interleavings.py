"""An explicit-state enumerator: every order in which steps of processes can reach a cache and a database.

A process is a generator: those of ``core.protocol`` between the requests of this module. Generators cannot
be copied, so a process is known by the answers it was sent, and is run again from its start to learn what it
asks next (once per sequence of answers). A state is the cache, the database and the answers of every process;
states met before are not followed again. The search is breadth first, so the first violation found is one of
the shortest.

What may happen besides the steps: a writer dies, a commit is carried out after its client gave up, the lease
of a mark ends once its writer is dead or done, keys are evicted, a replica catches up.

* G1: while no writer is in flight, every entry that would be served equals the database.
* G2: every entry served equals a committed state at some instant inside the read, or the reader's snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cachalot.core import protocol
from cachalot.core.envelope import Entry
from cachalot.core.steps import Add, Commit, Committed, GetMany, Lifetime, SetMany

ENTRY = "entry"
CLOCK = "clock"
HOLD = "hold"

Draw = Callable[[], str]
Program = Callable[[Draw], Generator[Any, Any, None]]
Versions = tuple[int, ...]


# What a process may ask besides the steps of the protocol.


@dataclass(frozen=True)
class Query:
    """Run the query on the database; the answer is its state, or that of the snapshot if there is one."""


@dataclass(frozen=True)
class Pin:
    """Run another statement, which fixes the snapshot of the transaction."""


@dataclass(frozen=True)
class Serve:
    """Hand rows to the caller: no step, but the moment at which G2 is checked."""

    versions: Versions


@dataclass(frozen=True)
class Process:
    """One process of a world.

    :param program: its generator function.
    :param tags: numbers of the tags that it writes; none for a reader.
    :param replica: whether it reads from the replica.
    """

    program: Program
    tags: tuple[int, ...] = ()
    replica: bool = False


@dataclass(frozen=True)
class World:
    """What there is, and what may go wrong.

    :param processes: in any order.
    :param tags: how many tags there are; the one query depends on all of them.
    :param present: what the cache holds at first, beside its clock.
    :param atomic: whether several keys are read and written at one instant.
    :param crashes: how many writers may die.
    :param evictions: how many keys may be evicted, marks excepted.
    :param lost: how many commits may lose their client; they are carried out later, or never.
    :param short: whether transactions with a snapshot end before the leases of writers that die.
    """

    processes: tuple[Process, ...]
    tags: int = 1
    present: tuple[tuple[str, Any], ...] = ()
    atomic: bool = True
    crashes: int = 0
    evictions: int = 0
    lost: int = 0
    short: bool = False


@dataclass(frozen=True)
class Local:
    """The state of one process.

    :param answers: what it was sent.
    :param partial: what is known of the answer to a step that is carried out key by key.
    :param seen: states of the database since it began.
    :param snapshot: what its transaction sees, once that is fixed.
    :param late: whether the server may still carry out its commit.
    """

    answers: tuple[Any, ...] = ()
    partial: tuple[Any, ...] = ()
    seen: frozenset[Versions] = frozenset()
    snapshot: Versions | None = None
    dead: bool = False
    late: bool = False


@dataclass(frozen=True)
class State:
    """A state of the world."""

    cache: tuple[tuple[str, Any], ...]
    database: Versions
    replica: Versions
    locals: tuple[Local, ...]
    crashes: int
    evictions: int
    lost: int


@dataclass
class Verdict:
    """What a search has found.

    :param states: how many states there are.
    :param g1: the shortest way to a violation of G1, one line for each step; empty if there is none.
    :param g2: the same for G2.
    :param hits: whether any read was served from the cache at all.
    """

    states: int = 0
    g1: list[str] = field(default_factory=list)
    g2: list[str] = field(default_factory=list)
    hits: int = 0


def tag(number: int) -> str:
    """Return the key of a tag."""
    return f"tag{number}"


def entry_of(stamp: bytes, versions: Versions) -> Entry:
    """Return an entry that holds a state of the database."""
    return Entry(stamp, 0, bytes(versions))


def open_entry(value: Any) -> Entry | None:
    """Return the entry that a value of the cache is."""
    return value if isinstance(value, Entry) else None


class _Ended:
    """A process that asks nothing any more."""


ENDED = _Ended()


class Enumerator:
    """Follows every order of the steps of a world.

    :param world: the world.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._asked: dict[tuple[int, tuple[Any, ...]], Any] = {}
        self._tags = tuple(tag(number) for number in range(world.tags))
        self._lagging = any(one.replica for one in world.processes)

    # Processes.

    def asks(self, number: int, local: Local) -> Any:
        """Return what a process asks next, :data:`ENDED` if nothing."""
        known = (number, local.answers)
        if known not in self._asked:
            self._asked[known] = self._replay(number, local.answers)
        return self._asked[known]

    def _replay(self, number: int, answers: tuple[Any, ...]) -> Any:
        drawn = 0

        def draw() -> str:
            nonlocal drawn
            drawn += 1
            return f"{number}.{drawn}"

        generator = self.world.processes[number].program(draw)
        try:
            asked = next(generator)
            for answer in answers:
                asked = generator.send(dict(answer) if isinstance(asked, GetMany) else answer)
        except StopIteration:
            return ENDED
        return asked

    def _in_flight(self, number: int, local: Local) -> bool:
        """Return whether a writer has begun and not ended."""
        if not self.world.processes[number].tags:
            return False
        begun = bool(local.answers or local.partial)
        return local.late or (begun and not local.dead and self.asks(number, local) is not ENDED)

    # The search.

    def run(self, limit: int = 400_000) -> Verdict:
        """Follow everything.

        :param limit: how many states there may be.
        :raises RuntimeError: there are more.
        """
        first = self._first()
        came_from: dict[State, tuple[State, str] | None] = {first: None}
        waiting = deque([first])
        verdict = Verdict()
        while waiting:
            state = waiting.popleft()
            if not verdict.g1 and self._stale(state):
                verdict.g1 = _way(came_from, state)
            for label, following, wrong, hit in self._followers(state):
                verdict.hits += hit
                if wrong and not verdict.g2:
                    verdict.g2 = [*_way(came_from, state), label]
                if following not in came_from:
                    came_from[following] = (state, label)
                    waiting.append(following)
            if len(came_from) > limit:
                raise RuntimeError(f"more than {limit} states")
        verdict.states = len(came_from)
        return verdict

    def _first(self) -> State:
        world = self.world
        zero = (0,) * world.tags
        cache = tuple(sorted({CLOCK: "first", **dict(world.present)}.items()))
        locals_ = (Local(),) * len(world.processes)
        return State(cache, zero, zero, locals_, world.crashes, world.evictions, world.lost)

    def _stale(self, state: State) -> bool:
        """Return whether G1 is violated: an entry would be served that does not equal the database."""
        if any(self._in_flight(number, local) for number, local in enumerate(state.locals)):
            return False
        cache = dict(state.cache)
        entry = cache.get(ENTRY)
        tokens = [cache.get(key) for key in self._tags]
        if entry is None or state.replica != state.database:
            return False
        if not all(isinstance(token, str) and not protocol.is_mark(token) for token in tokens):
            return False
        served = entry.stamp == protocol.stamp(self._tags, [str(token) for token in tokens])
        return served and entry.payload != bytes(state.database)

    # What may happen next: label, state, whether G2 is violated, whether there was a hit.

    def _followers(self, state: State) -> Iterator[tuple[str, State, bool, bool]]:
        for number, local in enumerate(state.locals):
            if local.late:
                yield from self._late(state, number, local)
            if local.dead:
                continue
            asked = self.asks(number, local)
            if asked is ENDED:
                continue
            for label, following in self._carry_out(state, number, local, asked):
                yield (f"P{number} {label}", *self._served(following, number))
            if state.crashes and self._in_flight(number, local):
                dead = self._with(state, number, replace(local, dead=True))
                yield f"P{number} dies", replace(dead, crashes=state.crashes - 1), False, False
        for label, following in self._accidents(state):
            yield label, following, False, False

    def _served(self, state: State, number: int) -> tuple[State, bool, bool]:
        """Let a process hand out its rows at once, and check them."""
        local = state.locals[number]
        asked = self.asks(number, local) if not local.partial else None
        if not isinstance(asked, Serve):
            return state, False, False
        allowed = local.seen if local.snapshot is None else {local.snapshot}
        wrong = asked.versions not in allowed and not self.world.processes[number].replica
        return self._with(state, number, replace(local, answers=(*local.answers, None))), wrong, True

    def _late(self, state: State, number: int, local: Local) -> Iterator[tuple[str, State, bool, bool]]:
        done = replace(local, late=False)
        yield f"P{number} its commit never happens", self._with(state, number, done), False, False
        committed = self._committed(self._with(state, number, done), number)
        yield f"P{number} its commit is carried out late", committed, False, False

    def _carry_out(self, state: State, number: int, local: Local, asked: Any) -> Iterator[tuple[str, State]]:
        if not local.answers and not local.partial:
            local = replace(local, seen=frozenset({state.database}))
            state = self._with(state, number, local)
        if isinstance(asked, Commit):
            yield from self._commit(state, number, local)
        elif isinstance(asked, (Query, Pin)):
            yield self._query(state, number, local, asked)
        elif isinstance(asked, Add):
            cache = dict(state.cache)
            free = asked.key not in cache
            cache.setdefault(asked.key, asked.value)
            yield f"add {asked.key} {free}", self._answered(_cached(state, cache), number, local, free)
        elif isinstance(asked, GetMany):
            yield self._get(state, number, local, asked.keys)
        else:
            yield self._set(state, number, local, asked)

    def _get(self, state: State, number: int, local: Local, keys: tuple[str, ...]) -> tuple[str, State]:
        cache = dict(state.cache)
        done = len(local.partial)
        now = keys if self.world.atomic else keys[done : done + 1]
        partial = (*local.partial, *((key, cache.get(key)) for key in now))
        if len(partial) < len(keys):
            return f"reads {now}", self._with(state, number, replace(local, partial=partial))
        found = tuple((key, value) for key, value in partial if value is not None)
        return f"reads {now}", self._answered(state, number, local, found)

    def _set(self, state: State, number: int, local: Local, asked: SetMany) -> tuple[str, State]:
        done = len(local.partial)
        now = asked.values if self.world.atomic else asked.values[done : done + 1]
        following = _cached(state, {**dict(state.cache), **dict(now)})
        label = f"writes {[key for key, _value in now]} for {asked.lifetime.value}"
        partial = (*local.partial, *(key for key, _value in now))
        if len(partial) < len(asked.values):
            return label, self._with(following, number, replace(local, partial=partial))
        return label, self._answered(following, number, local, answer=True)

    def _query(self, state: State, number: int, local: Local, asked: Query | Pin) -> tuple[str, State]:
        seen = state.replica if self.world.processes[number].replica else state.database
        if local.snapshot is not None:
            seen = local.snapshot
        elif isinstance(asked, Pin):
            local = replace(local, snapshot=seen)
        return f"{type(asked).__name__.lower()} {seen}", self._answered(state, number, local, seen)

    def _commit(self, state: State, number: int, local: Local) -> Iterator[tuple[str, State]]:
        committed = self._committed(state, number)
        yield "commits", self._answered(committed, number, committed.locals[number], Committed.YES)
        yield "is rolled back", self._answered(state, number, local, Committed.NO)
        if state.lost:
            lost = replace(local, late=True)
            following = self._answered(self._with(state, number, lost), number, lost, Committed.UNKNOWN)
            yield "loses the server while it commits", replace(following, lost=state.lost - 1)

    def _accidents(self, state: State) -> Iterator[tuple[str, State]]:
        for key, value in state.cache:
            left = {k: v for k, v in state.cache if k != key}
            if protocol.is_mark(value):
                if self._lease_may_end(state, key):
                    yield f"the lease of {key} ends", _cached(state, left)
            elif key == HOLD and state.replica == state.database:
                yield "the hold ends", _cached(state, left)
            elif key != HOLD and state.evictions:
                yield f"{key} is evicted", replace(_cached(state, left), evictions=state.evictions - 1)
        if state.replica != state.database:
            yield "the replica catches up", replace(state, replica=state.database)

    def _lease_may_end(self, state: State, key: str) -> bool:
        """Return whether it is late enough: a lease is longer than a commit and than the lag of a replica.

        Whoever has marked the tag has done so before the mark that is there was written, or has written it.
        """
        for number, local in enumerate(state.locals):
            writes = key in {tag(one) for one in self.world.processes[number].tags}
            if writes and self._in_flight(number, local) and local.answers:
                return False
            old = local.snapshot not in {None, state.database} and not self._over(number, local)
            if self.world.short and old:
                return False
        return state.replica == state.database

    # Changes.

    def _with(self, state: State, number: int, local: Local) -> State:
        locals_ = (*state.locals[:number], local, *state.locals[number + 1 :])
        return replace(state, locals=locals_)

    def _answered(self, state: State, number: int, local: Local, answer: Any) -> State:
        return self._with(state, number, replace(local, answers=(*local.answers, answer), partial=()))

    def _committed(self, state: State, number: int) -> State:
        written = self.world.processes[number].tags
        database = tuple(version + (at in written) for at, version in enumerate(state.database))
        locals_ = tuple(
            replace(local, seen=local.seen | {database})
            if local.seen and not self._over(at, local)
            else local
            for at, local in enumerate(state.locals)
        )
        replica = state.replica if self._lagging else database
        return replace(state, database=database, replica=replica, locals=locals_)

    def _over(self, number: int, local: Local) -> bool:
        return not local.partial and self.asks(number, local) is ENDED


def _cached(state: State, cache: dict[str, Any]) -> State:
    return replace(state, cache=tuple(sorted(cache.items())))


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    steps: list[str] = []
    while (before := came_from[state]) is not None:
        state, label = before
        steps.append(label)
    return steps[::-1]


# Processes made of the generators that are shipped.


def keys(tags: int = 1, *, replica: bool = False) -> protocol.Keys:
    """Return the keys of the one query."""
    names = tuple(tag(number) for number in range(tags))
    return protocol.Keys(ENTRY, names, CLOCK, (HOLD,) if replica else ())


def reader(tags: int = 1, *, replica: bool = False) -> Process:
    """Return a process that reads once, outside of snapshots."""

    def program(draw: Draw) -> Generator[Any, Any, None]:
        answer = yield from protocol.read(keys(tags, replica=replica), open_entry, draw)
        yield from handed_out(answer)

    return Process(program, replica=replica)


def handed_out(answer: protocol.Answer) -> Generator[Any, Any, None]:
    """Serve a hit, or run the query and keep what it returns."""
    if answer.found is protocol.Found.HIT and answer.entry is not None:
        yield Serve(tuple(answer.entry.payload))
        return
    versions = yield Query()
    if answer.stamp is not None:
        yield from protocol.fill(ENTRY, entry_of(answer.stamp, versions))  # type: ignore[arg-type]


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
        answer = yield from protocol.read_in_snapshot(keys(tags), clock, open_entry, draw)
        if not reads_first:
            yield from handed_out(answer)
            return
        # A hit is not served while no statement has fixed the snapshot.
        versions = yield Pin()
        if answer.stamp is not None and answer.found is not protocol.Found.HIT:
            yield from protocol.fill(ENTRY, entry_of(answer.stamp, versions))  # type: ignore[arg-type]
        again = yield from protocol.read_in_snapshot(keys(tags), clock, open_entry, draw)
        yield from handed_out(again)

    return Process(program)


def writer(*tags: int, replica: bool = False) -> Process:
    """Return a process that writes and commits."""
    written = tags or (0,)

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield from protocol.commit(write_keys(written, replica=replica), draw)

    return Process(program, written)


def write_keys(tags: tuple[int, ...], *, replica: bool = False) -> protocol.WriteKeys:
    """Return the keys of a write."""
    return protocol.WriteKeys(tuple(map(tag, tags)), CLOCK, (HOLD,) if replica else ())


def tokens(tags: int = 1) -> tuple[tuple[str, str], ...]:
    """Return a token for each tag, to begin with."""
    return tuple((tag(number), f"old{number}") for number in range(tags))


__all__ = [
    "CLOCK",
    "ENDED",
    "ENTRY",
    "HOLD",
    "Draw",
    "Enumerator",
    "Lifetime",
    "Pin",
    "Process",
    "Query",
    "Serve",
    "Verdict",
    "World",
    "entry_of",
    "handed_out",
    "keys",
    "open_entry",
    "reader",
    "snapshot_reader",
    "tag",
    "tokens",
    "write_keys",
    "writer",
]
