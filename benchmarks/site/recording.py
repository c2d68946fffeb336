"""How many reads a perfect cache could answer, and three rules that are less than perfect.

One process carries the visits out without a cache. A read counts as answered if the same statement with the
same parameters was seen before and nothing has ended it since: a change of its result (perfect), a row
written that fulfils its equality conditions before or after and differs in a column that it reads, and so
on. The rules compare what a person has written beside each read (``workload.Part``) with the rows before
and after each write.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.site.models import Post
from benchmarks.site.workload import Part, Read, Visit, reads, rows_of, table, target_of, write

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, Any] | None


class Change(NamedTuple):
    """A row that was written, before and after; ``None`` if it was not there."""

    table: str
    old: Row
    new: Row

    def columns(self) -> set[str]:
        """Return which columns differ; all of them if the row has come or gone."""
        old, new = self.old or {}, self.new or {}
        return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _same_row(change: Change, part: Part) -> bool:
    return any(
        row is not None and all(row[column] == value for column, value in part.equal.items())
        for row in (change.old, change.new)
    )


def _same_columns(change: Change, part: Part) -> bool:
    return change.old is None or change.new is None or not part.columns.isdisjoint(change.columns())


RULES: dict[str, Callable[[Change, Part], bool]] = {
    "equality conditions and columns": lambda change, part: (
        _same_row(change, part) and _same_columns(change, part)
    ),
    "columns": _same_columns,
    "tables": lambda _change, _part: True,
}


class Recorder:
    """Which reads could have been answered."""

    def __init__(self) -> None:
        self.reads = 0
        self.answered: defaultdict[str, int] = defaultdict(int)
        self._seen: dict[str, str] = {}
        self._alive: dict[str, dict[str, tuple[Part, ...]]] = {rule: {} for rule in RULES}

    def read(self, read: Read) -> None:
        """Carry out one read."""
        statement, result = _statement(read), repr(_plain(rows_of(read)))
        self.reads += 1
        self.answered["perfect"] += self._seen.get(statement) == result
        self._seen[statement] = result
        for rule, alive in self._alive.items():
            self.answered[rule] += statement in alive
            alive[statement] = read.parts

    def write(self, visit: Visit) -> None:
        """Carry out the write of a visit."""
        for change in _changes(visit):
            for rule, ends in RULES.items():
                alive = self._alive[rule]
                ended = [
                    statement
                    for statement, parts in alive.items()
                    if any(part.table == change.table and ends(change, part) for part in parts)
                ]
                for statement in ended:
                    del alive[statement]

    def rates(self) -> dict[str, float]:
        """Return the share of the reads that each rule answers."""
        return {rule: self.answered[rule] / self.reads for rule in ("perfect", *RULES)}


def recorded(visits: list[Visit]) -> dict[str, float]:
    """Carry visits out without a cache, and return what each rule would have answered."""
    recorder = Recorder()
    for visit in visits:
        if visit.write is not None:
            recorder.write(visit)
        for read in reads(visit):
            recorder.read(read)
    return recorder.rates()


def _statement(read: Read) -> str:
    sql, params = read.queryset.query.sql_with_params()
    return repr((read.count, sql, params))


def _plain(rows: Any) -> Any:
    if isinstance(rows, int):
        return rows
    return [
        {
            **{field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields},
            "related": _plain(list(row._state.fields_cache.values())),
        }
        for row in rows
    ]


def _changes(visit: Visit) -> list[Change]:
    """Carry out the write of a visit, and return the rows it has written."""
    model, pk = target_of(visit)
    if pk is not None:
        rows = model._base_manager.filter(pk=pk).values()
        old = rows.first()
        write(visit)
        new = rows.all().first()
        return [] if old is None and new is None else [Change(table(model), old, new)]
    write(visit)
    new = model._base_manager.order_by("-pk").values().first()
    changes = [Change(table(model), None, new)]
    if model is Post and new is not None:
        through = Post.tags.through
        changes += [
            Change(table(through), None, row) for row in through.objects.filter(post=new["id"]).values()
        ]
    return changes
