"""The keys of tags, under the names that the settings give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachalot.core.protocol import SIGN, WriteKeys
from cachalot.core.tags import EPOCH, PASSING, whole_of

if TYPE_CHECKING:
    from cachalot.conf import Config
    from cachalot.core.keys import Namespace
    from cachalot.core.tags import Effects, Tag
    from cachalot.engine.session import Session


def tag_key(space: Namespace, alias: str, tag: Tag, config: Config) -> str:
    """Return the key of a tag, under the name that ``CACHALOT_TABLE_KEYGEN`` gives its table if any."""
    if config.table_keygen is None or not tag.table:
        return space.tag(tag)
    return space.named_tag(str(config.table_keygen(alias, tag.table)))


def tag_keys(space: Namespace, session: Session, tags: tuple[Tag, ...], config: Config) -> tuple[str, ...]:
    """Return the keys of tags of the database of a session, in their order, each once."""
    alias = session.primary_alias(config)
    return tuple(dict.fromkeys(tag_key(space, alias, tag, config) for tag in tags))


def write_keys(space: Namespace, session: Session, effects: Effects, config: Config) -> WriteKeys:
    """Return the keys of everything that ``effects`` change."""
    effects = effects.bounded()
    epochs = {fact.epoch for fact in effects.facts}
    if effects.parts and (
        len(epochs) != 1 or len({fact.table for fact in effects.facts}) != len(effects.facts)
    ):
        effects = effects.coarse()  # the facts have changed since the transaction began
    tags = effects.tags()
    holds = tuple(space.hold(tag) for tag in tags) if session.has_replicas(config) else ()
    alias = session.primary_alias(config)
    passing = frozenset(tag_key(space, alias, tag, config) for tag in tags if tag.scope in PASSING)
    signs = {
        space.tag(whole_of(fact.table)): SIGN + fact.sign
        for fact in effects.facts
        if fact.table not in effects.whole
    }
    epoch = (space.tag(EPOCH), epochs.pop()) if signs and not effects.everything else None
    return WriteKeys(tag_keys(space, session, tags, config), space.clock, holds, signs, passing, epoch)
