"""The one :class:`QueryCache` of each Django cache in this process."""

from __future__ import annotations

import logging
import threading
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.signals import setting_changed

from cachalot.core.envelope import derive_secret
from cachalot.engine import registry
from cachalot.engine.cache import QueryCache
from cachalot.engine.guard import Guard
from cachalot.stores.making import make_store

logger = logging.getLogger("cachalot")

_caches: dict[str, QueryCache | None] = {}
_lock = threading.Lock()
_switched = False


def query_cache(alias: str) -> QueryCache | None:
    """Return the cache of queries in the Django cache ``alias``, ``None`` if there is none that is fit."""
    try:
        return _caches[alias]
    except KeyError:
        return _make(alias)


def _make(alias: str) -> QueryCache | None:
    try:
        store = make_store(alias)
    except (InvalidCacheBackendError, ImportError) as error:
        logger.error("Nothing is kept in the cache %r: %s", alias, error)  # noqa: TRY400 - the check has more
        with _lock:
            return _caches.setdefault(alias, None)
    with _lock:
        if alias not in _caches:
            secret = derive_secret(settings.SECRET_KEY)
            guard = Guard(store)
            cache = QueryCache(alias, guard, secret, query_cache, doubtful=_switched)
            _caches[alias] = cache if store.fit else None
        return _caches[alias]


def made() -> list[QueryCache]:
    """Return the caches used so far."""
    return [cache for cache in _caches.values() if cache is not None]


def forget() -> None:
    """Make every cache anew when next asked, as a new process would."""
    global _switched  # noqa: PLW0603 - as in a new process
    with _lock:
        _switched = False
        _caches.clear()
    registry.forget()


#: Settings that say where results and the state of tables are, and under which keys.
_NAMING = frozenset({"CACHES", "CACHALOT_CACHE", "CACHALOT_REPLICAS", "CACHALOT_TABLE_KEYGEN", "SECRET_KEY"})


def _forget_when_changed(*, setting: str, **_kwargs: Any) -> None:
    global _switched  # noqa: PLW0603 - once settings change under a process, they may have changed before
    if setting in _NAMING:
        with _lock:
            _switched = True
            _caches.clear()


setting_changed.connect(_forget_when_changed, dispatch_uid="cachalot.engine.caches")
