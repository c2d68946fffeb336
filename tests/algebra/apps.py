"""The application that holds the models of the fuzz."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import pre_migrate


class AlgebraConfig(AppConfig):
    """Makes the collation of :class:`~tests.algebra.models.Word` before its table."""

    name = "tests.algebra"
    label = "algebra"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Listen for the moment before the tables are made."""
        pre_migrate.connect(_make_collation, sender=self)


def _make_collation(using: str, **_kwargs: Any) -> None:
    if connections[using].vendor == "postgresql":
        with connections[using].cursor() as cursor:
            cursor.execute(
                "CREATE COLLATION IF NOT EXISTS any_case "
                "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            )
