"""The contract of a store: what the protocol asks of a cache, and nothing more.

A store carries out the steps of ``core.steps``. It raises :class:`StoreError` for everything that went wrong,
including what the cache behind it would have passed over in silence: a swallowed MARK would be a stale row.
Nothing else leaves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachalot.core.steps import Lifetime


class StoreError(Exception):
    """The cache did not do what it was asked."""


class StoreAway(StoreError):
    """The cache does not answer."""


class StoreRefused(StoreError):
    """The cache answers, but did not take this value."""


class Store(Protocol):
    """What the engine needs of a cache."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of those ``keys`` that are present, read in this order or at one instant.

        :raises StoreAway: the cache does not answer.
        """

    def set_many(self, values: Sequence[tuple[str, Any]], lifetime: Lifetime) -> None:
        """Write all ``values``, visible in this order or at one instant.

        :raises StoreAway: the cache does not answer, or has not taken all.
        :raises StoreRefused: the cache answers, but one of the values is not acceptable to it.
        """

    def add(self, key: str, value: Any, lifetime: Lifetime) -> bool:
        """Write ``value`` if ``key`` is absent, as one atomic step, and return whether it was written.

        :raises StoreAway: the cache does not answer.
        """
