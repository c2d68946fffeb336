"""What an UPDATE of PostgreSQL returns of the rows as they were: all of their versions, or nothing at all."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from cachalot.analysis.canonical import Kind
from cachalot.analysis.versions import replaced_versions

KINDS = (Kind.INTEGER, Kind.TEXT, Kind.UUID)
ONE = [16384, "(0,1)", True, 1, "a", None]
TWO = [16384, "(0,2)", True, 2**63 - 1, "b", "00000000-0000-0000-0000-0000000000ff"]


def returned(*seen):
    """Rows as they come back: the versions seen of each, and its new values."""
    return [(None if one is None else json.dumps(one), 7, "new", None) for one in seen]


def test_versions_are_values_as_the_driver_has_them():
    """Numbers stay whole, identifiers are UUIDs, NULL is None, and the order is that of the new rows."""
    assert replaced_versions(returned([TWO], [ONE]), KINDS) == [
        (2**63 - 1, "b", UUID(int=255)),
        (1, "a", None),
    ]
    assert replaced_versions([], KINDS) == []


@pytest.mark.parametrize(
    "seen",
    [
        ([ONE], None),
        ([ONE], []),
        ([ONE], [[*TWO[:2], False, *TWO[3:]]]),
        ([ONE], [[*TWO[:2], None, *TWO[3:]]]),
        ([ONE], [ONE]),
        ([ONE, TWO], [TWO, ONE]),
        ([ONE, [*TWO[:2], False, *TWO[3:]]],),
    ],
    ids=[
        "none seen",
        "empty",
        "replaced by another",
        "unknown",
        "one for two",
        "two for each",
        "two for one",
    ],
)
def test_less_than_all_is_nothing(seen):
    """Unless each row has a version of its own that the statement has replaced, one may be missing."""
    assert replaced_versions(returned(*seen), KINDS) is None


def test_parts_of_a_table_have_places_of_their_own():
    """The same place in two tables that inherit from one another is not the same version."""
    assert len(replaced_versions(returned([ONE], [[16385, *ONE[1:]]]), KINDS)) == 2
