"""The fuzz: random queries are cached, a random write is committed, and every query is asked again.

What the cache answers then must be what the database answers. Counted beside it is how often a query whose
result has not changed had to be run again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.core.cache import caches
from django.db import Error, connection

from cachalot.api import cachalot_disabled
from tests.algebra import data, queries, writes
from tests.algebra.queries import Query

Draw = Callable[[random.Random], Query]
Write = Callable[[random.Random], Any]

POOL = 24
"""Queries that meet each write."""

ROUNDS_PER_WORLD = 40


@dataclass
class Outcome:
    """What a run has shown.

    :ivar pairs: how often a query met a write.
    :ivar changed: how often the result was another one.
    :ivar killed: by shape, how often a query had to be run again though its result was the same.
    :ivar spared: by shape, how often it was not.
    :ivar violations: wrong answers, described.
    """

    pairs: int = 0
    changed: int = 0
    writes: int = 0
    refused: int = 0
    seconds: float = 0.0
    killed: Counter[str] = field(default_factory=Counter)
    spared: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def probability(self, *shapes: str) -> float:
        """Return how often a write ends a result that it does not change, of some shapes or of all."""
        names = shapes or tuple(self.killed | self.spared)
        killed = sum(self.killed[name] for name in names)
        return killed / max(1, killed + sum(self.spared[name] for name in names))


class _Statements:
    """Counts what reaches the database, and remembers it."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __call__(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        self.sent.append(str(sql))
        return execute(sql, params, many, context)


def fuzz(
    seed: int,
    pairs: int,
    *,
    seconds: float = 3600.0,
    stop: int = 5,
    draw: Draw = queries.draw,
    write: Write = writes.run,
) -> Outcome:
    """Let queries meet writes.

    :param seed: of the random numbers.
    :param pairs: of a query and a write, about.
    :param seconds: after which it ends at the latest.
    :param stop: violations after which it ends.
    :param draw: draws queries.
    :param write: writes.
    """
    outcome, statements = Outcome(), _Statements()
    began = time.monotonic()
    with connection.execute_wrapper(statements):
        world = 0
        while outcome.pairs < pairs and len(outcome.violations) < stop and time.monotonic() - began < seconds:
            chance, name = random.Random(f"{seed} {world}"), f"seed {seed}, world {world}"
            _world(chance, name, outcome, statements, draw, write)
            world += 1
    outcome.seconds = time.monotonic() - began
    return outcome


def _world(
    chance: random.Random, name: str, outcome: Outcome, statements: _Statements, draw: Draw, write: Write
) -> None:
    caches["default"].clear()
    data.clear()
    data.fill(chance)
    pool = [draw(chance) for _ in range(POOL)]
    for round_ in range(ROUNDS_PER_WORLD):
        before = [_asked(query) for query in pool]
        mark = len(statements.sent)
        state = chance.getstate()
        try:
            write(chance)
        except Error:
            outcome.refused += 1
        outcome.writes += 1
        written = statements.sent[mark:]
        for query, was in zip(pool, before, strict=True):
            _judge(query, was, f"{name}, round {round_}", written, outcome, statements)
        chance.setstate(state)
        chance.random()
        for place in chance.sample(range(POOL), 4):
            pool[place] = draw(chance)
        statements.sent.clear()


def _asked(query: Query) -> Any:
    query.ask()
    return query.ask()


def _judge(
    query: Query, was: Any, place: str, written: list[str], outcome: Outcome, statements: _Statements
) -> None:
    mark = len(statements.sent)
    answer = query.ask()
    sent = statements.sent[mark:]
    with cachalot_disabled():
        mark = len(statements.sent)
        truth = query.ask()
        texts = statements.sent[mark:]
    outcome.pairs += 1
    coarse = any(text.startswith("UPDATE algebra") for text in written)
    if answer != truth:
        outcome.violations.append(_described(query, answer, truth, place, written, texts))
    if truth != was:
        outcome.changed += 1
    elif coarse:
        return  # SQL by hand ends all results of its table, at every granularity
    elif sent:
        outcome.killed[query.shape] += 1
    else:
        outcome.spared[query.shape] += 1


def _described(
    query: Query, answer: Any, truth: Any, place: str, written: list[str], texts: list[str]
) -> str:
    """Return what is wrong, as text."""
    lines = [f"{place}: {query.shape}", *(f"  written {text}" for text in written)]
    lines += [f"  read    {text}" for text in texts]
    if isinstance(answer, list) and isinstance(truth, list):
        lines += [f"  cached  {one}" for one in answer if one not in truth]
        lines += [f"  true    {one}" for one in truth if one not in answer]
    else:
        lines += [f"  cached  {answer}", f"  true    {truth}"]
    return "\n".join(lines)
