"""Random writes of every form; each is run as a whole, and committed unless the database refuses it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.db import connection, transaction
from django.db.models import Case, F, Q, Subquery, Value, When

from tests.algebra import models as m
from tests.algebra.conditions import book_condition
from tests.algebra.data import CODES, GENRES, WORDS, key_of

if TYPE_CHECKING:
    import random

Write = Callable[[], Any]


class UndoneError(Exception):
    """Rolls a savepoint back."""


def _saved(chance: random.Random) -> Any:
    book = m.Book.objects.filter(pk=key_of(m.Book, chance)).first()
    if book is None:
        return
    if chance.random() < 0.3:
        # What the object says of its row is out of date by now.
        m.Book.objects.filter(pk=book.pk).update(author=key_of(m.Author, chance), editor=None)
    name, value = chance.choice(
        [
            ("title", f"t{chance.randrange(3)}"),
            ("likes", chance.randrange(3)),
            ("author_id", key_of(m.Author, chance)),
            ("editor_id", chance.choice([None, key_of(m.Author, chance)])),
            ("isbn", chance.choice([None, chance.randrange(7)])),
            ("price", chance.choice([None, Decimal(chance.randrange(5))])),
            ("likes", F("likes") + 1),
        ]
    )
    setattr(book, name, value)
    book.save(update_fields=[name.removesuffix("_id")] if chance.random() < 0.5 else None)


def _saved_author(chance: random.Random) -> Any:
    author = m.Author.objects.filter(pk=key_of(m.Author, chance)).first()
    if author is None:
        return
    author.name, author.age = f"n{chance.randrange(3)}", chance.randrange(3)
    if chance.random() < 0.4:
        author.slug = f"s{chance.randrange(9)}"
    if chance.random() < 0.4:
        author.country_id = chance.choice([None, "de", "fr"])
    author.save()


def _created(chance: random.Random) -> Any:
    author, book = key_of(m.Author, chance), key_of(m.Book, chance)
    chance.choice(
        [
            lambda: m.Book.objects.create(
                title="t1", author_id=author, number=chance.randrange(12), isbn=chance.randrange(12)
            ),
            lambda: m.Author.objects.create(name="n1", slug=f"s{chance.randrange(15)}", mentor_id=author),
            lambda: m.Author(pk=99, name="n1", slug="s99").save(force_insert=True),
            lambda: m.Special.objects.create(
                title="t2", author_id=author, number=chance.randrange(9), patron_id=author
            ),
            lambda: m.Chapter.objects.create(book_id=book, number=chance.randrange(3)),
            lambda: m.Loan.objects.create(book_id=book, reader_id=author),
            lambda: m.Genre.objects.create(id=chance.choice(GENRES), name="g1"),
            lambda: m.Note.objects.create(subject=m.Book(pk=book), text="x"),
            lambda: m.Use.objects.create(slug_id=f"s{author}"),
            lambda: m.Special(book_ptr_id=book).save_base(raw=True),
        ]
    )()


def _bulk(chance: random.Random) -> Any:
    author, book = key_of(m.Author, chance), key_of(m.Book, chance)
    chapters = [m.Chapter(book_id=book, number=number, title="c") for number in range(3)]
    if chance.random() < 0.3:
        m.Chapter.objects.bulk_create(chapters, ignore_conflicts=True)
    elif chance.random() < 0.2:
        _upserted(m.Chapter, chapters, ["title"], ["book", "number"])
    elif chance.random() < 0.15:
        books = [m.Book(pk=book, title="t2", author_id=author, number=chance.randrange(12))]
        _upserted(m.Book, books, chance.choice([["title"], ["author"], ["author", "number"]]), ["id"])
    elif chance.random() < 0.4:
        m.Book.objects.bulk_create([m.Book(title="t0", author_id=author, number=number) for number in (7, 8)])
    else:
        books = list(m.Book.objects.filter(author=author))
        for one in books:
            one.likes, one.editor_id = chance.randrange(3), author
        m.Book.objects.bulk_update(books, ["likes", "editor"])


def _upserted(model: Any, rows: Any, updated: list[str], target: list[str]) -> None:
    """Insert rows, or update those that are there; MySQL does not let one say which conflicts are meant."""
    fields = None if connection.vendor == "mysql" else target
    model.objects.bulk_create(rows, update_conflicts=True, update_fields=updated, unique_fields=fields)


def _handed_over(book: int, author: int) -> None:
    """Give a book to another author in a statement that says whose it was."""
    owner = m.Book.objects.filter(pk=book).values_list("author", flat=True).first()
    m.Book.objects.filter(pk=book, author=owner).update(author=author)


def _updated(chance: random.Random) -> Any:
    condition, key, book = book_condition(chance, 1), key_of(m.Author, chance), key_of(m.Book, chance)
    books, genre = m.Book.objects, chance.choice(GENRES)
    chance.choice(
        [
            lambda: books.filter(pk=book).update(likes=F("likes") + 1),
            lambda: books.filter(pk=book).update(author=key),
            lambda: _handed_over(book, key),
            lambda: books.filter(pk=book).update(isbn=F("isbn") + 1),
            lambda: books.filter(pk=book).update(number=F("number") + 10),
            lambda: books.filter(author=key).update(likes=chance.randrange(3)),
            lambda: books.filter(author=key).update(editor=None),
            lambda: books.filter(author=key).update(author=key_of(m.Author, chance)),
            lambda: books.filter(editor__isnull=True).update(editor=key),
            lambda: books.filter(condition).update(title="t2"),
            lambda: books.filter(condition).update(editor=key),
            lambda: books.filter(isbn=book).update(title="t1", likes=2),
            lambda: books.filter(pk=book).update(genre=chance.choice([None, *GENRES])),
            lambda: books.filter(genre=str(genre).upper()).update(genre=chance.choice(GENRES)),
            lambda: books.filter(pk=str(book)).update(price=chance.choice([None, Decimal("1.50"), 7])),
            lambda: books.filter(pk__in=[book, key]).update(
                likes=Case(When(pk=book, then=1), default=Value(2))
            ),
            lambda: books.filter(pk__in=[book, key]).update(
                editor_id=Case(When(pk=book, then=key), default=None)
            ),
            lambda: m.Special.objects.filter(pk=book).update(rank=1, title="t0"),
            lambda: m.Special.objects.filter(author=key).update(patron=key),
            lambda: m.Author.objects.filter(slug=f"s{key}").update(slug=f"s{chance.randrange(12)}"),
            lambda: m.Author.objects.filter(pk=key).update(mentor=key_of(m.Author, chance)),
            lambda: m.Author.objects.filter(country__name="DE").update(country="fr"),
            lambda: m.Author.objects.update(age=chance.randrange(3)),
            lambda: m.Chapter.objects.filter(book=book, number=1).update(number=chance.randrange(4)),
            lambda: m.Chapter.objects.filter(Q(book=book) | Q(number=0)).update(title="u"),
            lambda: m.Genre.objects.filter(pk=chance.choice(GENRES)).update(open=chance.random() < 0.5),
            lambda: m.Loan.objects.filter(reader=key).update(book=book),
            lambda: m.Loan.objects.filter(book=book).update(id=F("id") + 100),
            lambda: m.Use.objects.filter(place=0).update(id=F("id") + 50, place=1),
            lambda: m.Country.objects.filter(pk=chance.choice(CODES)).update(code=chance.choice(CODES)),
            lambda: m.SameBook.objects.filter(author=key).update(likes=1),
            lambda: books.filter(pk=book).update(
                editor=Subquery(m.Author.objects.filter(pk=key).values("mentor")[:1])
            ),
            lambda: m.Use.objects.filter(slug=f"s{key}").update(place=F("place") + 1),
            lambda: (
                m.Loan.objects.filter(pk=m.Loan.objects.filter(book=book).values("pk")[:1]).update(days=5)
                if connection.vendor != "mysql"
                else None
            ),
            *(
                [
                    lambda: m.Seat.objects.filter(pk=(0, 0)).update(guest=key),
                    lambda: m.Seat.objects.filter(row=1).update(guest=None),
                    lambda: m.Seat.objects.filter(pk=(1, 1)).update(row=chance.randrange(3)),
                ]
                if m.COMPOSITE
                else []
            ),
            *(
                [lambda: m.Box.objects.filter(owner=key).update(width=chance.randrange(4))]
                if m.GENERATED
                else []
            ),
        ]
    )()


def _text(chance: random.Random) -> Any:
    """Write what is found by text, under any of its spellings."""
    word, other, number = chance.choice(WORDS), chance.choice(WORDS), chance.randrange(9)
    words, mentions = m.Word.objects.filter(text=word), m.Mention.objects.filter(word=word)
    chance.choice(
        [
            lambda: words.update(weight=F("weight") + 1),
            lambda: words.update(weight=number),
            lambda: words.update(text=word.swapcase()),
            words.delete,
            lambda: m.Word.objects.create(text=word),
            lambda: mentions.update(page=F("page") + 1),
            lambda: mentions.update(word=other),
            mentions.delete,
            lambda: m.Mention.objects.create(word_id=word, page=number),
            lambda: m.Country.objects.create(code=chance.choice(CODES), name="x"),
            lambda: m.Country.objects.filter(code=chance.choice(CODES)).update(name=f"c{number}"),
        ]
    )()


def _deleted(chance: random.Random) -> Any:
    book, author = key_of(m.Book, chance), key_of(m.Author, chance)
    chance.choice(
        [
            lambda: m.Book.objects.filter(pk=book).delete(),
            lambda: m.Chapter.objects.filter(book=book).delete(),
            lambda: m.Chapter.objects.filter(book=book, number=0).delete(),
            lambda: m.Loan.objects.filter(reader=author).delete(),
            lambda: m.Loan.objects.filter(book__author=author).delete(),
            lambda: m.Note.objects.filter(object_id=book).delete(),
            lambda: m.Genre.objects.filter(pk=chance.choice(GENRES)).delete(),
            lambda: m.Country.objects.filter(pk=chance.choice(CODES)).delete(),
            lambda: m.Use.objects.filter(slug=f"s{author}").delete(),
            lambda: m.Author.objects.filter(pk=author).delete(),
            lambda: m.Special.objects.filter(pk=book).delete(),
            lambda: [one.delete(keep_parents=True) for one in m.Special.objects.filter(author=author)],
            lambda: m.Chapter.objects.filter(number=2)._raw_delete("default"),
        ]
    )()


def _related(chance: random.Random) -> Any:
    book = m.Book.objects.filter(pk=key_of(m.Book, chance)).first()
    author = m.Author.objects.filter(pk=key_of(m.Author, chance)).first()
    if book is None or author is None:
        return
    genres = list(m.Genre.objects.order_by("pk"))
    some = chance.sample(genres, min(len(genres), chance.randrange(3)))
    chance.choice(
        [
            lambda: book.genres.add(*some),
            lambda: book.genres.remove(*some),
            lambda: book.genres.set(some),
            book.genres.clear,
            lambda: book.notes.create(text="x"),
            lambda: book.chapters.all().delete(),
            lambda: book.readers.add(author),
            lambda: book.readers.set([author]),
            lambda: genres[0].books.add(book) if genres else None,
            lambda: author.books.add(book),
            lambda: author.edited.set([book]),
            author.edited.clear,
            author.pupils.clear,
        ]
    )()


def _or_created(chance: random.Random) -> Any:
    book = key_of(m.Book, chance)
    if chance.random() < 0.5:
        m.Chapter.objects.get_or_create(book_id=book, number=chance.randrange(4))
    else:
        m.Chapter.objects.update_or_create(
            book_id=book, number=1, defaults={"title": f"u{chance.randrange(3)}"}
        )


def _raw(chance: random.Random) -> Any:
    key = key_of(m.Author, chance)
    text = chance.choice(
        [
            "UPDATE algebra_book SET likes = likes + 1 WHERE author_id = %s",
            "UPDATE algebra_author SET age = 7 WHERE id = %s",
            "DELETE FROM algebra_loan WHERE reader_id = %s",
        ]
    )
    with connection.cursor() as cursor:
        if chance.random() < 0.3:
            cursor.executemany(text, [(key,), (key_of(m.Author, chance),)])
        else:
            cursor.execute(text, [key])


FORMS = [
    _saved, _saved, _saved_author, _created, _bulk, _updated, _updated, _updated, _deleted, _related,
    _or_created, _text, _raw,
]  # fmt: skip


def run(chance: random.Random) -> None:
    """Run a random write, or several of them in a transaction.

    :raises django.db.Error: the database refuses it.
    """
    if chance.random() < 0.6:
        chance.choice(FORMS)(chance)
        return
    with transaction.atomic():
        for _ in range(chance.randrange(1, 4)):
            undone = chance.random() < 0.3
            with suppress(UndoneError), transaction.atomic():
                chance.choice(FORMS)(chance)
                if undone:
                    raise UndoneError
