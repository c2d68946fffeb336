"""The writes of one cache: what a statement or a transaction has changed is carried to its end.

MARK comes before what commits, DONE after it, and what cannot be delivered is kept for later. Inside a
transaction a write is only noted.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import Error, connections

from cachalot.conf import Config, current
from cachalot.core import protocol
from cachalot.core.keys import draw
from cachalot.core.tags import Effects
from cachalot.engine import alone, facts, outbox, registry, scopes
from cachalot.engine.attempt import Attempt
from cachalot.engine.draining import Draining, between_transactions
from cachalot.engine.tagkeys import write_keys
from cachalot.observe.events import WriteEvent, emit
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.core.protocol import WriteKeys
    from cachalot.engine.guard import Guard
    from cachalot.engine.session import Session
    from cachalot.engine.transaction import Transaction

logger = logging.getLogger("cachalot")

Result = TypeVar("Result")


class Writes:
    """What is written on the databases whose results one Django cache keeps.

    :param alias: key of ``settings.CACHES``.
    :param guard: the way to its store.
    :ivar draining: reads the outbox, which holds what could not be delivered.
    """

    def __init__(self, alias: str, guard: Guard) -> None:
        self.alias = alias
        self.guard = guard
        self.draining = Draining(alias, guard, self.deliver)

    def run(
        self,
        session: Session,
        effects: Effects,
        execute: Callable[[], Result],
        source: str,
        *,
        wrappable: bool,
        learned: Callable[[Result], Effects] | None = None,
    ) -> Result:
        """Run a statement that writes.

        :param effects: what it may change.
        :param execute: runs it.
        :param source: for the event.
        :param wrappable: whether it may as well be run inside a transaction.
        :param learned: says, given what ``execute`` returns, what it has changed; no more than ``effects``.
        :returns: what ``execute`` returns.
        :raises Exception: what ``execute`` raises.
        """
        transaction = session.transaction()
        if transaction is None:
            if learned is not None and alone.possible(session):
                return self._write_alone(session, effects, execute, source, learned)
            return self.finish(session, effects, execute, source, wrappable=wrappable)
        if learned is not None:
            try:
                return _note_what_is_learned(transaction, effects, execute, learned)
            finally:
                if session.connection.vendor == "mysql":
                    # Of a row that it changes InnoDB shows what others have changed since the snapshot.
                    transaction.forget(effects)
        transaction.note(effects)
        try:
            return execute()
        finally:
            # Also own results that were kept while it ran, such as those of a query in its middle.
            transaction.forget(effects)

    def _write_alone(
        self,
        session: Session,
        effects: Effects,
        execute: Callable[[], Result],
        source: str,
        learned: Callable[[Result], Effects],
    ) -> Result:
        """Run a write in a transaction of its own: what it changes is known before it is committed."""

        def marked(what: Callable[[], Any]) -> Any:
            if mine.ending or session.transaction() is None:
                return self.finish(session, effects, what, source)
            return self.run(session, effects, what, source, wrappable=False)

        mine = alone.Alone(session, marked)
        session.work.alone = mine
        try:
            result = execute()
        except BaseException:
            session.work.alone = None
            if mine.begun:  # what has run is committed in autocommit, whatever became of its result
                mine.end(lambda: self.finish(session, effects, lambda: alone.commit(session), source))
            raise
        session.work.alone = None  # what commits it must not take it for that of somebody else
        if mine.begun:
            written = self._written(session, effects, learned, result)
            mine.end(lambda: self.finish(session, written, lambda: alone.commit(session), source))
        elif not mine.sent:
            written = _changed(effects, learned, result)
            if written:
                self.invalidate(session, written, source)
        return result

    @staticmethod
    def _written(
        session: Session, effects: Effects, learned: Callable[[Result], Effects], result: Result
    ) -> Effects:
        """Return what the transaction of one write has changed."""
        transaction = session.transaction()
        if transaction is None:
            return effects
        _note(transaction, effects, learned, result)
        return transaction.effects()

    def commit(self, session: Session, execute: Callable[[], Result]) -> Result:
        """Commit the transaction of a connection.

        :param execute: commits on the database.
        :returns: what ``execute`` returns.
        :raises Exception: what ``execute`` raises.
        """
        transaction = session.transaction()
        effects = Effects() if transaction is None else transaction.effects()
        if session.aborted():
            # PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK.
            result = execute()
            session.rolled_back()
            return result
        result = self.finish(session, effects, execute, "transaction")
        session.ended()
        return result

    def prepare(self, session: Session, gid: str) -> None:
        """Put what a transaction has written into the outbox: whoever commits it later makes that visible.

        :param gid: name under which the transaction is about to be prepared.
        """
        config = current()
        transaction = session.transaction()
        effects = Effects() if transaction is None else transaction.effects()
        if not effects or config.on_cache_failure != "outbox" or session.aborted():
            return
        available = False
        with suppress(Error):
            available = outbox.is_there(session, config)
        if available and outbox.put(session, self.alias, effects, config, gid):
            outbox.tell(effects)

    def between(self, session: Session, *, begins: bool = False) -> None:
        """Use a moment between two transactions to read the outbox, if that is due; never raises.

        :param begins: whether a transaction is about to begin.
        """
        self.draining.between(session, current(), begins=begins)

    def drain(self, session: Session) -> int | None:
        """Deliver what the outbox holds.

        :returns: how many rows were delivered; ``None`` if the database has no outbox.
        :raises django.db.Error: the database does not answer.
        :raises StoreAway: the cache does not answer.
        """
        config = current()
        session.connection.ensure_connection()
        if not outbox.is_there(session, config):
            return None
        return self.draining.drain(session, config)

    def finish(
        self,
        session: Session,
        effects: Effects,
        execute: Callable[[], Result],
        source: str,
        *,
        wrappable: bool = False,
    ) -> Result:
        """Run what commits ``effects``, with MARK before and DONE after it."""
        if not effects:
            return execute()
        config = current()
        alias = session.connection.alias
        # The copy of a connection may be gone, and its alias unknown, when the scope ends.
        put_off = scopes.put_off() if alias in connections.settings else None
        root = session.namespace(config).root
        if put_off is not None and put_off.note(root, alias, effects):
            try:
                return execute()
            finally:
                if put_off.closed:
                    self.invalidate(session, effects, source)
        attempt = Attempt(session, execute, effects, self.alias, config, wrappable=wrappable)
        keys = write_keys(session.namespace(config), session, effects, config)
        if self.guard.commit(keys, attempt, attempt.unmarked):
            facts.forget(self.alias, root)
        if attempt.error is not None:
            error, attempt.error = attempt.error, None
            raise error
        if not attempt.wrapped:
            self.announce(session, effects, source)
        result: Result = attempt.result
        return result

    def announce(self, session: Session, effects: Effects, source: str) -> None:
        """Tell those who listen about writes that were committed."""
        registry.note(self.alias, self.guard, session.namespace(current()), effects)
        session.notices.append(effects)
        emit(WriteEvent(session.connection.alias, effects.tables, effects.everything, source))

    def invalidate(
        self, session: Session, effects: Effects, source: str = "api", *, announced: bool = True
    ) -> None:
        """End all results that ``effects`` touch, for a write that is committed already.

        :param announced: whether those who listen are told now.
        """
        config = current()
        keys = write_keys(session.namespace(config), session, effects, config)
        try:
            self.guard.run(protocol.bump(keys, draw))
        except StoreAway:
            self._keep_for_later(session, effects, keys, config)
        if announced:
            self.announce(session, effects, source)

    def _keep_for_later(self, session: Session, effects: Effects, keys: WriteKeys, config: Config) -> None:
        """Remember what is committed already and could not be delivered."""
        if config.on_cache_failure == "ignore":
            return
        self.guard.remember(keys)
        if config.on_cache_failure != "outbox" or session.connection.connection is None:
            return
        with suppress(Error):
            stored = between_transactions(session) and outbox.is_there(session, config)
            if stored and outbox.put(session, self.alias, effects, config):
                outbox.tell(effects)

    def deliver(self, session: Session, effects: Effects, config: Config) -> None:
        """End what a row of the outbox says.

        :raises StoreAway: the cache does not answer.
        """
        space = session.namespace(config)
        self.guard.deliver()
        self.guard.tell(protocol.bump(write_keys(space, session, effects, config), draw))
        registry.note(self.alias, self.guard, space, effects)


def _note_what_is_learned(
    transaction: Transaction,
    effects: Effects,
    execute: Callable[[], Result],
    learned: Callable[[Result], Effects],
) -> Result:
    try:
        result = execute()
    except BaseException:  # also a signal's: the transaction may be committed all the same
        transaction.note(effects)
        raise
    _note(transaction, effects, learned, result)
    return result


def _note(
    transaction: Transaction, effects: Effects, learned: Callable[[Result], Effects], result: Result
) -> None:
    """Note what a statement that has run has changed."""
    transaction.note(_changed(effects, learned, result))


def _changed(effects: Effects, learned: Callable[[Result], Effects], result: Result) -> Effects:
    """Return what a statement that has run has changed."""
    try:
        return learned(result)
    except Exception:
        # A fault of ours: the table has changed, and the user has his rows.
        logger.exception("It could not be told which rows a statement has changed.")
        return effects
