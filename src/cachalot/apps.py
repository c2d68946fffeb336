"""The Django app: registers the checks and takes the seams; no query, no network."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class CachalotConfig(AppConfig):
    """``'cachalot'`` in ``INSTALLED_APPS``."""

    name = "cachalot"
    verbose_name = "cachalot"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Switch the cache on."""
        from cachalot import checks  # noqa: PLC0415 - needs configured settings
        from cachalot.engine import outbox  # noqa: PLC0415 - needs loaded models
        from cachalot.observe import counters  # noqa: PLC0415 - starts counting
        from cachalot.orm.install import install  # noqa: PLC0415 - needs loaded models

        checks.register()
        post_migrate.connect(outbox.forget, dispatch_uid="cachalot.outbox")
        counters.start()
        install()
