"""What lies in a cache, as somebody sees it who can write there but does not know the secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pymemcache
import redis
from django.core.cache import caches

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

ALIAS = "corrupted"
DJANGO = "django.core.cache.backends"

#: The keys that were ever made for the cache under test, without prefix.
seen_keys: set[str] = set()


def remember(key: str, prefix: str, version: int) -> str:
    """Make a key as Django would, and remember it: a ``KEY_FUNCTION``."""
    seen_keys.add(key)
    return f"{prefix}:{version}:{key}"


class Shelf:
    """A Django cache; a value is what the cache gives back.

    :cvar structures: types of values that the cache holds in another way than text and bytes.
    """

    structures: tuple[type, ...] = ()

    def __init__(self, backend: str, location: str) -> None:
        self.entry = {
            "BACKEND": backend,
            "LOCATION": location,
            "KEY_FUNCTION": f"{__name__}.remember",
        }
        if "locmem" in backend or "filebased" in backend:
            self.entry["OPTIONS"] = {"MAX_ENTRIES": 100_000}

    def keys(self, part: str) -> list[str]:
        """The keys that hold something, whose names have a part such as ``:q:``."""
        return sorted(key for key in seen_keys if part in key + ":" and self.read(key) is not None)

    def read(self, key: str) -> Any:
        """The value of a key, ``None`` if there is none."""
        return caches[ALIAS].get(key)

    def write(self, key: str, value: Any) -> None:
        """Put a value in its place."""
        caches[ALIAS].set(key, value, 600)

    def odd(self) -> list[Any]:
        """Values that are nothing of ours."""
        return [None, True, 0, -1, 2.5, "", "text", "é" * 40, [], ["a"], ("b", b"c"), {"d": 1}, {3}, b""]

    def stored(self, key: str) -> bytes:
        """What the cache has made of a value."""
        raise NotImplementedError

    def store(self, key: str, data: bytes) -> None:
        """Put other bytes in their place."""
        raise NotImplementedError


class LocMemShelf(Shelf):
    """Pickles in a dictionary."""

    def stored(self, key: str) -> bytes:
        """See the base class."""
        stored: bytes = caches[ALIAS]._cache[caches[ALIAS].make_key(key)]
        return stored

    def store(self, key: str, data: bytes) -> None:
        """See the base class."""
        caches[ALIAS]._cache[caches[ALIAS].make_key(key)] = data


class FileShelf(Shelf):
    """A date, and a compressed pickle, in a file."""

    def _path(self, key: str) -> Path:
        from pathlib import Path

        return Path(caches[ALIAS]._key_to_file(key))

    def stored(self, key: str) -> bytes:
        """See the base class."""
        return self._path(key).read_bytes()

    def store(self, key: str, data: bytes) -> None:
        """See the base class."""
        self._path(key).write_bytes(data)


class _WithFlags:
    """Shows pymemcache's client what the server holds: bytes, and the number that says how to read them."""

    def serialize(self, _key: Any, value: tuple[bytes, int]) -> tuple[bytes, int]:
        return value

    def deserialize(self, _key: Any, value: bytes, flags: int) -> tuple[bytes, int]:
        return value, flags


class MemcachedShelf(Shelf):
    """Bytes with flags."""

    def __init__(self, backend: str, server: Server) -> None:
        super().__init__(backend, server.address)
        self._client = pymemcache.Client(server.address, serde=_WithFlags())

    def stored(self, key: str) -> bytes:
        """See the base class."""
        data, self._flags = self._client.get(caches[ALIAS].make_key(key))
        return bytes(data)

    def store(self, key: str, data: bytes) -> None:
        """See the base class."""
        self._client.set(caches[ALIAS].make_key(key), (data, self._flags), 600)


class RedisShelf(Shelf):
    """A Redis, seen from outside of Django: a value is what lies there, bytes or one of its structures."""

    structures = (list, dict)

    def __init__(self, backend: str, server: Server) -> None:
        super().__init__(backend, f"redis://{server.address}/0")
        self._client = redis.Redis.from_url(self.entry["LOCATION"])

    def _name(self, key: str) -> str:
        name = caches[ALIAS].make_key(key)
        return str(name)

    def read(self, key: str) -> Any:
        """See the base class."""
        return self._client.get(self._name(key)) if self._client.type(self._name(key)) == b"string" else None

    def write(self, key: str, value: Any) -> None:
        """See the base class."""
        name = self._name(key)
        self._client.delete(name)
        if isinstance(value, list):
            self._client.rpush(name, *value)
        elif isinstance(value, dict):
            self._client.hset(name, mapping=value)
        elif value is not None:
            self._client.set(name, value, ex=600)

    def odd(self) -> list[Any]:
        """See the base class."""
        return [
            None,
            "",
            "text",
            "é" * 40,
            "7",
            b"\xff\xfe",
            b"\x00",
            b"\x00\xff",
            b"\x80\x05K\x01.",
            ["a"],
            {"d": 1},
        ]

    def stored(self, key: str) -> bytes:
        """See the base class."""
        return bytes(self.read(key))

    def store(self, key: str, data: bytes) -> None:
        """See the base class."""
        self.write(key, data)


def make_shelf(name: str, folder: Path, server: Server | None) -> Shelf:
    """The shelf of a kind of cache.

    :param folder: for files.
    :param server: of Redis or memcached.
    """
    if server is None:
        kind = LocMemShelf if name == "locmem" else FileShelf
        backend = "locmem.LocMemCache" if name == "locmem" else "filebased.FileBasedCache"
        return kind(f"{DJANGO}.{backend}", str(folder / "cache"))
    if name in {"pymemcache", "pylibmc"}:
        cls = {"pymemcache": "PyMemcacheCache", "pylibmc": "PyLibMCCache"}[name]
        return MemcachedShelf(f"{DJANGO}.memcached.{cls}", server)
    backend = {"redis": f"{DJANGO}.redis.RedisCache", "django-redis": "django_redis.cache.RedisCache"}[name]
    return RedisShelf(backend, server)
