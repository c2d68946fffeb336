"""Lets ``cachalot_disabled(all_queries=True)`` run querysets again that were evaluated before.

``QuerySet._fetch_all`` is wrapped only from the first use of such a scope on, so that nobody else pays for
it.
"""

from __future__ import annotations

import threading
from typing import Any

from django.db.models.query import QuerySet

from cachalot.engine.scopes import Mode, mode

_lock = threading.Lock()
_original: Any = None


def _fetch_all(self: Any) -> None:
    if mode.get() is Mode.OFF_AND_EVALUATED:
        self._result_cache = None
        self._prefetch_done = False
    _original(self)


def install() -> None:
    """Wrap ``QuerySet._fetch_all``. Doing it twice does no harm."""
    global _original  # noqa: PLW0603 - the one original, to be given back
    with _lock:
        if _original is None:
            _original = QuerySet._fetch_all
            QuerySet._fetch_all = _fetch_all  # type: ignore[method-assign]


def uninstall() -> None:
    """Give the original back."""
    global _original  # noqa: PLW0603 - see install
    with _lock:
        if _original is not None:
            QuerySet._fetch_all = _original  # type: ignore[method-assign]
            _original = None
