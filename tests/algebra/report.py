"""What a run has shown, as text: counts, what is spared with rows and with whole tables, what is wrong."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from django.db import connection

if TYPE_CHECKING:
    from tests.algebra.fuzz import Outcome

USUAL = ("get by key", "get by unique", "foreign key list")
MOST_OF_USUAL = 0.02
"""Results of usual reads that a write may end though it does not change them, but on MariaDB and MySQL."""


def complaints(rows: Outcome, tables: Outcome) -> list[str]:
    """Return which promises about what is spared do not hold; both have seen the same queries and writes."""
    found = []
    allowed = (0.5 if connection.vendor == "mysql" else 0.25) * tables.probability()
    if rows.probability() > allowed:
        found.append(
            f"ends {rows.probability():.3f} of all results that it does not change, not {allowed:.3f}"
        )
    if (rows.pairs, rows.changed) != (tables.pairs, tables.changed):
        found.append("rows and tables have not seen the same queries and writes")
    return found


def complaints_about_usual_reads(rows: Outcome, deviations: float = 0) -> list[str]:
    """Return which of the usual reads are ended too often.

    :param deviations: how many standard deviations of the share (binomial, of its number of results) it may
        lie above the limit; a short run needs some, or it would complain about chance.
    """
    if connection.vendor == "mysql":
        return []

    def limit(shape: str) -> float:
        results = max(1, rows.killed[shape] + rows.spared[shape])
        return MOST_OF_USUAL + deviations * math.sqrt(MOST_OF_USUAL * (1 - MOST_OF_USUAL) / results)

    over = [shape for shape in USUAL if rows.probability(shape) > limit(shape)]
    return [f"{shape}: {rows.probability(shape):.3f}, not {MOST_OF_USUAL}" for shape in over]


def text_of(head: str, rows: Outcome, tables: Outcome) -> str:
    """Return the report of one database.

    :param head: what was run.
    """
    share = rows.probability() / max(tables.probability(), 1e-9)
    lines = [
        head, _counts("row", rows), _counts("table", tables), "",
        "P(a committed write of the ORM ends a result that it does not change)",
        f"{'':24}{'row':>8}{'table':>8}{'results':>10}", _line("all", rows, tables),
        *(_line(shape, rows, tables, shape) for shape in sorted(rows.killed | rows.spared)),
        f"{'all, and SQL by hand':24}{rows.probability_with_raw():8.3f}{tables.probability_with_raw():8.3f}",
        f"rows end {share:.3f} of what tables end; half of all queries are of the six most usual shapes",
    ]  # fmt: skip
    lines += [f"NOT KEPT: {one}" for one in complaints(rows, tables) + complaints_about_usual_reads(rows)]
    return "\n".join([*lines, *rows.violations, *tables.violations]) + "\n"


def _counts(name: str, outcome: Outcome) -> str:
    return (
        f"{name:6}{outcome.pairs} pairs, {outcome.changed} results changed, {outcome.writes} writes "
        f"({outcome.refused} refused), {outcome.hits / max(1, outcome.asked):.1%} hits when asked again, "
        f"{len(outcome.violations)} violations, {outcome.seconds:.0f} s"
    )


def _line(name: str, rows: Outcome, tables: Outcome, *shape: str) -> str:
    names = shape or tuple(rows.killed | rows.spared)
    total = sum(rows.killed[one] + rows.spared[one] for one in names)
    return f"{name:24}{rows.probability(*shape):8.3f}{tables.probability(*shape):8.3f}{total:10}"
