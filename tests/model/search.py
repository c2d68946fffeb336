"""An explicit-state search: every order in which steps of processes can reach a cache and a database.

Generators cannot be copied, so a process is known by the answers it was sent, and is run again from its start
to learn what it asks next, once per sequence of answers. A state is the cache, the database and where every
process is; states met before are not followed again. The search is breadth first, so the first violation
found is one of the shortest.

* G1: while no writer is in flight, every entry that would be served equals the database.
* G2: every entry served equals a committed state at some instant inside the read, or what the transaction of
  the reader sees: its snapshot, and what it has written itself.

What keeps the states few, and why nothing is lost by it. A process that has ended or died is forgotten:
nothing asks what it was sent. Of processes made of the same program the first begins first: what they draw
has other names if they begin in another order, and nothing looks at names but to compare them. The states of
the database seen by a process are kept only inside its reads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from cachalot.core.steps import Commit, Committed, Create, Done, GetMany, Mark, SetMany, is_entry
from tests.model.store import Store
from tests.model.world import (
    CLOCK,
    ENTRY,
    HOLD,
    Pin,
    Process,
    Query,
    Read,
    Serve,
    Stored,
    Tick,
    Tier,
    Versions,
    World,
    Write,
    tag,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDED = None
"""What a process asks that asks nothing any more."""


def _changes(asked: Any) -> bool:
    """Return whether a writer is in flight from this step on; to store an entry changes nothing."""
    if isinstance(asked, SetMany):
        return not is_entry(asked.lifetime)
    return isinstance(asked, (Mark, Done, Commit))


class Local(NamedTuple):
    """Where one process is.

    :param node: which answers it was sent; -1 once it has ended.
    :param learned: what it has learned from the instants of a step that has several.
    :param seen: states of the database since its read began, empty before the first step of it; ``None``
        outside of reads.
    :param snapshot: what its transaction sees, once that is fixed.
    :param pending: how often it has changed each tag since its transaction began.
    :param late: whether the server may still carry out its commit.
    """

    node: int
    learned: tuple[Any, ...]
    seen: frozenset[Versions] | None
    snapshot: Versions | None
    pending: Versions
    late: bool = False


class Left(NamedTuple):
    """How often something may still go wrong."""

    crashes: int
    evictions: int
    marks: int
    lost: int
    dumps: int
    failovers: int


class State(NamedTuple):
    """A state of the world.

    :param dump: what the cache held when a copy of it was last made.
    :param server: how many servers there were.
    :param time: what the clock of all last said.
    """

    cache: tuple[Any, ...]
    dump: tuple[Any, ...] | None
    server: int
    database: Versions
    replica: Versions
    time: int
    locals: tuple[Local, ...]
    left: Left


@dataclass
class Verdict:
    """What a search has found.

    :param states: how many states there are.
    :param g1: the shortest way to a violation of G1, one line for each step; empty if there is none.
    :param g2: the same for G2.
    :param hits: how many ways there are to serve an entry.
    """

    states: int = 0
    g1: list[str] = field(default_factory=list)
    g2: list[str] = field(default_factory=list)
    hits: int = 0


class _Node(NamedTuple):
    """A process that was sent some answers: what it asks, and whether it has begun to change anything."""

    process: int
    answers: tuple[Any, ...]
    asked: Any
    changing: bool


Move = tuple[str, State, bool, bool]
"""What may happen next: label, state, whether G2 is violated, whether an entry was served."""


class Search:
    """Follows every order of the steps of a world.

    :param world: the world.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._store = Store(world)
        self._nodes: list[_Node] = []
        self._sent: dict[tuple[int, Any], int] = {}
        self._exchanges: dict[Any, tuple[str, tuple[Any, ...], Local, bool, bool]] = {}
        self._keys = world.keys
        self._queried = world.tags if world.query is None else world.query
        self._tags = slice(3, 3 + self._queried)
        self._lagging = any(one.replica for one in world.processes)
        self._zero = (0,) * world.tags
        self._names = [f"{'W' if one.tags else 'R'}{at}" for at, one in enumerate(world.processes)]
        self._twin_before = [
            next((other for other in range(at - 1, -1, -1) if world.processes[other] == one), None)
            for at, one in enumerate(world.processes)
        ]
        self._roots = [self._node(number, (), changing=False) for number in range(len(world.processes))]

    # Processes.

    def _node(self, process: int, answers: tuple[Any, ...], *, changing: bool) -> int:
        self._nodes.append(_Node(process, answers, self._replay(process, answers), changing))
        return len(self._nodes) - 1

    def _replay(self, process: int, answers: tuple[Any, ...]) -> Any:
        drawn = 0

        def draw() -> str:
            nonlocal drawn
            drawn += 1
            return f"{process}.{drawn}"

        generator = self.world.processes[process].program(draw)
        try:
            asked = next(generator)
            for answer in answers:
                asked = generator.send(dict(answer) if isinstance(asked, (GetMany, Create)) else answer)
        except StopIteration:
            return ENDED
        return asked

    def _asked(self, local: Local) -> Any:
        return ENDED if local.node < 0 else self._nodes[local.node].asked

    def _in_flight(self, local: Local) -> bool:
        """Return whether a writer has begun to change something and has not ended."""
        if local.late:
            return True
        if local.node < 0:
            return False
        node = self._nodes[local.node]
        if not self.world.processes[node.process].tags:
            return False
        return node.changing or (bool(local.learned) and _changes(node.asked))

    # The search.

    def run(self, limit: int = 2_000_000) -> Verdict:
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
            for label, following, wrong, hit in self._moves(state):
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
        world, zero = self.world, self._zero
        present = {CLOCK: "first", **dict(world.present)}
        cache = tuple(present.get(key) for key in self._keys)
        left = Left(world.crashes, world.evictions, world.marks, world.lost, world.failovers, world.failovers)
        state = State(cache, None, 0, zero, zero, 0, (), left)
        locals_ = tuple(
            self._at(Local(root, (), None, None, self._written_by(number)), root)
            for number, root in enumerate(self._roots)
        )
        return state._replace(locals=locals_)

    def _written_by(self, number: int) -> Versions:
        process = self.world.processes[number]
        if process.transaction:
            return self._zero
        return tuple(int(at in process.tags) for at in range(self.world.tags))

    def _stale(self, state: State) -> bool:
        """Return whether G1 is violated: an entry would be served that does not equal the database."""
        cache = state.cache
        if not isinstance(cache[0], Stored) or cache[0].versions == self._rows(state.database, self._zero):
            return False
        if state.replica != state.database:
            return False
        if any(self._in_flight(local) for local in state.locals):
            return False
        return self.world.valid(cache[0], cache[self._tags], self._server(state))

    def _server(self, state: State) -> str:
        return f"server {state.server}" if self.world.names else ""

    # What may happen next.

    def _moves(self, state: State) -> Iterator[Move]:
        for number, local in enumerate(state.locals):
            if local.late:
                yield from self._late(state, number, local)
            if local.node < 0 or self._too_early(state, number):
                continue
            yield from self._steps(state, number, local)
            if state.left.crashes and self._in_flight(local):
                dead = self._with(state, number, self._ended(local))
                left = state.left._replace(crashes=state.left.crashes - 1)
                yield f"{self._names[number]} dies", dead._replace(left=left), False, False
        for label, following in self._accidents(state):
            yield label, following, False, False

    def _too_early(self, state: State, number: int) -> bool:
        """Return whether another process of the same kind has to begin first."""
        before = self._twin_before[number]
        if before is None:
            return False
        local = state.locals[before]
        return local.node == self._roots[before] and not local.learned

    def _late(self, state: State, number: int, local: Local) -> Iterator[Move]:
        name = self._names[number]
        over = self._with(state, number, local._replace(late=False, pending=self._zero))
        yield f"{name} its commit never happens", over, False, False
        committed = self._committed(over, local.pending)
        yield f"{name} its commit is carried out late", committed, False, False

    def _steps(self, state: State, number: int, local: Local) -> Iterator[Move]:
        name, asked = self._names[number], self._asked(local)
        if local.seen is not None and not local.seen:
            local = local._replace(seen=frozenset({state.database}))
        if isinstance(asked, Commit):
            for label, following in self._commit(state, number, local):
                yield f"{name} {label}", following, False, False
        elif isinstance(asked, (Query, Pin)):
            yield self._query(state, number, local, asked)
        elif isinstance(asked, Write):
            written = local._replace(pending=asked.pending)
            label = f"{name} writes {asked.pending}"
            yield label, self._answered(state, number, written, None), False, False
        elif isinstance(asked, Tick):
            later = state._replace(time=state.time + 1)
            answered = self._answered(later, number, local, later.time)
            yield f"{name} looks at the clock", answered, False, False
        else:
            yield self._exchange(state, number, local, asked)

    def _exchange(self, state: State, number: int, local: Local, asked: Any) -> Move:
        """Carry out the next instant of a step of the store; it depends on nothing but what is asked here."""
        asking = (number, local, state.cache, state.server)
        known = self._exchanges.get(asking)
        if known is None:
            known = self._exchanges[asking] = self._instant(number, local, asked, state)
        label, cache, after, wrong, hit = known
        return label, self._with(state, number, after, cache), wrong, hit

    def _instant(
        self, number: int, local: Local, asked: Any, state: State
    ) -> tuple[str, tuple[Any, ...], Local, bool, bool]:
        instants = self._store.parts(asked)
        done = local.learned[0] if local.learned else 0
        cache, learned = state.cache, list(local.learned[1:])
        for part in instants[done]:
            cache, what = part(cache)
            learned.append(what)
        label = f"{self._names[number]} {_label(asked, done if len(instants) > 1 else None)}"
        if done + 1 < len(instants):
            return label, cache, local._replace(learned=(done + 1, *learned)), False, False
        answer = self._store.answer(asked, tuple(learned), self._server(state))
        node = self._sent_to(local.node, answer)
        served = self._nodes[node].asked
        wrong = hit = False
        if isinstance(served, Serve):
            hit, wrong = True, self._wrong(local, served.versions)
            label += f", serves {served.versions}"
        return label, cache, self._at(local._replace(learned=()), node), wrong, hit

    def _wrong(self, local: Local, served: Versions) -> bool:
        """Return whether rows that are handed out equal nothing that this reader may see."""
        if self.world.processes[self._nodes[local.node].process].replica:
            return False
        allowed = (local.seen or frozenset()) if local.snapshot is None else {local.snapshot}
        return all(served != self._rows(one, local.pending) for one in allowed)

    def _rows(self, database: Versions, own: Versions) -> Versions:
        """Return what the query returns to a transaction that has written something itself."""
        versions = tuple(map(sum, zip(database, own, strict=True)))
        return versions[: self._queried] if self.world.result is None else self.world.result(versions)

    def _query(self, state: State, number: int, local: Local, asked: Query | Pin) -> Move:
        seen = state.replica if self.world.processes[number].replica else state.database
        if local.snapshot is not None:
            seen = local.snapshot
        elif isinstance(asked, Pin):
            local = local._replace(snapshot=seen)
        if isinstance(asked, Query):
            local = local._replace(seen=None)
        rows = self._rows(seen, local.pending)
        label = "queries" if isinstance(asked, Query) else "fixes its snapshot"
        answered = self._answered(state, number, local, rows)
        return f"{self._names[number]} {label} {rows}", answered, False, False

    def _commit(self, state: State, number: int, local: Local) -> Iterator[tuple[str, State]]:
        over = local._replace(pending=self._zero, snapshot=None)
        committed = self._committed(state, local.pending)
        yield "commits", self._answered(committed, number, over, Committed.YES)
        yield "is rolled back", self._answered(state, number, over, Committed.NO)
        if state.left.lost:
            lost = local._replace(late=True)
            following = self._answered(state, number, lost, Committed.UNKNOWN)
            left = state.left._replace(lost=state.left.lost - 1)
            yield "loses the server while it commits", following._replace(left=left)

    def _accidents(self, state: State) -> Iterator[tuple[str, State]]:
        cache, left = state.cache, state.left
        for slot, value in enumerate(cache):
            if value is None:
                continue
            key = self._keys[slot]
            if isinstance(value, frozenset):
                yield from self._ends(state, slot, value)
            elif key == HOLD:
                if state.replica == state.database:
                    yield "the hold ends", _without(state, slot)
            elif left.evictions:
                fewer = left._replace(evictions=left.evictions - 1)
                yield f"{key} is evicted", _without(state, slot)._replace(left=fewer)
        if state.replica != state.database:
            yield "the replica catches up", state._replace(replica=state.database)
        if left.dumps:
            yield (
                "a copy of the cache is made",
                state._replace(dump=cache, left=left._replace(dumps=left.dumps - 1)),
            )
        if left.failovers and state.dump is not None:
            yield (
                "the copy takes over",
                state._replace(
                    cache=state.dump,
                    dump=None if left.failovers == 1 else state.dump,
                    server=state.server + 1,
                    left=left._replace(failovers=left.failovers - 1),
                ),
            )

    def _ends(self, state: State, slot: int, mark: frozenset[str]) -> Iterator[tuple[str, State]]:
        """Let leases end, or let the mark be evicted."""
        key, left = self._keys[slot], state.left
        for writer in sorted(mark):
            if self.world.hasty or self._lease_may_end(state, key, writer):
                rest = mark - {writer}
                cache = (*state.cache[:slot], rest or None, *state.cache[slot + 1 :])
                yield f"the lease of {self._named(writer)} on {key} ends", state._replace(cache=cache)
        if left.marks:
            fewer = left._replace(marks=left.marks - 1)
            yield f"the mark of {key} is evicted", _without(state, slot)._replace(left=fewer)
            # In memcached the lease of an intent is a key of its own.
            for writer in sorted(mark) if len(mark) > 1 else ():
                cache = (*state.cache[:slot], mark - {writer}, *state.cache[slot + 1 :])
                label = f"the intent of {self._named(writer)} on {key} is evicted"
                yield label, state._replace(cache=cache, left=fewer)

    def _named(self, writer: str) -> str:
        return self._names[int(writer.partition(".")[0])]

    def _lease_may_end(self, state: State, key: str, writer: str) -> bool:
        """Return whether it is late enough: a lease is longer than a commit and than the lag of a replica.

        A mark that stands in the place of others was written after them, and ends after them.
        """
        if state.replica != state.database:
            return False
        marker = int(writer.partition(".")[0])
        for number, local in enumerate(state.locals):
            if number == marker and self._in_flight(local):
                return False
            if self.world.tier is Tier.OVERWRITE and self._has_marked(number, local, key):
                return False
            if self.world.short and local.snapshot not in {None, state.database}:
                return False
        return True

    def _has_marked(self, number: int, local: Local, key: str) -> bool:
        """Return whether a writer in flight has come as far as this tag in its MARK."""
        if key not in map(tag, self.world.processes[number].tags) or not self._in_flight(local):
            return False
        asked = self._asked(local)
        return not isinstance(asked, Mark) or key in asked.keys[: local.learned[0]]

    # Changes.

    @staticmethod
    def _with(state: State, number: int, local: Local, cache: tuple[Any, ...] | None = None) -> State:
        before, dump, server, database, replica, time, locals_, left = state
        locals_ = (*locals_[:number], local, *locals_[number + 1 :])
        now = before if cache is None else cache
        return State(now, dump, server, database, replica, time, locals_, left)

    def _ended(self, local: Local) -> Local:
        return Local(-1, (), None, None, local.pending if local.late else self._zero, local.late)

    def _sent_to(self, node: int, answer: Any) -> int:
        sent = (node, answer)
        known = self._sent.get(sent)
        if known is None:
            before = self._nodes[node]
            changing = before.changing or _changes(before.asked)
            changing = changing and not isinstance(before.asked, Read)
            known = self._node(before.process, (*before.answers, answer), changing=changing)
            self._sent[sent] = known
        return known

    def _answered(self, state: State, number: int, local: Local, answer: Any) -> State:
        node = self._sent_to(local.node, answer)
        return self._with(state, number, self._at(local._replace(learned=()), node))

    def _at(self, local: Local, node: int) -> Local:
        """Take a process to where it asks something that is a step."""
        local = local._replace(node=node)
        while isinstance(asked := self._nodes[local.node].asked, (Read, Serve)):
            seen: frozenset[Versions] | None = frozenset() if isinstance(asked, Read) else None
            local = local._replace(node=self._sent_to(local.node, None), seen=seen)
        return self._ended(local) if asked is ENDED else local

    def _committed(self, state: State, pending: Versions) -> State:
        database = tuple(map(sum, zip(state.database, pending, strict=True)))
        locals_ = tuple(
            local._replace(seen=local.seen | {database}) if local.seen and local.snapshot is None else local
            for local in state.locals
        )
        replica = state.replica if self._lagging else database
        return state._replace(database=database, replica=replica, locals=locals_)


def _without(state: State, slot: int) -> State:
    return state._replace(cache=(*state.cache[:slot], None, *state.cache[slot + 1 :]))


def _label(asked: Any, instant: int | None) -> str:
    """Return what a step does, in words."""
    if isinstance(asked, GetMany):
        word, keys = "reads", asked.keys
    elif isinstance(asked, SetMany):
        word, keys = "stores", tuple(key for key, _value in asked.values)
    elif isinstance(asked, Mark):
        word, keys = "marks", asked.keys
    elif isinstance(asked, (Done, Create)):
        word = "done" if isinstance(asked, Done) else "creates"
        keys = (asked.clock[0], *(key for key, _token in asked.tokens))
    else:
        word, keys = "adds", (asked.key,)
    at = "" if instant is None else f" ({instant + 1})"
    return f"{word} {' '.join(keys)}{at}"


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    steps: list[str] = []
    while (before := came_from[state]) is not None:
        state, label = before
        steps.append(label)
    return steps[::-1]


__all__ = ["ENTRY", "Process", "Search", "Verdict", "World"]
