"""Scopes in which the cache behaves otherwise: switched off, refreshing, or with invalidations put off.

Scopes are ContextVars, so they hold for the block of code that asked, through ``await`` and ``sync_to_async``, and for no
other thread or task. They nest, and an exception leaves none behind.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar

from cachalot.core.tags import Effects


class Mode(enum.Enum):
    """How reads of this context use the cache."""

    NORMAL = "normal"
    OFF = "off"
    OFF_AND_EVALUATED = "off, and evaluated querysets are run again"
    REFRESH = "refresh"


class Deferred:
    """Invalidations that one scope has put off.

    :ivar effects: what was written, by database alias.
    """

    def __init__(self) -> None:
        self.effects: dict[str, Effects] = {}

    def note(self, alias: str, effects: Effects) -> None:
        """Add what was written to the database ``alias``."""
        self.effects[alias] = self.effects.get(alias, Effects()) | effects

    def of(self, alias: str) -> Effects:
        """Return what was written to the database ``alias``."""
        return self.effects.get(alias, Effects())


mode: ContextVar[Mode] = ContextVar("cachalot_mode", default=Mode.NORMAL)
deferred: ContextVar[Deferred | None] = ContextVar("cachalot_deferred", default=None)
