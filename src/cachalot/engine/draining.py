"""Reads the outbox before anything is served that may be older than a write of an outage.

Each process looks into the outbox of a database before its first hit, before the first hit after its cache
did not answer, and again now and then (``CACHALOT_OUTBOX_INTERVAL``): a row may come late, from a prepared
transaction that another program commits, or from a process that alone could not reach the cache.

The rows are read between transactions only. Inside of one, older rows may be all that can be seen, and what
is deleted stays locked until its end.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from django.db import Error

from cachalot.core.steps import GetMany
from cachalot.engine import outbox
from cachalot.observe.events import CacheEvent, emit
from cachalot.stores.base import StoreAway
from cachalot.stores.django_cache import raised_by_signal_handler

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.conf import Config
    from cachalot.core.tags import Effects
    from cachalot.engine.guard import Guard
    from cachalot.engine.session import Session

    Deliver = Callable[[Session, Effects, Config], None]

logger = logging.getLogger("cachalot")

MAX_STUCK = 10_000


class NotReadError(Exception):
    """The outbox could not be read, so nothing may be served."""


class _Looked(NamedTuple):
    """When an outbox was looked into.

    :param outages: how often the cache had been away until then.
    :param at: by ``time.monotonic``.
    """

    outages: int
    at: float


class Draining:
    """The outboxes of all databases, as one cache has emptied them.

    :param alias: of the cache.
    :param guard: the way to it.
    :param deliver: ends what a row says; raises :class:`StoreAway` if the cache does not answer.
    """

    def __init__(self, alias: str, guard: Guard, deliver: Deliver) -> None:
        self._alias = alias
        self._guard = guard
        self._deliver = deliver
        self._looked: dict[outbox.Place, _Looked] = {}
        self._told: set[outbox.Place] = set()
        self._stuck: dict[outbox.Place, set[int]] = {}

    def before_hit(self, session: Session, config: Config) -> None:
        """Make sure that the outbox holds nothing that a hit could be older than.

        :raises NotReadError: it cannot be read here and now.
        :raises StoreAway: the cache does not answer.
        """
        if config.on_cache_failure != "outbox":
            return
        place = outbox.place_of(session, config)
        looked = self._looked_since_outage(place)
        if looked is not None:
            if time.monotonic() - looked.at >= config.outbox_interval and between_transactions(session):
                # One thread looks, the others go on: this is no fence.
                self._looked[place] = _Looked(looked.outages, time.monotonic())
                with suppress(NotReadError, StoreAway):
                    self._look(session, place, config)
        elif between_transactions(session):
            self._look(session, place, config)
        elif not _in_test_case(session):
            raise NotReadError("it is read between transactions only")

    def between(self, session: Session, config: Config, *, begins: bool = False) -> None:
        """Use a moment between two transactions of a connection; never raises.

        :param begins: whether one is about to begin, so that a connection is opened anyway.
        """
        if config.on_cache_failure != "outbox":
            return
        connection = session.connection
        try:
            place = outbox.place_of(session, config)
            looked = self._looked_since_outage(place)
            if looked is not None:
                if time.monotonic() - looked.at < config.outbox_interval:
                    return
                self._looked[place] = _Looked(looked.outages, time.monotonic())
            if begins:
                connection.close_if_health_check_failed()
                connection.ensure_connection()
            if connection.connection is not None and _quiet(session):
                self._look(session, place, config)
        except Exception as error:  # what is wrong shows itself to who needs it
            if raised_by_signal_handler(error):
                raise
            logger.debug("The outbox was not read: %s", error)

    def drain(self, session: Session, config: Config) -> int:
        """Deliver all rows that can be seen.

        :returns: how many there were.
        :raises django.db.Error: the database does not answer.
        :raises StoreAway: the cache does not answer.
        """
        total, last = 0, 0
        place = outbox.place_of(session, config)
        while True:
            page = outbox.rows(session, self._alias, last)
            new = [row for row in page if row[0] not in self._stuck.get(place, ())]
            if new:
                self._deliver_page(session, new, place, config)
            total += len(new)
            if len(page) < outbox.PAGE:
                return total
            last = page[-1][0]

    def _deliver_page(
        self, session: Session, page: list[tuple[int, Effects]], place: outbox.Place, config: Config
    ) -> None:
        effects = page[0][1]
        for _number, more in page[1:]:
            effects |= more
        self._deliver(session, effects, config)
        numbers = [number for number, _effects in page]
        try:
            outbox.remove(session, numbers)
        except Error as error:
            # Not again and again: who cannot delete, on a replica for example, would invalidate for ever.
            stuck = self._stuck.setdefault(place, set())
            if len(stuck) > MAX_STUCK:
                stuck.clear()
            stuck.update(numbers)
            logger.warning("Rows of the outbox were delivered and could not be deleted: %s", error)
        emit(CacheEvent("drained", f"{len(page)} rows", len(page)))

    def _look(self, session: Session, place: outbox.Place, config: Config) -> None:
        outages = self._guard.outages
        if outages and self._looked_since_outage(place) is None:
            # A cache that is still away costs one question, not a statement for each read.
            self._guard.ask(GetMany((session.namespace(config).clock,)))
        connection = session.connection
        try:
            if outbox.supported(session):
                connection.ensure_connection()
            if outbox.is_there(session, config):
                self.drain(session, config)
        except StoreAway:
            raise
        except Exception as error:
            if raised_by_signal_handler(error):
                raise
            outbox.ask_again(session, config)
            self._tell_once(place, error)
            raise NotReadError(str(error)) from error
        finally:
            if connection.connection is not None and not connection.autocommit:
                # Reading has begun a transaction.
                with suppress(Exception):
                    connection.connection.commit()
        if len(self._looked) > outbox.MAX_PLACES:
            self._looked.clear()
        self._looked[place] = _Looked(outages, time.monotonic())

    def _looked_since_outage(self, place: outbox.Place) -> _Looked | None:
        """Return when an outbox was looked into, ``None`` if that was not since the cache was last away."""
        looked = self._looked.get(place)
        return looked if looked is not None and looked.outages == self._guard.outages else None

    def _tell_once(self, place: outbox.Place, error: Exception) -> None:
        if place not in self._told:
            self._told.add(place)
            logger.warning("Nothing is served, because the outbox cannot be read: %s", error)


def between_transactions(session: Session) -> bool:
    """Return whether a connection is in autocommit and has nothing under way."""
    return not session.broken() and session.transaction() is None and _quiet(session)


def _quiet(session: Session) -> bool:
    """Return whether nothing is under way on a connection, and nothing is about to be."""
    if session.connection.in_atomic_block or session.broken():
        return False
    return not session.answers_later() and not session.level_pending and session.idle()


def _in_test_case(session: Session) -> bool:
    """Return whether everything happens in the transaction of a ``TestCase``: no other process takes part."""
    blocks = session.connection.atomic_blocks
    return bool(blocks) and getattr(blocks[0], "_from_testcase", False)
