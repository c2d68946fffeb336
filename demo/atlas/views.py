"""The pages of the atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from atlas import queries
from atlas.forms import NoteForm
from atlas.models import Country, Currency, Language, Note, Script
from atlas.tree import tree

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

SHOWN = {
    "featured": "featured",
    "noted": "with notes",
    "undivided": "without subdivisions",
    "shared": "sharing a currency",
}


def one_page(request: HttpRequest, rows: QuerySet, size: int) -> dict[str, object]:
    """Return what the template of a paginated list needs.

    :param rows: all rows that match.
    :param size: rows on one page.
    """
    paginator = Paginator(rows, size)
    page = paginator.get_page(request.GET.get("page"))
    others = {name: value for name, value in request.GET.items() if name != "page" and value}
    return {
        "page": page,
        "numbers": list(paginator.get_elided_page_range(page.number, on_each_side=1, on_ends=1)),
        "rest": urlencode(others),
    }


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """Show what there is, the most divided countries and the latest notes."""
    context = {
        "counts": queries.counts(),
        "biggest": queries.by_subdivisions()[:10],
        "featured": Country.objects.filter(featured=True),
        "notes": queries.latest_notes()[:6],
    }
    return render(request, "atlas/home.html", context)


@require_GET
def countries(request: HttpRequest) -> HttpResponse:
    """Show the countries, by name or part of it, filtered and in pages."""
    text, show, order = (request.GET.get(name, "").strip() for name in ("q", "show", "order"))
    context = {"q": text, "show": show, "order": order, "shown": SHOWN}
    context |= one_page(request, queries.country_list(text, show, order), 24)
    return render(request, "atlas/countries.html", context)


@require_GET
def country(request: HttpRequest, code: str) -> HttpResponse:
    """Show one country: its subdivisions, currencies and notes, and the form for one more note."""
    return country_page(request, code, NoteForm())


def country_page(request: HttpRequest, code: str, form: NoteForm) -> HttpResponse:
    """Show the page of a country with this form on it."""
    found = get_object_or_404(queries.country_page(), pk=code)
    context = {"country": found, "tree": tree(found.subdivisions.all()), "form": form}
    return render(request, "atlas/country.html", context, status=422 if form.errors else 200)


@require_POST
@login_required
def add_note(request: HttpRequest, code: str) -> HttpResponse:
    """Keep what the visitor wrote about a country."""
    found = get_object_or_404(Country, pk=code)
    form = NoteForm(request.POST, instance=Note(country=found, user=request.user))
    if not form.is_valid():
        return country_page(request, code, form)
    form.save()
    messages.success(request, "Thank you, your note was added.")
    return redirect(found)


@require_POST
@login_required
def delete_note(request: HttpRequest, number: int) -> HttpResponse:
    """Delete a note of the visitor; members of the staff may delete any."""
    note = get_object_or_404(Note.objects.select_related("country"), pk=number)
    if note.user_id != request.user.pk and not request.user.is_staff:
        raise PermissionDenied
    note.delete()
    messages.success(request, "The note was deleted.")
    return redirect(note.country)


@require_GET
def languages(request: HttpRequest) -> HttpResponse:
    """Show the languages, by name or part of it, filtered and in pages."""
    text, scope, kind = (request.GET.get(name, "").strip() for name in ("q", "scope", "kind"))
    context = {
        "q": text,
        "scope": scope,
        "kind": kind,
        "scopes": Language.Scope.choices,
        "kinds": Language.Kind.choices,
    }
    context |= one_page(request, queries.language_list(text, scope, kind), 40)
    return render(request, "atlas/languages.html", context)


@require_GET
def currencies(request: HttpRequest) -> HttpResponse:
    """Show all currencies and who uses them."""
    return render(request, "atlas/currencies.html", {"currencies": queries.currency_list()})


@require_GET
def currency(request: HttpRequest, code: str) -> HttpResponse:
    """Show one currency and the countries that use it."""
    found = get_object_or_404(Currency, pk=code)
    users = queries.by_subdivisions().filter(currencies=found).order_by("name")
    return render(request, "atlas/currency.html", {"currency": found, "countries": users})


@require_GET
def scripts(request: HttpRequest) -> HttpResponse:
    """Show all writing systems."""
    return render(request, "atlas/scripts.html", {"scripts": Script.objects.all()})


@require_GET
def statistics(request: HttpRequest) -> HttpResponse:
    """Show rankings and sums."""
    letters = list(queries.languages_by_letter())
    context = {
        "ranking": queries.ranking()[:15],
        "kinds": queries.common_kinds()[:12],
        "mixed": queries.mixed_countries()[:10],
        "scopes": [
            (Language.Scope(one["scope"]).label, one["number_of"]) for one in queries.languages_by("scope")
        ],
        "ages": [
            (Language.Kind(one["kind"]).label, one["number_of"]) for one in queries.languages_by("kind")
        ],
        "letters": letters,
        "most": max((one["number_of"] for one in letters), default=1),
        "shared": queries.shared_currencies()[:10],
        "moneyless": queries.countries_without_currency(),
    }
    return render(request, "atlas/statistics.html", context)
