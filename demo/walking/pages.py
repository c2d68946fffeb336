"""The pages of the walk, and the two visitors who open them."""

from __future__ import annotations

from dataclasses import dataclass

from atlas.fill import ADMIN
from django.test import Client


@dataclass(frozen=True)
class Page:
    """An address and who opens it.

    :param path: path and query of the address.
    :param editor: whether the superuser opens it, with a session; otherwise a visitor without one.
    """

    path: str
    editor: bool = False

    def __str__(self) -> str:
        """Return the path, behind a star where the superuser opens it."""
        return f"{'*' if self.editor else ' '} {self.path}"


VISITOR = (
    "/",
    "/countries/",
    "/countries/?page=3",
    "/countries/?q=land",
    "/countries/?show=noted",
    "/countries/?show=shared",
    "/countries/?order=subdivisions",
    "/countries/GB/",
    "/countries/FR/",
    "/countries/IS/",
    "/countries/NO/",
    "/languages/",
    "/languages/?page=100",
    "/languages/?q=sign",
    "/languages/?scope=M",
    "/currencies/",
    "/currencies/EUR/",
    "/currencies/USD/",
    "/scripts/",
    "/statistics/",
)
EDITOR = (
    "/",
    "/countries/IS/",
    "/admin/",
    "/admin/atlas/country/",
    "/admin/atlas/country/?q=island",
    "/admin/atlas/country/?featured__exact=1",
    "/admin/atlas/country/IS/change/",
    "/admin/atlas/country/IS/history/",
    "/admin/atlas/subdivision/",
    "/admin/atlas/subdivision/?kind=Region&q=is",
    "/admin/atlas/subdivision/GB-ABD/change/",
    "/admin/atlas/language/?kind__exact=C",
    "/admin/atlas/currency/",
    "/admin/atlas/note/",
    "/admin/auth/user/",
    "/admin/autocomplete/?app_label=atlas&model_name=subdivision&field_name=country&term=fra",
)
PAGES = (*map(Page, VISITOR), *(Page(path, editor=True) for path in EDITOR))


def visitor() -> Client:
    """Return a browser without a session."""
    return Client(SERVER_NAME="localhost")


def editor() -> Client:
    """Return the browser of the superuser, who logged in through the form of the admin."""
    client = visitor()
    answer = client.post("/admin/login/", {"username": ADMIN, "password": ADMIN, "next": "/admin/"})
    if answer.status_code != 302:
        message = "The superuser of the demonstration could not log in."
        raise RuntimeError(message)
    return client
