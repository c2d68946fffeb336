"""The cache backend a project writes to go on using python-memcached, which Django dropped in 4.1.

The library swallows errors: with a dead server reads answer None and writes answer 0, and it calls a deletion
of what is not there a success.
"""

from __future__ import annotations

from typing import Any

import memcache
from django.core.cache.backends.memcached import BaseMemcachedCache


class PythonMemcachedCache(BaseMemcachedCache):
    """python-memcached behind Django's base class, and nothing more."""

    def __init__(self, server: str | list[str], params: dict[str, Any]) -> None:
        super().__init__(server, params, library=memcache, value_not_found_exception=ValueError)
