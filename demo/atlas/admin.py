"""The atlas in the Django admin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.db.models import Count, QuerySet

from atlas.models import Country, Currency, Language, Note, Script, Subdivision

if TYPE_CHECKING:
    from django.http import HttpRequest


class NoteInline(admin.TabularInline):
    """The notes on the page of their country."""

    model = Note
    extra = 0
    fields = ("user", "text", "created")
    readonly_fields = ("created",)


@admin.register(Country)
class CountryAdmin(admin.ModelAdmin):
    """Countries with the number of their subdivisions."""

    list_display = ("code", "name", "official_name", "number_of_subdivisions", "featured")
    list_display_links = ("code", "name")
    list_filter = ("featured", "currencies")
    search_fields = ("name", "official_name", "=code", "=code3")
    list_per_page = 25
    filter_horizontal = ("currencies",)
    inlines = (NoteInline,)
    ordering = ("name",)  # what is grouped for a count does not take the order of the model

    def get_queryset(self, request: HttpRequest) -> QuerySet[Country]:
        """Return the countries with the number of their subdivisions."""
        return super().get_queryset(request).annotate(number_of=Count("subdivisions", distinct=True))

    @admin.display(description="subdivisions", ordering="number_of")
    def number_of_subdivisions(self, country: Country) -> int:
        """Return the number of subdivisions of ``country``."""
        return country.number_of


@admin.register(Subdivision)
class SubdivisionAdmin(admin.ModelAdmin):
    """Subdivisions with their country and what they are inside of."""

    list_display = ("code", "name", "kind", "country", "parent")
    list_filter = ("country__featured", "kind")
    list_select_related = ("country", "parent")
    search_fields = ("name", "code", "country__name")
    list_per_page = 25
    autocomplete_fields = ("country", "parent")


@admin.register(Currency)
class CurrencyAdmin(admin.ModelAdmin):
    """Currencies."""

    list_display = ("code", "name", "number")
    search_fields = ("=code", "name")
    list_per_page = 25


@admin.register(Language)
class LanguageAdmin(admin.ModelAdmin):
    """Languages."""

    list_display = ("code", "code2", "name", "scope", "kind")
    list_display_links = ("code", "name")
    list_filter = ("scope", "kind")
    search_fields = ("name", "inverted_name", "=code", "=code2")
    list_per_page = 25


@admin.register(Script)
class ScriptAdmin(admin.ModelAdmin):
    """Writing systems."""

    list_display = ("code", "name", "number")
    search_fields = ("=code", "name")
    list_per_page = 25


@admin.register(Note)
class NoteAdmin(admin.ModelAdmin):
    """Notes with their country and writer, by date."""

    list_display = ("text", "country", "user", "created")
    list_filter = ("user", "created")
    list_select_related = ("country", "user")
    search_fields = ("text", "country__name", "user__username")
    list_per_page = 25
    date_hierarchy = "created"
    autocomplete_fields = ("country",)
