"""The reads of the atlas: every shape a project uses, from counts to windows."""

from __future__ import annotations

from django.db.models import Count, Exists, F, OuterRef, Prefetch, Q, QuerySet, Subquery, Window
from django.db.models.functions import Coalesce, Rank, Substr, Upper

from atlas.models import Country, Currency, Language, Note, Script, Subdivision


def counts() -> dict[str, int]:
    """Return how many rows each kind of thing has, by the name of its page."""
    models = {"countries": Country, "subdivisions": Subdivision, "languages": Language}
    models |= {"currencies": Currency, "scripts": Script, "notes": Note}
    return {name: model.objects.count() for name, model in models.items()}


def by_subdivisions() -> QuerySet[Country]:
    """Return the countries, those with the most subdivisions first, as ``number_of``."""
    return Country.objects.annotate(number_of=Count("subdivisions")).order_by("-number_of", "name")


def latest_notes() -> QuerySet[Note]:
    """Return the notes with their country and writer, the newest first."""
    return Note.objects.select_related("country", "user")


def country_list(text: str, show: str, order: str) -> QuerySet[Country]:
    """Return the countries that match, with their currencies and the number of their subdivisions.

    :param text: part of a name or a whole code; may be empty.
    :param show: ``"featured"``, ``"noted"``, ``"undivided"``, ``"shared"`` or empty for all.
    :param order: ``"subdivisions"`` for the most divided first, anything else for by name.
    """
    parts = Subdivision.objects.filter(country=OuterRef("pk"))
    found = Country.objects.prefetch_related("currencies").annotate(
        number_of=Coalesce(
            Subquery(parts.order_by().values("country").annotate(n=Count("pk")).values("n")), 0
        ),
    )
    if text:
        same_code = Q(code__iexact=text) | Q(code3__iexact=text)
        found = found.filter(Q(name__icontains=text) | Q(official_name__icontains=text) | same_code)
    if show == "featured":
        found = found.filter(featured=True)
    elif show == "noted":
        found = found.filter(Exists(Note.objects.filter(country=OuterRef("pk"))))
    elif show == "undivided":
        found = found.filter(~Exists(parts))
    elif show == "shared":
        found = found.filter(currencies__in=shared_currencies().values("pk")).distinct()
    return found.order_by("-number_of", "name") if order == "subdivisions" else found.order_by("name")


def country_page() -> QuerySet[Country]:
    """Return the countries with all that the page of one of them shows."""
    return Country.objects.prefetch_related(
        Prefetch("currencies", Currency.objects.annotate(users=Count("countries")).order_by("code")),
        Prefetch("subdivisions", Subdivision.objects.order_by("kind", "name", "code")),
        Prefetch("notes", Note.objects.select_related("user")),
    )


def language_list(text: str, scope: str, kind: str) -> QuerySet[Language]:
    """Return the languages that match.

    :param text: part of a name or a whole code; may be empty.
    :param scope: a value of ``Language.Scope``; may be empty.
    :param kind: a value of ``Language.Kind``; may be empty.
    """
    found = Language.objects.all()
    if text:
        found = found.filter(
            Q(name__icontains=text) | Q(inverted_name__icontains=text) | Q(code=text) | Q(code2=text)
        )
    if scope:
        found = found.filter(scope=scope)
    return found.filter(kind=kind) if kind else found


def shared_currencies() -> QuerySet[Currency]:
    """Return the currencies that more than one country uses, the most used first."""
    return Currency.objects.annotate(users=Count("countries")).filter(users__gt=1).order_by("-users", "code")


def currency_list() -> QuerySet[Currency]:
    """Return the currencies with their countries."""
    return Currency.objects.prefetch_related(Prefetch("countries", Country.objects.only("code", "name")))


def ranking() -> QuerySet[Country]:
    """Return the countries with their ``place`` by number of subdivisions; equals share a place."""
    place = Window(Rank(), order_by=F("number_of").desc())
    return (
        Country.objects.annotate(number_of=Count("subdivisions"))
        .annotate(place=place)
        .order_by("place", "name")
    )


def common_kinds() -> QuerySet[Subdivision, dict[str, object]]:
    """Return the kinds of subdivisions with their number and in how many countries they are found."""
    found = Subdivision.objects.order_by().values("kind")
    return found.annotate(number_of=Count("pk"), places=Count("country", distinct=True)).order_by(
        "-number_of", "kind"
    )


def languages_by(field: str) -> QuerySet[Language, dict[str, object]]:
    """Return the number of languages for each value of ``field``, the most frequent first."""
    return (
        Language.objects.order_by()
        .values(field)
        .annotate(number_of=Count("pk"))
        .order_by("-number_of", field)
    )


def languages_by_letter() -> QuerySet[Language, dict[str, object]]:
    """Return the number of languages for each first letter from A to Z."""
    found = Language.objects.order_by().annotate(letter=Upper(Substr("name", 1, 1)))
    found = found.filter(letter__gte="A", letter__lte="Z").values("letter")
    return found.annotate(number_of=Count("pk")).order_by("letter")


def mixed_countries() -> QuerySet[Country]:
    """Return the countries by how many ``kinds`` of subdivisions they have, with the most frequent kind."""
    parts = Subdivision.objects.filter(country=OuterRef("pk")).order_by().values("kind")
    first = parts.annotate(number_of=Count("pk")).order_by("-number_of", "kind").values("kind")[:1]
    found = Country.objects.annotate(kinds=Count("subdivisions__kind", distinct=True), mostly=Subquery(first))
    return found.filter(kinds__gt=1).order_by("-kinds", "name")


def countries_without_currency() -> QuerySet[Country]:
    """Return the countries to which no currency belongs."""
    return Country.objects.filter(~Exists(Country.currencies.through.objects.filter(country=OuterRef("pk"))))
