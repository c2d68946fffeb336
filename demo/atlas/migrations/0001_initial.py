"""The tables of the atlas, as they are made first."""

from __future__ import annotations

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = (migrations.swappable_dependency(settings.AUTH_USER_MODEL),)

    operations = (
        migrations.CreateModel(
            name="Country",
            fields=[
                ("code", models.CharField(max_length=2, primary_key=True, serialize=False)),
                ("code3", models.CharField(max_length=3, unique=True, verbose_name="three-letter code")),
                ("number", models.CharField(max_length=3)),
                ("name", models.CharField(db_index=True, max_length=80)),
                ("official_name", models.CharField(blank=True, max_length=120)),
                ("featured", models.BooleanField(default=False, help_text="Shown on the first page.")),
            ],
            options={
                "verbose_name_plural": "countries",
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="Currency",
            fields=[
                ("code", models.CharField(max_length=3, primary_key=True, serialize=False)),
                ("number", models.CharField(max_length=3)),
                ("name", models.CharField(max_length=80)),
            ],
            options={
                "verbose_name_plural": "currencies",
                "ordering": ("code",),
            },
        ),
        migrations.CreateModel(
            name="Language",
            fields=[
                ("code", models.CharField(max_length=3, primary_key=True, serialize=False)),
                ("code2", models.CharField(blank=True, max_length=2, verbose_name="two-letter code")),
                ("name", models.CharField(db_index=True, max_length=100)),
                ("inverted_name", models.CharField(blank=True, max_length=100)),
                (
                    "scope",
                    models.CharField(
                        choices=[("I", "individual"), ("M", "macrolanguage"), ("S", "special code")],
                        max_length=1,
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("L", "living"),
                            ("E", "extinct"),
                            ("H", "historical"),
                            ("A", "ancient"),
                            ("C", "constructed"),
                            ("S", "special"),
                        ],
                        max_length=1,
                    ),
                ),
            ],
            options={
                "ordering": ("name", "code"),
            },
        ),
        migrations.CreateModel(
            name="Script",
            fields=[
                ("code", models.CharField(max_length=4, primary_key=True, serialize=False)),
                ("number", models.CharField(max_length=3)),
                ("name", models.CharField(max_length=120)),
            ],
            options={
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="Subdivision",
            fields=[
                ("code", models.CharField(max_length=8, primary_key=True, serialize=False)),
                ("kind", models.CharField(db_index=True, max_length=60)),
                ("name", models.CharField(max_length=100)),
                (
                    "country",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="subdivisions",
                        to="atlas.country",
                    ),
                ),
                (
                    "parent",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="children",
                        to="atlas.subdivision",
                    ),
                ),
            ],
            options={
                "ordering": ("name", "code"),
            },
        ),
        migrations.CreateModel(
            name="Note",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("text", models.TextField(max_length=500)),
                ("created", models.DateTimeField(auto_now_add=True)),
                (
                    "country",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="notes", to="atlas.country"
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="notes",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ("-created", "-pk"),
            },
        ),
        migrations.AddField(
            model_name="country",
            name="currencies",
            field=models.ManyToManyField(blank=True, related_name="countries", to="atlas.currency"),
        ),
    )
