"""Runs one write of the ORM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachalot.core.tags import NOTHING, Effects
from cachalot.engine.alone import settle
from cachalot.orm.notices import announce

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.engine.cache import QueryCache
    from cachalot.engine.session import Session


def run(
    session: Session,
    cache: QueryCache,
    effects: Effects,
    execute: Callable[[], Any],
    learned: Callable[[Any], Effects] | None,
) -> Any:
    """Run a write between its notes, and tell about it when it has committed by itself.

    What a write changes is known before it is compiled. An expression in it may change more (a function that
    is not known): that is seen only in its text, so it is added afterwards.

    :param effects: what it changes, as far as that is known before.
    :param execute: runs it.
    :param learned: says, given its result, what it has changed; ``None`` if nothing more will be known.
    """

    def expected() -> Any:
        before = work.expected, work.row_writes
        work.writing += 1
        try:
            return execute()
        finally:
            work.writing -= 1
            work.expected, work.row_writes = before

    work = session.work
    surprises, work.surprises = work.surprises, NOTHING
    settle(session)
    alone, work.alone = work.alone, None  # of a write that is being compiled, with this one in its middle
    try:
        return cache.writes.run(session, effects, expected, "orm", wrappable=True, learned=learned)
    finally:
        found, work.surprises = work.surprises, surprises
        work.alone = alone
        _add(session, cache, Effects(found.tables - effects.whole, found.everything))
        if session.transaction() is None:
            announce(session)


def _add(session: Session, cache: QueryCache, effects: Effects) -> None:
    if not effects:
        return
    transaction = session.transaction()
    if transaction is None:
        cache.writes.invalidate(session, effects, "orm")
    else:
        transaction.note(effects)
