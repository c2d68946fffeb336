"""A cache whose server is away, behind a client that does not say so."""

from __future__ import annotations

from django.core.cache.backends.base import BaseCache


class SwallowingCache(BaseCache):
    """Takes everything, keeps nothing, raises nothing."""

    def __init__(self, _location, params):
        super().__init__(params)

    def get(self, key, default=None, version=None):
        """Return nothing."""
        return default

    def set(self, key, value, timeout=None, version=None):
        """Keep nothing."""

    def add(self, key, value, timeout=None, version=None):
        """Say nothing of use."""
        return False
