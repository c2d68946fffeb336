"""The store behind any Django cache: ``get_many``, ``set_many`` and ``add``, with no silence left in them.

Backends differ in what they do when the server is away. Some raise; some answer as if nothing were stored;
some return ``None``; python-memcached does all of it. A read that finds nothing is harmless, but a write that
was dropped is not, so a backend that is not known to raise is asked to show what it was given (one more
exchange for each write of tokens).
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache

from cachalot.conf import current
from cachalot.core.protocol import is_mark
from cachalot.core.steps import Lifetime
from cachalot.stores.base import StoreAway, StoreRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.core.cache.backends.base import BaseCache

STATE_SECONDS = 30 * 24 * 3600
"""Life of a token nobody writes: its end costs a miss. memcached reads longer times as dates."""

SLOW_SECONDS = 0.2
"""An empty answer that took longer than this, from a backend that swallows errors, is a time-out."""

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

_LOCAL = "django.core.cache.backends.locmem.LocMemCache"


def _names(cache: BaseCache) -> set[str]:
    """Return the dotted names of the classes of ``cache``: a subclass is judged by what it is made of."""
    return {f"{cls.__module__}.{cls.__qualname__}" for cls in type(cache).__mro__}


def _plain(owner: Any) -> bool:
    """Return whether all methods that are used come from modules whose behaviour is known.

    A subclass that overrides one of them may swallow errors, whatever it is made of.
    """
    modules = {getattr(getattr(type(owner), name, None), "__module__", "") for name in _USED}
    return modules <= _PLAIN_MODULES


def _raised_by_signal_handler(error: BaseException) -> bool:
    """Return whether an exception only happened to arrive here, like the time limit of a task queue."""
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = (signal.getsignal(number) for number in signal.valid_signals())
    codes = {_code(handler) for handler in handlers} - {None}
    seen: BaseException | None = error
    while seen is not None:
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


class DjangoCacheStore:
    """A Django cache as a store.

    :param alias: key of ``settings.CACHES``.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        cache = caches[alias]
        names = _names(cache)
        self.fit = fit(cache)
        self.local = _LOCAL in names
        self._django_redis = "django_redis.cache.RedisCache" in names
        self._mute = getattr(getattr(cache, "_lib", None), "__name__", "") == "memcache"
        self._plain = _plain(getattr(cache, "client", None) if self._django_redis else cache)

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of those ``keys`` that are present; see :class:`~cachalot.stores.base.Store`."""
        started = time.monotonic()
        got = self._call("get_many", list(keys))
        if not isinstance(got, dict):
            raise StoreAway(f"get_many of the cache {self.alias!r} returned {got!r}")
        if not got and not self._plain and time.monotonic() - started > SLOW_SECONDS:
            raise StoreAway(f"the cache {self.alias!r} returned nothing, and slowly")
        return got

    def set_many(self, values: Sequence[tuple[str, Any]], lifetime: Lifetime) -> None:
        """Write all ``values``; see :class:`~cachalot.stores.base.Store`."""
        if not self._plain and len(values) > 1 and lifetime is Lifetime.STATE:
            self._set(dict(values[:1]), lifetime)
            values = values[1:]
        self._set(dict(values), lifetime)

    def add(self, key: str, value: Any, lifetime: Lifetime) -> bool:
        """Write ``value`` if ``key`` is absent; see :class:`~cachalot.stores.base.Store`."""
        if self._call("add", key, value, timeout=self._seconds(lifetime)):
            return True
        if not self._plain and self._call("get", key) is None:
            raise StoreAway(f"the cache {self.alias!r} neither has {key} nor takes it")
        return False

    def _set(self, values: dict[str, Any], lifetime: Lifetime) -> None:
        if self._mute and lifetime is Lifetime.ENTRY:
            self._set_mutely(values)
            return
        failed = self._call("set_many", values, timeout=self._seconds(lifetime))
        if failed:
            error = StoreRefused if lifetime is Lifetime.ENTRY else StoreAway
            raise error(f"the cache {self.alias!r} did not take {failed!r}")
        if lifetime is not Lifetime.ENTRY and not self._plain:
            self._verify(values)

    def _set_mutely(self, values: dict[str, Any]) -> None:
        """Write entries through python-memcached, whose set_multi waits in vain for what it has not sent."""
        for key, value in values.items():
            self._call("set", key, value, timeout=self._seconds(Lifetime.ENTRY))
            if self._call("get", key) is None:
                raise StoreRefused(f"the cache {self.alias!r} did not take {key}")

    def _verify(self, values: dict[str, Any]) -> None:
        """Make sure that what was written is there; a second try tells another writer from a lost value."""
        for last in (False, True):
            seen = self.get_many(list(values))
            values = {k: v for k, v in values.items() if seen.get(k) != v and not is_mark(seen.get(k))}
            if not values:
                return
            if last:
                raise StoreAway(f"the cache {self.alias!r} did not keep {sorted(values)}")
            self._call("set_many", values, timeout=self._seconds(Lifetime.LEASE))

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._method(name)(*args, **kwargs)
        except Exception as error:  # a cache backend may raise anything its client library knows
            if _raised_by_signal_handler(error):
                raise
            raise StoreAway(f"{type(error).__name__}: {error}") from error

    def _method(self, name: str) -> Callable[..., Any]:
        cache = caches[self.alias]
        if self._django_redis:
            # The methods of the cache itself may be told to swallow errors (IGNORE_EXCEPTIONS); those of its
            # client raise.
            return getattr(cache.client, name)  # type: ignore[attr-defined,no-any-return]
        return getattr(cache, name)  # type: ignore[no-any-return]

    @staticmethod
    def _seconds(lifetime: Lifetime) -> float | None:
        if lifetime is Lifetime.STATE:
            return STATE_SECONDS
        config = current()
        if lifetime is Lifetime.HOLD:
            return config.replica_lag
        if lifetime is Lifetime.ENTRY:
            return config.timeout
        # A replica that lags longer than a lease would not be held back after the death of a writer.
        return max(config.lease, config.replica_lag if config.replicas else 0)


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
                cache._write_content(file, self._seconds(lifetime), value)
            os.link(path, cache._key_to_file(key))
        except FileExistsError:
            return False
        finally:
            os.unlink(path)  # noqa: PTH108 - the path came as a string
        return True


def make_store(alias: str) -> DjangoCacheStore:
    """Return the store behind a Django cache.

    :param alias: key of ``settings.CACHES``.
    :raises django.core.cache.backends.base.InvalidCacheBackendError: there is no such alias.
    """
    store = FileBasedStore if isinstance(caches[alias], FileBasedCache) else DjangoCacheStore
    return store(alias)
