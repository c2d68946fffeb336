"""Wrong algebras: each changes one rule, and the fuzz must find a query that is answered wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from django.db.models.deletion import Collector

from cachalot.analysis import columns, covers, dynamic, writes
from cachalot.analysis.canonical import Kind
from cachalot.core.tags import NOTHING
from cachalot.engine import facts, transaction
from cachalot.orm import insertions, rowwrites

Mutant = Callable[[], Any]


@contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    facts.forget_all()
    try:
        with mock.patch.object(owner, name, value):
            yield
    finally:
        facts.forget_all()


def either_takes_one_side() -> Any:
    """``P OR Q`` is covered by what covers P."""
    return _patched(covers._Search, "_either", lambda self, parts: parts[0])


def negation_is_ignored() -> Any:
    """``NOT P`` is covered by what covers P."""
    original = covers._Search.condition

    def condition(self: Any, node: Any) -> Any:
        negated = getattr(node, "negated", False)
        if not negated:
            return original(self, node)
        node.negated = False
        try:
            return original(self, node)
        finally:
            node.negated = True

    return _patched(covers._Search, "condition", condition)


def null_is_found_beside_an_outer_join() -> Any:
    """``IS NULL`` covers the side that may have no row."""
    original = covers._Search.__init__

    def init(self: Any, *args: Any) -> None:
        original(self, *args)
        self._outer = set()

    return _patched(covers._Search, "__init__", init)


def on_clause_covers_the_parent() -> Any:
    """What an ON clause says of the table joined is handed back to the other."""
    original = covers._Search._of_on_clauses

    def of_on_clauses(self: Any, firm: Any) -> Any:
        loose = original(self, firm)
        for alias, found in loose.items():
            for cover in found:
                firm.add(alias, cover)
        return loose

    return _patched(covers._Search, "_of_on_clauses", of_on_clauses)


def _without(turn: int) -> Any:
    """Leave out one of the two times that a key which an UPDATE sets is looked at."""
    original, turns = rowwrites.RowWrite._add, Counter[Any]()

    def add(self: Any, changed: Any, key: Any, *args: Any) -> None:
        if self._columns is not None and self._columns & set(key):
            turns[changed, key] += 1
            if turns[changed, key] == turn:
                return
        original(self, changed, key, *args)

    return _patched(rowwrites.RowWrite, "_add", add)


def old_values_are_forgotten() -> Any:
    """Of keys that are set only the values after a write count."""
    return _without(1)


def new_values_are_forgotten() -> Any:
    """Of keys that are set only the values before a write count."""
    return _without(2)


def unknown_values_change_nothing() -> Any:
    """Values that are not known change no tag."""
    return _patched(writes.ChangedRows, "lose", lambda self, key: None)


def inserted_rows_are_forgotten() -> Any:
    """An INSERT changes no row."""
    return _patched(insertions, "rows_of_insert", lambda *args: None)


def rows_in_conflict_are_as_inserted() -> Any:
    """A row that is updated because one to be inserted is in conflict with it was as that one."""
    return _patched(insertions.Insertion, "_same_in_conflict", lambda *args: True)


def null_has_no_tag() -> Any:
    """A row whose key is NULL changes nothing."""
    original = writes.ChangedRows.allow

    def allow(self: Any, key: Any, values: Any) -> None:
        original(self, key, [one for one in values if "-" not in one])

    return _patched(writes.ChangedRows, "allow", allow)


def list_is_its_first_value() -> Any:
    """``IN`` is covered by the first of its values."""
    original = covers._values

    def values(*args: Any) -> Any:
        found = original(*args)
        return found[:1] if found else found

    return _patched(covers, "_values", values)


def members_are_all_there_is() -> Any:
    """A query that uses other columns is spared by writes to them."""
    original = writes.ChangedRows.tags

    def tags(self: Any, *, member: bool) -> Any:
        return original(self, member=member) if member else set()

    return _patched(writes.ChangedRows, "tags", tags)


def one_row_is_no_row() -> Any:
    """An UPDATE or DELETE that has met one row is taken for one that has met none."""
    original = rowwrites.RowWrite.run

    def run(self: Any, execute: Any, cursor: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, execute, cursor, *args, **kwargs)
        self._touched = cursor.cursor.rowcount > 1
        return result

    return _patched(rowwrites.RowWrite, "run", run)


def rollback_to_a_savepoint_forgets_what_was_before() -> Any:
    """What was written before a savepoint is gone with it."""
    original = transaction.Transaction.roll_back_to

    def roll_back_to(self: Any, name: str) -> Any:
        found = original(self, name)
        for frame in self.frames:
            frame.effects = NOTHING
        return found

    return _patched(transaction.Transaction, "roll_back_to", roll_back_to)


def release_of_a_savepoint_forgets_what_was_in_it() -> Any:
    """What was written in a savepoint is gone when it is released."""
    original = transaction.Transaction.release

    def release(self: Any, name: str) -> None:
        self.frames[-1].effects = NOTHING
        original(self, name)

    return _patched(transaction.Transaction, "release", release)


@contextmanager
def cascades_are_forgotten() -> Iterator[None]:
    """Of a deletion only the rows count that were named, not those that go or change with them."""
    original, delete = rowwrites.RowWrite.effects, Collector.delete
    named: list[str] = []

    def collected(self: Any) -> Any:
        models = {type(self.origin)} if hasattr(self.origin, "pk") else {getattr(self.origin, "model", None)}
        named[:] = [model._meta.db_table for model in models if model is not None]
        try:
            return delete(self)
        finally:
            named.clear()

    def effects(self: Any) -> Any:
        return original(self) if not named or self.table in named else NOTHING

    with _patched(Collector, "delete", collected), _patched(rowwrites.RowWrite, "effects", effects):
        yield


def collation_is_ignored() -> Any:
    """Text is told apart letter by letter, whatever its collation."""

    def looked(original: Any) -> Any:
        def look_up(cursor: Any, table: str) -> Any:
            found = original(cursor, table)
            return (
                found._replace(kinds={**found.kinds, "text": Kind.TEXT.value})
                if table.endswith("_word")
                else found
            )

        return look_up

    return _patched(
        columns, "LOOK_UPS", {name: looked(original) for name, original in columns.LOOK_UPS.items()}
    )


def equal_values_are_one() -> Any:
    """Two places of a text that hold the same value are one place."""
    return _patched(covers, "_distinct", lambda atoms: tuple(dict.fromkeys(atoms)))


def partners_decide_nothing() -> Any:
    """A table that is looked up never decides whether a row is seen."""
    return _patched(dynamic._Search, "_quiet", lambda *_args: set())


ALL: dict[Mutant, tuple[str, ...]] = {
    either_takes_one_side: ("or and not",),
    negation_is_ignored: ("or and not",),
    null_is_found_beside_an_outer_join: ("join",),
    on_clause_covers_the_parent: ("join",),
    old_values_are_forgotten: (),
    new_values_are_forgotten: (),
    unknown_values_change_nothing: (),
    inserted_rows_are_forgotten: (),
    rows_in_conflict_are_as_inserted: ("foreign key list",),
    null_has_no_tag: ("foreign key list",),
    list_is_its_first_value: (),
    members_are_all_there_is: (),
    one_row_is_no_row: (),
    rollback_to_a_savepoint_forgets_what_was_before: (),
    release_of_a_savepoint_forgets_what_was_in_it: (),
    cascades_are_forgotten: ("many to many", "foreign key list"),
    collation_is_ignored: ("text",),
    equal_values_are_one: ("again",),
    partners_decide_nothing: ("absent",),
}
"""Each with the shapes of queries in which it shows; all where that takes no longer."""
