"""The app configuration of the atlas."""

from __future__ import annotations

from django.apps import AppConfig


class AtlasConfig(AppConfig):
    """The atlas of countries, languages and currencies."""

    name = "atlas"
    default_auto_field = "django.db.models.BigAutoField"
