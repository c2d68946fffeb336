"""Settings of a session that can change what a statement returns: search path, role, time zone and so on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cachalot.analysis.params import UnencodableParameter, encode_params
from cachalot.core.keys import digest

if TYPE_CHECKING:
    from cachalot.analysis.rawsql import Statement

Settings = Mapping[str, bytes]

WITHOUT_EFFECT = frozenset(
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


class SessionContext:
    """What was set on one connection of the driver.

    A setting whose name can be read replaces its last value. All others form a chain: the state of the
    session is a function of the sequence of such statements, whatever they mean.

    :ivar settings: values by name; never changed in place, so that a savepoint can keep it.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start as a new session of the server does."""
        self.settings: Settings = {}
        self._local: Settings = {}
        self._chain = b""
        self.unknown = False

    def pristine(self) -> bool:
        """Return whether nothing was set."""
        return not (self.settings or self._local or self._chain or self.unknown)

    def parts(self) -> list[bytes]:
        """Return what goes into a key, as parts that cannot run into each other."""
        parts = [self._chain]
        for settings in (self.settings, self._local):
            for name in sorted(settings):
                parts += [name.encode(), settings[name]]
            parts.append(b"|")
        return parts

    def changed(self, statement: Statement, sql: str, params: Any) -> None:
        """Note a statement that has changed a setting.

        :param sql: its text.
        :param params: its parameters.
        """
        if statement.name in WITHOUT_EFFECT:
            return
        if statement.name == "*" and statement.verb == "DISCARD":
            self.clear()
            return
        try:
            value = digest(sql.encode(), encode_params(params))
        except UnencodableParameter:
            self.unknown = True
            return
        if self._chain or not statement.name:
            self._chain = digest(self._chain, value)
        elif statement.name == "*":
            self.settings = {name: kept for name, kept in self.settings.items() if name in _NOT_RESET}
        elif statement.local:
            self._local = {**self._local, statement.name: value}
        else:
            self._set(statement.name, None if statement.reset else value)

    def _set(self, name: str, value: bytes | None) -> None:
        self.settings = {key: kept for key, kept in self.settings.items() if key != name}
        self._local = {key: kept for key, kept in self._local.items() if key != name}
        if value is not None:
            self.settings = {**self.settings, name: value}

    def transaction_ended(self) -> None:
        """Note the end of a transaction: what was set for it alone is gone."""
        self._local = {}
