"""Hit, miss or bypass, with a reason that can be printed.

Every read of the ORM ends in exactly one :class:`Decision`. ``explain``, the debug panel, the counters and
the log print it; none of them has logic of its own.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Outcome(enum.Enum):
    """What became of a read."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"


class Reason(enum.Enum):
    """Why a read was not a hit. The value is the sentence shown to people."""

    # Misses: the statement may be cached, but no valid entry was there.
    NEW = "nothing is stored for this statement yet"
    CHANGED = "a table it reads was written since the result was stored"
    UNDECODABLE = "the stored value could not be read back"
    TOO_LARGE = "the result is larger than the bound for one entry"
    UNENCODABLE = "the result has values that cannot be stored"
    RACED = "another process created the state of a table at the same moment"
    SERVER_REFUSED = "the cache did not store the result"
    ABANDONED = "the iteration was not run to its end"
    AUDITED = "an audit found other rows in the database"
    # Bypasses: the cache was not asked, or its answer could not be used.
    DISABLED = "caching is switched off"
    DATABASE = "the database is not one of those that are cached"
    TABLE = "a table is excluded by the settings"
    WRITES = "the statement may change rows"
    LOCKING = "the statement locks rows"
    EXPLAIN = "EXPLAIN is always run"
    CURSOR = "the caller asked for the cursor itself"
    ITERATOR = "iterators are excluded by the settings"
    RAW = "raw SQL is always run"
    RANDOM = "the statement orders or selects at random"
    VOLATILE = "it calls a function whose result does not follow from the tables"
    TIME_WORD = "a parameter such as 'now' may be read as the current time"
    PARAMETER = "a parameter cannot be turned into a key without loss"
    UNTRACED_TABLE = "its text names a table that the compiler did not report"
    UNKNOWN_RELATION = "it reads a relation whose content cannot be followed"
    NOT_UNDERSTOOD = "the statement could not be understood"
    CONTEXT = "the session of the connection has a setting that cannot be followed"
    DARK = "a table it reads is being committed at this moment"
    UNCOMMITTED = "this transaction has written to a table it reads"
    SNAPSHOT = "this transaction looks at an older state of the database"
    SERIALIZABLE = "a serializable transaction must read from the database itself"
    READ_UNCOMMITTED = "uncommitted rows of others may be in the result"
    REPLICA_LAG = "the replica may not have the latest write yet"
    CACHE_AWAY = "the cache server does not answer"
    UNDELIVERED = "writes of an outage may still wait in the outbox"
    CACHE_UNFIT = "the cache backend cannot hold the state of the tables"
    SWITCHED_OFF = "the cache was switched off for all processes"


@dataclass(frozen=True)
class Decision:
    """What became of one read, why, and a detail for people.

    :param outcome: hit, miss or bypass.
    :param reason: ``None`` for a hit, otherwise the :class:`Reason`.
    :param detail: what the reason is about, such as the name of a function; may be empty.

    .. versionadded:: 3.0
    """

    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""

    @classmethod
    def hit(cls, detail: str = "") -> Decision:
        """Return the decision for a result that came from the cache."""
        return cls(Outcome.HIT, None, detail)

    @classmethod
    def miss(cls, reason: Reason, detail: str = "") -> Decision:
        """Return the decision for a cacheable read that had to be run."""
        return cls(Outcome.MISS, reason, detail)

    @classmethod
    def bypass(cls, reason: Reason, detail: str = "") -> Decision:
        """Return the decision for a read that was not left to the cache."""
        return cls(Outcome.BYPASS, reason, detail)

    def __str__(self) -> str:
        """Return the decision as a sentence."""
        if self.reason is None:
            return self.outcome.value + (f" ({self.detail})" if self.detail else "")
        text = f"{self.outcome.value}: {self.reason.value}"
        return f"{text} ({self.detail})" if self.detail else text
