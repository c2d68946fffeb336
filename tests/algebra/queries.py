"""Random queries: each is a label, and a function that asks it anew each time."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models import (
    Count,
    Exists,
    F,
    FilteredRelation,
    Max,
    OuterRef,
    Prefetch,
    Q,
    Subquery,
    Sum,
    Window,
)  # fmt: skip
from django.db.models.functions import Lower, Rank

from tests.algebra import models as m
from tests.algebra.data import CODES, GENRES, WORDS, key_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


class Query(NamedTuple):
    """One query.

    :param shape: what kind it is.
    :param ask: runs it and returns what it gives, fit to be compared.
    """

    shape: str
    ask: Callable[[], Any]


def plain(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return a result as values that can be compared: objects with all that was fetched with them.

    :param inside: the objects around it.
    """
    if hasattr(value, "_meta"):
        return _object(value, (*inside, id(value))) if id(value) not in inside else value.pk
    if isinstance(value, dict):
        return {key: plain(one, inside) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, inside) for one in value]
    return value


def _object(value: Any, inside: tuple[int, ...]) -> Any:
    columns = value._meta.concrete_fields
    fields = {column.attname: value.__dict__.get(column.attname, "deferred") for column in columns}
    related = {name: plain(one, inside) for name, one in value._state.fields_cache.items()}
    prefetched = getattr(value, "_prefetched_objects_cache", {})
    fetched = {name: listed(many, inside) for name, many in prefetched.items()}
    extra = {
        name: value.__dict__[name] for name in ("total", "place", "some", "latest") if name in value.__dict__
    }
    return type(value).__name__, fields, related, fetched, extra


def listed(rows: Any, inside: tuple[int, ...] = ()) -> list[Any]:
    """Return rows in an order that does not depend on the database."""
    return sorted((plain(row, inside) for row in rows), key=repr)


def _got(manager: Any, **conditions: Any) -> Any:
    try:
        return plain(manager.get(**conditions))
    except manager.model.DoesNotExist:
        return None
    except manager.model.MultipleObjectsReturned:
        return "several"


# Conditions.


def _value(chance: random.Random, *options: Any) -> Any:
    return chance.choice(options)


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


# Shapes.


def _by_key(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Author, chance)
    return lambda: _got(m.Author.objects, pk=key)


def _by_unique(chance: random.Random) -> Callable[[], Any]:
    slug, isbn = f"s{key_of(m.Author, chance)}", chance.randrange(7)
    return chance.choice([lambda: _got(m.Author.objects, slug=slug), lambda: _got(m.Book.objects, isbn=isbn)])


def _by_tuple(chance: random.Random) -> Callable[[], Any]:
    book, number, author = key_of(m.Book, chance), chance.randrange(3), key_of(m.Author, chance)
    options: list[Callable[[], Any]] = [
        lambda: _got(m.Chapter.objects, book=book, number=number),
        lambda: _got(m.Book.objects, author=author, number=number),
        lambda: listed(m.Chapter.objects.filter(number=number, book__in=[book, 99])),
    ]
    if m.COMPOSITE:
        options += [
            lambda: _got(m.Seat.objects, pk=(number % 2, number)),
            lambda: listed(m.Seat.objects.filter(pk__in=[(0, 0), (1, number)])),
            lambda: listed(m.Seat.objects.filter(guest=author)),
        ]
    return chance.choice(options)


def _fk_list(chance: random.Random) -> Callable[[], Any]:
    key, book = key_of(m.Author, chance), key_of(m.Book, chance)
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(author=key)),
            lambda: listed(m.Book.objects.filter(editor=key)),
            lambda: listed(m.Chapter.objects.filter(book=book)),
            lambda: listed(m.Loan.objects.filter(reader=key)),
            lambda: listed(m.Use.objects.filter(slug=f"s{key}")),
        ]
    )


def _fk_count(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Author, chance)
    return chance.choice(
        [
            lambda: m.Book.objects.filter(author=key).count(),
            lambda: m.Loan.objects.filter(reader=key).exists(),
            lambda: m.Author.objects.filter(mentor=key).count(),
        ]
    )


def _related(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Author, chance)
    names = chance.choice(
        [("author",), ("editor",), ("author", "editor__country"), ("author__mentor__country",)]
    )
    condition = chance.choice([Q(author=key), Q(pk=key), Q(editor=key), Q(author=key, likes=0)])
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(condition).select_related(*names)),
            lambda: plain(list(m.Book.objects.filter(condition).select_related(*names).order_by("pk")[:2])),
            lambda: plain(
                list(
                    m.Book.objects.filter(condition).select_related(*names).order_by("author__name", "pk")[:2]
                )
            ),
            lambda: listed(m.Chapter.objects.filter(book=key).select_related("book__author")),
            lambda: listed(
                m.Chapter.objects.filter(book=key).select_related("book").only("title", "book__title")
            ),
            lambda: listed(m.Loan.objects.filter(reader=key).select_related("book", "book__editor")),
        ]
    )


def _many(chance: random.Random) -> Callable[[], Any]:
    book, author, genre = key_of(m.Book, chance), key_of(m.Author, chance), chance.choice(GENRES)
    return chance.choice(
        [
            lambda: listed(m.Book(pk=book).genres.all()),
            lambda: listed(m.Book(pk=book).genres.filter(open=True)),
            lambda: listed(m.Genre(pk=genre).books.all()),
            lambda: listed(m.Book(pk=book).readers.all()),
            lambda: listed(m.Author(pk=author).read.order_by("title")),
            m.Book(pk=book).genres.count,
        ]
    )


def _prefetched(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Author, chance)
    open_only = Prefetch("genres", queryset=m.Genre.objects.filter(open=True))
    return chance.choice(
        [
            lambda: listed(m.Book.objects.filter(author=key).prefetch_related("genres")),
            lambda: listed(m.Book.objects.filter(author=key).prefetch_related(open_only, "chapters")),
            lambda: listed(m.Author.objects.prefetch_related("books__genres")),
            lambda: listed(m.Note.objects.prefetch_related("subject")),
            lambda: listed(m.Book.objects.filter(author=key).prefetch_related("notes")),
        ]
    )


def _generic(chance: random.Random) -> Callable[[], Any]:
    key = key_of(m.Book, chance)
    return lambda: listed(m.Book(pk=key).notes.all())


def _inherited(chance: random.Random) -> Callable[[], Any]:
    key, author = key_of(m.Book, chance), key_of(m.Author, chance)
    return chance.choice(
        [
            lambda: _got(m.Special.objects, pk=key),
            lambda: listed(m.Special.objects.filter(author=author)),
            lambda: listed(m.Special.objects.filter(patron=author).select_related("author")),
            lambda: _got(m.SameBook.objects, pk=key),
            lambda: listed(m.Special.objects.filter(Q(rank=1) | Q(author=author))),
        ]
    )


def _text(chance: random.Random) -> Callable[[], Any]:
    word, code = chance.choice(WORDS), chance.choice(CODES)
    genre = chance.choice(GENRES)
    spelled = chance.choice([genre, str(genre), str(genre).upper(), f"{{{genre}}}", genre.hex])
    return chance.choice(
        [
            lambda: listed(m.Word.objects.filter(text=word)),
            lambda: listed(m.Word.objects.filter(text__in=[word, "none"])),
            lambda: listed(m.Country.objects.filter(pk=code)),
            lambda: listed(m.Author.objects.filter(country=code)),
            lambda: _got(m.Genre.objects, pk=spelled),
            lambda: listed(m.Word.objects.filter(text__iexact=word)),
        ]
    )


def _conditions(chance: random.Random) -> Callable[[], Any]:
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
            lambda: listed(m.Book.objects.filter(condition).values_list("author", flat=True).distinct()),
        ]
    )


def _aggregated(chance: random.Random) -> Callable[[], Any]:
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
                m.Book.objects.filter(author=key).annotate(place=Window(Rank(), order_by="likes"))
            ),
        ]
    )


def _nested(chance: random.Random) -> Callable[[], Any]:
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
        ]
    )


def _joined(chance: random.Random) -> Callable[[], Any]:
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
        ]
    )


def _combined(chance: random.Random) -> Callable[[], Any]:
    one, two = key_of(m.Author, chance), key_of(m.Author, chance)
    first, second = m.Book.objects.filter(author=one), m.Book.objects.filter(editor=two)
    method = chance.choice(["union", "union", "intersection", "difference"])
    return lambda: listed(getattr(first.all(), method)(second.all()))


def _scanned(chance: random.Random) -> Callable[[], Any]:
    options: list[Callable[[], Any]] = [
        lambda: listed(m.Author.objects.all()),
        lambda: listed(m.Author.objects.values("name")),
        lambda: listed(m.Book.objects.values_list("likes", flat=True)),
        m.Book.objects.count,
        lambda: listed(m.Author.objects.annotate(place=Lower("slug")).filter(place="s1")),
        lambda: listed(m.Author.objects.values("age").annotate(total=Count("pk"))),
        lambda: m.Author.objects.in_bulk([1, 2, 3]) and listed(m.Author.objects.in_bulk([1, 2, 3]).values()),
    ]
    if m.GENERATED:
        options.append(lambda: listed(m.Box.objects.values("area")))
    return chance.choice(options)


SHAPES: dict[str, Callable[[random.Random], Callable[[], Any]]] = {
    "get by key": _by_key,
    "get by unique": _by_unique,
    "by tuple": _by_tuple,
    "foreign key list": _fk_list,
    "foreign key count": _fk_count,
    "select_related": _related,
    "many to many": _many,
    "prefetch": _prefetched,
    "generic": _generic,
    "inherited": _inherited,
    "text": _text,
    "conditions": _conditions,
    "aggregate": _aggregated,
    "subquery": _nested,
    "join": _joined,
    "union": _combined,
    "scan": _scanned,
}
USUAL = [
    "get by key",
    "get by unique",
    "foreign key list",
    "select_related",
    "many to many",
    "foreign key count",
]
"""What sites ask most of the time counts as often as the rest together."""


def draw_text(chance: random.Random) -> Query:
    """Return a random query by text."""
    return Query("text", _text(chance))


def draw_conditions(chance: random.Random) -> Query:
    """Return a random query by conditions on several tables."""
    return Query("conditions", _conditions(chance))


def draw(chance: random.Random) -> Query:
    """Return a random query."""
    shape = chance.choice(USUAL if chance.random() < 0.5 else list(SHAPES))
    return Query(shape, SHAPES[shape](chance))
