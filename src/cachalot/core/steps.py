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
    FILL = "fill"
    PASSING = "passing"
    DEPLOYMENT = "deployment"


@dataclass(frozen=True)
class Timeout:
    """The lifetime of an entry that has one of its own.

    :param seconds: ``None`` for ever.
    """

    seconds: float | None


Life = Lifetime | Timeout


def is_entry(life: Life) -> bool:
    """Return whether it is that of the result of a query, which a cache may refuse."""
    return life is Lifetime.ENTRY or isinstance(life, Timeout)


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
    lifetime: Life


@dataclass(frozen=True)
class Add:
    """Write ``value`` unless ``key`` is present; the answer says whether it was written. One atomic step."""

    key: str
    value: Any
    lifetime: Lifetime


@dataclass(frozen=True)
class Mark:
    """Say that a commit is about to change the tags under ``keys``.

    The answer maps those of the keys ``watched`` that are present to their values, read after the tags were
    marked; a store without sets of intents may say nothing.

    Contract: from the answer on every tag is dark, until the :class:`Done` of the same ``writer`` or the end
    of a lease. A store that keeps sets of intents adds this one to those of other writers; any other store
    puts it in their place. Tag by tag, each in one atomic step.

    :param writer: never used by another write; without ``;`` and ``,``.
    """

    keys: tuple[str, ...]
    writer: str
    watched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """End what :class:`Mark` began; the answer is like that of :class:`Mark`.

    Contract: the clock is written first. Then, tag by tag, each in one atomic step: the intent of ``writer``
    goes, and when no other live intent is left the tag gets its new token. A write that did not commit gives
    no token to a tag that it had not marked. A store without sets of intents writes all tokens.

    :param writer: that of the mark.
    :param clock: key and new value of the clock.
    :param tokens: keys of the tags and a new token for each. An empty one means that nothing need stay under
        the key; a store that cannot remove a value in one step puts any token there.
    :param committed: whether the rows may have changed.
    :param brief: keys whose tokens stay for ``Lifetime.DEPLOYMENT`` only.
    """

    writer: str
    clock: tuple[str, str]
    tokens: tuple[tuple[str, str], ...]
    committed: bool
    watched: tuple[str, ...] = ()
    brief: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Create:
    """Give tokens to tags that have none; the answer maps the tags to the values that are there afterwards.

    Contract: the clock is written first; each token is written only if its key is absent, in one atomic step.
    A store that does not learn what another process has put there meanwhile leaves that tag out.

    :param clock: key and new value of the clock.
    :param tokens: keys of the tags and a token for each.
    :param passing: keys whose tokens stay for ``Lifetime.PASSING``, as long as entries do.
    """

    clock: tuple[str, str]
    tokens: tuple[tuple[str, str], ...]
    passing: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Commit:
    """Let the database commit; the answer is a :class:`Committed`."""


class Committed(enum.Enum):
    """What is known about a commit that was tried."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


SERVER = "@"
"""Under this key an answer to :class:`GetMany` and :class:`Create` says which server has given it.

Two servers never have the same name, nor has one before and after a restart or a change of its role. A store
that cannot tell leaves it out.
"""

StoreStep = GetMany | SetMany | Add | Mark | Done | Create
Step = StoreStep | Commit
