"""Private servers for tests, each on a free loopback port and in a temporary directory."""

from __future__ import annotations

from tests.servers.base import Server, ServerError
from tests.servers.mariadb import MariaDB
from tests.servers.memcached import Memcached
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

#: The names used in ``@pytest.mark.servers(...)``.
SERVERS: dict[str, type[Server]] = {
    "mariadb": MariaDB,
    "memcached": Memcached,
    "postgresql": Postgres,
    "redis": Redis,
}

__all__ = ["SERVERS", "MariaDB", "Memcached", "Postgres", "Redis", "Server", "ServerError"]
