"""Makes the outbox."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """The table of undelivered invalidations."""

    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("created", models.DateTimeField()),
                ("cache", models.CharField(max_length=255)),
                ("tags", models.TextField()),
                ("gid", models.CharField(max_length=255)),
            ],
            options={
                "verbose_name": "undelivered invalidation",
                "verbose_name_plural": "undelivered invalidations",
                "db_table": "cachalot_outbox",
                "default_permissions": (),
            },
        ),
    ]
