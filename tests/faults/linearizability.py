"""Judges histories: whether one order of the operations on a key explains every answer.

An operation has an invocation, a response and an effect. A history of one key is linearizable if each
operation can be given one instant between its invocation and its response so that, in the order of the
instants, every answer is right (Herlihy and Wing, TOPLAS 1990). Keys are judged one by one, because
linearizability is local. The search is that of Wing and Gong (JPDC 1993) with the memory of Lowe (2017): the
same operations done and the same value left are not tried twice. Three shortcuts keep it small, and none of
them excludes an order that could be right:

* a read that may come next and whose answer is right now is taken at once, since it changes nothing;
* of several operations that may never have happened and do the same, the earliest comes first;
* what may never have happened and leaves a number that nobody has seen has not happened.

What may have happened or not (its process was killed, its commit raised) has no response: it may come at any
time after its invocation, or never.

A list that only grows is judged without a search: its elements are unique, so a read tells the whole history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NEVER = math.inf
"""The response of an operation of which nobody knows whether it has happened."""

SHOWN = 4
"""Elements of a long list that are printed."""


@dataclass(frozen=True)
class Operation:
    """One operation on a key.

    :param kind: ``read``, ``write`` or ``add`` of a number; ``read`` or ``append`` of a list.
    :param value: what was read, written, added or appended; a read of a list has a tuple.
    :param invoked: when it was called.
    :param responded: when it returned; :data:`NEVER` if it may have happened or not.
    :param old: for an ``add`` under a lock: what was there before. ``None`` if that is not known.
    :param who: for people.
    """

    kind: str
    value: int | tuple[int, ...]
    invoked: float
    responded: float = NEVER
    old: int | None = None
    who: str = ""

    def __str__(self) -> str:
        end = "?" if self.responded == NEVER else f"{self.responded:.6f}"
        old = "" if self.old is None else f" to {self.old}"
        value: object = self.value
        if isinstance(value, tuple) and len(value) > SHOWN:
            value = f"{len(value)} elements, the last of which are {value[-SHOWN:]}"
        return f"[{self.invoked:.6f}, {end}] {self.kind} {value}{old} {self.who}".rstrip()

    def applied(self, number: int) -> int | None:
        """The number that it leaves; ``None`` if its answer would have been another one."""
        if self.kind == "read":
            return number if self.value == number else None
        if self.kind == "write":
            return self.value
        return None if self.old not in {None, number} else number + self.value


@dataclass(frozen=True)
class Refusal:
    """Why a history is not linearizable.

    :param reason: a sentence.
    :param operations: those that it is about.
    """

    reason: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join((self.reason, *map(str, self.operations)))


class SearchTooLarge(RuntimeError):
    """A history was neither explained nor refused within the bound."""


# Numbers.


def check_register(history: Iterable[Operation], start: int, bound: int = 2_000_000) -> Refusal | None:
    """Judge the history of a number.

    :param start: the number before all operations.
    :param bound: how many configurations are tried at most.
    :returns: ``None`` if it is linearizable.
    :raises SearchTooLarge: the bound was reached.
    """
    return _Search(history).run(start, bound)


def _may_be_seen(uncertain: Operation, history: list[Operation]) -> bool:
    """Whether the number that an operation leaves shows in an answer, or could in a sum."""
    if any(one.kind == "add" and one.old is None for one in history):
        return True
    left = uncertain.value if uncertain.old is None else uncertain.old + uncertain.value
    return any(left == (one.value if one.kind == "read" else one.old) for one in history)


class _Configuration(NamedTuple):
    """What has been done, and the number that is left.

    :param low: all certain operations before this one are done.
    :param beyond: certain operations after it that are done.
    :param used: uncertain operations that have happened.
    """

    low: int
    beyond: frozenset[int]
    used: frozenset[int]
    number: int


class _Search:
    """Depth first, over operations in the order of their invocations."""

    def __init__(self, history: Iterable[Operation]) -> None:
        ordered = sorted(history, key=lambda one: one.invoked)
        self._certain = [one for one in ordered if one.responded != NEVER]
        uncertain = [one for one in ordered if one.responded == NEVER and one.kind != "read"]
        self._uncertain = [one for one in uncertain if _may_be_seen(one, ordered)]

    def run(self, start: int, bound: int) -> Refusal | None:
        """Find an order, or the operations at which all orders end."""
        waiting = [self._after_reads(_Configuration(0, frozenset(), frozenset(), start))]
        seen = set(waiting)
        furthest = waiting[0]
        while waiting:
            one = waiting.pop()
            if one.low == len(self._certain):
                return None
            if one.low > furthest.low:
                furthest = one
            for following in self._following(one):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
            if len(seen) > bound:
                raise SearchTooLarge(f"{len(seen)} configurations of {len(self._certain)} operations")
        stuck = tuple(self._certain[at] for at in self._next(furthest))
        return Refusal(f"nothing that may come next explains the rest; the value is {furthest.number}", stuck)

    def _next(self, one: _Configuration) -> Iterator[int]:
        """The certain operations that may come next: those that no other one ended before."""
        horizon = NEVER
        for at in range(one.low, len(self._certain)):
            if self._certain[at].invoked > horizon:
                return
            if at not in one.beyond:
                horizon = min(horizon, self._certain[at].responded)
                yield at

    def _following(self, one: _Configuration) -> Iterator[_Configuration]:
        """What may come after; the last is tried first, and the certain ones are likelier."""
        candidates = list(self._next(one))
        horizon = min(self._certain[at].responded for at in candidates)
        alike = set()
        for at, operation in enumerate(self._uncertain):
            if operation.invoked > horizon:
                break
            what = (operation.kind, operation.value, operation.old)
            number = operation.applied(one.number)
            if at not in one.used and what not in alike and number is not None:
                alike.add(what)
                yield self._after_reads(one._replace(used=one.used | {at}, number=number))
        for at in sorted(candidates, key=lambda at: -self._certain[at].responded):
            number = self._certain[at].applied(one.number)
            if number is not None:
                yield self._after_reads(self._done(one, at)._replace(number=number))

    def _after_reads(self, one: _Configuration) -> _Configuration:
        """Take all reads that may come next and are right."""
        while True:
            for at in self._next(one):
                operation = self._certain[at]
                if operation.kind == "read" and operation.value == one.number:
                    one = self._done(one, at)
                    break
            else:
                return one

    @staticmethod
    def _done(one: _Configuration, at: int) -> _Configuration:
        low, beyond = one.low, one.beyond | {at}
        while low in beyond:
            beyond -= {low}
            low += 1
        return one._replace(low=low, beyond=beyond)


# Lists.


def check_list(history: Iterable[Operation], final: tuple[int, ...]) -> Refusal | None:
    """Judge the history of a list that only grows, from nothing.

    :param final: what the database holds when all is over.
    :returns: ``None`` if it is linearizable.
    """
    operations = list(history)
    place = {element: at for at, element in enumerate(final)}
    return (
        _check_elements(operations, final)
        or _check_prefixes(operations, final)
        or _check_times(
            [one for one in operations if one.kind == "read" or one.value in place],
            place,
        )
    )


def _check_elements(operations: list[Operation], final: tuple[int, ...]) -> Refusal | None:
    appended = {one.value: one for one in operations if one.kind == "append"}
    if len(set(final)) != len(final):
        return Refusal(f"elements are there twice: {sorted(one for one in final if final.count(one) > 1)}")
    strange = [one for one in final if one not in appended]
    if strange:
        return Refusal(f"elements are there that nobody has appended: {strange}")
    there = set(final)
    lost = [one for one in appended.values() if one.responded != NEVER and one.value not in there]
    return Refusal("elements were lost", tuple(lost)) if lost else None


def _check_prefixes(operations: list[Operation], final: tuple[int, ...]) -> Refusal | None:
    for one in operations:
        if one.kind == "read" and one.value != final[: len(one.value)]:
            gone = [element for element in one.value if element not in final]
            reason = f"elements were read and are gone: {gone}" if gone else "the order was another one"
            return Refusal(reason, (one,))
    return None


def _check_times(operations: list[Operation], place: dict[int, int]) -> Refusal | None:
    """Let no operation begin after another one has ended that comes later in the list."""

    def before(one: Operation) -> int:
        return len(one.value) if one.kind == "read" else place[one.value]

    def after(one: Operation) -> int:
        return before(one) + (one.kind == "append")

    ended = sorted(operations, key=lambda one: one.responded)
    latest: Operation | None = None
    at = 0
    for one in sorted(operations, key=lambda one: one.invoked):
        while ended[at].responded < one.invoked:
            if latest is None or after(ended[at]) > after(latest):
                latest = ended[at]
            at += 1
        if latest is not None and before(one) < after(latest):
            return Refusal("the second began after the first had ended, and knows less", (latest, one))
    return None
