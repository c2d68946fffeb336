"""What a write spares has not changed; wrong algebras are found out; and most is spared."""

from __future__ import annotations

import sys

import pytest
from django.test import override_settings

from tests.algebra.fuzz import fuzz
from tests.algebra.mutants import ALL, Mutant, collation_is_ignored
from tests.algebra.report import USUAL, complaints, complaints_about_usual_reads, text_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

SEED = 20261127
PAIRS = 5000
WITHIN = 10_000
"""Pairs in which a wrong algebra must be found; most take some hundred."""


def test_nothing_that_is_spared_has_changed() -> None:
    """After a random committed write every random query gives what the database gives."""
    outcome = fuzz(SEED, PAIRS)
    assert not outcome.violations, "\n".join(outcome.violations)
    assert outcome.pairs >= PAIRS
    assert outcome.changed > outcome.pairs / 50
    assert outcome.hits > 0.95 * outcome.asked


@pytest.mark.caches("locmem", "redis")
def test_most_is_spared() -> None:
    """A write ends far fewer results that it does not change than if it ended all of its table."""
    rows = fuzz(SEED, PAIRS // 2)
    with override_settings(CACHALOT_GRANULARITY="table"):
        tables = fuzz(SEED, PAIRS // 2)
    sys.stdout.write(text_of(f"seed {SEED}", rows, tables))
    assert not rows.violations, "\n".join(rows.violations)
    assert not tables.violations, "\n".join(tables.violations)
    assert not complaints(rows, tables)


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.caches("locmem", "redis")
def test_nearly_all_usual_reads_are_spared() -> None:
    """Reads by primary key, unique column and foreign key end with writes to their own rows only."""
    outcome = fuzz(SEED, PAIRS, shapes=USUAL)
    assert not outcome.violations, "\n".join(outcome.violations)
    assert not complaints_about_usual_reads(outcome, deviations=3)


@pytest.mark.databases("sqlite")
@pytest.mark.caches("locmem")
@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.__name__)
def test_wrong_algebra_is_found(mutant: Mutant) -> None:
    """A rule that is changed makes the fuzz fail: it tests what it says."""
    assert_found(mutant)


@pytest.mark.databases("postgresql", "mysql")
@pytest.mark.caches("locmem", "redis")
def test_wrong_collation_is_found() -> None:
    """Each database has collations of its own, and the fuzz notices when they are not heeded."""
    assert_found(collation_is_ignored)


def assert_found(mutant: Mutant) -> None:
    """Let the fuzz look for a violation."""
    with mutant():
        outcome = fuzz(SEED, WITHIN, shapes=ALL[mutant], seconds=120, stop=1)
    assert outcome.violations, f"{outcome.pairs} pairs"
