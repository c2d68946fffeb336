"""Canonical texts: equal for all values that the database finds equal, absent where that is not sure."""

from __future__ import annotations

import enum
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachalot.analysis.canonical import NULL, Kind, canonical


class Number(enum.IntEnum):
    """Drivers differ in what they send for a member."""

    ONE = 1


@given(st.integers())
def test_integers_and_booleans(value: int) -> None:
    """A number is what it counts; truth is one or nought."""
    assert canonical(Kind.INTEGER, value) == f"={value}"
    assert canonical(Kind.INTEGER, bool(value)) == f"={int(bool(value))}"


@given(st.uuids())
def test_spellings_of_a_uuid(value: UUID) -> None:
    """All spellings that PostgreSQL takes for one UUID are one text."""
    spelled = [value, str(value), str(value).upper(), value.hex, f"{{{value}}}"]
    assert {canonical(Kind.UUID, one) for one in spelled} == {f"={value.hex}"}
    assert canonical(Kind.HEXADECIMAL, value.hex.upper()) == canonical(Kind.HEXADECIMAL, value.hex)


@given(st.text(), st.text())
def test_texts_are_told_apart(one: str, two: str) -> None:
    """Letter by letter; where blanks at the end do not count they are left out."""
    assert (canonical(Kind.TEXT, one) == canonical(Kind.TEXT, two)) is (one == two)
    assert canonical(Kind.PADDED, one + " ") == canonical(Kind.PADDED, one)


@pytest.mark.parametrize("kind", Kind)
def test_null_is_no_text(kind: Kind) -> None:
    """NULL is equal to no value, not even to a text that looks like it."""
    assert canonical(kind, None) == NULL
    assert canonical(Kind.TEXT, NULL) != NULL


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.INTEGER, "1"),
        (Kind.INTEGER, 1.0),
        (Kind.INTEGER, Decimal(1)),
        (Kind.INTEGER, Number.ONE),
        (Kind.TEXT, 1),
        (Kind.TEXT, b"a"),
        (Kind.UUID, "not one"),
        (Kind.UUID, 1),
        (Kind.HEXADECIMAL, "é" * 32),
        (Kind.HEXADECIMAL, str(uuid4())),
    ],
)
def test_what_is_not_certain_has_no_text(kind: Kind, value: object) -> None:
    """The database may convert it, and find it equal to something that looks different."""
    assert canonical(kind, value) is None
