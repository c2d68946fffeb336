"""Fill an empty database with the atlas: all of it or, when anything fails, nothing."""

from __future__ import annotations

import datetime as dt

from django.contrib.auth import get_user_model
from django.db import transaction

from atlas import source
from atlas.models import Country, Currency, Language, Note, Script, Subdivision

ADMIN = "admin"  # name and password of the superuser
FEATURED = ("BR", "IN", "JP", "KE", "NO", "NZ")
NOTES = (
    ("ada", "GB", "The ferry from Ullapool is worth the early start."),
    ("marco", "IT", "Twenty regions, and every one of them says its bread is the best."),
    ("ada", "JP", "Forty-seven prefectures; I have seen nine."),
    ("marco", "CN", "Took the long way round again."),
    ("ada", "NO", "Svalbard has a currency but hardly a road."),
    ("marco", "FR", "The overseas departments are a journey round the world by themselves."),
    ("ada", "KE", "Lake Turkana at dawn, the wind already warm."),
)


@transaction.atomic
def fill() -> bool:
    """Load the ISO tables, two visitors and their notes, unless countries are there already.

    :returns: whether anything was loaded.
    """
    if Country.objects.exists():
        return False
    Currency.objects.bulk_create(source.currencies())
    Country.objects.bulk_create(source.countries())
    Subdivision.objects.bulk_create(source.subdivisions(), batch_size=1000)
    Language.objects.bulk_create(source.languages(), batch_size=1000)
    Script.objects.bulk_create(source.scripts())
    link = Country.currencies.through
    link.objects.bulk_create(
        link(country_id=country, currency_id=currency) for country, currency in source.currency_of_country()
    )
    Country.objects.filter(code__in=FEATURED).update(featured=True)
    fill_notes()
    return True


def fill_notes() -> None:
    """Create the two visitors and their notes, one hour apart so that their order is sure."""
    users = get_user_model().objects
    names = {name: users.create_user(name) for name in ("ada", "marco")}
    day = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
    for hours, (name, country, text) in enumerate(NOTES):
        note = Note.objects.create(country_id=country, user=names[name], text=text)
        Note.objects.filter(pk=note.pk).update(created=day + dt.timedelta(hours=hours))


def fill_admin() -> bool:
    """Create the superuser of the demonstration unless it exists.

    :returns: whether it was created.
    """
    users = get_user_model().objects
    if users.filter(username=ADMIN).exists():
        return False
    users.create_superuser(ADMIN, password=ADMIN)
    return True


def sizes() -> dict[str, int]:
    """Return the number of rows of each table of the atlas."""
    models = (Country, Subdivision, Currency, Language, Script, Note)
    return {str(model._meta.verbose_name_plural): model.objects.count() for model in models}
