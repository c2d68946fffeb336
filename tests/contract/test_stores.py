"""One suite, one class for each kind of cache."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import pytest
import redis
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings

pytest.register_assert_rewrite("tests.contract.store_contract")

from cachalot.core.protocol import is_mark  # noqa: E402 - after the contract's asserts are told about
from cachalot.core.steps import SERVER, Done, Lifetime, Mark  # noqa: E402
from cachalot.stores import redis_cache, redis_scripts  # noqa: E402
from cachalot.stores.base import Concern, StoreAway, StoreRefused, Tier  # noqa: E402
from cachalot.stores.django_cache import FOREIGN, fit  # noqa: E402
from cachalot.stores.making import make_store  # noqa: E402
from tests.contract.store_contract import ALIAS, StoreContract  # noqa: E402
from tests.servers import SERVERS  # noqa: E402

DJANGO = "django.core.cache.backends"
MEBIBYTE = 1024 * 1024


class TestLocMemStore(StoreContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.locmem.LocMemCache"}


class TestFileBasedStore(StoreContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.filebased.FileBasedCache"}


def refusing(original):
    """Let a server answer to scripts with flags as one before Redis 7 does."""

    def answers(connection, commands, *, asking=False):
        return [
            redis.ResponseError("Error compiling script (new function): unexpected symbol near '#'")
            if command[0] == "EVAL" and command[1].startswith("#!")
            else answer
            for command, answer in zip(commands, original(connection, commands, asking=asking), strict=True)
        ]

    return answers


class RedisContract(StoreContract):
    server = "redis"

    def location(self, server):
        """Redis is addressed by a URL."""
        return f"redis://{server.address}/0"

    def test_server_has_another_name_after_a_restart(self, store, process):
        """What was read from one run of a server is told apart from what was read from the next."""
        before = store.get_many(["c3:a"])[SERVER]
        assert store.get_many(["c3:b"])[SERVER] == before
        process.kill()
        process.restart(keep_data=False)
        assert store.get_many(["c3:a"])[SERVER] not in {before, ""}

    def test_server_has_another_name_after_a_promotion(self, store, process):
        """A server that was a replica meanwhile may have lost writes, and has another name."""
        before = store.get_many(["c3:a"])[SERVER]
        with SERVERS["redis"]() as other:
            host, port = other.address.split(":")
            client = redis.Redis.from_url(f"redis://{process.address}")
            client.replicaof(host, int(port))
            client.client_kill_filter(_type="normal", skipme=True)
            client.replicaof("NO", "ONE")
            client.close()
        assert store.get_many(["c3:a"])[SERVER] != before

    def test_primary_that_is_demoted_and_does_not_tell(self, store, process):
        """A connection that stays open through a change of role does not go on under the old name."""
        before = store.get_many(["c3:a"])[SERVER]
        with SERVERS["redis"]() as other:
            host, port = other.address.split(":")
            client = redis.Redis.from_url(f"redis://{process.address}")
            client.replicaof(host, int(port))
            with pytest.raises(StoreAway):
                store.get_many(["c3:a"])
            client.replicaof("NO", "ONE")
            client.close()
        assert store.get_many(["c3:a"])[SERVER] != before

    def test_server_that_does_not_understand_flags(self, store, process, monkeypatch):
        """A server before Redis 7 is given scripts without flags, from the first one on that it refuses."""
        newer = redis_scripts.Script.of("#!none flags=allow-oom compiling\n")
        monkeypatch.setattr(redis_scripts, "MARK", redis_scripts.MARK._replace(flagged=newer))
        with monkeypatch.context() as patch:
            patch.setattr(redis_cache, "_answers", refusing(redis_cache._answers))
            store.mark(Mark(("c3:a",), "w"))
        assert is_mark(store.get_many(["c3:a"])["c3:a"])
        assert not store._flags

    def test_tier(self, store):
        """Redis keeps sets of intents."""
        assert store.tier is Tier.INTENTS

    def test_value_is_read_by_scripts(self, store, process):
        """A token lies in Redis as the text it is, under the key of the Django cache."""
        store.set_many([("c3:a", "token")], Lifetime.STATE)
        client = redis.Redis.from_url(f"redis://{process.address}")
        assert client.get(":1:c3:a") == b"token"
        client.close()

    @pytest.mark.parametrize("name", ["key_prefix", "version", "key_func", "make_key"])
    def test_key_is_the_one_that_the_django_cache_makes(self, store, process, monkeypatch, name):
        """Prefix, version and a project's own function that makes keys hold here too, at any time."""
        cache = caches[store.alias]
        maker = getattr(cache, "client", cache)
        chosen = {
            "key_prefix": (cache, "site"),
            "version": (cache, 7),
            "key_func": (cache, lambda key, prefix, version: f"tenant-{prefix}-{version}-{key}"),
            "make_key": (type(maker), lambda _self, key, version=None, prefix=None: f"mine-{key}"),
        }
        before = str(maker.make_key("c3:a"))
        owner, value = chosen[name]
        monkeypatch.setattr(owner, name, value)
        expected = str(maker.make_key("c3:a"))
        assert expected != before
        store.set_many([("c3:a", "token")], Lifetime.STATE)
        client = redis.Redis.from_url(f"redis://{process.address}")
        assert client.get(expected) == b"token"
        assert store.get_many(["c3:a"])["c3:a"] == "token"
        client.close()

    def test_server_that_has_become_a_replica(self, store, process):
        """A replica is not written to, and the write is known not to have arrived."""
        store.get_many(["c3:a"])
        client = redis.Redis.from_url(f"redis://{process.address}")
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreAway):
            store.mark(Mark(("c3:a",), "w"))
        client.close()

    def test_concerns(self, store, process):
        """What a server does when its memory is full is known, if it has a bound at all."""
        client = redis.Redis.from_url(f"redis://{process.address}")
        assert store.concerns() == []
        client.config_set("maxmemory", "100mb")
        for policy, expected in (
            ("allkeys-lru", []),
            ("volatile-lru", [Concern.MARKS_GO_FIRST]),
            ("noeviction", [Concern.REFUSES]),
        ):
            client.config_set("maxmemory-policy", policy)
            assert store.concerns() == expected
        client.close()

    @pytest.mark.parametrize("flags", [True, False], ids=["flags", "before flags"])
    def test_full_server_that_drops_nothing(self, store, process, monkeypatch, flags):
        """Marks and their ends arrive all the same, or end what they are about by deleting it."""
        monkeypatch.setattr(store, "_flags", flags)
        store.set_many([("c3:{a}", "token"), ("c3:{a}clock", "clock")], Lifetime.STATE)
        client = redis.Redis.from_url(f"redis://{process.address}")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreRefused):
            store.set_many([("c3:{a}entry", b"rows")], Lifetime.ENTRY)
        store.mark(Mark(("c3:{a}",), "w"))
        got = store.get_many(["c3:{a}"]).get("c3:{a}")
        assert is_mark(got) if flags else got is None
        store.done(Done("w", ("c3:{a}clock", "later"), (("c3:{a}", "new"),), committed=True))
        assert store.get_many(["c3:{a}"]).get("c3:{a}") == ("new" if flags else None)
        client.close()

    def test_server_that_tells_nothing(self, store, process):
        """Without INFO a server has no name; everything else works."""
        client = redis.Redis.from_url(f"redis://{process.address}")
        client.execute_command("ACL", "SETUSER", "default", "-info")
        client.client_kill_filter(_type="normal", skipme=True)
        assert SERVER not in store.get_many(["c3:a"])
        assert store.concerns() == [Concern.NAMELESS]
        client.close()

    def test_forgotten_scripts(self, store, process):
        """A server that has lost its scripts is given them again."""
        store.mark(Mark(("c3:a",), "w"))
        client = redis.Redis.from_url(f"redis://{process.address}")
        client.script_flush()
        client.close()
        store.mark(Mark(("c3:a",), "v"))
        assert is_mark(store.get_many(["c3:a"])["c3:a"])


class TestRedisStore(RedisContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.redis.RedisCache"}


class TestRedisStoreThatDecodes(RedisContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.redis.RedisCache", "OPTIONS": {"decode_responses": True}}


class TestRedisStoreOfTheThirdProtocol(RedisContract):
    backend: ClassVar = {"BACKEND": f"{DJANGO}.redis.RedisCache", "OPTIONS": {"protocol": 3}}


class TestRedisStoreWhosePoolWaits(RedisContract):
    backend: ClassVar = {
        "BACKEND": f"{DJANGO}.redis.RedisCache",
        "OPTIONS": {"pool_class": "redis.BlockingConnectionPool", "max_connections": 4, "timeout": 20},
    }


class TestDjangoRedisStore(RedisContract):
    backend: ClassVar = {"BACKEND": "django_redis.cache.RedisCache"}


class TestDjangoRedisIgnoringExceptionsStore(RedisContract):
    backend: ClassVar = {"BACKEND": "django_redis.cache.RedisCache", "OPTIONS": {"IGNORE_EXCEPTIONS": True}}


class MemcachedContract(StoreContract):
    server = "memcached"
    largest = 2 * MEBIBYTE
    # It counts whole seconds, of which its own may have begun before ours.
    short = 1
    late = 2.6


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


def test_value_that_the_cache_cannot_read(store_of):
    """One broken value is foreign, and takes nothing away from the others; where all are, it is away."""
    store = store_of(LocMemCache)
    store.set_many([("c3:a", "1"), ("c3:b", "2")], Lifetime.STATE)
    cache = caches[ALIAS]
    cache._cache[cache.make_and_validate_key("c3:b")] = b"broken"
    assert store.get_many(["c3:a", "c3:b", "c3:c"]) == {"c3:a": "1", "c3:b": FOREIGN}
    with pytest.raises(StoreAway):
        store.get_many(["c3:b"])
