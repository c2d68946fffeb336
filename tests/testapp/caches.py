"""What projects write beside the backends that are shipped: for python-memcached, for a cluster of Redis.

python-memcached, which Django dropped in 4.1, swallows errors: with a dead server reads answer None and
writes answer 0, and it calls a deletion of what is not there a success.
"""

from __future__ import annotations

from typing import Any

import memcache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django_redis.pool import ConnectionFactory
from redis.cluster import RedisCluster


class PythonMemcachedCache(BaseMemcachedCache):
    """python-memcached behind Django's base class, and nothing more."""

    def __init__(self, server: str | list[str], params: dict[str, Any]) -> None:
        super().__init__(server, params, library=memcache, value_not_found_exception=ValueError)


class ClusterFactory(ConnectionFactory):
    """What a project writes to let django-redis use a cluster of Redis."""

    def get_connection(self, params: dict[str, Any]) -> RedisCluster:
        """Return the one client of the cluster, which has pools of its own."""
        clients = self._pools
        if params["url"] not in clients:
            clients[params["url"]] = RedisCluster.from_url(params["url"], socket_timeout=2)
        return clients[params["url"]]

    def disconnect(self, connection: RedisCluster) -> None:
        """Leave the connections where they are."""
