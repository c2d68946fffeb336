"""One suite, one class for each kind of cache."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings

pytest.register_assert_rewrite("tests.contract.store_contract")

from cachalot.core.steps import Lifetime  # noqa: E402 - after the contract's asserts are told about
from cachalot.stores.base import StoreAway, StoreRefused  # noqa: E402
from cachalot.stores.django_cache import fit, make_store  # noqa: E402
from tests.contract.store_contract import ALIAS, StoreContract  # noqa: E402

DJANGO = "django.core.cache.backends"
MEBIBYTE = 1024 * 1024


class TestLocMemStore(StoreContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.locmem.LocMemCache"}


class TestFileBasedStore(StoreContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.filebased.FileBasedCache"}


class RedisContract(StoreContract):
    server = "redis"

    def location(self, server):
        """Redis is addressed by a URL."""
        return f"redis://{server.address}/0"


class TestRedisStore(RedisContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.redis.RedisCache"}


class TestDjangoRedisStore(RedisContract):
    backend: ClassVar = {"BACKEND": "django_redis.cache.RedisCache"}


class TestDjangoRedisIgnoringExceptionsStore(RedisContract):
    backend: ClassVar = {"BACKEND": "django_redis.cache.RedisCache", "OPTIONS": {"IGNORE_EXCEPTIONS": True}}


class MemcachedContract(StoreContract):
    server = "memcached"
    largest = 2 * MEBIBYTE


class TestPyMemcacheStore(MemcachedContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.memcached.PyMemcacheCache"}


class TestPyLibMCStore(MemcachedContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.memcached.PyLibMCCache"}


class TestPythonMemcachedStore(MemcachedContract):
    backend: ClassVar = {
        "BACKEND": "tests.testapp.caches.PythonMemcachedCache",
        "OPTIONS": {"dead_retry": 1},
    }


# Caches that misbehave.


class RaisingCache(LocMemCache):
    """A locmem whose calls raise what its class attribute says."""

    error: ClassVar[Exception | None] = None

    def _fail(self):
        if self.error is not None:
            raise self.error

    def get(self, *args: Any, **kwargs: Any):
        """Fail, or do it."""
        self._fail()
        return super().get(*args, **kwargs)

    def set(self, *args: Any, **kwargs: Any):
        """Fail, or do it."""
        self._fail()
        return super().set(*args, **kwargs)

    def add(self, *args: Any, **kwargs: Any):
        """Fail, or do it."""
        self._fail()
        return super().add(*args, **kwargs)


class SwallowingCache:
    """Not derived from a known backend; what it was given is lost, and it does not say so."""

    def __init__(self, _location, _params):
        self.kept: dict[str, Any] = {}
        self.losing = False
        self.answer: Any = []

    def get_many(self, keys):
        """Return what is kept."""
        return {key: self.kept[key] for key in keys if key in self.kept}

    def get(self, key):
        """Return what is kept."""
        return self.kept.get(key)

    def set_many(self, values, timeout=None):
        """Keep values, or lose them."""
        if not self.losing:
            self.kept.update(values)
        return self.answer

    def add(self, key, value, timeout=None):
        """Keep a value, or lose it."""
        if self.losing or key in self.kept:
            return False
        self.kept[key] = value
        return True

    def close(self, **_kwargs):
        """Do nothing."""


class NoneCache(SwallowingCache):
    """Answers None to everything."""

    def get_many(self, keys):
        """Answer None."""

    def get(self, key):
        """Answer None."""

    def set_many(self, values, timeout=None):
        """Answer None."""

    def add(self, key, value, timeout=None):
        """Answer None."""


@pytest.fixture
def store_of(settings):
    """Makes the store of a class of this module."""
    scopes = []

    def make(cls):
        entry = {"BACKEND": f"{cls.__module__}.{cls.__qualname__}", "LOCATION": "misbehaving"}
        scope = override_settings(CACHES={**settings.CACHES, ALIAS: entry})
        scope.enable()
        scopes.append(scope)
        return make_store(ALIAS)

    yield make
    for scope in reversed(scopes):
        scope.disable()


def calls_of(store):
    """Return every call of a store."""
    return [
        lambda: store.get_many(["c3:a"]),
        lambda: store.set_many([("c3:a", "1")], Lifetime.STATE),
        lambda: store.set_many([("c3:a", "1")], Lifetime.LEASE),
        lambda: store.set_many([("c3:a", b"1")], Lifetime.ENTRY),
        lambda: store.add("c3:a", "1", Lifetime.STATE),
    ]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("gone"),
        TimeoutError(),
        ValueError("odd"),
        EOFError(),
        pickle.UnpicklingError(),
        KeyError(1),
    ],
)
def test_backend_that_raises_anything(store_of, monkeypatch, error):
    """Whatever a backend raises leaves the store as StoreAway, from each of its calls."""
    store = store_of(RaisingCache)
    monkeypatch.setattr(RaisingCache, "error", error)
    for call in calls_of(store):
        with pytest.raises(StoreAway):
            call()


def test_interruption_by_the_user_passes(store_of, monkeypatch):
    """What is no Exception is not the cache's."""
    store = store_of(RaisingCache)
    monkeypatch.setattr(RaisingCache, "error", KeyboardInterrupt())
    for call in calls_of(store):
        with pytest.raises(KeyboardInterrupt):
            call()


@pytest.mark.parametrize("lifetime", [Lifetime.STATE, Lifetime.LEASE])
def test_backend_that_loses_writes_in_silence(store_of, lifetime):
    """A mark or a token that was swallowed is noticed, also where an old value is still there."""
    store = store_of(SwallowingCache)
    store.set_many([("c3:a", "old")], Lifetime.STATE)
    caches[ALIAS].losing = True
    with pytest.raises(StoreAway):
        store.set_many([("c3:a", "new")], lifetime)
    with pytest.raises(StoreAway):
        store.add("c3:b", "new", Lifetime.STATE)


def test_backend_that_says_which_writes_failed(store_of):
    """A list of failed keys is a refusal for an entry, and absence for a token."""
    store = store_of(SwallowingCache)
    caches[ALIAS].answer = ["c3:a"]
    with pytest.raises(StoreRefused):
        store.set_many([("c3:a", b"1")], Lifetime.ENTRY)
    with pytest.raises(StoreAway):
        store.set_many([("c3:a", "1")], Lifetime.STATE)


def test_add_that_was_lost_to_another_writer(store_of):
    """Where the key is present, add was simply too late."""
    store = store_of(SwallowingCache)
    store.set_many([("c3:a", "1")], Lifetime.STATE)
    assert store.add("c3:a", "2", Lifetime.STATE) is False


def test_backend_that_answers_none(store_of):
    """None is no answer: reads, tokens, marks and additions say that the cache is away."""
    store = store_of(NoneCache)
    for number, call in enumerate(calls_of(store)):
        if number != 3:
            with pytest.raises(StoreAway):
                call()


def test_mark_of_another_writer_is_not_overwritten_by_a_second_try(store_of):
    """Where a token was written and a mark is found, another commit has begun since: the mark stays."""
    store = store_of(SwallowingCache)
    caches[ALIAS].kept["c3:a"] = "!other"
    caches[ALIAS].losing = True
    store.set_many([("c3:a", "mine")], Lifetime.STATE)
    assert caches[ALIAS].kept["c3:a"] == "!other"


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("django.core.cache.backends.dummy.DummyCache", False),
        ("django.core.cache.backends.db.DatabaseCache", False),
        ("django.core.cache.backends.locmem.LocMemCache", True),
        (f"{__name__}.RaisingCache", True),
    ],
)
def test_backends_that_cannot_hold_tokens(settings, backend, expected):
    """A cache that forgets, or that writes inside of the transactions of the database, is not used."""
    with override_settings(CACHES={**settings.CACHES, ALIAS: {"BACKEND": backend, "LOCATION": "x"}}):
        assert fit(caches[ALIAS]) is expected
        assert make_store(ALIAS).fit is expected
