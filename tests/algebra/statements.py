"""Reads of every other kind: trees of conditions, aggregates, subqueries, joins, unions, whole tables."""

# ruff: noqa: D103 - a shape is what its name says

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import (
    Count,
    Exists,
    F,
    FilteredRelation,
    Max,
    OuterRef,
    Q,
    Subquery,
    Sum,
    Window,
)  # fmt: skip
from django.db.models.functions import Lower, Rank

from tests.algebra import models as m
from tests.algebra.conditions import book_condition
from tests.algebra.data import GENRES, key_of
from tests.algebra.results import listed, plain

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


def conditions(chance: random.Random) -> Callable[[], Any]:
    condition, other = book_condition(chance), book_condition(chance, 1)
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(condition)),
            lambda: listed(m.Book.objects.filter(condition).filter(other).distinct()),
            lambda: listed(m.Book.objects.exclude(other)),
            lambda: listed(m.Book.objects.filter(condition).exclude(other)),
            lambda: listed(m.Book.objects.filter(condition).values("title", "author__name", "likes")),
            lambda: m.Book.objects.filter(condition).count(),
            lambda: m.Book.objects.filter(condition).exists(),
            lambda: plain(list(m.Book.objects.filter(condition).order_by("-likes", "pk")[:3])),
            lambda: listed(m.Book.objects.filter(condition).select_related("author", "editor")),
            lambda: listed(m.Book.objects.filter(condition).only("title")),
            lambda: listed(m.Book.objects.filter(condition).defer("title", "likes")),
            lambda: plain(list(m.Book.objects.filter(condition).order_by("editor__name", "-pk")[1:3])),
            lambda: listed(m.Book.objects.filter(condition).values_list("author", flat=True).distinct()),
        ]
    )


def alternatives(chance: random.Random) -> Callable[[], Any]:
    one, two, book = key_of(m.Author, chance), key_of(m.Author, chance), key_of(m.Book, chance)
    condition = chance.choice(
        [
            Q(author=one) | Q(editor=two),
            Q(pk=book) | Q(author=one),
            Q(editor=one) | Q(genre=chance.choice(GENRES)),
            Q(author=one) | Q(author__mentor=two),
            Q(author=one) | Q(pk__in=[]),
            ~Q(author=one),
            ~Q(pk=book) & Q(editor=one),
            ~(Q(author=one) & Q(editor=two)),
            Q(author=one) ^ Q(editor=two),
            Q(author=one) & ~Q(genres=chance.choice(GENRES)),
        ]
    )
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(condition)),
            lambda: listed(m.Book.objects.filter(condition).values_list("author", "editor")),
            lambda: m.Book.objects.filter(condition).count(),
        ]
    )


def aggregated(chance: random.Random) -> Callable[[], Any]:
    condition, key = book_condition(chance, 1), key_of(m.Author, chance)
    return chance.choice(
        [
            lambda: m.Book.objects.filter(condition).aggregate(total=Sum("likes"), most=Max("author__age")),
            lambda: listed(m.Author.objects.annotate(total=Count("books")).filter(total__gt=1)),
            lambda: listed(m.Author.objects.filter(pk=key).annotate(total=Count("books"))),
            lambda: listed(m.Author.objects.annotate(total=Count("books", filter=Q(books__likes__gt=0)))),
            lambda: listed(
                m.Author.objects.annotate(total=Count("books")).filter(Q(total__gt=1) | Q(pk=key))
            ),
            lambda: listed(m.Book.objects.filter(condition).values("author").annotate(total=Count("pk"))),
            lambda: listed(
                m.Book.objects.filter(condition).annotate(total=Count("chapters")).exclude(total=1)
            ),
            lambda: m.Chapter.objects.filter(book__author=key).aggregate(total=Count("book", distinct=True)),
            lambda: listed(
                m.Book.objects.annotate(place=Window(Rank(), order_by="likes")).filter(author=key, place=1)
            ),
            lambda: listed(
                m.Book.objects.filter(author=key).annotate(place=Window(Rank(), order_by="likes"))
            ),
        ]
    )


def nested(chance: random.Random) -> Callable[[], Any]:
    condition, key = book_condition(chance, 1), key_of(m.Author, chance)
    loans = m.Loan.objects.filter(book=OuterRef("pk"), reader=key)
    latest = m.Chapter.objects.filter(book=OuterRef("pk")).order_by("-number").values("number")[:1]
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(Exists(loans))),
            lambda: listed(m.Book.objects.filter(~Exists(loans), author=key)),
            lambda: listed(m.Book.objects.filter(condition).annotate(some=Exists(loans))),
            lambda: listed(m.Book.objects.filter(author=key).annotate(latest=Subquery(latest))),
            lambda: listed(m.Author.objects.filter(books__in=m.Book.objects.filter(condition))),
            lambda: listed(m.Author.objects.exclude(books__in=m.Book.objects.filter(condition))),
            lambda: listed(
                m.Author.objects.filter(pk__in=m.Book.objects.filter(author=key).values("editor"))
            ),
            lambda: listed(m.Book.objects.filter(Exists(loans) | Q(author=key))),
            lambda: listed(m.Book.objects.filter(author=key).exclude(genres__name="g1")),
            lambda: listed(m.Book.objects.annotate(latest=Subquery(latest)).filter(latest=0)),
        ]
    )


def joined(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Author, chance)

    def related(name: str, **condition: Any) -> Any:
        # Anew each time: to use it changes it.
        return m.Author.objects.annotate(mine=FilteredRelation(name, condition=Q(**condition)))

    return chance.choice(
        [
            lambda: listed(related("books", books__author=key).values("pk", "mine__title")),
            lambda: listed(related("books", books__title="t1").filter(pk=key).values("pk", "mine__title")),
            lambda: listed(related("edited", edited__editor=key).values("pk", "name", "mine__likes")),
            lambda: listed(related("books", books__author=key).filter(mine__isnull=True)),
            lambda: listed(m.Author.objects.filter(mentor__mentor=key)),
            lambda: listed(m.Author.objects.filter(Q(mentor=key) | Q(pupils=key))),
            lambda: listed(m.Chapter.objects.filter(book__author=key)),
            lambda: listed(m.Loan.objects.filter(book__author=key, reader=key)),
            lambda: listed(m.Author.objects.filter(pk=key).values("name", "edited__title")),
            lambda: listed(m.Author.objects.filter(edited__isnull=True).values("pk", "name")),
            lambda: listed(m.Author.objects.filter(edited__isbn=None)),
            lambda: listed(m.Book.objects.filter(genre__books__editor=None, author=key)),
            lambda: listed(m.Author.objects.filter(Q(edited__editor=None) | Q(pk=key)).values("pk", "age")),
            lambda: listed(m.Book.objects.filter(author=F("editor"), editor=key)),
            lambda: listed(m.Author.objects.filter(books__chapters__number=0, books__author=key).distinct()),
            lambda: listed(m.Author.objects.filter(books__likes=0).filter(books__genres__name="g1")),
        ]
    )


def combined(chance: random.Random) -> Callable[[], Any]:
    one, two = key_of(m.Author, chance), key_of(m.Author, chance)
    first, second = m.Book.objects.filter(author=one), m.Book.objects.filter(editor=two)
    method = chance.choice(["union", "union", "intersection", "difference"])
    return chance.choice(
        [
            lambda: listed(getattr(first.all(), method)(second.all())),
            lambda: plain(list(first.values_list("pk").union(second.values_list("pk")).order_by("pk")[:2])),
            lambda: listed(
                m.Author.objects.filter(pk=one)
                .values_list("name")
                .union(second.values_list("title"), all=True)
            ),
        ]
    )


def scanned(chance: random.Random) -> Callable[[], Any]:
    options: list[Callable[[], Any]] = [
        lambda: listed(m.Author.objects.all()),
        lambda: listed(m.Author.objects.values("name")),
        lambda: listed(m.Book.objects.values_list("likes", flat=True)),
        m.Book.objects.count,
        lambda: listed(m.Author.objects.annotate(place=Lower("slug")).filter(place="s1")),
        lambda: listed(m.Author.objects.values("age").annotate(total=Count("pk"))),
        lambda: listed(m.Author.objects.in_bulk([1, 2, 3]).values()),
        lambda: listed(m.Author.objects.in_bulk(["s1", "s2"], field_name="slug").values()),
    ]
    if m.GENERATED:
        options.append(lambda: listed(m.Box.objects.values("area")))
    return chance.choice(options)
