"""Settings of the demonstration site: an ordinary Django project, with ``cachalot`` in INSTALLED_APPS.

Nothing else is needed. The environment can change a few things:

* ``ATLAS_CACHALOT=0`` leaves cachalot out, to see the same site without it;
* ``ATLAS_CACHE=redis://host:port/number`` uses a Redis server in place of the memory of the process;
* ``ATLAS_VAR`` is the folder of the database, ``ATLAS_DB`` the name of its file;
* ``ATLAS_DEBUG=0`` leaves debug pages and the toolbar out.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("ATLAS_VAR", DEMO / "var"))

DEBUG = os.environ.get("ATLAS_DEBUG", "1") != "0"
WITH_CACHALOT = os.environ.get("ATLAS_CACHALOT", "1") != "0"
WITH_TOOLBAR = DEBUG and find_spec("debug_toolbar") is not None

SECRET_KEY = "known to everybody, for a site that only serves this machine"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
INTERNAL_IPS = ["127.0.0.1", "::1"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "atlas",
]
if WITH_CACHALOT:
    INSTALLED_APPS += ["cachalot"]  # this is the whole quick start

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# The memory cache of Django keeps 300 entries unless told otherwise, fewer than the pages of this site need.
if "ATLAS_CACHE" in os.environ:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": os.environ["ATLAS_CACHE"],
        },
    }
else:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "OPTIONS": {"MAX_ENTRIES": 20_000},
        },
    }

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR / os.environ.get("ATLAS_DB", "atlas.sqlite3"),
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

ROOT_URLCONF = "atlas_site.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "static/"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"
LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True

if WITH_TOOLBAR:
    INSTALLED_APPS += ["debug_toolbar"]
    MIDDLEWARE.insert(0, "debug_toolbar.middleware.DebugToolbarMiddleware")
    DEBUG_TOOLBAR_CONFIG = {"SHOW_COLLAPSED": True}
    DEBUG_TOOLBAR_PANELS = [
        *(["cachalot.panels.CachalotPanel"] if WITH_CACHALOT else []),
        "debug_toolbar.panels.timer.TimerPanel",
        "debug_toolbar.panels.sql.SQLPanel",
        "debug_toolbar.panels.cache.CachePanel",
        "debug_toolbar.panels.request.RequestPanel",
        "debug_toolbar.panels.settings.SettingsPanel",
        "debug_toolbar.panels.templates.TemplatesPanel",
    ]
