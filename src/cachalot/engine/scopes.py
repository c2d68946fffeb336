"""Scopes in which the cache behaves otherwise: switched off, refreshing, or with invalidations put off.

Scopes are ContextVars, so they hold for the block of code that asked, through ``await`` and
``sync_to_async``, and for no other thread or task. They nest, and an exception leaves none behind.
"""

from __future__ import annotations

import enum
import threading
from contextvars import ContextVar

from cachalot.core.tags import NOTHING, Effects


class Mode(enum.Enum):
    """How reads of this context use the cache."""

    NORMAL = "normal"
    OFF = "off"
    OFF_AND_EVALUATED = "off, and evaluated querysets are run again"
    REFRESH = "refresh"


class Deferred:
    """Invalidations that one scope has put off.

    :ivar closed: whether the scope has ended.
    :ivar effects: what was written, by physical database, with an alias of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.closed = False
        self.effects: dict[str, tuple[str, Effects]] = {}

    def note(self, root: str, alias: str, effects: Effects) -> bool:
        """Add what was written to the database whose keys begin with ``root``.

        :returns: whether it was added; not after the end of the scope, which a task may outlive.
        """
        with self._lock:
            if not self.closed:
                self.effects[root] = (alias, self.of(root) | effects)
            return not self.closed

    def close(self) -> list[tuple[str, Effects]]:
        """End the scope, and return what was put off, with an alias of each database."""
        with self._lock:
            self.closed = True
            return list(self.effects.values())

    def of(self, root: str) -> Effects:
        """Return what was written to the database whose keys begin with ``root``."""
        return self.effects.get(root, ("", NOTHING))[1]


mode: ContextVar[Mode] = ContextVar("cachalot_mode", default=Mode.NORMAL)
deferred: ContextVar[Deferred | None] = ContextVar("cachalot_deferred", default=None)


def put_off() -> Deferred | None:
    """Return the scope that puts invalidations off in this context, if it has not ended elsewhere."""
    scope = deferred.get()
    return None if scope is None or scope.closed else scope
