"""What sites ask most: reads by a key of any kind, and what belongs to the rows found."""

# ruff: noqa: D103 - a shape is what its name says

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import (
    Prefetch,
    Q,
)  # fmt: skip

from tests.algebra import models as m
from tests.algebra.data import CODES, GENRES, WORDS, key_of
from tests.algebra.results import got, listed, plain

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


def by_key(chance: random.Random) -> Callable[[], Any]:
    key, spelled = key_of(m.Author, chance), str(key_of(m.Author, chance))
    return chance.choice(
        [
            lambda: got(m.Author.objects, pk=key),
            lambda: got(m.Author.objects, pk=spelled),
            lambda: got(m.Author.objects.defer("name"), pk=key),
        ]
    )


def by_unique(chance: random.Random) -> Callable[[], Any]:
    slug, isbn = f"s{key_of(m.Author, chance)}", chance.randrange(7)
    return chance.choice([lambda: got(m.Author.objects, slug=slug), lambda: got(m.Book.objects, isbn=isbn)])


def by_tuple(chance: random.Random) -> Callable[[], Any]:
    book, number, author = key_of(m.Book, chance), chance.randrange(3), key_of(m.Author, chance)
    options: list[Callable[[], Any]] = [
        lambda: got(m.Chapter.objects, book=book, number=number),
        lambda: got(m.Book.objects, author=author, number=number),
        lambda: listed(m.Chapter.objects.filter(number=number, book__in=[book, 99])),
    ]
    if m.COMPOSITE:
        options += [
            lambda: got(m.Seat.objects, pk=(number % 2, number)),
            lambda: listed(m.Seat.objects.filter(pk__in=[(0, 0), (1, number)])),
            lambda: listed(m.Seat.objects.filter(guest=author)),
        ]
    return chance.choice(options)


def fk_list(chance: random.Random) -> Callable[[], Any]:
    key, book, genre = key_of(m.Author, chance), key_of(m.Book, chance), chance.choice(GENRES)
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(author=key)),
            lambda: listed(m.Book.objects.filter(editor=key)),
            lambda: listed(m.Chapter.objects.filter(book=book)),
            lambda: listed(m.Loan.objects.filter(reader=key)),
            lambda: listed(m.Use.objects.filter(slug=f"s{key}")),
            lambda: listed(m.Book.objects.filter(genre=genre)),
            lambda: listed(m.Book.objects.filter(genre=str(genre).upper())),
            lambda: listed(m.Author(pk=key).books.all()),
            lambda: listed(m.Author.objects.filter(mentor=key)),
            lambda: listed(m.Book.objects.filter(editor=None)),
            lambda: listed(m.Author.objects.filter(country__isnull=True)),
        ]
    )


def fk_count(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Author, chance)
    return chance.choice(
        [
            lambda: m.Book.objects.filter(author=key).count(),
            lambda: m.Loan.objects.filter(reader=key).exists(),
            lambda: m.Author.objects.filter(mentor=key).count(),
        ]
    )


def related(chance: random.Random) -> Callable[[], Any]:
    key, book = key_of(m.Author, chance), key_of(m.Book, chance)
    names = chance.choice(
        [("author",), ("editor",), ("genre",), ("author", "editor__country"), ("author__mentor__country",)]
    )
    condition = chance.choice([Q(author=key), Q(pk=book), Q(editor=key), Q(author=key, likes=0)])
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(condition).select_related(*names)),
            lambda: plain(list(m.Book.objects.filter(condition).select_related(*names).order_by("pk")[:2])),
            lambda: plain(
                list(
                    m.Book.objects.filter(condition).select_related(*names).order_by("author__name", "pk")[:2]
                )
            ),
            lambda: listed(m.Chapter.objects.filter(book=book).select_related("book__author")),
            lambda: listed(
                m.Chapter.objects.filter(book=book).select_related("book").only("title", "book__title")
            ),
            lambda: listed(m.Loan.objects.filter(reader=key).select_related("book", "book__editor")),
            lambda: listed(m.Use.objects.filter(slug=f"s{key}").select_related("slug__country")),
            lambda: listed(m.Book.objects.filter(pk=book).select_related("special")),
        ]
    )


def many(chance: random.Random) -> Callable[[], Any]:
    book, author, genre = key_of(m.Book, chance), key_of(m.Author, chance), chance.choice(GENRES)
    return chance.choice(
        [
            lambda: listed(m.Book(pk=book).genres.all()),
            lambda: listed(m.Book(pk=book).genres.filter(open=True)),
            lambda: listed(m.Genre(pk=genre).books.all()),
            lambda: listed(m.Book(pk=book).readers.all()),
            lambda: listed(m.Author(pk=author).read.order_by("title")),
            lambda: listed(m.Book.objects.filter(genres=genre, author=author)),
            m.Book(pk=book).genres.count,
        ]
    )


def prefetched(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Author, chance)
    open_only = Prefetch("genres", queryset=m.Genre.objects.filter(open=True))
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(author=key).prefetch_related("genres")),
            lambda: listed(m.Book.objects.filter(author=key).prefetch_related(open_only, "chapters")),
            lambda: listed(m.Author.objects.prefetch_related("books__genres")),
            lambda: listed(m.Note.objects.prefetch_related("subject")),
            lambda: listed(m.Author.objects.filter(pk=key).prefetch_related("books__editor", "edited")),
            lambda: listed(m.Book.objects.filter(author=key).prefetch_related("notes")),
        ]
    )


def generic(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Book, chance)
    return lambda: listed(m.Book(pk=key).notes.all())


def inherited(chance: random.Random) -> Callable[[], Any]:
    key, author = key_of(m.Book, chance), key_of(m.Author, chance)
    return chance.choice(
        [
            lambda: got(m.Special.objects, pk=key),
            lambda: listed(m.Special.objects.filter(author=author)),
            lambda: listed(m.Special.objects.filter(patron=author).select_related("author")),
            lambda: got(m.SameBook.objects, pk=key),
            lambda: listed(m.Special.objects.filter(Q(rank=1) | Q(author=author))),
            lambda: listed(m.Special.objects.filter(pk=key).select_related("patron", "editor")),
            lambda: listed(m.SameBook.objects.filter(author=author)),
        ]
    )


def text(chance: random.Random) -> Callable[[], Any]:
    word, code = chance.choice(WORDS), chance.choice(CODES)
    genre = chance.choice(GENRES)
    spelled = chance.choice([genre, str(genre), str(genre).upper(), f"{{{genre}}}", genre.hex])
    return chance.choice(
        [
            lambda: listed(m.Word.objects.filter(text=word)),
            lambda: listed(m.Word.objects.filter(text__in=[word, "none"])),
            lambda: listed(m.Country.objects.filter(pk=code)),
            lambda: listed(m.Author.objects.filter(country=code)),
            lambda: got(m.Genre.objects, pk=spelled),
            lambda: listed(m.Word.objects.filter(text__iexact=word)),
            lambda: listed(m.Mention.objects.filter(word=word)),
            lambda: listed(m.Mention.objects.filter(word__text=word).values("page", "word__weight")),
            lambda: listed(m.Mention.objects.filter(word=word).select_related("word")),
            lambda: listed(m.Word.objects.filter(text=word).values("weight", "mentions__page")),
            lambda: listed(m.Author.objects.filter(slug=5)),
            lambda: listed(m.Genre.objects.filter(pk__in=[spelled, genre])),
        ]
    )
