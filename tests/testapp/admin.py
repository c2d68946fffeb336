"""The admin of the test models, with the features that make it query: lists, filters, searches, inlines."""

from __future__ import annotations

from django.contrib import admin

from tests.testapp.models import Author, Book, Category, Chapter, Tag


class ChapterInline(admin.TabularInline):
    model = Chapter
    extra = 0


@admin.register(Book)
class BookAdmin(admin.ModelAdmin):
    list_display = ["title", "author", "pages", "published"]
    list_filter = ["tags", "author"]
    list_select_related = ["author"]
    search_fields = ["title", "author__name"]
    filter_horizontal = ["tags"]
    inlines = [ChapterInline]


admin.site.register([Author, Category, Tag])
