"""What is asked of the cache of queries, and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cachalot.codecs.pickled import decode_all
from cachalot.core.decisions import Decision, Reason
from cachalot.core.protocol import Answer, Found

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachalot.analysis.policies import Policy
    from cachalot.core.protocol import Keys
    from cachalot.core.tags import Tag
    from cachalot.engine.transaction import LocalResult, Transaction

_REASONS = {
    Found.NEW: Reason.NEW,
    Found.CHANGED: Reason.CHANGED,
    Found.UNDECODABLE: Reason.UNDECODABLE,
    Found.RACED: Reason.RACED,
    Found.DARK: Reason.DARK,
    Found.SNAPSHOT: Reason.SNAPSHOT,
    Found.LAGGING: Reason.REPLICA_LAG,
    Found.OUTDATED: Reason.CHANGED,
}
_BYPASSES = frozenset({Found.DARK, Found.SNAPSHOT, Found.LAGGING})


def _finds_nothing(_rows: Any) -> None:
    """Nothing is looked for in the rows."""


@dataclass(frozen=True)
class Query:
    """A read that may be cached.

    :param digest: 16 bytes that stand for statement, parameters, context and shape of the result.
    :param name: the digest as it is written in the key.
    :param tags: what it depends on, ``loose`` among them.
    :param context: what of the session is in the digest, to see whether running the query has changed it.
    :param replica: whether it runs on a replica.
    :param signs: how the tokens of some tags must end for ``tags`` to be right.
    :param loose: tags in whose place there may be others, which are found in the rows.
    :param finds: says which these are, given the rows; ``None`` if it cannot tell.
    :param policy: how its result is kept.
    :param keys: keeps its keys, with that of the entry and without, while the query itself is kept.
    """

    digest: bytes
    name: str
    tags: tuple[Tag, ...]
    context: bytes
    policy: Policy
    replica: bool = False
    signs: Mapping[Tag, str] = field(default_factory=dict)
    loose: tuple[Tag, ...] = ()
    finds: Callable[[Any], tuple[Tag, ...] | None] = _finds_nothing
    keys: dict[bool, Keys] | None = None

    def tables(self) -> frozenset[str]:
        """Return the canonical names of the tables it depends on."""
        return frozenset(tag.table for tag in self.tags if tag.table)


@dataclass(frozen=True)
class Ticket:
    """The right to keep the rows of a query.

    :param stamp: the tokens that were read before the query; ``None`` inside a snapshot that is no longer the
        newest.
    :param shared: whether everybody may see them, or this transaction alone.
    :param transaction: in which the query runs.
    :param serial: of the transaction before the query.
    :param tokens: those of which the stamp was made, if the query has loose tags.
    """

    query: Query
    stamp: bytes | None
    shared: bool
    transaction: Transaction | None
    serial: int
    tokens: Mapping[str, str] = field(default_factory=dict)


def ticket_for(query: Query, stamp: bytes | None, transaction: Transaction | None, *, shared: bool) -> Ticket:
    """Return the right to keep the rows of a query; see :class:`Ticket`."""
    return Ticket(query, stamp, shared, transaction, 0 if transaction is None else transaction.serial)


@dataclass(frozen=True)
class Lookup:
    """What is to be done about a read.

    :param decision: hit, miss or bypass.
    :param frames: the decoded rows, for a hit.
    :param saved: seconds the database took when the entry was made, also if that is no longer valid.
    :param ticket: the right to keep the rows, if there is one.
    :param outdated: whether the tags of the query do not follow from the schema any more.
    """

    decision: Decision
    frames: list[Any] | None = None
    saved: float = 0.0
    ticket: Ticket | None = None
    outdated: bool = False


def own_result(result: LocalResult, ticket: Ticket) -> Lookup:
    """Return a hit on what the transaction itself has kept."""
    decision = Decision.hit("own result of the transaction")
    return Lookup(decision, decode_all(result.payload), ticket=ticket)


def decision_of(answer: Answer) -> Decision:
    """Return why an answer of the protocol is not a hit."""
    reason = _REASONS[answer.found] if answer.found is not Found.HIT else Reason.SNAPSHOT
    return Decision.bypass(reason) if answer.found in _BYPASSES else Decision.miss(reason)
