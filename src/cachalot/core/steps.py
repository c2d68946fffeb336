"""The steps that the protocol may ask of a store and of a database.

A protocol generator yields one of these and is sent the answer. It never waits, never looks at a clock and
never knows what kind of cache there is; a test can therefore answer the steps of several generators in any
order it likes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class Lifetime(enum.Enum):
    """How long a value may stay; the store knows the seconds."""

    LEASE = "lease"
    STATE = "state"
    ENTRY = "entry"
    HOLD = "hold"


@dataclass(frozen=True)
class GetMany:
    """Read ``keys``; the answer maps those that are present to their values.

    Contract: the keys are read in the order given, or all at one instant.
    """

    keys: tuple[str, ...]


@dataclass(frozen=True)
class SetMany:
    """Write ``values``; the answer says whether the cache has taken all of them.

    Contract: the values become visible in the order given, or all at one instant.
    """

    values: tuple[tuple[str, Any], ...]
    lifetime: Lifetime


@dataclass(frozen=True)
class Add:
    """Write ``value`` unless ``key`` is present; the answer says whether it was written. One atomic step."""

    key: str
    value: Any
    lifetime: Lifetime


@dataclass(frozen=True)
class Commit:
    """Let the database commit; the answer is a :class:`Committed`."""


class Committed(enum.Enum):
    """What is known about a commit that was tried."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


StoreStep = GetMany | SetMany | Add
Step = StoreStep | Commit
