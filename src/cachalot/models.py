"""The one table of cachalot itself: invalidations that wait for the cache to come back."""

from __future__ import annotations

from typing import Any

from django.db import models

from cachalot.conf import OUTBOX_TABLE


class Outbox(models.Model):
    """What one transaction has written while the cache did not answer; see ``engine.outbox``.

    .. versionadded:: 3.0
    """

    id: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    created: models.DateTimeField[Any, Any] = models.DateTimeField()
    cache: models.CharField[str, str] = models.CharField(max_length=255)
    tags: models.TextField[str, str] = models.TextField()
    gid: models.CharField[str, str] = models.CharField(max_length=255)

    class Meta:
        """Nobody edits it, so it brings no permissions."""

        db_table = OUTBOX_TABLE
        default_permissions = ()
        verbose_name = "undelivered invalidation"
        verbose_name_plural = "undelivered invalidations"

    def __str__(self) -> str:
        """Return what is to be invalidated."""
        return self.tags
