"""Texts that are met again with other values, and tables that decide by what they lack what is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import Exists, F, OuterRef, Q, Window
from django.db.models.functions import RowNumber

from tests.algebra import models as m
from tests.algebra.data import CODES, key_of
from tests.algebra.results import listed, plain

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


def again(chance: random.Random) -> Callable[[], Any]:
    """Ask a text with equal values, or made of shared parts, and then with others."""
    one, two = key_of(m.Author, chance), key_of(m.Author, chance)
    books = m.Book.objects.order_by("pk")

    def either(first: int, second: int) -> Any:
        return listed(books.filter(Q(author=first) | Q(author=second)))

    def both(first: int, second: int) -> Any:
        return listed(books.filter(author=first, editor=second))

    def united(first: int, second: int) -> Any:
        base = m.Book.objects.order_by().filter(author=first)
        other = base if first == second else m.Book.objects.order_by().filter(author=second)
        return listed(base.filter(likes=0).union(other.filter(likes=1)))

    def shown(first: int, second: int) -> Any:
        condition = Q(author=first)
        other = condition if first == second else Q(author=second)
        return listed(books.annotate(is_it=condition).filter(other).values("pk", "is_it", "likes"))

    def lent(first: int, second: int) -> Any:
        loans = Exists(m.Loan.objects.filter(book=OuterRef("pk"), reader=first))
        other = (
            loans if first == second else Exists(m.Loan.objects.filter(book=OuterRef("pk"), reader=second))
        )
        return listed(books.annotate(is_it=loans).filter(other | Q(author=one)).values("pk", "is_it"))

    ask = chance.choice([either, both, united, shown, lent])
    ask(one, one)
    return lambda: ask(one, two)


def absent(chance: random.Random) -> Callable[[], Any]:
    """Ask about rows whose partner is absent, or is looked up through others."""
    key, book, code = key_of(m.Author, chance), key_of(m.Book, chance), chance.choice(CODES)
    area = chance.choice([1, 4, 9])
    options: list[Callable[[], Any]] = [
        lambda: listed(m.Book.objects.filter(author=key, special__isnull=True).values("pk", "title")),
        lambda: plain(
            list(
                m.Book.objects.filter(author=key)
                .order_by(F("special").desc(nulls_last=True), "pk")
                .values_list("pk", flat=True)[:1]
            )
        ),
        lambda: listed(m.Chapter.objects.filter(book=book, book__author__country=code).values("pk")),
        lambda: listed(
            m.Chapter.objects.filter(book=book, book__editor__slug=f"s{key}").values("pk", "title")
        ),
        lambda: listed(m.Loan.objects.filter(reader=key).select_related("book__author", "book__editor")),
        lambda: listed(m.Loan.objects.filter(reader=key, book__genre__open=True).select_related("book")),
        lambda: listed(
            m.Book.objects.order_by()
            .filter(author=key, author__country__isnull=False)
            .annotate(row=Window(RowNumber(), order_by="pk"))
            .values_list("pk", "row", "author__name")
        ),
        lambda: listed(
            m.Book.objects.order_by()
            .filter(pk=book, author__name__gte="n1")
            .annotate(row=Window(RowNumber(), order_by="pk"))
            .values_list("pk", "row", "author_id")
        ),
    ]
    if m.GENERATED:
        options.append(lambda: listed(m.Box.objects.filter(area=area).values("width")))
    return chance.choice(options)
