"""The writes between the rounds: by forms, by the admin, by the ORM and past it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.models import Country, Currency, Note, Subdivision
from django.db import connection, transaction

if TYPE_CHECKING:
    from django.test import Client

Look = Callable[[], None]


@dataclass(frozen=True)
class Write:
    """Something that changes the database.

    :param title: what is done, for the table.
    :param do: does it; gets the browser of the superuser and a function that opens some pages meanwhile.
    :param lasting: whether a page looks different afterwards.
    """

    title: str
    do: Callable[[Client, Look], None]
    lasting: bool = True


def post(client: Client, path: str, data: dict[str, object]) -> None:
    """Send a form and open the page it leads to, which also shows the message about it."""
    answer = client.post(path, data, follow=True)
    if answer.status_code != 200 or not answer.redirect_chain:
        message = f"The form of {path} was refused with status {answer.status_code}."
        raise RuntimeError(message)


def edit_in_admin(client: Client, _look: Look) -> None:
    """Edit a country in the Django admin."""
    country = Country.objects.get(pk="IS")
    fields = ("code", "code3", "number", "name")
    data: dict[str, object] = {name: getattr(country, name) for name in fields}
    data |= {"official_name": "The Republic of Iceland", "featured": "on", "currencies": ["ISK"]}
    data |= {"notes-TOTAL_FORMS": 0, "notes-INITIAL_FORMS": 0}
    post(client, "/admin/atlas/country/IS/change/", data)


def add_note(client: Client, _look: Look) -> None:
    """Add a note by the form of the site."""
    post(client, "/countries/IS/notes/", {"text": "The ring road in nine days."})


def delete_note(client: Client, _look: Look) -> None:
    """Delete that note by the form of the site."""
    note = Note.objects.get(text="The ring road in nine days.")
    post(client, f"/notes/{note.pk}/delete/", {})


def bulk_update(_client: Client, _look: Look) -> None:
    """Change many rows by one statement."""
    Subdivision.objects.filter(country="IS", kind="Region").update(kind="Landsvæði")


def roll_back(_client: Client, look: Look) -> None:
    """Change much in a transaction, look at it from inside, and roll it back."""
    with transaction.atomic():
        Note.objects.all().delete()
        Country.objects.filter(pk="FO").delete()
        Country.objects.update(featured=True)
        look()
        transaction.set_rollback(True)


def savepoint(_client: Client, look: Look) -> None:
    """Commit a transaction of which the inner half was rolled back."""
    with transaction.atomic():
        Country.objects.filter(pk="NO").update(official_name="Kongeriket Norge")
        with transaction.atomic():
            Country.objects.filter(pk="NO").update(name="Noreg")
            look()
            transaction.set_rollback(True)
        look()


def raw_update(_client: Client, _look: Look) -> None:
    """Change a row by SQL that the ORM does not see."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE atlas_currency SET name = %s WHERE code = %s", ["Euro (EU)", "EUR"])


def relate(_client: Client, _look: Look) -> None:
    """Add a row to a many-to-many relation."""
    Country.objects.get(pk="IS").currencies.add(Currency.objects.get(pk="EUR"))


def cascade(_client: Client, _look: Look) -> None:
    """Delete a row and all that is inside it."""
    Subdivision.objects.get(pk="GB-NIR").delete()


WRITES = (
    Write("a country edited in the admin", edit_in_admin),
    Write("a note added by the form", add_note),
    Write("a bulk update", bulk_update),
    Write("a transaction rolled back", roll_back, lasting=False),
    Write("a savepoint rolled back, the rest kept", savepoint),
    Write("a raw UPDATE through a cursor", raw_update),
    Write("a many-to-many relation added", relate),
    Write("a subdivision deleted, with its parts", cascade),
    Write("the note deleted by the form", delete_note),
)
