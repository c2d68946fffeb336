"""The store behind any Django cache: ``get_many``, ``set_many`` and ``add``, with no silence left in them.

Backends differ in what they do when the server is away. Some raise; some answer as if nothing were stored;
some return ``None``; python-memcached does all of it. A read that finds nothing is harmless, but a write that
was dropped is not, so a backend that is not known to raise is asked to show what it was given (one more
exchange for each write of tokens).
"""

from __future__ import annotations

import errno
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.memcached import BaseMemcachedCache

from cachalot.conf import current
from cachalot.core.protocol import MARK, is_mark
from cachalot.core.steps import Lifetime, Timeout, is_entry
from cachalot.stores.base import Concern, StoreAway, StoreRefused, Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.core.cache.backends.base import BaseCache

    from cachalot.core.steps import Create, Done, Life, Mark

STATE_SECONDS = 30 * 24 * 3600

DEPLOYMENT_SECONDS = 10 * 60
"""So long two releases may disagree about the keys of a table before it is tried again."""

SHORTEST_PASSING = 60
"""Life of a token nobody writes: its end costs a miss. memcached reads longer times as dates."""

SLOW_SECONDS = 0.2
"""An empty answer that took longer than this, from a backend that swallows errors, is a time-out."""

LONGEST_ERROR = 300
"""Characters of an error of the cache that are passed on."""

FOREIGN = b""
"""Stands for a value that the cache cannot read; it is neither a token nor an entry."""

UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    ImportError,
    AttributeError,
    IndexError,
    UnicodeDecodeError,
    zlib.error,
)
"""What caches raise when what they hold was not written by them: unpickling does (manual, pickle)."""

_of_memcached: set[str] = set()
_inherited: list[Any] = []


def _after_fork() -> None:
    """Let the clients of memcached in a forked process have sockets of their own.

    Those of its parent are kept, for to close them may be to say good-bye on them.
    """
    for alias in _of_memcached:
        with suppress(AttributeError):
            _inherited.append(getattr(caches._connections, alias))  # type: ignore[attr-defined]
            del caches[alias]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_USED = ("get", "get_many", "set", "set_many", "add", "delete")
_PLAIN_MODULES = frozenset(
    {
        "django.core.cache.backends.base",
        "django.core.cache.backends.locmem",
        "django.core.cache.backends.filebased",
        "django.core.cache.backends.redis",
        "django_redis.client.default",
        "django_redis.client.sentinel",
    }
)
"""Where the methods are written that raise what goes wrong and write several values in their order."""


def class_names(cache: BaseCache) -> set[str]:
    """Return the dotted names of the classes of ``cache``: a subclass is judged by what it is made of."""
    return {f"{cls.__module__}.{cls.__qualname__}" for cls in type(cache).__mro__}


def plain(owner: Any, *also: str) -> bool:
    """Return whether all methods that are used come from modules whose behaviour is known.

    A subclass that overrides one of them may swallow errors, whatever it is made of.

    :param also: modules beside those that are always known.
    """
    modules = {getattr(getattr(type(owner), name, None), "__module__", "") for name in _USED}
    return modules <= _PLAIN_MODULES.union(also)


def raised_by_signal_handler(error: BaseException) -> bool:
    """Return whether an exception only happened to arrive here, like the time limit of a task queue."""
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = (signal.getsignal(number) for number in signal.valid_signals())
    codes = {_code(handler) for handler in handlers} - {None}
    seen: BaseException | None = error
    met: set[int] = set()  # an exception that is raised again and again may be its own context
    while seen is not None and id(seen) not in met:
        met.add(id(seen))
        if any(frame.f_code in codes for frame, _line in traceback.walk_tb(seen.__traceback__)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _code(handler: Any) -> Any:
    """Return the code that a handler of signals runs: a function, a method, a partial or an object."""
    handler = getattr(handler, "func", handler)
    if not hasattr(handler, "__code__") and not isinstance(handler, (int, type(None))):
        handler = type(handler).__call__
    return getattr(handler, "__code__", None)


def fit(cache: BaseCache) -> bool:
    """Return whether ``cache`` can hold the state of tables at all.

    DummyCache forgets; DatabaseCache would write to the database from inside its own transactions.
    """
    if isinstance(cache, (DummyCache, BaseDatabaseCache)):
        return False
    return all(callable(getattr(cache, name, None)) for name in ("get_many", "set_many", "add"))


def seconds(lifetime: Life) -> float | None:
    """Return how long a value may stay, in seconds, ``None`` for ever."""
    if isinstance(lifetime, Timeout):
        return lifetime.seconds
    if lifetime is Lifetime.STATE:
        return STATE_SECONDS
    config = current()
    if lifetime is Lifetime.DEPLOYMENT:
        return DEPLOYMENT_SECONDS
    if lifetime is Lifetime.PASSING:
        longest = config.longest_timeout()
        return STATE_SECONDS if longest is None else max(longest, SHORTEST_PASSING)
    if lifetime is Lifetime.HOLD:
        return config.replica_lag
    if lifetime is Lifetime.FILL:
        return config.fill_lease
    if lifetime is Lifetime.ENTRY:
        return config.timeout
    # A replica that lags longer than a lease would not be held back after the death of a writer.
    return max(config.lease, config.replica_lag if config.replicas else 0)


def lease_milliseconds() -> int:
    """Return how long a mark may stay."""
    return int((seconds(Lifetime.LEASE) or 0) * 1000)


class DjangoCacheStore:
    """A Django cache as a store.

    :param alias: key of ``settings.CACHES``.
    """

    tier = Tier.OVERWRITE

    def __init__(self, alias: str) -> None:
        self.alias = alias
        cache = caches[alias]
        if isinstance(cache, BaseMemcachedCache):
            _of_memcached.add(alias)
        names = class_names(cache)
        self.fit = fit(cache)
        self._django_redis = "django_redis.cache.RedisCache" in names
        self._mute = getattr(getattr(cache, "_lib", None), "__name__", "") == "memcache"
        self.plain = plain(getattr(cache, "client", None) if self._django_redis else cache)
        self._may_hush = not self.plain

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of those ``keys`` that are present; see :class:`~cachalot.stores.base.Store`."""
        started = time.monotonic()
        try:
            got = self._call("get_many", list(keys))
        except StoreAway as error:
            if not isinstance(error.__cause__, UNREADABLE):
                raise
            got = self._one_by_one(keys, error)
        if not isinstance(got, dict):
            raise StoreAway(f"get_many of the cache {self.alias!r} returned {got!r}")
        if not got and self._may_hush and time.monotonic() - started > SLOW_SECONDS:
            raise StoreAway(f"the cache {self.alias!r} returned nothing, and slowly")
        return got

    def _one_by_one(self, keys: Sequence[str], error: StoreAway) -> dict[str, Any]:
        """Return values of which the cache cannot read all; those are foreign.

        :raises StoreAway: it can read none.
        """
        got: dict[str, Any] = {}
        for key in keys:
            try:
                got[key] = self._call("get", key)
            except StoreAway as one:
                if not isinstance(one.__cause__, UNREADABLE):
                    raise
                got[key] = FOREIGN
        if all(value is FOREIGN for value in got.values()):
            raise error
        return {key: value for key, value in got.items() if value is not None}

    def set_many(self, values: Sequence[tuple[str, Any]], lifetime: Life) -> None:
        """Write all ``values``; see :class:`~cachalot.stores.base.Store`."""
        if not self.plain and len(values) > 1 and lifetime is Lifetime.STATE:
            self._set(dict(values[:1]), lifetime)
            values = values[1:]
        self._set(dict(values), lifetime)

    def add(self, key: str, value: Any, lifetime: Lifetime) -> bool:
        """Write ``value`` if ``key`` is absent; see :class:`~cachalot.stores.base.Store`."""
        if self._call("add", key, value, timeout=seconds(lifetime)):
            return True
        if not self.plain and self._call("get", key) is None:
            raise StoreAway(f"the cache {self.alias!r} neither has {key} nor takes it")
        return False

    def mark(self, step: Mark) -> dict[str, Any]:
        """Let tags be dark; see :class:`~cachalot.stores.base.Store`."""
        self.set_many([(key, MARK + step.writer) for key in step.keys], Lifetime.LEASE)
        return {}

    def done(self, step: Done) -> dict[str, Any]:
        """Give all tags new tokens; see :class:`~cachalot.stores.base.Store`."""
        tokens = [(key, token or step.writer) for key, token in step.tokens]
        self.set_many([step.clock, *tokens], Lifetime.STATE)
        return {}

    def create(self, step: Create) -> dict[str, Any]:
        """Give tokens to tags that have none; see :class:`~cachalot.stores.base.Store`."""
        self.set_many([step.clock], Lifetime.STATE)
        return {
            key: token
            for key, token in step.tokens
            if self.add(key, token, Lifetime.PASSING if key in step.passing else Lifetime.STATE)
        }

    def concerns(self) -> list[Concern]:
        """Return what makes the guarantees weaker here; see :class:`~cachalot.stores.base.Store`."""
        return [Concern.OVERWRITE] if self.tier is Tier.OVERWRITE else []

    def _set(self, values: dict[str, Any], lifetime: Life) -> None:
        if self._mute and is_entry(lifetime):
            self._set_mutely(values, lifetime)
            return
        failed = self._call("set_many", values, timeout=seconds(lifetime))
        if failed:
            error = StoreRefused if is_entry(lifetime) else StoreAway
            raise error(f"the cache {self.alias!r} did not take {failed!r}")
        if not is_entry(lifetime) and not self.plain:
            self._verify(values)

    def _set_mutely(self, values: dict[str, Any], lifetime: Life) -> None:
        """Write entries through python-memcached, whose set_multi waits in vain for what it has not sent."""
        for key, value in values.items():
            self._call("set", key, value, timeout=seconds(lifetime))
            if self._call("get", key) is None:
                raise StoreRefused(f"the cache {self.alias!r} did not take {key}")

    def _verify(self, values: dict[str, Any]) -> None:
        """Make sure that what was written is there, or what somebody else has written since."""
        missing = self._missing(values)
        if not missing:
            return
        written = {key: values[key] for key in missing}
        self._call("set_many", written, timeout=seconds(Lifetime.LEASE))
        now = self._missing(written)
        lost = [key for key, value in now.items() if not isinstance(value, str) or value == missing[key]]
        if lost:
            raise StoreAway(f"the cache {self.alias!r} did not keep {sorted(lost)}")

    def _missing(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return what is there instead of values that were written, marks of others left out."""
        seen = self.get_many(list(values))
        return {
            key: seen.get(key)
            for key, value in values.items()
            if seen.get(key) != value and not is_mark(seen.get(key))
        }

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._raising(lambda: self._method(name)(*args, **kwargs))

    @staticmethod
    def _raising(ask: Callable[[], Any]) -> Any:
        """Ask the cache something.

        :raises StoreAway: it raised anything.
        """
        try:
            return ask()
        except Exception as error:  # a cache backend may raise anything its client library knows
            if raised_by_signal_handler(error):
                raise
            # redis-py tells of each sentinel with all its options.
            raise StoreAway(f"{type(error).__name__}: {str(error)[:LONGEST_ERROR]}") from error

    def _method(self, name: str) -> Callable[..., Any]:
        cache = caches[self.alias]
        if self._django_redis:
            # The methods of the cache itself may be told to swallow errors (IGNORE_EXCEPTIONS); those of its
            # client raise.
            return getattr(cache.client, name)  # type: ignore[attr-defined,no-any-return]
        return getattr(cache, name)  # type: ignore[no-any-return]


class FileBasedStore(DjangoCacheStore):
    """Django's cache in files, with an ``add`` that is one atomic step: to link over a file fails.

    What it needs of the cache for that is private there: the folder, the name of a file, and how to write
    one.
    """

    def add(self, key: str, value: Any, lifetime: Lifetime) -> bool:
        """Write ``value`` if ``key`` is absent; see :class:`~cachalot.stores.base.Store`."""
        try:
            return self._link(caches[self.alias], key, value, lifetime)
        except OSError as error:
            if error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV}:  # a file system without links
                return super().add(key, value, lifetime)
            raise StoreAway(f"{type(error).__name__}: {error}") from error

    def _link(self, cache: Any, key: str, value: Any, lifetime: Lifetime) -> bool:
        if cache.has_key(key):
            return False
        cache._createdir()
        handle, path = tempfile.mkstemp(dir=cache._dir)
        try:
            with os.fdopen(handle, "wb") as file:
                cache._write_content(file, seconds(lifetime), value)
            os.link(path, cache._key_to_file(key))
        except FileExistsError:
            return False
        finally:
            os.unlink(path)  # noqa: PTH108 - the path came as a string
        return True
