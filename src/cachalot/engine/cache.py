"""The cache of queries: looks for a result, keeps a result.

This is where the parts meet. The protocol says what is true, the session says what this connection has done,
the guard carries steps to the store, and this module asks them in the right order. It does not know the ORM.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cachalot.codecs.pickled import DecodeError, decode, decode_all, encode
from cachalot.core import protocol
from cachalot.core.decisions import Decision, Reason
from cachalot.core.envelope import STAMP_SIZE, BadEnvelope, Entry, open_sealed, seal
from cachalot.core.keys import Namespace, draw, name_of
from cachalot.core.protocol import Answer, Found, Keys
from cachalot.core.steps import GetMany, Timeout
from cachalot.core.tags import EPOCH, PASSING, Effects
from cachalot.engine import alone, scopes
from cachalot.engine.apart import entry_apart
from cachalot.engine.draining import NotReadError
from cachalot.engine.guesses import Guesses
from cachalot.engine.isolation import Level
from cachalot.engine.lookups import Lookup, Query, Ticket, decision_of, own_result, ticket_for
from cachalot.engine.switch import Switch
from cachalot.engine.tagkeys import tag_keys, write_keys
from cachalot.engine.transaction import LocalResult, Transaction
from cachalot.engine.writes import Writes
from cachalot.observe.events import CacheEvent, emit
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.conf import Config
    from cachalot.core.tags import Tag
    from cachalot.engine.guard import Guard
    from cachalot.engine.session import Session


class QueryCache:
    """The results kept in one Django cache.

    :param alias: key of ``settings.CACHES``.
    :param guard: the way to its store.
    :param secret: with which entries are sealed.
    :param cache_of: returns the cache of queries in another Django cache, ``None`` if it cannot be one.
    :param doubtful: whether writes may have gone by while another cache was in use (``override_settings``).
    :ivar writes: what is written on these databases.
    """

    def __init__(
        self,
        alias: str,
        guard: Guard,
        secret: bytes,
        cache_of: Callable[[str], QueryCache | None],
        *,
        doubtful: bool = False,
    ) -> None:
        self.alias = alias
        self.guard = guard
        self.switch = Switch(guard)
        self.writes = Writes(alias, guard)
        self._secret = secret
        self._cache_of = cache_of
        self._doubtful = doubtful
        self._cleared: set[str] = set()
        self._guesses = Guesses()

    def look(self, session: Session, query: Query, config: Config) -> Lookup:
        """Look for the result of a query.

        :param session: the connection it would run on.
        :returns: the rows, or whether they may be kept once the database has given them. Never raises for the
            cache.
        """
        if not alone.settle(session):
            return Lookup(Decision.bypass(Reason.UNCOMMITTED, "in the middle of a write"))
        put_off = scopes.put_off()
        if put_off is not None and put_off.of(session.namespace(config).root).touches(query.tags):
            return Lookup(Decision.bypass(Reason.UNCOMMITTED, "its invalidation is put off"))
        try:
            self._clear_doubts(session, config)
            transaction = session.transaction()
            if transaction is None:
                if session.sees_uncommitted():
                    return Lookup(Decision.bypass(Reason.READ_UNCOMMITTED))
                return self._look_shared(session, query, config, None)
            return self._look_inside(session, query, config, transaction)
        except StoreAway as error:
            return Lookup(Decision.bypass(Reason.CACHE_AWAY, str(error)))
        except NotReadError as error:
            return Lookup(Decision.bypass(Reason.UNDELIVERED, str(error)))

    def _clear_doubts(self, session: Session, config: Config) -> None:
        space = session.namespace(config)
        self.writes.draining.before_hit(session, config)
        if self._doubtful and space.root not in self._cleared:
            keys = write_keys(space, session, Effects(everything=True), config)
            self.guard.run(protocol.bump(keys, draw))
            self._cleared.add(space.root)

    def _look_shared(
        self, session: Session, query: Query, config: Config, transaction: Transaction | None
    ) -> Lookup:
        answer = self._ask(session, query, config)
        if answer.found is not Found.HIT and transaction is None and session.reads_on():
            return Lookup(Decision.bypass(Reason.SNAPSHOT, "another statement is being read"))
        space = session.namespace(config)
        publish = transaction is None or not transaction.written()
        ticket = ticket_for(query, answer.stamp, transaction, shared=publish)
        own = None if answer.found is Found.HIT else _own(transaction, query, answer)
        if own is not None:
            return own_result(own, ticket)
        return self._lookup(
            space, query, answer, replace(ticket, tokens=answer.tokens) if answer.tokens else ticket
        )

    def _look_inside(
        self, session: Session, query: Query, config: Config, transaction: Transaction
    ) -> Lookup:
        level = session.level()
        if level is Level.DIRTY:
            return Lookup(Decision.bypass(Reason.READ_UNCOMMITTED))
        if level is Level.STATEMENT:
            if transaction.written().touches(query.tags):
                return self._look_local(session, query, config, transaction)
            return self._look_shared(session, query, config, transaction)
        return self._look_in_snapshot(session, query, config, transaction, level)

    def _look_local(self, session: Session, query: Query, config: Config, transaction: Transaction) -> Lookup:
        """Answer from the transaction's own results; others may commit to the same tables meanwhile."""
        answer = self._ask(session, query, config, entry=False)
        decision = Decision.bypass(Reason.UNCOMMITTED)
        if answer.stamp is None:
            return Lookup(decision)
        mine = ticket_for(query, answer.stamp, transaction, shared=False)
        own = _own(transaction, query, answer)
        return Lookup(decision, ticket=mine) if own is None else own_result(own, mine)

    def _look_in_snapshot(
        self, session: Session, query: Query, config: Config, transaction: Transaction, level: Level
    ) -> Lookup:
        if not session.level_is_certain():
            return Lookup(Decision.bypass(Reason.SNAPSHOT, "its isolation level was changed by hand"))
        mine = ticket_for(query, None, transaction, shared=False)
        own = transaction.local.get(query.digest)
        if own is not None:
            return own_result(own, mine)
        if transaction.written().touches(query.tags):
            return Lookup(Decision.bypass(Reason.UNCOMMITTED), ticket=mine)
        if level is Level.SERIALIZABLE:
            return Lookup(Decision.bypass(Reason.SERIALIZABLE), ticket=mine)
        self.before_statement(session, config)
        if transaction.clock is None or time.monotonic() - transaction.clock_seconds > config.lease / 2:
            return Lookup(Decision.bypass(Reason.SNAPSHOT), ticket=mine)
        answer = self._ask(session, query, config, clock=transaction.clock)
        if answer.stamp is None:
            return Lookup(decision_of(answer), ticket=mine)
        if answer.found is Found.HIT and not transaction.pinned:
            # The database must choose the snapshot by a statement of its own, or it could not see later that
            # a row we served was changed by somebody else before this transaction writes it.
            return Lookup(Decision.bypass(Reason.SNAPSHOT, "the first read of the transaction"), ticket=mine)
        publish = not transaction.written()
        return self._lookup(
            session.namespace(config),
            query,
            answer,
            ticket_for(query, answer.stamp, transaction, shared=publish),
        )

    def before_statement(self, session: Session, config: Config) -> None:
        """Read the clock before the first statement of a snapshot."""
        transaction = session.transaction()
        if transaction is None or transaction.clock_read or session.level() is not Level.SNAPSHOT:
            return
        transaction.clock_read = True
        transaction.clock_seconds = time.monotonic()
        transaction.clock = None if session.reads_on() else self.read_clock(session.namespace(config))

    def read_clock(self, space: Namespace) -> str | None:
        """Return the clock of a database, ``None`` if it cannot be relied on."""
        try:
            return self.guard.run(protocol.clock(space.clock, draw))
        except StoreAway:
            return None

    def _ask(
        self, session: Session, query: Query, config: Config, *, entry: bool = True, clock: str | None = None
    ) -> Answer:
        space = session.namespace(config)
        keys = self._keys(session, query, config, entry=entry)

        def open_entry(value: Any) -> Entry | None:
            try:
                return open_sealed(query.digest, self._secret, value)
            except BadEnvelope:
                return None

        named = partial(self._guesses.keys_of, space, query.name)
        if clock is None:
            steps = protocol.read(keys, open_entry, draw, named)
        else:
            steps = protocol.read_in_snapshot(keys, clock, open_entry, draw, named)
        if keys.entry is not None and query.policy.cache != self.alias:
            steps = entry_apart(steps, keys.entry, self._home(query).guard)
        return self.guard.run(steps)

    def _home(self, query: Query) -> QueryCache:
        """Return the cache that holds the entry of a query; the state of its tables is here.

        :raises StoreAway: there is none.
        """
        home = self if query.policy.cache == self.alias else self._cache_of(query.policy.cache)
        if home is None:
            raise StoreAway(f"the cache {query.policy.cache!r} cannot be used")
        return home

    def _keys(self, session: Session, query: Query, config: Config, *, entry: bool) -> Keys:
        """Return the keys that a query is about."""
        name = session.namespace(config).entry(query.name)
        keys = None if query.keys is None else query.keys.get(entry)
        if keys is None:
            keys = self._made_keys(session, query, config, name if entry else None)
            if query.keys is not None:
                query.keys[entry] = keys
        guess = self._guesses.get(name) if query.loose and entry else None
        if guess is None or keys.guessed is guess.keys:
            return keys
        keys = replace(keys, guessed=guess.keys)
        if query.keys is not None:
            query.keys[entry] = keys
        return keys

    def _made_keys(self, session: Session, query: Query, config: Config, name: str | None) -> Keys:
        space = session.namespace(config)
        tags = tuple(tag for tag in query.tags if tag not in query.loose) if query.loose else query.tags
        return Keys(
            name,
            tag_keys(space, session, tags, config),
            space.clock,
            tuple(space.hold(tag) for tag in query.tags) if query.replica else (),
            tuple(map(space.tag, query.loose)),
            (),
            {space.tag(tag): sign for tag, sign in query.signs.items()},
            frozenset(space.tag(tag) for tag in tags if tag.scope in PASSING),
        )

    def _lookup(self, space: Namespace, query: Query, answer: Answer, ticket: Ticket) -> Lookup:
        kept = ticket if answer.stamp is not None else None
        if answer.entry is None or answer.found is not Found.HIT:
            if answer.found is Found.UNDECODABLE:
                emit(CacheEvent("undecodable", query.name))
            saved = 0.0 if answer.entry is None else answer.entry.saved_us / 1e6
            outdated = answer.found is Found.OUTDATED
            return Lookup(decision_of(answer), saved=saved, ticket=kept, outdated=outdated)
        try:
            frames = decode_all(answer.entry.payload)
        except DecodeError as error:
            emit(CacheEvent("undecodable", str(error)))
            return Lookup(Decision.miss(Reason.UNDECODABLE), ticket=kept)
        if answer.entry.more:
            self._guesses.note(space, query.name, answer.entry.more)
        return Lookup(Decision.hit(), frames, answer.entry.saved_us / 1e6, kept)

    def keep(
        self,
        session: Session,
        ticket: Ticket,
        payload: bytes,
        seconds: float,
        config: Config,
        found: tuple[Tag, ...] | None = None,
    ) -> bool:
        """Keep the rows of a query.

        :param ticket: from the lookup before the query.
        :param payload: the encoded rows.
        :param seconds: how long the database took.
        :param found: tags that were found in the rows, in the place of the loose ones; ``None`` if they were
            not looked for.
        :returns: whether they were kept.
        """
        query, transaction = ticket.query, ticket.transaction
        if not _valid(session, ticket, config):
            return False
        if transaction is not None:
            if not ticket.shared:
                transaction.keep(query.digest, LocalResult(query.tags, ticket.stamp, payload))
                return True
            if transaction.written():
                return False
        if ticket.stamp is None:
            return False
        entry = Entry(ticket.stamp, int(seconds * 1e6), payload)
        key = session.namespace(config).entry(query.name)
        try:
            if found is not None and ticket.tokens:
                entry = self._settled(session, ticket, entry, found, config)
            sealed = seal(query.digest, self._secret, entry)
            return self._home(query).guard.run(protocol.fill(key, sealed, Timeout(query.policy.timeout)))
        except StoreAway:
            return False

    def _settled(
        self, session: Session, ticket: Ticket, entry: Entry, found: tuple[Tag, ...], config: Config
    ) -> Entry:
        """Return an entry that depends on tags found in its rows, or the same if nobody can say so.

        :raises StoreAway: the cache does not answer.
        """
        space = session.namespace(config)
        keys = self._keys(session, ticket.query, config, entry=False)
        # An entry that names no tag depends on the loose ones; if no row was found it depends on neither.
        found = found or (EPOCH,)
        more = tuple(map(space.tag, found))
        stamp = self.guard.run(protocol.settle(keys, ticket.tokens, more, draw))
        if stamp is None:
            return entry
        entry = replace(entry, stamp=stamp, more=tuple(map(name_of, found)))
        self._guesses.note(space, ticket.query.name, entry.more)
        return entry

    def unwritten(self, session: Session, ticket: Ticket, config: Config) -> bool:
        """Return whether it is certain that nobody has announced a write since a ticket was made.

        :param ticket: from a lookup that was a hit.
        """
        if not _valid(session, ticket, config):
            return False
        if ticket.stamp is None:
            return True  # Nobody else can change what a snapshot sees.
        try:
            return (
                self._ask(session, ticket.query, config, entry=bool(ticket.query.loose)).stamp == ticket.stamp
            )
        except StoreAway:
            return False

    def end(self, session: Session, ticket: Ticket, config: Config) -> None:
        """End one result that was found to be wrong: its entry, and the transaction's own.

        The rows just read do not take its place. Inside a transaction they may hold what nobody has committed
        yet, written by the same unseen hand.
        """
        query = ticket.query
        if ticket.transaction is not None:
            ticket.transaction.drop(query.digest)
        nothing = seal(query.digest, self._secret, Entry(bytes(STAMP_SIZE), 0, b""))
        with suppress(StoreAway):
            self._home(query).guard.run(protocol.fill(session.namespace(config).entry(query.name), nothing))

    # Facts that are kept beside results.

    def kept_fact(self, key: str, epoch: bytes) -> Any:
        """Return what was kept under ``key`` in the same state of the schema, else ``None``.

        :raises StoreAway: the cache does not answer.
        """
        value = self.guard.ask(GetMany((key,))).get(key)
        try:
            entry = open_sealed(key.encode(), self._secret, value)
            return decode(entry.payload) if entry.stamp == epoch else None
        except (BadEnvelope, DecodeError):
            return None

    def keep_fact(self, key: str, epoch: bytes, fact: Any) -> None:
        """Keep a fact that is true in this state of the schema."""
        entry = Entry(epoch, 0, encode(fact))
        with suppress(StoreAway):
            self.guard.run(protocol.fill(key, seal(key.encode(), self._secret, entry)))


def _own(transaction: Transaction | None, query: Query, answer: Answer) -> LocalResult | None:
    """Return what a transaction has kept for itself, if nobody has committed to its tables since."""
    own = None if transaction is None else transaction.local.get(query.digest)
    return own if own is not None and own.stamp is not None and own.stamp == answer.stamp else None


def _valid(session: Session, ticket: Ticket, config: Config) -> bool:
    """Return whether a session is where it was when it got a ticket, and has written nothing since."""
    transaction = ticket.transaction
    if session.context(config) != ticket.query.context or session.transaction() is not transaction:
        return False
    if transaction is None:
        return not session.sees_uncommitted()  # It may be known only now that the connection is open.
    return transaction.serial == ticket.serial
