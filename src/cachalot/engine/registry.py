"""Which tables were ever invalidated, and when last, for people and for the keys of template fragments.

Nothing here takes part in deciding whether a result may be served. The time of the last invalidation is
written in the token of the table. A token that was evicted must not bring back an older answer, for example
"never": fragments stored under it would come back. So every writer once adds the tables it writes to a
register, and a table that stands there but has no token gets a new one, which is later than all before.
"""

from __future__ import annotations

import threading
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from cachalot.core.keys import Namespace, draw, drawn_at
from cachalot.core.protocol import CREATED
from cachalot.core.steps import Add, GetMany, Lifetime, SetMany
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachalot.core.tags import Effects, Tag
    from cachalot.engine.cache import QueryCache

TIE_SECONDS = 0.05
"""Several times are joined to one within this width, so that it changes whenever one of them does."""

_known: dict[tuple[str, str], set[str]] = {}
_lock = threading.Lock()


def forget() -> None:
    """Forget what this process has written, as a new one would. For tests."""
    with _lock:
        _known.clear()


def note(cache: QueryCache, space: Namespace, effects: Effects) -> None:
    """Add the tables of a write to the register, once per process and table."""
    names = {tag.table for tag in effects.tags()}
    with _lock:
        known = _known.setdefault((cache.alias, space.registry), set())
        if names <= known:
            return
        known |= names
    try:
        listed = _listed(cache.guard.ask(GetMany((space.registry,))).get(space.registry))
        cache.guard.ask(SetMany(((space.registry, "\n".join(sorted(listed | known))),), Lifetime.STATE))
    except StoreAway:
        with _lock:
            _known[cache.alias, space.registry] -= names


def tokens_of_invalidations(
    cache: QueryCache, space: Namespace, tags: Iterable[tuple[Tag, str]]
) -> list[str]:
    """Return the tokens of those tags that were ever invalidated.

    :param tags: tags and their keys.
    :raises StoreAway: the cache does not answer.
    """
    pairs = list(tags)
    got = cache.guard.run(_read((space.registry, *(key for _tag, key in pairs))))
    listed = _listed(got.get(space.registry)) | _known.get((cache.alias, space.registry), set())
    tokens = []
    for tag, key in pairs:
        token = got.get(key)
        if not isinstance(token, str):
            token = _create(cache, key) if tag.table in listed else None
        elif token.startswith(CREATED) and tag.table not in listed:
            token = None
        if token is not None:
            tokens.append(token)
    return tokens


def _read(keys: tuple[str, ...]) -> Any:
    return (yield GetMany(keys))


def _create(cache: QueryCache, key: str) -> str | None:
    token = CREATED + draw()
    if cache.guard.ask(Add(key, token, Lifetime.STATE)):
        return token
    value = cache.guard.ask(GetMany((key,))).get(key)
    return value if isinstance(value, str) else None


def joined(tokens: list[str]) -> float:
    """Return the latest time of some tokens, in seconds since 1970; 0.0 if there are none.

    Of several, it is one that changes with each of them, even if the clocks that made them disagree.
    """
    times = [drawn_at(token) for token in tokens]
    if len(times) <= 1:
        return times[0] if times else 0.0
    share = int.from_bytes(blake2b("\n".join(tokens).encode(), digest_size=4).digest(), "big") / 2**32
    return max(times) // TIE_SECONDS * TIE_SECONDS + share * TIE_SECONDS


def _listed(value: object) -> set[str]:
    return set(value.split("\n")) if isinstance(value, str) else set()


def now() -> float:
    """Return the time now, as the tokens have it: the answer while nothing is known."""
    return drawn_at(draw())
