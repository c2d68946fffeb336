"""The tables of the atlas. The ISO codes are the primary keys: people and other tables quote them."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.urls import reverse


class Currency(models.Model):
    """A currency, fund or precious metal of ISO 4217."""

    code = models.CharField(max_length=3, primary_key=True)
    number = models.CharField(max_length=3)
    name = models.CharField(max_length=80)

    class Meta:
        ordering = ("code",)
        verbose_name_plural = "currencies"

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"

    def get_absolute_url(self) -> str:
        """Return the address of the page of this currency."""
        return reverse("currency", args=[self.code])


class Country(models.Model):
    """A country or territory of ISO 3166-1."""

    code = models.CharField(max_length=2, primary_key=True)
    code3 = models.CharField("three-letter code", max_length=3, unique=True)
    number = models.CharField(max_length=3)
    name = models.CharField(max_length=80, db_index=True)
    official_name = models.CharField(max_length=120, blank=True)
    featured = models.BooleanField(default=False, help_text="Shown on the first page.")
    currencies = models.ManyToManyField(Currency, related_name="countries", blank=True)

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "countries"

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Return the address of the page of this country."""
        return reverse("country", args=[self.code])


class Subdivision(models.Model):
    """A province, state, district or the like of ISO 3166-2, maybe inside another one."""

    code = models.CharField(max_length=8, primary_key=True)
    country = models.ForeignKey(Country, models.CASCADE, related_name="subdivisions")
    parent = models.ForeignKey("self", models.CASCADE, related_name="children", null=True, blank=True)
    kind = models.CharField(max_length=60, db_index=True)
    name = models.CharField(max_length=100)

    class Meta:
        ordering = ("name", "code")

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"


class Language(models.Model):
    """A language of ISO 639-3."""

    class Scope(models.TextChoices):
        """Whether the code names one language, a group seen as one, or none."""

        INDIVIDUAL = "I", "individual"
        MACRO = "M", "macrolanguage"
        SPECIAL = "S", "special code"

    class Kind(models.TextChoices):
        """Whether, and when, it is spoken."""

        LIVING = "L", "living"
        EXTINCT = "E", "extinct"
        HISTORICAL = "H", "historical"
        ANCIENT = "A", "ancient"
        CONSTRUCTED = "C", "constructed"
        SPECIAL = "S", "special"

    code = models.CharField(max_length=3, primary_key=True)
    code2 = models.CharField("two-letter code", max_length=2, blank=True)
    name = models.CharField(max_length=100, db_index=True)
    inverted_name = models.CharField(max_length=100, blank=True)
    scope = models.CharField(max_length=1, choices=Scope.choices)
    kind = models.CharField(max_length=1, choices=Kind.choices)

    class Meta:
        ordering = ("name", "code")

    def __str__(self) -> str:
        return self.name


class Script(models.Model):
    """A writing system of ISO 15924."""

    code = models.CharField(max_length=4, primary_key=True)
    number = models.CharField(max_length=3)
    name = models.CharField(max_length=120)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Note(models.Model):
    """What a visitor wrote about a country."""

    country = models.ForeignKey(Country, models.CASCADE, related_name="notes")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="notes")
    text = models.TextField(max_length=500)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-created", "-pk")

    def __str__(self) -> str:
        return self.text[:60]
