"""All state of one database connection: its transaction, its writes and the settings of its session.

A session hangs on the connection object, so it belongs to a thread or an async task for the same reason the
connection does. Whether there is a transaction is asked of the connection each time, never remembered beside
it: a failed begin, connect or commit can leave nothing behind. When the driver's connection is another one,
everything starts anew.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, ref

from django.db import connections
from django.db.backends.signals import connection_created

from cachalot.analysis.params import UnencodableParameter, encode_param
from cachalot.analysis.rawsql import Kind
from cachalot.core.keys import Namespace, digest
from cachalot.engine import isolation, scopes
from cachalot.engine.context import SessionContext
from cachalot.engine.identity import entry_identity, namespace, primary_of
from cachalot.engine.isolation import Level
from cachalot.engine.transaction import Frame, Transaction
from cachalot.engine.work import Work

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from cachalot.analysis.rawsql import Statement
    from cachalot.conf import Config
    from cachalot.core.tags import Effects

_IDLE = 0
_IN_ERROR = 3
_KNOWN_STATES = frozenset({_IDLE, 2, _IN_ERROR})
"""libpq's PQTRANS_IDLE, PQTRANS_INTRANS and PQTRANS_INERROR: the server has answered."""

_WITHOUT_SETTINGS = frozenset({"django", "cachalot"})
"""Packages that give a new connection no settings but those that follow from ``DATABASES``."""

_altered: WeakSet[Any] = WeakSet()
"""Connections of drivers that were given away, to a pool, with settings that no new one has."""

_HIDDEN_BEGINNING = re.compile(r"\b(?:attach|read_uncommitted|temp|temporary)\b", re.IGNORECASE)
"""What an ``init_command`` may do that makes other tables, or rows nobody has committed, visible."""


class _Identity(NamedTuple):
    config: Config
    settings: dict[str, Any]
    space: Namespace
    entries: bytes


def _set_on_connecting(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a new connection may be given settings by somebody, which are not known before."""
    live: Any = connection_created._live_receivers(type(connection))  # noqa: SLF001 - nothing public tells it
    if isinstance(live, tuple):  # since Django 5.0: the plain ones and the coroutines
        live = [*live[0], *live[1]]
    own = (getattr(type(connection), name) for name in ("get_new_connection", "init_connection_state"))
    return any(getattr(one, "__module__", "").split(".")[0] not in _WITHOUT_SETTINGS for one in (*live, *own))


_PROBE = "_cachalot_probe"


def _nothing() -> None:
    """Take the place of a function of SQLite."""


class Session:
    """The state of one connection.

    :param connection: a Django database connection; it need not be open.
    :ivar tables_locked: whether LOCK TABLES of MySQL is in force, which BEGIN would end.
    :ivar level_pending: whether a level was set that MySQL uses up with the next statement.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        # The session hangs on the connection: a reference back would leave both to the garbage collector.
        self._connection = ref(connection)
        self.work = Work()
        self.initialising = False
        self.manual = False
        self.level_pending = False
        self.notices: list[Effects] = []
        self.settings = SessionContext()
        self._driver: Any = None
        self._probed: Any = None
        self._begin_anew()

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """Return the Django database connection on which this session hangs.

        :raises ReferenceError: it is gone.
        """
        connection = self._connection()
        if connection is None:
            raise ReferenceError("the connection is gone")
        return connection

    def _begin_anew(self) -> None:
        """Forget everything that belonged to the last connection of the driver."""
        self._give_away()
        self._driver = self.connection.connection
        self._incarnation = os.urandom(12)
        self.tables_locked = False
        self._identity: _Identity | None = None
        self._transaction: Transaction | None = None
        self._raw = False
        self._autocommit_off = False
        self.settings = SessionContext()
        self._level: Level | None = None
        self._server_level: Level | None = None
        with suppress(TypeError):
            self.settings.unknown = self._driver is not None and self._driver in _altered
        # What a connection begins with goes to the driver and is not seen.
        begins_with = str((self.connection.settings_dict.get("OPTIONS") or {}).get("init_command") or "")
        self.settings.unknown |= _HIDDEN_BEGINNING.search(begins_with) is not None

    def _give_away(self) -> None:
        """Remember that a connection which a pool may hand out again is not as a new one would be."""
        if self._driver is not None and not (self.settings.pristine() and self._level is None):
            with suppress(TypeError):
                _altered.add(self._driver)

    def _check_driver(self) -> None:
        if self._driver is not self.connection.connection:
            self._begin_anew()

    # Identity and context of the session.

    def _identify(self, config: Config) -> _Identity:
        self._check_driver()
        known = self._identity
        if known is None or known.config is not config or known.settings != self.connection.settings_dict:
            settings = {
                key: dict(value) if isinstance(value, dict) else value
                for key, value in self.connection.settings_dict.items()
            }
            space = namespace(self.connection, config, self._incarnation)
            known = _Identity(config, settings, space, entry_identity(self.connection, space))
            self._identity = known
        return known

    def namespace(self, config: Config) -> Namespace:
        """Return the keys of the database behind this connection."""
        return self._identify(config).space

    def primary_alias(self, config: Config) -> str:
        """Return the alias under which the database is known to those who name keys."""
        return primary_of(self.connection.alias, config)

    def is_replica(self, config: Config) -> bool:
        """Return whether writes reach this database later than its primary."""
        return self.primary_alias(config) != self.connection.alias

    def has_replicas(self, config: Config) -> bool:
        """Return whether writes to this database reach others later."""
        primary = self.primary_alias(config)
        return config.replica_lag > 0 and any(
            alias != primary and primary_of(alias, config) == primary for alias in connections.settings
        )

    def context(self, config: Config) -> bytes | None:
        """Return what of the session can change a result, or ``None`` if it cannot be known.

        :raises Exception: whatever ``CACHALOT_KEY_CONTEXT`` raises.
        """
        connection = self.connection
        if connection.connection is None and _set_on_connecting(connection):
            connection.ensure_connection()
        identity = self._identify(config).entries
        if self.settings.unknown:
            return None
        parts = [identity, *self.settings.parts()]
        parts.append(str(getattr(connection, "schema_name", "")).encode())
        parts.append(f"{connection.timezone_name} {connection.timezone is None}".encode())
        if config.key_context is not None:
            # It may read from the database, but not from here again.
            token = scopes.mode.set(scopes.Mode.OFF)
            try:
                parts.append(encode_param(config.key_context(connection)))
            except UnencodableParameter:
                return None
            finally:
                scopes.mode.reset(token)
        return digest(*parts)

    def setting_changed(self, statement: Statement, sql: str, params: Any) -> None:
        """Note a statement that has changed a setting of the session."""
        self._check_driver()
        self.settings.changed(statement, sql, params)

    def setting_unknown(self) -> None:
        """Note that from now on it is not known what this session sees."""
        self._check_driver()
        self.settings.unknown = True

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
            self._transaction = Transaction([Frame("", self.settings.now)], real=real)
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
        if self.connection.vendor == "sqlite":
            # Without BEGIN a SELECT of SQLite is a transaction of its own, whatever Django calls it, unless
            # another one is being read (reads_on).
            return Level.SNAPSHOT if self._begun() else Level.STATEMENT
        own = None if self._transaction is None else self._transaction.level
        return own or self._level or self._usual_level()

    def sees_uncommitted(self) -> bool:
        """Return whether rows may be seen that are never committed, in a transaction or outside of one."""
        return self.connection.vendor == "mysql" and self.level() is Level.DIRTY

    def _usual_level(self) -> Level:
        level = isolation.configured(self.connection)
        if level is not None:
            return level
        if self._server_level is None:
            self._server_level = isolation.asked(self.connection)
        return self._server_level or Level.SERIALIZABLE

    def level_is_certain(self) -> bool:
        """Return whether :meth:`level` is what the database does, and not only the strictest it may do."""
        own = None if self._transaction is None else self._transaction.level
        if self.connection.vendor == "sqlite" or own is not None:
            return True
        known = self.connection.vendor in {"postgresql", "mysql"} and self._level is None
        return known and (isolation.configured(self.connection) or self._server_level) is not None

    def level_changed(self, name: str, *, once: bool) -> None:
        """Note an isolation level set by hand.

        :param name: the level.
        :param once: whether for this transaction only. Otherwise it is kept until the connection ends, and of
            several the strictest wins.
        """
        level = isolation.named(name, self.connection.vendor)
        if once and self._transaction is not None:
            self._transaction.level = level
        else:
            self._level = isolation.stricter(self._level or self.level(), level)

    # Edges of the transaction.

    def sees_another_schema(self) -> bool:
        """Return whether the catalogue may say something else inside this transaction than outside."""
        transaction = self.transaction()
        if transaction is None:
            return self.reads_on()
        return transaction.written().everything or self.level() is not Level.STATEMENT

    def reads_on(self) -> bool:
        """Return whether a statement of SQLite is being read: in WAL mode the next one sees its snapshot.

        SQLite does not say so, but refuses to replace a function meanwhile (manual, sqlite3_create_function).
        """
        driver = self.connection.connection
        if self.connection.vendor != "sqlite" or driver is None:
            return False
        try:
            if self._probed is not driver:
                driver.create_function(_PROBE, 0, _nothing)
                self._probed = driver
            driver.create_function(_PROBE, 0, _nothing)
        except Exception:  # noqa: BLE001 - of sqlite3, or of what stands in its place
            return True
        return False

    def begun(self) -> None:
        """Note a BEGIN that was sent as a statement."""
        self._check_driver()
        self._raw = True

    def begun_by(self, statement: Statement) -> bool:
        """Return whether a statement releases the savepoint that began the transaction, and so commits it.

        In SQLite a SAVEPOINT outside of a transaction begins one (manual, SAVEPOINT, 1).
        """
        if statement.kind is not Kind.RELEASE or self.connection.vendor != "sqlite":
            return False
        transaction = self.transaction()
        return transaction is not None and transaction.began_with == statement.name

    def autocommit_set(self, *, off: bool) -> None:
        """Note that autocommit was set by a statement, which has committed what was open."""
        self.ended()
        self._autocommit_off = off

    def ended(self) -> None:
        """Note the end of the transaction, after a commit or a rollback."""
        if self._transaction is not None:
            self.settings.transaction_ended(self._transaction.frames[0].settings)
        self._transaction = None
        self._raw = False

    def rolled_back(self) -> None:
        """Note that the transaction was rolled back."""
        if self._transaction is not None:
            self._restore(self._transaction.frames[0].settings)
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
            transaction.savepoint(name, self.settings.now)

    def release(self, name: str) -> None:
        """Note that a savepoint was released."""
        transaction = self.transaction()
        if transaction is not None:
            transaction.release(name)

    def roll_back_to(self, name: str) -> None:
        """Note that what was done since a savepoint is gone."""
        transaction = self.transaction()
        settings = None if transaction is None else transaction.roll_back_to(name)
        if settings is not None:
            self._restore(settings)

    def _restore(self, settings: Any) -> None:
        """PostgreSQL takes settings back with the transaction in which they were made; others do not."""
        if self.connection.vendor == "postgresql":
            self.settings.now = settings

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

    def idle(self) -> bool:
        """Return whether the driver knows of nothing under way: no transaction, no COPY, no pipeline."""
        driver = self.connection.connection
        if driver is None:
            return True
        if self.connection.vendor == "postgresql":
            return int(driver.info.transaction_status) == _IDLE
        return not getattr(driver, "in_transaction", False)

    def aborted(self) -> bool:
        """Return whether PostgreSQL will roll the transaction back even if it is told to commit it."""
        info = getattr(self.connection.connection, "info", None)
        return (
            self.connection.vendor == "postgresql"
            and int(getattr(info, "transaction_status", 0)) == _IN_ERROR
        )

    def may_be_aborted(self) -> bool:
        """Return whether an execute wrapper of somebody else could abort the transaction, past Django."""
        return self.connection.vendor == "postgresql" and len(self.connection.execute_wrappers) > 1

    def answers_later(self) -> bool:
        """Return whether the server may not have run yet what was sent (the pipeline mode of psycopg 3)."""
        pgconn = getattr(self.connection.connection, "pgconn", None)
        return bool(getattr(pgconn, "pipeline_status", 0))
