"""Facts about tables: which models own them, which writes reach further, and what stands behind a view.

Models are asked first and cost nothing. Only a relation that no managed model owns (a view, a table made by
hand, a partition) is looked up in the catalogue of the database, through the driver, so that no query count
of the user changes.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db.models import deletion

from cachalot.analysis.rawsql import Kind, analyse, canonical_table
from cachalot.analysis.volatility import unstable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db import models
    from django.db.backends.base.base import BaseDatabaseWrapper

    from cachalot.conf import Config

MAX_DEPTH = 20
"""Views upon views deeper than this are not followed."""


class ModelFacts:
    """What the registered models say about tables.

    :ivar managed: tables that a managed model owns.
    :ivar known: all tables of models.
    :ivar by_app: tables by app label.
    :ivar deleted_with: tables that the database itself changes when rows of a table are deleted or replaced.
    """

    def __init__(self, registered: Iterable[type[models.Model]]) -> None:
        self.managed: set[str] = set()
        self.known: set[str] = set()
        self.by_app: dict[str, set[str]] = defaultdict(set)
        self.deleted_with: dict[str, set[str]] = defaultdict(set)
        for model in registered:
            self._add(model)

    def _add(self, model: type[models.Model]) -> None:
        table = canonical_table(model._meta.db_table)
        self.known.add(table)
        self.by_app[model._meta.app_label].add(table)
        if model._meta.managed and not model._meta.proxy:
            self.managed.add(table)
        for field in model._meta.local_fields:
            parent = field.remote_field
            if parent is not None and _done_by_database(getattr(parent, "on_delete", None)):
                target = parent.model._meta.concrete_model or parent.model
                self.deleted_with[canonical_table(target._meta.db_table)].add(table)


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


class Catalogue:
    """What the catalogue of one database says about relations that no managed model owns.

    :param connection: an open connection to it.
    :param config: the settings of today.
    """

    def __init__(self, connection: BaseDatabaseWrapper, config: Config) -> None:
        self._connection = connection
        self._config = config

    def tables_behind(self, relation: str) -> frozenset[str] | None:
        """Return every relation whose writes can change what reading ``relation`` gives, ``None`` if unknown.

        :param relation: canonical name.
        """
        found: set[str] = set()
        return frozenset(found) if self._collect(relation, found, MAX_DEPTH) else None

    def _collect(self, relation: str, found: set[str], depth: int) -> bool:
        if relation in found:
            return True
        if depth == 0:
            return False
        found.add(relation)
        kind, definition, kin = self._look_up(relation)
        if kind == "table":
            found.update(kin)
            return True
        return kind == "view" and all(
            self._collect(table, found, depth - 1) for table in self._read_by(definition) or [""]
        )

    def _read_by(self, definition: str) -> frozenset[str] | None:
        """Return what the definition of a view reads, ``None`` if its result does not follow from tables."""
        vendor = self._connection.vendor
        statements = analyse(definition, vendor)
        if len(statements) != 1 or statements[0].kind is not Kind.READ:
            return None
        if unstable(statements[0].functions, vendor, self._config.stable_functions):
            return None
        return statements[0].reads

    def _look_up(self, relation: str) -> tuple[str, str, frozenset[str]]:
        """Return what kind of relation it is, its definition, and its parents and parts."""
        look_up = _LOOK_UPS.get(self._connection.vendor)
        if not relation or look_up is None:
            return ("unknown", "", frozenset())
        cursor = self._connection.connection.cursor()
        try:
            return look_up(cursor, relation)
        finally:
            cursor.close()


def _look_up_postgresql(cursor: Any, relation: str) -> tuple[str, str, frozenset[str]]:
    cursor.execute(
        "SELECT c.oid, c.relkind, c.relpersistence, pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c "
        "WHERE lower(c.relname) = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        [relation],
    )
    rows = cursor.fetchall()
    kinds = {_text(row[1]) for row in rows}
    if any(_text(row[2]) == "t" for row in rows):
        return ("temporary", "", frozenset())
    if kinds and kinds <= {"r", "p"}:
        cursor.execute(
            "WITH RECURSIVE up(oid) AS (SELECT oid FROM pg_catalog.pg_class WHERE lower(relname) = %s "
            "UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN up ON i.inhrelid = up.oid), "
            "down(oid) AS (SELECT oid FROM up UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i "
            "JOIN down ON i.inhparent = down.oid) "
            "SELECT DISTINCT lower(c.relname) FROM pg_catalog.pg_class c JOIN down ON c.oid = down.oid",
            [relation],
        )
        return ("table", "", frozenset(_text(row[0]) for row in cursor.fetchall()))
    if kinds == {"m"}:
        return ("table", "", frozenset())
    if kinds == {"v"} and len(rows) == 1:
        return ("view", _text(rows[0][3]), frozenset())
    return ("unknown", "", frozenset())


def _look_up_mysql(cursor: Any, relation: str) -> tuple[str, str, frozenset[str]]:
    cursor.execute(
        "SELECT t.table_type, v.view_definition FROM information_schema.tables t "
        "LEFT JOIN information_schema.views v "
        "ON v.table_schema = t.table_schema AND v.table_name = t.table_name "
        "WHERE t.table_schema = DATABASE() AND lower(t.table_name) = %s",
        [relation],
    )
    rows = cursor.fetchall()
    if len(rows) != 1:
        return ("unknown", "", frozenset())
    kind = {"BASE TABLE": "table", "VIEW": "view"}.get(_text(rows[0][0]), "unknown")
    return (kind, _text(rows[0][1] or ""), frozenset())


def _look_up_sqlite(cursor: Any, relation: str) -> tuple[str, str, frozenset[str]]:
    for catalogue in ("sqlite_temp_master", "sqlite_master"):
        cursor.execute(
            f"SELECT type, sql FROM {catalogue} WHERE lower(name) = ? AND type IN ('table', 'view')",  # noqa: S608
            [relation],
        )
        rows = cursor.fetchall()
        if rows and catalogue == "sqlite_temp_master":
            return ("temporary", "", frozenset())
        if rows:
            kind, sql = rows[0]
            if kind == "view":
                return ("view", _after_as(sql), frozenset())
            virtual = sql.upper().lstrip().startswith("CREATE VIRTUAL")
            return ("unknown" if virtual else "table", "", frozenset())
    return ("unknown", "", frozenset())


def _after_as(sql: str) -> str:
    """Return the query of ``CREATE VIEW name [(columns)] AS query``."""
    words = sql.split()
    for index, word in enumerate(words):
        if (
            word.upper() == "AS"
            and index + 1 < len(words)
            and words[index + 1].upper() in {"SELECT", "WITH", "VALUES"}
        ):
            return " ".join(words[index + 1 :])
    return ""


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, (bytes, bytearray)) else str(value)


_LOOK_UPS = {
    "postgresql": _look_up_postgresql,
    "mysql": _look_up_mysql,
    "sqlite": _look_up_sqlite,
}
