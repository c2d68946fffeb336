"""The contract of a store: what the protocol asks of a cache, and nothing more.

A store carries out the steps of ``core.steps``. It raises :class:`StoreError` for everything that went wrong,
including what the cache behind it would have passed over in silence: a swallowed MARK would be a stale row.
Nothing else leaves it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachalot.core.steps import Create, Done, Life, Lifetime, Mark


class Tier(enum.Enum):
    """What a store makes of commits that overlap on one tag. The value is the sentence shown to people."""

    INTENTS = "every commit in flight is known; a hit is never older than the read"
    OVERWRITE = "commits that overlap on one table may let a hit be as old as the second of them is long"


class StoreError(Exception):
    """The cache did not do what it was asked."""


class StoreAway(StoreError):
    """The cache does not answer."""


class StoreRefused(StoreError):
    """The cache answers, but did not take this value."""


class Concern(enum.Enum):
    """What about a cache server makes the guarantees weaker. The value is the sentence shown to people."""

    OVERWRITE = "it keeps one mark for all commits on a table"
    MARKS_GO_FIRST = "when its memory is full, it drops marks of commits in flight before results"
    REFUSES = "when its memory is full, it takes no new results"
    NAMELESS = "it does not tell its replication history"
    EJECTS = "it has several memcached servers, of which one may be left out and come back with old values"


class Store(Protocol):
    """What the engine needs of a cache.

    :ivar tier: what it makes of overlapping commits.
    """

    tier: Tier

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of those ``keys`` that are present, read in this order or at one instant.

        :raises StoreAway: the cache does not answer.
        """

    def set_many(self, values: Sequence[tuple[str, Any]], lifetime: Life) -> None:
        """Write all ``values``, visible in this order or at one instant.

        :raises StoreAway: the cache does not answer, or has not taken all.
        :raises StoreRefused: the cache answers, but one of the values is not acceptable to it.
        """

    def add(self, key: str, value: Any, lifetime: Lifetime) -> bool:
        """Write ``value`` if ``key`` is absent, as one atomic step, and return whether it was written.

        :raises StoreAway: the cache does not answer.
        """

    def mark(self, step: Mark) -> dict[str, Any]:
        """Let tags be dark; see :class:`~cachalot.core.steps.Mark`.

        :raises StoreAway: the cache does not answer, or has not taken all.
        """

    def done(self, step: Done) -> dict[str, Any]:
        """End what a mark began; see :class:`~cachalot.core.steps.Done`.

        :raises StoreAway: the cache does not answer, or has not taken all.
        """

    def create(self, step: Create) -> dict[str, Any]:
        """Give tokens to tags that have none; see :class:`~cachalot.core.steps.Create`.

        :raises StoreAway: the cache does not answer.
        """

    def concerns(self) -> list[Concern]:
        """Return what makes the guarantees weaker here; the server may be asked.

        :raises StoreAway: the cache does not answer.
        """
