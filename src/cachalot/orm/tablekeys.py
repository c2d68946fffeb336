"""The keys of tables and the shapes of statements, for one state of the schema.

What the catalogue says about a table is kept, in this process and in the cache, for the token of the epoch
under which it was read, like what it says about views (``relations``). A reader that meets another token of
the epoch learns everything anew; a writer is told by its MARK (``core.protocol``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cachalot.analysis.catalogue import Catalogue
from cachalot.analysis.policies import policy_of
from cachalot.analysis.rawsql import canonical_table
from cachalot.analysis.schema import changes_with_itself
from cachalot.analysis.shapes import Shape, shape_of
from cachalot.analysis.tablekeys import Columns, TableKeys, combined, stated_keys
from cachalot.analysis.trace import Marked, Recording
from cachalot.core import protocol
from cachalot.core.keys import draw
from cachalot.core.protocol import Keys
from cachalot.core.tags import EPOCH
from cachalot.engine import facts as facts_
from cachalot.engine.context import ROLE
from cachalot.engine.facts import Facts, Readable
from cachalot.orm.rowwrites import RowWrite
from cachalot.stores.base import StoreAway, Tier

if TYPE_CHECKING:
    from cachalot.conf import Config
    from cachalot.core.tags import Effects
    from cachalot.engine.cache import QueryCache
    from cachalot.engine.session import Session
    from cachalot.orm.reading import Request

MAX_SHAPES = 4096
MAX_LENGTH = 8 * 1024
"""Shapes of longer texts are not kept: there would be too many, with lists of values of every length."""


def is_fine(cache: QueryCache, config: Config) -> bool:
    """Return whether rows and columns are told apart at all."""
    return config.table_keygen is None and cache.guard.tier is Tier.INTENTS


def facts_of(session: Session, cache: QueryCache, config: Config) -> Facts | None:
    """Return what is known about the database of a session; ``None`` if nothing can be, just now.

    :raises StoreAway: the cache does not answer.
    """
    if not is_fine(cache, config):
        return None
    space = session.namespace(config)
    known = facts_.known(cache.alias, space.root, config)
    if known is not None:
        return known
    if session.sees_another_schema():
        return None
    key = space.tag(EPOCH)
    answer = cache.guard.run(protocol.read(Keys(None, (key,), space.clock), _no_entry, draw))
    if answer.stamp is None:
        return None
    return facts_.learn(cache.alias, space.root, Facts(config, answer.tokens[key], answer.stamp))


def _no_entry(_value: Any) -> None:
    return None


def keys_of(
    session: Session, cache: QueryCache, facts: Facts, table: str, config: Config, *, reading: bool = True
) -> TableKeys | None:
    """Return the keys of a table, ``None`` if it has none, or if they cannot be learned just now.

    :param table: canonical name.
    :param reading: whether they are wanted to read; then they are not to be used while releases disagree.
    :raises StoreAway: the cache does not answer.
    """
    if table in facts.tables:
        mixed = reading and facts_.disagree(session.namespace(config).root, table)
        return None if mixed else facts.tables[table]
    stated = stated_keys(table)
    if stated is None:
        facts.tables[table] = None
        return None
    columns = _columns(session, cache, facts, table, config)
    if columns is None:
        return None
    facts.tables[table] = combined(table, *stated, columns)
    return facts.tables[table]


def _columns(session: Session, cache: QueryCache, facts: Facts, table: str, config: Config) -> Columns | None:
    key = session.namespace(config).columns(table)
    kept = cache.kept_fact(key, facts.stamp)
    if kept is not None and len(kept) == len(Columns._fields):
        return Columns(*kept)
    if session.sees_another_schema() or session.aborted() or session.is_replica(config):
        return None  # a replica may not know the last change of the schema yet
    try:
        session.connection.ensure_connection()
        cache.before_statement(session, config)
        columns = Catalogue(session.connection, config).columns(table)
    except Exception:  # noqa: BLE001 - a catalogue that cannot be read says nothing
        return None
    cache.keep_fact(key, facts.stamp, tuple(columns))
    return columns


def shape_of_request(
    session: Session, cache: QueryCache, facts: Facts, request: Request, config: Config
) -> Shape | None:
    """Return the shape of a read, ``None`` if it has none.

    :raises StoreAway: the cache does not answer.
    """
    if request.sql in facts.shapes:
        return facts.shapes[request.sql]
    for table in request.traced:
        keys_of(session, cache, facts, table, config)
    root = session.namespace(config).root
    certain = all(table in facts.tables and not facts_.disagree(root, table) for table in request.traced)
    shape = _recorded(session, cache, facts, request, config)
    if certain and len(request.sql) <= MAX_LENGTH:
        if len(facts.shapes) > MAX_SHAPES:
            facts.shapes.clear()
        facts.shapes[request.sql] = shape
    return shape


def _recorded(
    session: Session, cache: QueryCache, facts: Facts, request: Request, config: Config
) -> Shape | None:
    """Compile a statement once more, and look at every part of it."""
    compiler = request.compiler
    recording = Recording(marking=True)
    before, session.work.trace = session.work.trace, recording
    try:
        other = type(compiler)(
            compiler.query.clone(), compiler.connection, compiler.using, compiler.elide_empty
        )
        sql, params = other.as_sql()
    except Exception:  # noqa: BLE001 - what cannot be compiled twice depends on its tables
        return None
    finally:
        session.work.trace = before
    if sql != request.sql or len(params) != len(request.params) or recording.tables != request.traced:
        return None
    same = zip(params, request.params, strict=True)
    if any(type(one.value if isinstance(one, Marked) else one) is not type(two) for one, two in same):
        return None
    return shape_of(recording, sql, params, lambda table: keys_of(session, cache, facts, table, config))


def row_write(
    session: Session, cache: QueryCache, query: Any, effects: Effects, config: Config
) -> RowWrite | None:
    """Return what learns about the rows of a write, ``None`` if the rows of its table are not told apart.

    :param effects: what it changes if nothing is learned.
    """
    transaction = session.transaction()
    if effects.everything or (transaction is not None and transaction.written().everything):
        return None  # what is known is not about the schema that this transaction has made
    table = canonical_table(query.get_meta().db_table)
    if policy_of(frozenset({table}), config).granularity != "row" or changes_with_itself(table, config):
        return None
    try:
        facts = facts_of(session, cache, config)
        keys = None if facts is None else keys_of(session, cache, facts, table, config, reading=False)
    except StoreAway:
        return None
    if facts is None or keys is None:
        return None
    readable = _readable(session, facts, table, config)
    if not readable.columns:
        return None
    root = session.namespace(config).root
    return RowWrite(session, keys, facts.epoch, lambda: facts_.forget(cache.alias, root), readable.oldest)


def _readable(session: Session, facts: Facts, table: str, config: Config) -> Readable:
    """Return what a statement of the role of a session may return of a table."""
    now = time.monotonic()
    if session.connection.vendor != "postgresql":
        return Readable(columns=True, oldest=None, learned=now)
    nothing = Readable(columns=False, oldest=None, learned=now)
    if session.settings.unknown:
        return nothing
    role = (str(session.connection.settings_dict["USER"]), *session.settings.of(ROLE))
    known = facts.readable.get((table, role))
    if known is not None and now - known.learned < facts_.READABLE_SECONDS:
        return known
    if session.aborted():
        return nothing
    if len(facts.readable) > MAX_SHAPES:
        facts.readable.clear()
    try:
        session.connection.ensure_connection()
        found = Readable(*Catalogue(session.connection, config).readable(table), now)
    except Exception:  # noqa: BLE001 - a catalogue that cannot be read says nothing
        return nothing
    facts.readable[table, role] = found
    return found
