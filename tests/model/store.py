"""The simulated store: each step of the protocol as the parts of it that are one instant.

A part is a function of the cache that returns the new cache and what the process learns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cachalot.core.steps import SERVER, Add, Create, Done, GetMany, Mark, SetMany
from tests.model.world import ENTRY, Cache, Exchange, Tier, World, seen

Part = Callable[[Cache], tuple[Cache, Any]]

_ONE_BY_ONE = {Exchange.ONE_BY_ONE, Exchange.ENTRY_LAST}


class Store:
    """The cache of a world.

    :param world: the world.
    """

    def __init__(self, world: World) -> None:
        self._slots = {key: slot for slot, key in enumerate(world.keys)}
        self._tier = world.tier
        self._exchange = world.exchange
        self._names = world.names
        self._parts: dict[Any, list[list[Part]]] = {}

    def parts(self, step: Any) -> list[list[Part]]:
        """Return the instants of a step, each with what happens in it."""
        known = self._parts.get(step)
        if known is None:
            known = self._parts[step] = self._grouped(step)
        return known

    def answer(self, step: Any, learned: tuple[Any, ...], server: str) -> Any:
        """Return the answer to a step; what would be a mapping is a tuple of pairs.

        :param learned: what was learned at each part.
        :param server: name of the server at its last instant.
        """
        if isinstance(step, GetMany):
            keys = self._order(step.keys)
            pairs = [(key, value) for key, value in zip(keys, learned, strict=True) if value is not None]
        elif isinstance(step, Create):
            pairs = self._created(step, learned)
        else:
            return learned[-1] if isinstance(step, Add) else True
        return (*pairs, (SERVER, server)) if self._names else tuple(pairs)

    def _created(self, step: Create, learned: tuple[Any, ...]) -> list[tuple[str, Any]]:
        there = [(key, value) for (key, _token), value in zip(step.tokens, learned[1:], strict=False)]
        if self._tier is Tier.INTENTS and self._exchange in _ONE_BY_ONE:
            # What another has put there is read after all that could be added was.
            later = dict(zip([key for key, _token in step.tokens], learned[1 + len(there) :], strict=True))
            there = [(key, later[key] if value is None else value) for key, value in there]
        return [(key, value) for key, value in there if value is not None]

    # What is one instant.

    def _grouped(self, step: Any) -> list[list[Part]]:
        parts = self._all(step)
        if self._exchange in _ONE_BY_ONE:
            return [[part] for part in parts]
        apart = self._exchange is Exchange.APART and isinstance(step, GetMany)
        if apart and step.keys[0] == ENTRY and len(parts) > 1:
            return [parts[:1], parts[1:]]
        return [parts]

    def _all(self, step: Any) -> list[Part]:
        if isinstance(step, GetMany):
            return [partial(self._get, key) for key in self._order(step.keys)]
        if isinstance(step, SetMany):
            return [partial(self._set, key, value) for key, value in step.values]
        if isinstance(step, Add):
            return [partial(self._add, step.key, step.value)]
        if isinstance(step, Mark):
            return [partial(self._mark, key, step.writer) for key in step.keys]
        clock = partial(self._set, *step.clock)
        if isinstance(step, Done):
            return [clock, *(partial(self._done, step, key, token) for key, token in step.tokens)]
        created: list[Part] = [partial(self._create, key, token) for key, token in step.tokens]
        if self._tier is Tier.INTENTS and self._exchange in _ONE_BY_ONE:
            created += [partial(self._get, key) for key, _token in step.tokens]
        return [clock, *created]

    def _order(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        if self._exchange is Exchange.ENTRY_LAST and keys[0] == ENTRY:
            return (*keys[1:], ENTRY)
        return keys

    # What happens.

    def _get(self, key: str, cache: Cache) -> tuple[Cache, Any]:
        return cache, seen(cache[self._slots[key]])

    def _set(self, key: str, value: Any, cache: Cache) -> tuple[Cache, Any]:
        slot = self._slots[key]
        return (*cache[:slot], value, *cache[slot + 1 :]), None

    def _add(self, key: str, value: Any, cache: Cache) -> tuple[Cache, Any]:
        if cache[self._slots[key]] is not None:
            return cache, False
        return self._set(key, value, cache)[0], True

    def _mark(self, key: str, writer: str, cache: Cache) -> tuple[Cache, Any]:
        others = self._others(key, writer, cache)
        return self._set(key, others | {writer}, cache)

    def _done(self, step: Done, key: str, token: str, cache: Cache) -> tuple[Cache, Any]:
        if self._tier is Tier.OVERWRITE:
            return self._set(key, token, cache)
        there = cache[self._slots[key]]
        others = self._others(key, step.writer, cache)
        if others:
            return self._set(key, others, cache)
        mine = isinstance(there, frozenset) and step.writer in there
        # An empty token leaves nothing.
        return self._set(key, token or None, cache) if step.committed or mine else (cache, None)

    def _create(self, key: str, token: str, cache: Cache) -> tuple[Cache, Any]:
        there = cache[self._slots[key]]
        if there is None:
            return self._set(key, token, cache)[0], token
        at_once = self._tier is Tier.INTENTS and self._exchange not in _ONE_BY_ONE
        return cache, seen(there) if at_once else None

    def _others(self, key: str, writer: str, cache: Cache) -> frozenset[str]:
        there = cache[self._slots[key]]
        if self._tier is Tier.OVERWRITE or not isinstance(there, frozenset):
            return frozenset()
        return there - {writer}
