"""Makes the few rows over which queries and writes meet, and draws values that are in them, or nearly."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import TYPE_CHECKING

from django.db import connection

from tests.algebra import models as m

if TYPE_CHECKING:
    import random

SMALL = 7
"""Rows of most tables: few, so that writes meet what queries have read."""

GENRES = [uuid.UUID(int=number) for number in range(5)]
CODES = ["de", "DE", "fr", "it", "de ", "5"]
WORDS = ["straw", "Straw", "reed", "REED", "brick", "brick "]
ALL = [
    *([m.Seat] if m.COMPOSITE else []), *([m.Box] if m.GENERATED else []), m.Use, m.Loan, m.Chapter, m.Note,
    m.Special, m.Book.genres.through, m.Book, m.Genre, m.Author, m.Country, m.Word,
]  # fmt: skip


def clear() -> None:
    """Delete all rows, as raw SQL would."""
    with connection.cursor() as cursor:
        for model in ALL:
            if model is m.Author:
                cursor.execute(f"UPDATE {model._meta.db_table} SET mentor_id = NULL")
            cursor.execute(f"DELETE FROM {model._meta.db_table}")


def fill(chance: random.Random) -> None:
    """Make the rows."""
    countries = [m.Country.objects.create(code=code, name=code.upper()) for code in ("de", "fr", "it")]
    authors = [
        m.Author.objects.create(
            pk=pk,
            name=f"n{pk % 3}",
            age=chance.choice([None, 1, 2]),
            slug=f"s{pk}",
            country=chance.choice([*countries, None]),
        )
        for pk in range(1, SMALL)
    ]
    genres = [m.Genre.objects.create(id=key, name=f"g{number % 2}") for number, key in enumerate(GENRES[:4])]
    for number in range(1, SMALL):
        kind = m.Special if number % 3 == 0 else m.Book
        book = kind.objects.create(
            title=f"t{number % 3}", author=chance.choice(authors), editor=chance.choice([*authors, None]),
            number=number, isbn=chance.choice([None, number]), price=chance.choice([None, Decimal(number)]),
        )  # fmt: skip
        book.genres.set(chance.sample(genres, chance.randrange(3)))
        for chapter in range(chance.randrange(3)):
            m.Chapter.objects.create(book_id=book.pk, number=chapter)
        m.Loan.objects.create(book_id=book.pk, reader=chance.choice(authors))
        m.Note.objects.create(subject=chance.choice([book, chance.choice(authors)]), text="x")
    for text in ("straw", "reed"):
        m.Word.objects.create(text=text)
    for author in authors[:3]:
        m.Use.objects.create(slug=author)
    if m.COMPOSITE:
        for number in range(4):
            m.Seat.objects.create(row=number % 2, number=number, guest=chance.choice([*authors, None]))
    if m.GENERATED:
        for author in authors[:3]:
            m.Box.objects.create(width=2, owner=author)


def key_of(model: type, chance: random.Random) -> int:
    """Return the primary key of a row, or of one that is not there."""
    keys = list(model.objects.values_list("pk", flat=True))  # type: ignore[attr-defined]
    return chance.choice([*keys, 99]) if keys else 99
