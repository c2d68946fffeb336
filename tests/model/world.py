"""A small world: processes, a cache, a database, and what may go wrong between them.

A process is a generator. Those of ``core.protocol`` ask for steps of a store and for commits; between them a
process may ask for what is defined here. The cache has one slot for each key. A mark is kept as the frozen
set of its writers; the generators see the text that stands for it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from cachalot.core import protocol
from cachalot.core.envelope import Entry

ENTRY = "entry"
CLOCK = "clock"
HOLD = "hold"

Draw = Callable[[], str]
Program = Callable[[Draw], Generator[Any, Any, None]]
Versions = tuple[int, ...]
"""A state of the database: how many commits each tag has seen."""


# What a process may ask besides the steps of the protocol.


@dataclass(frozen=True)
class Read:
    """Say that a read begins with the next step; it ends with :class:`Query` or :class:`Serve`."""


@dataclass(frozen=True)
class Query:
    """Run the query on the database; the answer is what the transaction sees."""


@dataclass(frozen=True)
class Pin:
    """Run a statement that fixes the snapshot of the transaction; the answer is what it sees."""


@dataclass(frozen=True)
class Write:
    """Run a statement that changes tags, or take changes back to a savepoint.

    :param pending: how often each tag has been changed by this transaction afterwards.
    """

    pending: Versions


@dataclass(frozen=True)
class Serve:
    """Hand rows to the caller: no step, but the moment at which G2 is checked."""

    versions: Versions


@dataclass(frozen=True)
class Tick:
    """Look at a clock that all share; the answer is a number that was never returned before."""


class Stored(NamedTuple):
    """An entry, as it lies in the cache.

    :param stamp: what it was stored under.
    :param versions: the state of the database in it.
    :param more: keys of tags that were found in the rows.
    """

    stamp: Any
    versions: Versions
    more: tuple[str, ...] = ()


class Tier(enum.Enum):
    """What the store makes of overlapping commits."""

    INTENTS = "intents"
    OVERWRITE = "overwrite"


class Exchange(enum.Enum):
    """What of an exchange with the cache is one instant."""

    AT_ONCE = "all keys"
    APART = "the entry; all other keys"
    ONE_BY_ONE = "each key"
    ENTRY_LAST = "each key, the entry after the tags"


@dataclass(frozen=True)
class Process:
    """One process of a world.

    :param program: its generator function.
    :param tags: numbers of the tags that it writes; none for a reader.
    :param replica: whether it reads from the replica.
    :param transaction: whether it says itself, with :class:`Write`, what it has written.
    """

    program: Program
    tags: tuple[int, ...] = ()
    replica: bool = False
    transaction: bool = False


Valid = Callable[[Stored, tuple[Any, ...], str], bool]
"""Says whether an entry would be served: the entry, the values of all tags, the name of the server."""


def tag(number: int) -> str:
    """Return the key of a tag."""
    return f"tag{number}"


def tag_names(tags: int) -> tuple[str, ...]:
    """Return the keys of the first tags."""
    return tuple(tag(number) for number in range(tags))


def stamped(stored: Stored, tokens: tuple[Any, ...], server: str) -> bool:
    """Return whether the stamp of an entry is the digest of the tokens."""
    if not all(isinstance(token, str) and not protocol.is_mark(token) for token in tokens):
        return False
    return bool(stored.stamp == protocol.stamp(tag_names(len(tokens)), tokens, server))


@dataclass(frozen=True)
class World:
    """What there is, and what may go wrong.

    :param processes: in any order; equal ones are interchangeable.
    :param tags: how many tags there are.
    :param query: on how many of them, the first ones, the one query depends; on all by default.
    :param result: what the query returns in a state of the database, if not how often each tag has changed.
    :param present: what the cache holds at first, beside its clock.
    :param tier: what the store makes of overlapping commits.
    :param exchange: what of an exchange is one instant.
    :param names: whether the store says which server has answered.
    :param valid: whether an entry would be served.
    :param crashes: how many writers may die, each at any step.
    :param evictions: how many keys may be evicted, marks excepted.
    :param marks: how many marks may be evicted.
    :param lost: how many commits may lose their client; they are carried out later, or never.
    :param failovers: how often the cache may go back to what it held at an earlier moment, under a new name.
    :param short: whether transactions with a snapshot end before the leases of writers that die.
    :param hasty: whether a lease may end while its writer is in flight.
    """

    processes: tuple[Process, ...]
    tags: int = 1
    query: int | None = None
    result: Callable[[Versions], Versions] | None = None
    present: tuple[tuple[str, Any], ...] = ()
    tier: Tier = Tier.INTENTS
    exchange: Exchange = Exchange.AT_ONCE
    names: bool = False
    valid: Valid = stamped
    crashes: int = 0
    evictions: int = 0
    marks: int = 0
    lost: int = 0
    failovers: int = 0
    short: bool = False
    hasty: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the cache, in the order of its slots."""
        return (ENTRY, CLOCK, HOLD, *tag_names(self.tags))


Cache = tuple[Any, ...]
"""The values of all keys, ``None`` for what is absent."""


def seen(value: Any) -> Any:
    """Return a value of the cache as a process sees it."""
    if isinstance(value, frozenset):
        return protocol.MARK + "".join(f"{writer};1," for writer in sorted(value))
    return value


def open_entry(value: Any) -> Entry | None:
    """Return the entry that a value of the cache is."""
    if not isinstance(value, Stored):
        return None
    return Entry(value.stamp, 0, bytes(value.versions), tuple(key.encode() for key in value.more))
