"""All state of one database connection: its transaction, its writes and the settings of its session.

A session hangs on the connection object, so it belongs to a thread or an async task for the same reason the
connection does. Whether there is a transaction is asked of the connection each time, never remembered beside
it: a failed begin, connect or commit can leave nothing behind. When the driver's connection is another one,
everything starts anew.
"""

from __future__ import annotations

import enum
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cachalot.analysis.params import UnencodableParameter, encode_param, encode_params
from cachalot.analysis.rawsql import Kind
from cachalot.core.keys import Namespace, digest
from cachalot.core.tags import NOTHING, Effects, Tag
from cachalot.engine.identity import entry_identity, namespace, primary_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from cachalot.analysis.rawsql import Statement
    from cachalot.conf import Config

MAX_LOCAL_RESULTS = 1000

_WITHOUT_EFFECT = frozenset(
    {
        "application_name",
        "client_min_messages",
        "deadlock_timeout",
        "foreign_key_checks",
        "idle_in_transaction_session_timeout",
        "innodb_lock_wait_timeout",
        "jit",
        "lock_timeout",
        "lock_wait_timeout",
        "statement_timeout",
        "synchronous_commit",
        "unique_checks",
        "work_mem",
    }
)
"""Settings that cannot change what a SELECT returns."""

_NOT_RESET = ("role", "session authorization")


class Level(enum.Enum):
    """What a transaction sees of the commits of others.

    STATEMENT: each statement sees what was committed before it. SNAPSHOT: all statements see the state at the
    first one. SERIALIZABLE: the database must see every read to find conflicts. DIRTY: rows may be seen that
    are never committed.
    """

    STATEMENT = "statement"
    SNAPSHOT = "snapshot"
    SERIALIZABLE = "serializable"
    DIRTY = "dirty"


_LEVELS = {
    "read uncommitted": Level.DIRTY,
    "read committed": Level.STATEMENT,
    "repeatable read": Level.SNAPSHOT,
    "serializable": Level.SERIALIZABLE,
}


@dataclass
class LocalResult:
    """A result that only this transaction may see again.

    :param tags: what it depends on.
    :param stamp: the tokens of its tags before its query; ``None`` in a snapshot, where others cannot change
        it.
    :param payload: the encoded rows, so that each caller gets its own.
    """

    tags: tuple[Tag, ...]
    stamp: bytes | None
    payload: bytes


@dataclass
class Frame:
    """What was written since a savepoint.

    :param name: name of the savepoint; empty for the transaction itself.
    :param settings: settings of the session when it began; a rollback brings them back.
    """

    name: str
    settings: dict[str, bytes]
    effects: Effects = NOTHING


@dataclass
class Transaction:
    """One transaction of one connection.

    :param frames: what was written, by savepoint; the first is the transaction itself.
    :param local: results of its own.
    :param clock: the clock of the database before the first statement; ``None`` if unknown, see
        ``clock_read``.
    :param pinned: whether a statement has fixed the snapshot.
    :param serial: grows with every write and rollback.
    :param real: whether the database itself has begun it.
    :param began_with: name of the savepoint that began it, in SQLite.
    """

    frames: list[Frame]
    local: dict[bytes, LocalResult] = field(default_factory=dict)
    clock: str | None = None
    clock_read: bool = False
    pinned: bool = False
    serial: int = 0
    real: bool = True
    began_with: str | None = None

    def effects(self) -> Effects:
        """Return everything written so far and not rolled back."""
        total = NOTHING
        for frame in self.frames:
            total |= frame.effects
        return total

    def note(self, effects: Effects) -> None:
        """Note a write; own results that it touches are forgotten."""
        self.frames[-1].effects |= effects
        self.forget(effects)

    def forget(self, effects: Effects) -> None:
        """Forget own results that ``effects`` touch, and those that are being read at this moment."""
        self.serial += 1
        self.local = {key: one for key, one in self.local.items() if not effects.touches(one.tags)}

    def become_real(self) -> None:
        """Note that the database has begun it since it was last asked: its snapshot is not known."""
        self.real = self.clock_read = True
        self.clock = None
        self.local = {}

    def keep(self, key: bytes, result: LocalResult) -> None:
        """Keep a result for this transaction, within bounds."""
        if len(self.local) < MAX_LOCAL_RESULTS:
            self.local[key] = result


class Session:
    """The state of one connection.

    :param connection: a Django database connection; it need not be open.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self.expected: frozenset[str] = frozenset()
        self.writing = 0
        self.trace: Any = None
        self.surprises = NOTHING
        self.initialising = False
        self.manual = False
        self.notices: list[Effects] = []
        self._driver: Any = None
        self._identity: tuple[Config, str, Namespace, bytes] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget everything that belonged to the last connection of the driver."""
        self._driver = self.connection.connection
        self._incarnation = os.urandom(12)
        self._identity = None
        self._transaction: Transaction | None = None
        self._raw = False
        self._autocommit_off = False
        self._settings: dict[str, bytes] = {}
        self._local_settings: dict[str, bytes] = {}
        self._chain = b""
        self._unknown_setting = False
        self._level: Level | None = None
        self._server_level: Level | None = None

    def _check_driver(self) -> None:
        if self._driver is not self.connection.connection:
            self._begin_anew()

    # Identity and context of the session.

    def _identify(self, config: Config) -> tuple[Config, str, Namespace, bytes]:
        self._check_driver()
        name = str(self.connection.settings_dict.get("NAME"))
        known = self._identity
        if known is None or known[0] is not config or known[1] != name:
            known = self._identity = (
                config,
                name,
                namespace(self.connection, config, self._incarnation),
                entry_identity(self.connection, config),
            )
        return known

    def namespace(self, config: Config) -> Namespace:
        """Return the keys of the database behind this connection."""
        return self._identify(config)[2]

    def primary_alias(self, config: Config) -> str:
        """Return the alias under which the database is known to those who name keys."""
        return primary_of(self.connection.alias, config)

    def is_replica(self, config: Config) -> bool:
        """Return whether writes reach this database later than its primary."""
        return self.connection.alias in config.replicas

    def has_replicas(self, config: Config) -> bool:
        """Return whether writes to this database reach others later."""
        return config.replica_lag > 0 and self.primary_alias(config) in config.replicas.values()

    def context(self, config: Config) -> bytes | None:
        """Return what of the session can change a result, or ``None`` if it cannot be known.

        :raises Exception: whatever ``CACHALOT_KEY_CONTEXT`` raises.
        """
        identity = self._identify(config)[3]
        if self._unknown_setting:
            return None
        connection = self.connection
        parts = [identity, self._chain]
        for settings in (self._settings, self._local_settings):
            for name in sorted(settings):
                parts += [name.encode(), settings[name]]
            parts.append(b"|")
        parts.append(str(getattr(connection, "schema_name", "")).encode())
        parts.append(str(connection.timezone_name).encode())
        if config.key_context is not None:
            try:
                parts.append(encode_param(config.key_context(connection)))
            except UnencodableParameter:
                return None
        return digest(*parts)

    def setting_changed(self, statement: Statement, sql: str, params: Any) -> None:
        """Note a statement that has changed a setting of the session.

        A setting whose name can be read replaces its last value. All others form a chain: the state of the
        session is a function of the sequence of such statements, whatever they mean.
        """
        if statement.name == "*" and statement.verb == "DISCARD":
            self._settings, self._local_settings, self._chain = {}, {}, b""
            self._unknown_setting = False
            return
        if statement.name in _WITHOUT_EFFECT:
            return
        try:
            value = digest(sql.encode(), encode_params(params))
        except UnencodableParameter:
            self._unknown_setting = True
            return
        name = statement.name
        if self._chain or not name:
            self._chain = digest(self._chain, value)
        elif name == "*":
            self._settings = {key: kept for key, kept in self._settings.items() if key in _NOT_RESET}
        elif statement.local:
            self._local_settings = {**self._local_settings, name: value}
        else:
            self._settings = {key: kept for key, kept in self._settings.items() if key != name}
            self._local_settings = {key: kept for key, kept in self._local_settings.items() if key != name}
            if not statement.reset:
                self._settings[name] = value

    def setting_unknown(self) -> None:
        """Note that from now on nothing is known about what this session sees."""
        self._unknown_setting = True

    # The transaction.

    def transaction(self) -> Transaction | None:
        """Return the transaction of this connection, ``None`` in autocommit."""
        self._check_driver()
        connection = self.connection
        inside = connection.in_atomic_block or self._raw or self._autocommit_off
        if not inside and connection.connection is not None:
            inside = not connection.autocommit or getattr(connection.connection, "in_transaction", False)
        if not inside:
            self._transaction = None
            return None
        real = self._begun()
        if self._transaction is None:
            self._transaction = Transaction([Frame("", self._settings)], real=real)
        elif real and not self._transaction.real:
            self._transaction.become_real()
        return self._transaction

    def _begun(self) -> bool:
        """Return whether the database itself is in a transaction; SQLite begins one at the first write."""
        return bool(getattr(self.connection.connection, "in_transaction", True))

    def broken(self) -> bool:
        """Return whether Django would refuse the next statement, or has to connect into a transaction."""
        connection = self.connection
        return (
            connection.needs_rollback
            or connection.closed_in_transaction
            or (connection.connection is None and not connection.settings_dict.get("AUTOCOMMIT", True))
        )

    def level(self) -> Level:
        """Return what the transaction of this connection sees of others."""
        connection = self.connection
        if connection.vendor == "sqlite":
            # Without BEGIN each SELECT of SQLite is a transaction of its own, whatever Django calls it.
            driver = connection.connection
            return Level.SNAPSHOT if getattr(driver, "in_transaction", True) else Level.STATEMENT
        if self._level is not None:
            return self._level
        if connection.vendor == "postgresql":
            return self._level_of_postgresql()
        if connection.vendor == "mysql":
            name = getattr(connection, "isolation_level", None) or "repeatable read"
            return _LEVELS.get(str(name).lower(), Level.SERIALIZABLE)
        return Level.SERIALIZABLE

    def _level_of_postgresql(self) -> Level:
        configured = (self.connection.settings_dict.get("OPTIONS") or {}).get("isolation_level")
        if configured is not None:
            name = str(getattr(getattr(self.connection, "isolation_level", None), "name", ""))
            return _postgresql_level(name.replace("_", " "))
        if self._server_level is None:
            self._server_level = self._ask_server_level()
        return self._server_level or Level.SERIALIZABLE

    def _ask_server_level(self) -> Level | None:
        """Ask once per connection; SHOW takes no snapshot (PostgreSQL, src/backend/tcop/pquery.c)."""
        with suppress(Exception), self.connection.connection.cursor() as cursor:
            cursor.execute("SHOW default_transaction_isolation")
            return _postgresql_level(str(cursor.fetchone()[0]))
        return None

    def level_changed(self, name: str) -> None:
        """Note an isolation level set by hand. It is kept until the connection ends: the strictest wins."""
        order = (Level.STATEMENT, Level.SNAPSHOT, Level.SERIALIZABLE, Level.DIRTY)
        level = _LEVELS.get(name.lower(), Level.SERIALIZABLE)
        if self.connection.vendor == "postgresql":
            level = _postgresql_level(name)
        current = self._level or self.level()
        self._level = max(current, level, key=order.index)

    # Edges of the transaction.

    def begun(self) -> None:
        """Note a BEGIN that was sent as a statement."""
        self._check_driver()
        self._raw = True

    def autocommit_set(self, *, off: bool) -> None:
        """Note that autocommit was set by a statement, which has committed what was open."""
        self.ended()
        self._autocommit_off = off

    def ended(self) -> None:
        """Note the end of the transaction, after a commit or a rollback."""
        self._transaction = None
        self._raw = False
        self._local_settings = {}

    def rolled_back(self) -> None:
        """Note that the transaction was rolled back."""
        if self._transaction is not None and self.connection.vendor == "postgresql":
            self._settings = self._transaction.frames[0].settings
        self.ended()

    def outside(self) -> bool:
        """Return whether a SAVEPOINT sent now would begin a transaction, as it does in SQLite."""
        return self.connection.vendor == "sqlite" and not self._begun()

    def savepoint(self, name: str, *, begins: bool) -> None:
        """Note a savepoint.

        :param begins: whether it has begun the transaction.
        """
        transaction = self.transaction()
        if transaction is not None:
            if begins:
                transaction.began_with = name
            transaction.frames.append(Frame(name, self._settings))

    def begun_by(self, statement: Statement) -> bool:
        """Return whether a statement releases the savepoint that began the transaction, and so commits it.

        In SQLite a SAVEPOINT outside of a transaction begins one (manual, SAVEPOINT, 1).
        """
        if statement.kind is not Kind.RELEASE or self.connection.vendor != "sqlite":
            return False
        transaction = self.transaction()
        return transaction is not None and transaction.began_with == statement.name

    def release(self, name: str) -> None:
        """Note that a savepoint was released: what was written since belongs to the level below."""
        transaction = self.transaction()
        index = _index(transaction, name)
        if transaction is None or index is None:
            return
        for frame in transaction.frames[index:]:
            transaction.frames[index - 1].effects |= frame.effects
        del transaction.frames[index:]

    def roll_back_to(self, name: str) -> None:
        """Note that what was written since a savepoint is gone. The savepoint itself stays."""
        transaction = self.transaction()
        index = _index(transaction, name)
        if transaction is None or index is None:
            return
        for frame in transaction.frames[index:]:
            transaction.forget(frame.effects)
        if self.connection.vendor == "postgresql":
            self._settings = transaction.frames[index].settings
        transaction.frames[index:] = [Frame(name, self._settings)]

    def commit_failed_for_sure(self) -> bool:
        """Return whether, after an error in what would have committed, nothing was committed for sure."""
        driver = self.connection.connection
        vendor = self.connection.vendor
        if driver is None:
            return False
        with suppress(Exception):
            if vendor == "postgresql":
                return not driver.closed and int(driver.info.transaction_status) in _KNOWN_STATES
            if vendor == "sqlite":
                return True
            if vendor == "mysql":
                driver.ping()
                return True
        return False


_KNOWN_STATES = frozenset({0, 2, 3})
"""libpq's PQTRANS_IDLE, PQTRANS_INTRANS and PQTRANS_INERROR: the server has answered."""


def _postgresql_level(name: str) -> Level:
    """PostgreSQL treats READ UNCOMMITTED as READ COMMITTED (manual, 13.2 Transaction Isolation)."""
    level = _LEVELS.get(name.lower(), Level.SERIALIZABLE)
    return Level.STATEMENT if level is Level.DIRTY else level


def _index(transaction: Transaction | None, name: str) -> int | None:
    """Return where the newest savepoint called ``name`` is."""
    if transaction is None:
        return None
    for index in range(len(transaction.frames) - 1, 0, -1):
        if transaction.frames[index].name == name:
            return index
    return None
