"""Wrong algebras: each changes one rule, and the fuzz must find a query that is answered wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from cachalot.analysis import columns, covers, writes
from cachalot.analysis.canonical import Kind
from cachalot.engine import facts
from cachalot.orm import rowwrites

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


def old_values_are_forgotten() -> Any:
    """Only the values after a write count."""
    original = rowwrites.RowWrite.effects

    def effects(self: Any) -> Any:
        self._before, self._covers = ([] if self._before is not None else None), {}
        return original(self)

    return _patched(rowwrites.RowWrite, "effects", effects)


def new_values_are_forgotten() -> Any:
    """Only the values before a write count."""
    original = rowwrites.RowWrite.effects

    def effects(self: Any) -> Any:
        if self._before is not None:
            self._after = self._before
        return original(self)

    return _patched(rowwrites.RowWrite, "effects", effects)


def unknown_values_change_nothing() -> Any:
    """Values that are not known change no tag."""
    return _patched(writes.ChangedRows, "lose", lambda self, key: None)


def inserted_rows_are_forgotten() -> Any:
    """An INSERT changes no row."""
    return _patched(rowwrites, "rows_of_insert", lambda *args: None)


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


ALL: list[Mutant] = [
    either_takes_one_side,
    negation_is_ignored,
    null_is_found_beside_an_outer_join,
    on_clause_covers_the_parent,
    old_values_are_forgotten,
    new_values_are_forgotten,
    unknown_values_change_nothing,
    inserted_rows_are_forgotten,
    null_has_no_tag,
    list_is_its_first_value,
    members_are_all_there_is,
    collation_is_ignored,
]
