"""The vocabulary of the raw-SQL analysis: what a statement can be, and what is known about one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Kind", "Statement"]


class Kind(enum.Enum):
    """What a statement does to rows, to the session or to the transaction."""

    READ = "only reads rows"
    WRITE = "changes rows of the tables it names"
    UNKNOWN = "may have changed anything"
    HARMLESS = "touches no rows and no setting that can change a result"
    CONTEXT = "changes a setting of the session"
    ISOLATION = "changes the isolation level"
    BEGIN = "begins a transaction"
    COMMIT = "commits"
    ROLLBACK = "rolls back"
    SAVEPOINT = "sets a savepoint"
    RELEASE = "releases a savepoint"
    ROLLBACK_TO = "rolls back to a savepoint"
    PREPARE_TRANSACTION = "prepares a transaction for a later commit"
    COMMIT_PREPARED = "commits a prepared transaction"
    ROLLBACK_PREPARED = "rolls a prepared transaction back"


@dataclass(frozen=True)
class Statement:
    """One statement, as far as it is understood.

    :param kind: what it does.
    :param verb: its first word in upper case, for people; ``""`` when there is none.
    :param reads: canonical names of the tables it reads; perhaps more, never fewer.
    :param writes: canonical names of the tables it changes.
    :param functions: what it calls, in lower case and without schema, and words such as ``current_date`` that
        are calls without parentheses; ``date()`` and its like when called with no time.
    :param literals: the contents of its string literals.
    :param name: the savepoint, the prepared transaction or the setting; ``""`` when a setting cannot be
        known, ``*`` for all of them.
    :param local: the setting ends with the transaction.
    :param reset: the setting goes back to its default.
    :param isolation: the level in lower case, ``default`` when it cannot be known.
    :param locking: it locks the rows it reads.
    :param chain: another transaction begins at once.
    """

    kind: Kind
    verb: str
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    literals: frozenset[str] = frozenset()
    name: str = ""
    local: bool = False
    reset: bool = False
    isolation: str = ""
    locking: bool = False
    chain: bool = False
