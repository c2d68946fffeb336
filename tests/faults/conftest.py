"""Servers that a module may break, and workers that a test may kill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.processes import Worker, postgres_settings, redis_settings, settings_for, sqlite_settings
from tests.servers import Postgres, Redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The servers are the same whatever pair is under test, so one pair is enough.
FAULTS = [
    pytest.mark.databases("postgresql"),
    pytest.mark.caches("redis"),
    pytest.mark.servers("postgresql", "redis"),
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this module, with the tables."""
    with Postgres() as server:
        made = Worker(settings_for(postgres_settings(server.port), {"BACKEND": LOCMEM}))
        made.call("migrate")
        made.close()
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """A Redis of this module; it writes a dump when it is told to."""
    with Redis(rdb=True) as server:
        yield server


LOCMEM = "django.core.cache.backends.locmem.LocMemCache"


@pytest.fixture
def start_worker() -> Iterator[Callable[..., Worker]]:
    """Starts workers with the settings given; none is left at the end of the test."""
    started: list[Worker] = []

    def start(database: dict[str, Any], cache: dict[str, Any], **more: Any) -> Worker:
        started.append(Worker(settings_for(database, cache, **more)))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Any) -> dict[str, Any]:
    """One database after the other, as an entry of ``DATABASES``, with the tables."""
    if request.param == "postgresql":
        return postgres_settings(request.getfixturevalue("postgres").port)
    made = Worker(settings_for(sqlite_settings(tmp_path), {"BACKEND": LOCMEM}))
    made.call("migrate")
    made.close()
    return sqlite_settings(tmp_path)


@pytest.fixture
def cache(redis: Redis) -> dict[str, Any]:
    """The empty Redis of the module, as an entry of ``CACHES``."""
    flush(redis)
    return redis_settings(redis.port)


def flush(server: Redis) -> None:
    """Empty a Redis."""
    client = client_of(server)
    client.flushall()
    client.close()


def client_of(server: Redis) -> Any:
    """A client of our own, past the lines that tests break."""
    import redis

    return redis.Redis(port=server.port)
