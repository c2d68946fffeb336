"""What this process knows about the schema of each database, for one token of its epoch.

DDL gives the epoch a new token. A reader that meets another token than the one under which it has learned the
keys of tables learns them anew; a writer is told by its MARK that it should.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachalot.analysis.shapes import Shape
    from cachalot.analysis.tablekeys import TableKeys
    from cachalot.conf import Config
    from cachalot.engine.lookups import Query

MAX_DATABASES = 1000
MAX_MIXED = 10_000
MAX_QUERIES = 10_000

READABLE_SECONDS = 3600.0
"""So long is believed what a role may read: numbers of MultiXacts come round in more time than that."""

MIXED_SECONDS = 10.0
"""So long a process works with whole tables after it has seen that releases disagree about their keys."""


class Readable(NamedTuple):
    """What a role may have returned of a table of PostgreSQL.

    :param columns: whether all columns.
    :param oldest: the oldest MultiXact that may be in the table, if the old versions of rows, too.
    :param learned: when that was asked, by ``time.monotonic``.
    """

    columns: bool
    oldest: int | None
    learned: float


class Facts:
    """What is known about one database.

    :param config: the settings under which it was learned.
    :param epoch: the token of the epoch.
    :param stamp: the stamp of the epoch, under which the cache keeps the same.
    :ivar tables: the keys of tables, ``None`` for a table that has none.
    :ivar shapes: what statements depend on, by their texts; ``None`` for one that depends on its tables.
    :ivar readable: what a role, with its settings, may read of a table.
    :ivar queries: what queries depend on, by their names, on replicas apart.
    """

    def __init__(self, config: Config, epoch: str, stamp: bytes) -> None:
        self.config = config
        self.epoch = epoch
        self.stamp = stamp
        self.tables: dict[str, TableKeys | None] = {}
        self.shapes: dict[str, Shape | None] = {}
        self.readable: dict[tuple[str, tuple[str, ...]], Readable] = {}
        self.queries: dict[tuple[str, bool], Query] = {}


_known: dict[tuple[str, str], Facts] = {}
_mixed: dict[tuple[str, str], float] = {}


def known(cache: str, root: str, config: Config) -> Facts | None:
    """Return what is known about a database.

    :param cache: alias of the cache that holds the epoch.
    :param root: of the keys of the database.
    """
    facts = _known.get((cache, root))
    return facts if facts is not None and facts.config is config else None


def learn(cache: str, root: str, facts: Facts) -> Facts:
    """Remember what is known about a database from now on."""
    if len(_known) > MAX_DATABASES:
        _known.clear()
    _known[cache, root] = facts
    return facts


def forget_all() -> None:
    """Forget everything, as a new process would."""
    _known.clear()
    _mixed.clear()


def forget(cache: str, root: str) -> None:
    """Forget what is known about a database, because its schema may have changed."""
    _known.pop((cache, root), None)


def disagreed(root: str, tables: Iterable[str]) -> None:
    """Note that another release may have other keys for some of these tables."""
    until = time.monotonic() + MIXED_SECONDS
    if len(_mixed) > MAX_MIXED:
        _mixed.clear()
    _mixed.update({(root, table): until for table in tables})


def disagree(root: str, table: str) -> bool:
    """Return whether releases disagreed about the keys of a table a moment ago."""
    until = _mixed.get((root, table)) if _mixed else None
    return until is not None and time.monotonic() < until
