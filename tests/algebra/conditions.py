"""Random conditions on books and what belongs to them, for queries and for writes."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from django.db.models import F, Q

from tests.algebra import models as m
from tests.algebra.data import CODES, GENRES, key_of

if TYPE_CHECKING:
    import random


def book_condition(chance: random.Random, depth: int = 2) -> Q:
    """Return a random condition on books and what belongs to them."""
    if depth and chance.random() < 0.55:
        left, right = book_condition(chance, depth - 1), book_condition(chance, depth - 1)
        return chance.choice(
            [left & right, left & right, left | right, left | right, ~left & right, left ^ right]
        )
    author, book = key_of(m.Author, chance), key_of(m.Book, chance)
    return chance.choice(
        [
            Q(pk=book),
            Q(pk__in=[book, None, book, key_of(m.Book, chance)]),
            Q(pk__in=[]),
            Q(author=author),
            Q(author=str(author)),
            Q(author__in=[author, 99]),
            Q(editor=author),
            Q(editor__isnull=True),
            Q(editor=None, author=author),
            Q(isbn=chance.randrange(7)),
            Q(isbn__isnull=chance.random() < 0.5),
            Q(number=chance.randrange(7), author=author),
            Q(price=chance.choice([Decimal(1), Decimal("1.00"), Decimal("2.0"), 3])),
            Q(title=f"t{chance.randrange(3)}"),
            Q(likes__gt=chance.randrange(3)),
            Q(likes=F("number")),
            Q(author__name=f"n{chance.randrange(3)}"),
            Q(author__country=chance.choice(CODES)),
            Q(author__country__isnull=True),
            Q(editor__country=chance.choice(CODES)),
            Q(editor__mentor__isnull=True),
            Q(editor__slug=f"s{author}"),
            Q(author__slug=f"s{author}"),
            Q(author__mentor=author),
            Q(genres=chance.choice(GENRES)),
            Q(genres__isnull=True),
            Q(genres__in=[chance.choice(GENRES), chance.choice(GENRES)]),
            Q(chapters__number=chance.randrange(3)),
            Q(chapters__isnull=True),
            Q(loans__reader=author),
            Q(readers=author),
            Q(notes__text="x"),
            Q(special__rank=0),
            Q(special__patron=author),
        ]
    )
