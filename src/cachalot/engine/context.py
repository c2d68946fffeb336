"""Settings of a session that can change what a statement returns: search path, role, time zone and so on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cachalot.analysis.params import UnencodableParameter, encode_params
from cachalot.core.keys import digest

if TYPE_CHECKING:
    from cachalot.analysis.rawsql import Statement

Settings = Mapping[str, bytes]


class Snapshot(NamedTuple):
    """The settings of a session at one moment.

    :param settings: values by name, for the session.
    :param local: values by name, for the transaction.
    :param chain: digest of the sequence of all other statements that set something.
    """

    settings: Settings
    local: Settings
    chain: bytes


NEW = Snapshot({}, {}, b"")
"""The settings of a new session."""

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

ROLE = ("role", "session_authorization")
"""Who asks. RESET ALL leaves it as it is (manual of PostgreSQL, RESET)."""


class SessionContext:
    """What was set on one connection of the driver.

    A setting whose name can be read replaces its last value. All others form a chain: the state of the
    session is a function of the sequence of such statements, and of the ends of transactions, whatever they
    mean.

    :ivar now: the settings; never changed in place, so that a savepoint can keep them.
    :ivar unknown: whether something was set that cannot even be written down.
    """

    def __init__(self) -> None:
        self.now = NEW
        self.unknown = False

    def pristine(self) -> bool:
        """Return whether nothing was set."""
        return self.now == NEW and not self.unknown

    def of(self, names: Iterable[str]) -> Iterator[str]:
        """Return what some settings are, as texts to be compared; nothing of those that were not set.

        What was set by a statement whose name cannot be read may be one of them.
        """
        settings, local, chain = self.now
        for place, known in enumerate((settings, local)):
            yield from (f"{place} {name} {known[name].hex()}" for name in names if name in known)
        if chain:
            yield chain.hex()

    def parts(self) -> list[bytes]:
        """Return what goes into a key, as parts that cannot run into each other."""
        parts = [self.now.chain]
        for settings in (self.now.settings, self.now.local):
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
            self.now, self.unknown = NEW, False
            return
        if _computed(statement, sql):
            self.unknown = True
            return
        try:
            value = digest(sql.encode(), encode_params(params))
        except UnencodableParameter:
            self.unknown = True
            return
        settings, local, chain = self.now
        # A value that is read from a variable depends on what was set before.
        name = "" if "@" in sql else statement.name
        if name == "session_authorization":
            settings, local = _without(settings, "role"), _without(local, "role")
        if chain or not name:
            self.now = Snapshot(settings, local, digest(chain, value))
        elif name == "*":
            self.now = Snapshot(_only(settings, ROLE), _only(local, ROLE), chain)
        elif statement.local:
            self.now = Snapshot(settings, {**local, name: value}, chain)
        else:
            kept = {} if statement.reset else {name: value}
            self.now = Snapshot({**_without(settings, name), **kept}, _without(local, name), chain)

    def transaction_ended(self, begun_with: Snapshot) -> None:
        """Note the end of a transaction: what was set for it alone is gone.

        Statements in the chain may have set something for the transaction alone. So the chain goes on: after
        the end the session is in a state that it was not in before.

        :param begun_with: the settings when it began.
        """
        settings, _local, chain = self.now
        self.now = Snapshot(settings, {}, chain if chain == begun_with.chain else digest(chain, b"end"))


def _computed(statement: Statement, sql: str) -> bool:
    """Return whether the value that is set is the result of a query or of a function."""
    if statement.verb == "SET":
        return "(" in sql
    return bool(statement.reads or statement.functions - {"set_config"})


def _only(settings: Settings, names: Collection[str]) -> Settings:
    return {name: value for name, value in settings.items() if name in names}


def _without(settings: Settings, name: str) -> Settings:
    return {one: value for one, value in settings.items() if one != name}
