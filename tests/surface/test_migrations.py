"""The one table of the app: its migration, and its model."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.core.management import call_command

from cachalot.conf import OUTBOX_TABLE
from cachalot.models import Outbox


@pytest.mark.parametrize("auto_field", ["AutoField", "BigAutoField", "UUIDField"])
@pytest.mark.django_db
def test_nothing_is_left_to_migrate(auto_field, settings):
    """The migration says what the model says, whatever a project has as its automatic field."""
    settings.DEFAULT_AUTO_FIELD = f"django.db.models.{auto_field}"
    call_command("makemigrations", "cachalot", check=True, dry_run=True, verbosity=0)


@pytest.mark.django_db
def test_table_exists_after_migrate():
    """`migrate` makes the table."""
    assert Outbox.objects.count() == 0
    assert Outbox._meta.db_table == OUTBOX_TABLE


def test_no_permissions():
    """Nobody may edit the outbox, so there is nothing to allow."""
    assert Outbox._meta.default_permissions == ()
    assert apps.get_model("cachalot", "outbox") is Outbox
