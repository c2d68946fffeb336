"""Relations that no managed model owns: asks the catalogue once per state of the schema.

What the catalogue says is kept for the token of the epoch under which it was read. DDL, wherever it happens,
gives the epoch a new token, so a redefined view is looked up again; and because the keys of the tags are part
of a stamp, an entry made under the old definition does not match the new one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cachalot.analysis.schema import Catalogue, model_facts, vouched_for
from cachalot.core.protocol import is_mark
from cachalot.core.steps import GetMany
from cachalot.core.tags import EPOCH, Effects
from cachalot.engine.cache import QueryCache, tag_keys
from cachalot.engine.caches import query_cache
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from cachalot.conf import Config
    from cachalot.engine.session import Session

Behind = dict[str, frozenset[str] | None]

_kept: dict[str, tuple[str, Config, Behind]] = {}


def tables_behind(
    session: Session, cache: QueryCache, relations: frozenset[str], config: Config
) -> frozenset[str] | None:
    """Return the tables whose writes can change what ``relations`` show, ``None`` if that is unknown.

    :raises StoreAway: the cache does not answer.
    """
    found: set[str] = set()
    asked = {relation for relation in relations if not vouched_for(relation, config)}
    found |= relations - asked
    if asked:
        epoch = _epoch(session, cache, config)
        if epoch is None:
            return None
        behind = _behind(session, epoch, config)
        for relation in sorted(asked):
            if relation not in behind:
                behind[relation] = _look_up(session, cache, relation, config)
            tables = behind[relation]
            if tables is None:
                return None
            found |= tables
    return frozenset(found)


def with_relations(session: Session, effects: Effects, config: Config) -> Effects:
    """Return ``effects`` and what changes through relations that no managed model owns: views, partitions."""
    strange = effects.tables - model_facts().managed
    cache = query_cache(config.cache)
    if not strange or effects.everything or cache is None:
        return effects
    tables = set(effects.tables)
    for relation in strange:
        tables |= _known_or_looked_up(session, cache, relation, config) or frozenset()
    return Effects(frozenset(tables))


def _known_or_looked_up(
    session: Session, cache: QueryCache, relation: str, config: Config
) -> frozenset[str] | None:
    with suppress(StoreAway):
        epoch = _epoch(session, cache, config)
        if epoch is not None:
            behind = _behind(session, epoch, config)
            if relation not in behind:
                behind[relation] = _look_up(session, cache, relation, config)
            return behind[relation]
    return _look_up(session, cache, relation, config)


def _epoch(session: Session, cache: QueryCache, config: Config) -> str | None:
    space = session.namespace(config)
    (key,) = tag_keys(space, session, (EPOCH,), config)
    token = cache.guard.run(_read(key))
    return token if isinstance(token, str) and not is_mark(token) else None


def _read(key: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a generator of one step
    got = yield GetMany((key,))
    return got.get(key)


def _behind(session: Session, epoch: str, config: Config) -> Behind:
    root = session.namespace(config).root
    kept = _kept.get(root)
    if kept is None or kept[0] != epoch or kept[1] is not config:
        kept = _kept[root] = (epoch, config, {})
    return kept[2]


def _look_up(session: Session, cache: QueryCache, relation: str, config: Config) -> frozenset[str] | None:
    session.connection.ensure_connection()
    cache.before_statement(session, config)
    try:
        return Catalogue(session.connection, config).tables_behind(relation)
    except Exception:  # noqa: BLE001 - a catalogue that cannot be read says nothing
        return None
