"""Facts about tables that models and settings state: who owns them, and which writes reach further."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db.models import deletion

from cachalot.analysis.rawsql import canonical_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from django.db import models

    from cachalot.conf import Config


class ModelFacts:
    """What the registered models say about tables.

    :ivar managed: tables that a managed model owns.
    :ivar dotted: tables with a dot in their name that divides nothing. They are known by what follows it, and
        the catalogue cannot be asked.
    :ivar by_app: tables by app label.
    :ivar labels: ``app.model``, in lower case, of the models of each table.
    :ivar deleted_with: tables that the database itself changes when rows of a table are deleted or replaced.
    """

    def __init__(self, registered: Collection[type[models.Model]]) -> None:
        self.managed: set[str] = set()
        self.dotted: set[str] = set()
        self.by_app: dict[str, set[str]] = defaultdict(set)
        self.labels: dict[str, set[str]] = defaultdict(set)
        self.deleted_with: dict[str, set[str]] = defaultdict(set)
        for model in registered:
            self._add(model)
        # What has the same name in another schema or database, or that of a swapped model, may be a view.
        others = (model._meta.db_table for model in registered if not _has_a_table(model))
        self.managed -= self.dotted.union(map(canonical_table, others))

    def _add(self, model: type[models.Model]) -> None:
        table = canonical_table(model._meta.db_table)
        self.by_app[model._meta.app_label].add(table)
        if "." in model._meta.db_table.replace('"."', ""):
            self.dotted.add(table)
        self.labels[table].add(model._meta.label_lower)
        if _has_a_table(model):
            self.managed.add(table)
        for field in model._meta.local_fields:
            parent = field.remote_field
            if parent is not None and _done_by_database(getattr(parent, "on_delete", None)):
                target = parent.model._meta.concrete_model or parent.model
                self.deleted_with[canonical_table(target._meta.db_table)].add(table)


def _has_a_table(model: type[models.Model]) -> bool:
    """Return whether migrations make the table of a model, or of the model that it is a proxy of."""
    return model._meta.managed and not model._meta.swapped


def _done_by_database(on_delete: object) -> bool:
    """Return whether the database carries out ``on_delete`` (DB_CASCADE and its like, Django 6.1)."""
    kind = getattr(deletion, "DatabaseOnDelete", None)
    return kind is not None and isinstance(on_delete, kind)


_facts: tuple[Any, ModelFacts] | None = None


def model_facts() -> ModelFacts:
    """Return the facts of the models registered today."""
    global _facts  # noqa: PLW0603 - replaced as a whole when the registry has made a new list
    registered = apps.get_models(include_auto_created=True, include_swapped=True)
    if _facts is None or _facts[0] is not registered:
        _facts = (registered, ModelFacts(registered))
    return _facts[1]


def written_with(tables: Iterable[str], config: Config) -> frozenset[str]:
    """Return ``tables`` and all tables that the database may change together with them.

    That is the closure over database-side ON DELETE actions and over ``CACHALOT_WRITE_DEPENDENCIES``.
    """
    declared = declared_dependencies(config)
    facts = model_facts()
    found: set[str] = set()
    todo = list(tables)
    while todo:
        table = todo.pop()
        if table not in found:
            found.add(table)
            todo += facts.deleted_with.get(table, ())
            todo += declared.get(table, ())
    return frozenset(found)


def changes_with_itself(table: str, config: Config) -> bool:
    """Return whether a write to some rows of a table may have the database change others of it."""
    facts, declared = model_facts(), declared_dependencies(config)
    return table in written_with([*facts.deleted_with.get(table, ()), *declared.get(table, ())], config)


_declared: tuple[Config, dict[str, frozenset[str]]] | None = None


def declared_dependencies(config: Config) -> dict[str, frozenset[str]]:
    """Return ``CACHALOT_WRITE_DEPENDENCIES`` with canonical names."""
    global _declared  # noqa: PLW0603 - derived from one immutable object, replaced with it
    if _declared is None or _declared[0] is not config:
        names = {
            canonical_table(table): frozenset(map(canonical_table, also))
            for table, also in config.write_dependencies.items()
        }
        _declared = (config, names)
    return _declared[1]


def vouched_for(table: str, config: Config) -> bool:
    """Return whether a table without a managed model is known by the settings."""
    if any(table in also for also in declared_dependencies(config).values()):
        return True
    return table in set(map(canonical_table, config.additional_tables))
