"""Makes the few rows over which queries and writes meet, and draws values that are in them, or nearly."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.core.management.color import no_style
from django.db import connection

from cachalot.api import cachalot_disabled
from tests.algebra import models as m

if TYPE_CHECKING:
    import random

SMALL = 7
"""Rows of most tables: few, so that writes meet what queries have read."""

GENRES = [uuid.UUID(int=number + 0xABCDEF) for number in range(5)]
CODES = ["de", "DE", "fr", "it", "de ", "5"]
WORDS = ["straw", "Straw", "stráw", "reed", "REED", "brick", "brick "]
ALL = [
    *([m.Seat] if m.COMPOSITE else []), *([m.Box] if m.GENERATED else []), m.Mention, m.Use, m.Loan,
    m.Chapter, m.Note, m.Special, m.Book.genres.through, m.Book, m.Genre, m.Author, m.Country, m.Word,
]  # fmt: skip


def clear() -> None:
    """Delete all rows, and let keys begin at 1 again: a world is the same whatever came before it."""
    tables = [model._meta.db_table for model in ALL]
    flush = connection.ops.sql_flush(no_style(), tables, reset_sequences=True)
    connection.ops.execute_sql_flush(flush)


def fill(chance: random.Random) -> None:
    """Make the rows."""
    countries = [m.Country.objects.create(code=code, name=code.upper()) for code in ("de", "fr", "it")]
    authors: list[m.Author] = []
    for number in range(1, SMALL):
        authors.append(
            m.Author.objects.create(
                name=f"n{number % 3}",
                age=chance.choice([None, 1, 2]),
                slug=f"s{number}",
                country=chance.choice([*countries, None]),
                mentor=chance.choice([*authors, None]),
            )
        )
    genres = [m.Genre.objects.create(id=key, name=f"g{number % 2}") for number, key in enumerate(GENRES[:4])]
    for number in range(1, SMALL):
        _fill_book(chance, number, authors, genres)
    for text in ("straw", "reed", "brick"):
        m.Word.objects.create(text=text)
        m.Mention.objects.create(word_id=chance.choice([text, text.upper()]))
    for author in authors[:3]:
        m.Use.objects.create(slug=author)
    if m.COMPOSITE:
        for number in range(4):
            m.Seat.objects.create(row=number % 2, number=number, guest=chance.choice([*authors, None]))
    if m.GENERATED:
        for author in authors[:3]:
            m.Box.objects.create(width=author.pk, owner=author)


def _fill_book(chance: random.Random, number: int, authors: list[m.Author], genres: list[m.Genre]) -> None:
    kind = m.Special if number % 3 == 0 else m.Book
    book = kind.objects.create(
        title=f"t{number % 3}", author=chance.choice(authors), editor=chance.choice([*authors, None]),
        number=number, isbn=chance.choice([None, number]), price=chance.choice([None, Decimal(number)]),
        genre=chance.choice([*genres, None]),
        **({"patron": chance.choice([*authors, None])} if kind is m.Special else {}),
    )  # fmt: skip
    book.genres.set(chance.sample(genres, chance.randrange(3)))
    for chapter in range(chance.randrange(3)):
        m.Chapter.objects.create(book_id=book.pk, number=chapter)
    for _ in range(chance.randrange(1, 3)):
        m.Loan.objects.create(book_id=book.pk, reader=chance.choice(authors))
    m.Note.objects.create(subject=m.Book(pk=book.pk), text="x")
    m.Note.objects.create(subject=chance.choice(authors), text="x")


def key_of(model: Any, chance: random.Random) -> int:
    """Return the primary key of a row, or now and then of one that is not there."""
    with cachalot_disabled():
        keys = list(model.objects.order_by("pk").values_list("pk", flat=True))
    return chance.choice(keys) if keys and chance.random() < 0.92 else 99
