"""Settings for Django's own tests: those Django itself uses, and every hit is checked by running it too."""

from __future__ import annotations

import os

# Django's, which differ from version to version; it lies in the folder of its tests, where the process runs.
from test_sqlite import *  # noqa: F403

_DATABASE = os.environ["DJANGO_SUITE_DATABASE"]


def _database(name: str) -> dict[str, object]:
    if _DATABASE == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3"}
    host, port, user = os.environ["DJANGO_SUITE_POSTGRES"].split(":")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": f"django_{name}",
        "USER": user,
        "HOST": host,
        "PORT": port,
    }


DATABASES = {"default": _database("default"), "other": _database("other")}
TEST_RUNNER = "tests.django_suite.recording.Runner"

CACHALOT_AUDIT_RATE = 1
CACHALOT_AUDIT_RAISE = True
