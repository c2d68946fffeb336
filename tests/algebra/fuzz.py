"""The fuzz: random queries are cached, a random write is committed, and every query is asked again.

What the cache answers then must be what the database answers. Counted beside it is how often a query whose
result has not changed had to be run again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.cache import caches
from django.db import Error, connection

from cachalot.api import cachalot_disabled
from tests.algebra import data, queries, writes
from tests.algebra.describing import described

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.algebra.queries import Query

POOL = 24
"""Queries that meet each write."""

ROUNDS_PER_WORLD = 40
PAIRS_PER_WORLD = POOL * ROUNDS_PER_WORLD

ATTEMPTS = 3
"""Writes that are tried until the database refuses none."""

RAW = ("UPDATE algebra", "DELETE FROM algebra")
"""How SQL by hand begins: the ORM quotes the names."""


@dataclass
class Outcome:
    """What a run has shown.

    :ivar pairs: how often a query met a write.
    :ivar changed: how often the result was another one.
    :ivar writes: how many were tried; of them the database has ``refused`` some.
    :ivar asked: how often a query was asked for the second time; ``hits`` of them sent no statement.
    :ivar killed: by shape, how often a query had to be run again though its result was the same.
    :ivar spared: by shape, how often it was not.
    :ivar raw: the same for SQL by hand, which ends all results of its table: ``killed`` and ``spared``.
    :ivar violations: wrong answers, described.
    """

    pairs: int = 0
    changed: int = 0
    writes: int = 0
    refused: int = 0
    asked: int = 0
    hits: int = 0
    seconds: float = 0.0
    killed: Counter[str] = field(default_factory=Counter)
    spared: Counter[str] = field(default_factory=Counter)
    raw: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take in what other worlds have shown."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def probability(self, *shapes: str) -> float:
        """Return how often a write of the ORM ends a result that it does not change.

        :param shapes: of the queries; all if none are given.
        """
        names = shapes or tuple(self.killed | self.spared)
        killed = sum(self.killed[name] for name in names)
        return killed / max(1, killed + sum(self.spared[name] for name in names))

    def probability_with_raw(self) -> float:
        """Return the same over all writes, those by hand among them."""
        killed = self.killed.total() + self.raw["killed"]
        return killed / max(1, killed + self.spared.total() + self.raw["spared"])


class _Statements:
    """Counts what reaches the database, and remembers it."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __call__(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        self.sent.append(str(sql))
        return execute(sql, params, many, context)


class _Write(NamedTuple):
    """A write that was committed, and where."""

    place: str
    statements: list[str]

    @property
    def by_hand(self) -> bool:
        return any(text.startswith(RAW) for text in self.statements)


def fuzz(
    seed: int,
    pairs: int,
    *,
    world: int = 0,
    shapes: Sequence[str] = (),
    seconds: float = 36000.0,
    stop: int = 5,
) -> Outcome:
    """Let queries meet writes.

    :param seed: of the random numbers.
    :param pairs: of a query and a write, at least.
    :param world: the first one; each begins with new rows, and is the same whatever came before it.
    :param shapes: of the queries; any if none are given.
    :param seconds: after which it ends at the latest.
    :param stop: violations after which it ends.
    """
    outcome, statements = Outcome(), _Statements()
    began = time.monotonic()
    with connection.execute_wrapper(statements):
        while outcome.pairs < pairs and len(outcome.violations) < stop and time.monotonic() - began < seconds:
            for _ in _World(seed, world, shapes, outcome, statements.sent).rounds():
                if len(outcome.violations) >= stop:
                    break
            world += 1
    outcome.seconds = time.monotonic() - began
    return outcome


class _World:
    def __init__(
        self, seed: int, number: int, shapes: Sequence[str], outcome: Outcome, sent: list[str]
    ) -> None:
        self._chance = random.Random(f"{seed} {number}")
        self._name = f"--seed {seed} --world {number}"
        self._shapes = shapes
        self._outcome = outcome
        self._sent = sent

    def rounds(self) -> Iterator[None]:
        caches["default"].clear()
        data.clear()
        data.fill(self._chance)
        pool = [queries.draw(self._chance, self._shapes) for _ in range(POOL)]
        for round_ in range(ROUNDS_PER_WORLD):
            before = [self._asked(query) for query in pool]
            write = self._written(f"{self._name}, round {round_}")
            for query, was in zip(pool, before, strict=True):
                self._judge(query, was, write)
            yield
            for place in self._chance.sample(range(POOL), 4):
                pool[place] = queries.draw(self._chance, self._shapes)
            self._sent.clear()

    def _asked(self, query: Query) -> Any:
        query.ask()
        mark = len(self._sent)
        answer = query.ask()
        self._outcome.asked += 1
        self._outcome.hits += len(self._sent) == mark
        return answer

    def _written(self, place: str) -> _Write:
        mark = len(self._sent)
        for _ in range(ATTEMPTS):
            self._outcome.writes += 1
            try:
                writes.run(self._chance)
            except Error:
                self._outcome.refused += 1
            else:
                break
        return _Write(place, self._sent[mark:])

    def _judge(self, query: Query, was: Any, write: _Write) -> None:
        outcome, mark = self._outcome, len(self._sent)
        answer = query.ask()
        killed = len(self._sent) > mark
        with cachalot_disabled():
            truth = query.ask()
        outcome.pairs += 1
        if answer != truth:
            outcome.violations.append(described(query, answer, truth, write.place, write.statements))
        if truth != was:
            outcome.changed += 1
        elif write.by_hand:
            outcome.raw["killed" if killed else "spared"] += 1
        else:
            (outcome.killed if killed else outcome.spared)[query.shape] += 1
