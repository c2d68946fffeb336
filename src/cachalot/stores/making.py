"""Which store fits which cache."""

from __future__ import annotations

from django.core.cache import caches
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache

from cachalot.stores.django_cache import DjangoCacheStore, FileBasedStore
from cachalot.stores.local import LocalStore
from cachalot.stores.memcached import MemcachedStore, compares_and_swaps
from cachalot.stores.redis_cache import RedisStore, plain_redis


def make_store(alias: str) -> DjangoCacheStore:
    """Return the store behind a Django cache.

    :param alias: key of ``settings.CACHES``.
    :raises django.core.cache.backends.base.InvalidCacheBackendError: there is no such alias.
    """
    cache = caches[alias]
    if isinstance(cache, FileBasedCache):
        return FileBasedStore(alias)
    store = DjangoCacheStore(alias)
    if isinstance(cache, LocMemCache) and store.plain:
        return LocalStore(alias)
    if plain_redis(cache):
        return RedisStore(alias)
    return MemcachedStore(alias) if compares_and_swaps(cache) else store
