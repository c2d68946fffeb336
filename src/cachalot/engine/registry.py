"""Which tables were ever invalidated, and when last, for people and for the keys of template fragments.

Nothing here takes part in deciding whether a result may be served. The time of the last invalidation is
written in the token of the table. A token that was evicted must not bring back an older answer, for example
"never": fragments stored under it would come back. So each writer leaves a note beside the token,
once, and a table that has a note but no token gets a new one, which is later than all before.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from cachalot.core.keys import Namespace, draw, drawn_at
from cachalot.core.protocol import CREATED
from cachalot.core.steps import Add, GetMany, Lifetime
from cachalot.core.tags import EPOCH, any_of
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachalot.core.tags import Effects, Tag
    from cachalot.engine.cache import QueryCache
    from cachalot.engine.guard import Guard

TIE_SECONDS = 64e-6
"""By so much the time of several tags may exceed the latest, so that it differs as a bare number too."""

MAX_KNOWN = 10_000

_known: set[tuple[str, str]] = set()


def forget() -> None:
    """Forget what this process has written, as a new one would. For tests."""
    _known.clear()


def note(alias: str, guard: Guard, space: Namespace, effects: Effects) -> None:
    """Note that tables, or everything, were invalidated, once per process.

    :param alias: of the cache.
    :param guard: the way to it.
    """
    for tag in (*((EPOCH,) if effects.everything else ()), *map(any_of, sorted(effects.tables))):
        key = (alias, space.ever(tag))
        if key in _known:
            continue
        if len(_known) > MAX_KNOWN:
            _known.clear()
        try:
            guard.ask(Add(key[1], 1, Lifetime.STATE))
        except StoreAway:
            return
        _known.add(key)


def tokens_of_invalidations(
    cache: QueryCache, space: Namespace, tags: Iterable[tuple[Tag, str]]
) -> list[str]:
    """Return the tokens of those tags that were ever invalidated.

    :param tags: tags and their keys.
    :raises StoreAway: the cache does not answer.
    """
    pairs = [(key, space.ever(tag)) for tag, key in tags]
    got = cache.guard.run(_read(tuple(key for pair in pairs for key in pair)))
    tokens = []
    for key, ever in pairs:
        token = got.get(key)
        listed = ever in got or (cache.alias, ever) in _known
        if not isinstance(token, str):
            token = _create(cache, key) if listed else None
        elif token.startswith(CREATED) and not listed:
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


class Moment(float):
    """A time that shows, and compares with others of its kind by, more digits than a float holds.

    Its text (``str``, ``f"{…}"``, in a key of ``{% cache %}``) ends with digits that only these tokens have.
    """

    digits = ""

    def __repr__(self) -> str:
        return f"{float(self):.7f}{self.digits}"

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other) if isinstance(other, Moment) else super().__eq__(other)

    __hash__ = float.__hash__


def joined(tokens: list[str]) -> float:
    """Return the latest time of some tokens, in seconds since 1970; 0.0 if there are none.

    Of several, it changes with each of them, even if the clocks that made them disagree. A float has room for
    few hundred such differences, so its digits go on.
    """
    times = [drawn_at(token) for token in tokens]
    if len(times) <= 1:
        return times[0] if times else 0.0
    number = int.from_bytes(blake2b("\n".join(tokens).encode(), digest_size=8).digest(), "big")
    moment = Moment(max(times) + number / 2**64 * TIE_SECONDS)
    moment.digits = f"{number:020}"
    return moment


_last = 0.0


def now() -> float:
    """Return the time now, later than all answers before: the answer while nothing is known."""
    global _last  # noqa: PLW0603 - the last answer; a lost update costs nothing but an equal answer
    _last = max(drawn_at(draw()), _last + 1e-6)
    return _last
