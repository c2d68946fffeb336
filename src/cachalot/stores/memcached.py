"""The store in memcached: marks are sets of intents, changed by compare and swap.

memcached tells nobody its time in a way that would go into one step, and clocks of clients are not to be
trusted. So the lease of an intent is a key of its own, the *sign of life* of its writer, which the server
forgets by its own clock. An intent without a sign of life is dead.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.cache import caches
from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache

from cachalot.core.intents import intents, marked
from cachalot.core.keys import FORMAT
from cachalot.core.steps import Lifetime
from cachalot.stores.base import Concern, StoreAway, Tier
from cachalot.stores.django_cache import UNREADABLE, DjangoCacheStore, plain, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.core.cache.backends.base import BaseCache

    from cachalot.core.steps import Create, Done, Mark

ATTEMPTS = 100
"""How often a value may change under our hands before the cache counts as away."""

_AT_ONCE = -1

_NO_END = 0
"""Leases end with the signs of life, not with the numbers in a mark."""


def compares_and_swaps(cache: BaseCache) -> bool:
    """Return whether a Django cache is a memcached whose client can compare and swap, and raises errors."""
    return isinstance(cache, (PyLibMCCache, PyMemcacheCache)) and plain(cache, PyLibMCCache.__module__)


def sign_of_life(writer: str) -> str:
    """Return the key that says that a writer lives."""
    return f"{FORMAT}:i:{writer}"


class MemcachedStore(DjangoCacheStore):
    """memcached through pymemcache or pylibmc."""

    tier = Tier.INTENTS

    def __init__(self, alias: str) -> None:
        super().__init__(alias)
        self.plain = True

    def mark(self, step: Mark) -> dict[str, Any]:
        """Add an intent; see :class:`~cachalot.stores.base.Store`."""
        sign = sign_of_life(step.writer)
        if self._call("set_many", {sign: "1"}, timeout=_life(Lifetime.LEASE)) != []:
            raise StoreAway(f"the cache {self.alias!r} did not take {sign}")
        for key in step.keys:
            self._change(key, lambda value: (self._marked(value, step.writer), Lifetime.LEASE))
        return self.get_many(step.watched) if step.watched else {}

    def done(self, step: Done) -> dict[str, Any]:
        """Take an intent away; see :class:`~cachalot.stores.base.Store`."""
        self.set_many([step.clock], Lifetime.STATE)
        for key, token in step.tokens:
            self._change(key, partial(self._left, step, key, token))
        self._call("delete", sign_of_life(step.writer))
        return self.get_many(step.watched) if step.watched else {}

    def create(self, step: Create) -> dict[str, Any]:
        """Give tokens to tags that have none; see :class:`~cachalot.stores.base.Store`."""
        created = super().create(step)
        return {**self.get_many([key for key, _token in step.tokens if key not in created]), **created}

    def concerns(self) -> list[Concern]:
        """Return what makes the guarantees weaker here; see :class:`~cachalot.stores.base.Store`."""
        cache: Any = caches[self.alias]
        return [Concern.EJECTS] if len(cache._servers) > 1 else []  # noqa: SLF001 - Django's list of its LOCATION

    def _marked(self, value: Any, writer: str) -> str:
        return marked({**self._living(value, writer), writer: _NO_END})

    def _left(self, step: Done, key: str, token: str, value: Any) -> tuple[str, Lifetime] | None:
        """Return what takes the place of a mark, ``None`` if nothing is to be done."""
        others = self._living(value, step.writer)
        if others:
            return marked(others), Lifetime.LEASE
        if not step.committed and step.writer not in intents(value):
            return None
        return token, Lifetime.DEPLOYMENT if key in step.brief else Lifetime.STATE

    def _living(self, value: Any, writer: str) -> dict[str, int]:
        """Return the other intents in a mark whose writers still live."""
        others = {one: end for one, end in intents(value).items() if one != writer}
        if not others:
            return others
        signs = self.get_many([sign_of_life(one) for one in others])
        return {one: end for one, end in others.items() if sign_of_life(one) in signs}

    def _change(self, key: str, change: Callable[[Any], tuple[str, Lifetime] | None]) -> None:
        """Change one value in one step.

        :param change: is given the value, ``None`` if there is none; returns the new one and its life.
        :raises StoreAway: the cache does not answer, or others change the value all the time.
        """
        for _ in range(ATTEMPTS):
            value, version = self._versioned(key)
            wanted = change(value)
            if wanted is None or self._swap(key, version, *wanted):
                return
        raise StoreAway(f"{key} of the cache {self.alias!r} changes too often")

    def _versioned(self, key: str) -> tuple[Any, Any]:
        """Return a value and what it takes to replace it; ``None`` for the latter if there is no value."""
        cache: Any = caches[self.alias]
        name = _held(cache, key)
        try:
            got = self._raising(lambda: _client(cache).gets(name))
        except StoreAway as error:
            if not isinstance(error.__cause__, UNREADABLE):
                raise
            # Foreign, and the client cannot even say what it would take to replace it.
            self._call("delete", key)
            return None, None
        if not isinstance(got, tuple):  # a client that passes over errors
            raise StoreAway(f"gets of the cache {self.alias!r} returned {got!r}")
        return got[0], got[1]

    def _swap(self, key: str, version: Any, value: str, lifetime: Lifetime) -> bool:
        """Write a value if nobody has written it since; the empty text removes what is there."""
        if version is None:
            return not value or bool(self._call("add", key, value, timeout=_life(lifetime)))
        cache: Any = caches[self.alias]
        # There is no compare and delete. What is written with a negative time has expired (protocol.txt).
        life = cache.get_backend_timeout(_life(lifetime)) if value else _AT_ONCE
        name = _held(cache, key)
        try:
            return bool(self._raising(lambda: _client(cache).cas(name, value, version, life)))
        except StoreAway as error:
            if type(error.__cause__).__name__ == "NotFound":  # of pylibmc: it has been deleted meanwhile
                return False
            raise


def _life(lifetime: Lifetime) -> float:
    """Return how long a value may stay, in seconds. memcached counts whole ones, and the first has begun."""
    return math.ceil(seconds(lifetime) or 0) + 1


def _held(cache: Any, key: str) -> bytes:
    """Return a key as bytes that stay where they are for as long as the caller has them.

    Of a text pylibmc 1.6 makes bytes of its own, lets go of them, and has ``gets`` read them while other
    threads run: what is sent then is whatever lies there by now, and the connection is out of step for good.
    """
    return str(cache.make_and_validate_key(key)).encode()


def _client(cache: Any) -> Any:
    """Return the client of a Django cache, told to ask for the numbers that compare and swap needs."""
    client = cache._cache  # noqa: SLF001 - Django's own subclasses use it
    behaviors = getattr(client, "behaviors", None)
    if behaviors is not None and not behaviors.get("cas"):
        behaviors["cas"] = True
    return client
