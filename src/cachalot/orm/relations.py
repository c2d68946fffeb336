"""Relations that no managed model owns: asks the catalogue once per state of the schema.

What the catalogue says is kept, in this process and in the cache, for the token of the epoch under which it
was read. DDL, wherever it is committed, gives the epoch a new token, so a redefined view is looked up again;
and because the keys of the tags are part of a stamp, an entry made under the old definition does not match
the new one. A transaction that has itself changed the schema keeps nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachalot.analysis.catalogue import Behind, Catalogue
from cachalot.analysis.schema import model_facts, vouched_for
from cachalot.core import protocol
from cachalot.core.keys import draw
from cachalot.core.protocol import Keys
from cachalot.core.tags import EPOCH, EVERYTHING, Effects
from cachalot.engine.caches import query_cache
from cachalot.engine.tagkeys import tag_keys
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from cachalot.conf import Config
    from cachalot.engine.cache import QueryCache
    from cachalot.engine.session import Session

MAX_KEPT = 10_000

_kept: dict[tuple[str, bytes, str], Behind] = {}


class NotAskedError(Exception):
    """The catalogue could not be read just now, or cannot be asked for this relation."""


def tables_behind(
    session: Session, cache: QueryCache, relations: frozenset[str], config: Config
) -> frozenset[str] | None:
    """Return the tables whose writes can change what ``relations`` show, ``None`` if that is unknown.

    :raises StoreAway: the cache does not answer.
    """
    found = set(relations)
    for relation in sorted(relations):
        if vouched_for(relation, config):
            continue
        try:
            behind = _behind(session, cache, relation, config)
        except NotAskedError:
            return None
        if behind.reading is None:
            return None
        found |= behind.reading
    return frozenset(found)


def with_relations(session: Session, effects: Effects, config: Config) -> Effects:
    """Return ``effects`` and what changes through relations that no managed model owns: views, partitions."""
    strange = effects.tables - model_facts().managed
    cache = query_cache(config.cache)
    if not strange or effects.everything or cache is None:
        return effects
    tables = set(effects.whole)
    for relation in strange:
        if vouched_for(relation, config):
            continue
        try:
            behind = _behind(session, cache, relation, config)
        except (NotAskedError, StoreAway):
            return EVERYTHING
        if behind.writing is None:
            return EVERYTHING
        tables |= behind.writing
    return effects | Effects(frozenset(tables))


def may_write(session: Session, functions: frozenset[str], config: Config) -> bool:
    """Return whether functions that are not known by name may change rows, as far as the catalogue knows."""
    try:
        session.connection.ensure_connection()
        return bool(Catalogue(session.connection, config).functions_that_write(functions))
    except Exception:  # noqa: BLE001 - a catalogue that cannot be read says nothing
        return True


def _behind(session: Session, cache: QueryCache, relation: str, config: Config) -> Behind:
    """Return what stands behind a relation.

    :raises NotAskedError: the catalogue cannot be read just now, or not for this relation.
    :raises StoreAway: the cache does not answer.
    """
    if relation in model_facts().dotted:
        raise NotAskedError("the catalogue knows it by another name")
    epoch = None if session.sees_another_schema() else _epoch(session, cache, config)
    if epoch is None:
        return _look_up(session, cache, relation, config)
    key = (session.namespace(config).root, epoch, _named(relation, config))
    if key not in _kept:
        if len(_kept) > MAX_KEPT:
            _kept.clear()
        _kept[key] = _shared(session, cache, relation, epoch, config)
    return _kept[key]


def _epoch(session: Session, cache: QueryCache, config: Config) -> bytes | None:
    """Return the stamp of the epoch, ``None`` while a commit that changes it is in flight."""
    space = session.namespace(config)
    keys = Keys(None, tag_keys(space, session, (EPOCH,), config), space.clock)
    return cache.guard.run(protocol.read(keys, lambda _value: None, draw)).stamp


def _shared(session: Session, cache: QueryCache, relation: str, epoch: bytes, config: Config) -> Behind:
    """Return what the cache has kept of the catalogue, or look it up and let the cache keep it."""
    key = session.namespace(config).relation(_named(relation, config))
    found = cache.kept_fact(key, epoch)
    if found is None:
        behind = _look_up(session, cache, relation, config)
        cache.keep_fact(key, epoch, (_listed(behind.reading), _listed(behind.writing)))
        return behind
    reading, writing = found
    return Behind(_set(reading), _set(writing))


def _named(relation: str, config: Config) -> str:
    """Return a relation together with the settings under which it was judged."""
    return " ".join((relation, *sorted(config.stable_functions)))


def _listed(tables: frozenset[str] | None) -> list[str] | None:
    return None if tables is None else sorted(tables)


def _set(tables: Any) -> frozenset[str] | None:
    return None if tables is None else frozenset(tables)


def _look_up(session: Session, cache: QueryCache, relation: str, config: Config) -> Behind:
    if session.is_replica(config):
        raise NotAskedError("a replica may not know the last change of the schema yet")
    try:
        session.connection.ensure_connection()
        cache.before_statement(session, config)
        return Catalogue(session.connection, config).behind(relation)
    except Exception as error:
        raise NotAskedError from error
