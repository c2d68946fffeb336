"""Django settings of the tests, for one pair of a database and a cache.

Without any variable it is SQLite and locmem, so that plain ``pytest`` works. ``python -m tests.run`` sets:

* ``CACHALOT_TEST_DB``: sqlite, postgresql (psycopg 3), psycopg2 or mariadb;
* ``CACHALOT_TEST_CACHE``: locmem, file, redis, django-redis, django-redis-ignore, pymemcache,
  pylibmc or python-memcached;
* ``CACHALOT_TEST_POSTGRES``, ``CACHALOT_TEST_MARIADB`` as ``host:port:user``, ``CACHALOT_TEST_REDIS``
  and ``CACHALOT_TEST_MEMCACHED`` as ``host:port``: where the servers are;
* ``CACHALOT_TEST_SLOT``: a number per pair, so that pairs may share a server and nothing on it;
* ``CACHALOT_TEST_DIR``: a directory for files; made, and removed at the end, when it is not set.

A test that starts a second process hands its environment on: ``NAME`` and the name of the test database are
the same, so that the process meets the same tables.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

if os.environ.get("CACHALOT_TEST_DB") == "psycopg2":
    # Django takes psycopg 3 wherever it can be imported, so it must not be possible.
    sys.modules["psycopg"] = None  # type: ignore[assignment]

import django
from django.core.exceptions import ImproperlyConfigured

#: Databases each pair has on a Redis: one per pytest worker.
REDIS_DATABASES_PER_SLOT = 16

TEST_DB = os.environ.get("CACHALOT_TEST_DB", "sqlite")
TEST_CACHE = os.environ.get("CACHALOT_TEST_CACHE", "locmem")
SLOT = int(os.environ.get("CACHALOT_TEST_SLOT", "0"))
# gw0, gw1, … under pytest-xdist.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw-1")[2:]) + 1


def server(name: str) -> list[str]:
    """The parts of the address of a server."""
    variable = f"CACHALOT_TEST_{name}"
    if variable not in os.environ:
        raise ImproperlyConfigured(f"{variable} is not set: start these tests with `python -m tests.run`.")
    return os.environ[variable].split(":")


def directory() -> Path:
    """Where the files of this process are, and those of processes it starts."""
    if "CACHALOT_TEST_DIR" not in os.environ:
        made = os.environ["CACHALOT_TEST_DIR"] = tempfile.mkdtemp(prefix="cachalot-test-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(os.environ["CACHALOT_TEST_DIR"])


def sqlite(name: str) -> dict[str, Any]:
    """A file, also for tests: threads would share the connection of a database in memory."""
    path = str(directory() / f"{name}.sqlite3")
    options: dict[str, Any] = {"timeout": 20}
    if django.VERSION >= (5, 1):
        options["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF"
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": path, "TEST": {"NAME": path}, "OPTIONS": options}


def postgresql(name: str) -> dict[str, Any]:
    """The same engine for both drivers."""
    host, port, user = server("POSTGRES")
    where = {"HOST": host, "PORT": port, "USER": user, "NAME": name, "TEST": {"NAME": name}}
    return {"ENGINE": "django.db.backends.postgresql", **where}


def mariadb(name: str) -> dict[str, Any]:
    """Four-byte UTF-8, as every new project has it."""
    host, port, user = server("MARIADB")
    test = {"NAME": name, "CHARSET": "utf8mb4", "COLLATION": "utf8mb4_general_ci"}
    where = {"HOST": host, "PORT": port, "USER": user, "NAME": name, "TEST": test}
    return {"ENGINE": "django.db.backends.mysql", **where, "OPTIONS": {"charset": "utf8mb4"}}


def redis_url() -> str:
    """One numbered database per pair and worker, since clearing the cache empties it."""
    host, port = server("REDIS")
    return f"redis://{host}:{port}/{SLOT * REDIS_DATABASES_PER_SLOT + WORKER}"


def django_redis(**options: Any) -> dict[str, Any]:
    """The django-redis package."""
    return {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_url(), "OPTIONS": options}


def memcached(backend: str, **options: Any) -> dict[str, Any]:
    """Clearing the cache empties the whole server, so there is one server per pair and no second worker."""
    if WORKER:
        raise ImproperlyConfigured("A memcached cannot be shared by the workers of pytest-xdist.")
    return {"BACKEND": backend, "LOCATION": ":".join(server("MEMCACHED")), "OPTIONS": options}


def cache() -> dict[str, Any]:
    """The cache under test."""
    django_backends = "django.core.cache.backends"
    known = {
        "locmem": lambda: {
            "BACKEND": f"{django_backends}.locmem.LocMemCache",
            "LOCATION": "default",
            "OPTIONS": {"MAX_ENTRIES": 100_000},
        },
        "file": lambda: {
            "BACKEND": f"{django_backends}.filebased.FileBasedCache",
            "LOCATION": str(directory() / f"cache{WORKER}"),
            "OPTIONS": {"MAX_ENTRIES": 100_000},
        },
        "redis": lambda: {"BACKEND": f"{django_backends}.redis.RedisCache", "LOCATION": redis_url()},
        "django-redis": django_redis,
        "django-redis-ignore": lambda: django_redis(IGNORE_EXCEPTIONS=True),
        "pymemcache": lambda: memcached(f"{django_backends}.memcached.PyMemcacheCache"),
        "pylibmc": lambda: memcached(f"{django_backends}.memcached.PyLibMCCache"),
        # Its own default is to leave a server alone for half a minute after one error.
        "python-memcached": lambda: memcached("tests.testapp.caches.PythonMemcachedCache", dead_retry=1),
    }
    if TEST_CACHE not in known:
        raise ImproperlyConfigured(f"CACHALOT_TEST_CACHE={TEST_CACHE} is none of {', '.join(known)}.")
    return known[TEST_CACHE]()


DATABASE_MAKERS = {"sqlite": sqlite, "postgresql": postgresql, "psycopg2": postgresql, "mariadb": mariadb}
if TEST_DB not in DATABASE_MAKERS:
    raise ImproperlyConfigured(f"CACHALOT_TEST_DB={TEST_DB} is none of {', '.join(DATABASE_MAKERS)}.")

DATABASES = {
    "default": DATABASE_MAKERS[TEST_DB](f"cachalot_{SLOT}"),
    "other": DATABASE_MAKERS[TEST_DB](f"cachalot_{SLOT}_other"),
}
CACHES = {
    "default": cache(),
    "second": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": "second",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    *(["django.contrib.postgres"] if TEST_DB in {"postgresql", "psycopg2"} else []),
    "tests.testapp",
    "tests.algebra.apps.AlgebraConfig",
    "cachalot",
]
# Tables straight from the models: the migrations of Django's own apps take seconds per run.
MIGRATION_MODULES = dict.fromkeys(["admin", "auth", "contenttypes", "sessions"])

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
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

ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "tests.testapp.urls"
SECRET_KEY = "for tests only"
STATIC_URL = "/static/"
TIME_ZONE = "UTC"
USE_TZ = True
