"""What a write spares has not changed; wrong algebras are found out; and most is spared."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import override_settings

from tests.algebra.fuzz import fuzz
from tests.algebra.mutants import (
    ALL,
    Mutant,
    collation_is_ignored,
    either_takes_one_side,
    negation_is_ignored,
)
from tests.algebra.queries import draw_conditions, draw_text
from tests.algebra.writes import words

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

SEED = 20261127
PAIRS = 5000
ABOUT: dict[Mutant, dict[str, Any]] = {
    collation_is_ignored: {"draw": draw_text, "write": words},
    either_takes_one_side: {"draw": draw_conditions},
    negation_is_ignored: {"draw": draw_conditions},
}
"""What the fuzz is to look at, where few of the usual queries would show the fault."""

USUAL = ("get by key", "get by unique", "foreign key list")


def test_nothing_that_is_spared_has_changed() -> None:
    """After a random committed write every random query gives what the database gives."""
    outcome = fuzz(SEED, PAIRS)
    assert not outcome.violations, "\n".join(outcome.violations)
    assert outcome.pairs >= PAIRS
    assert outcome.changed > outcome.pairs / 100


@pytest.mark.caches("locmem", "redis")
def test_most_is_spared() -> None:
    """A write ends far fewer results that it does not change than if it ended all of its table."""
    rows = fuzz(SEED + 1, PAIRS // 2)
    with override_settings(CACHALOT_GRANULARITY="table"):
        tables = fuzz(SEED + 1, PAIRS // 2)
    assert not rows.violations
    assert not tables.violations
    share = 0.5 if connection.vendor == "mysql" else 0.25
    assert rows.probability() <= share * tables.probability(), (rows.probability(), tables.probability())
    if connection.vendor != "mysql":
        assert rows.probability(*USUAL) <= 0.02, rows.probability(*USUAL)


@pytest.mark.databases("sqlite")
@pytest.mark.caches("locmem")
@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.__name__)
def test_wrong_algebra_is_found(mutant: Mutant) -> None:
    """A rule that is changed makes the fuzz fail: it tests what it says."""
    with mutant():
        outcome = fuzz(SEED, 40_000, seconds=300, stop=1, **ABOUT.get(mutant, {}))
    assert outcome.violations, f"{outcome.pairs} pairs"
