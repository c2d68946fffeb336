"""Settings of the forum, for each of the contestants."""

from __future__ import annotations

import os

CONTESTANT = os.environ.get("BENCH_CONTESTANT", "none")
HOST, _, PORT = os.environ.get("BENCH_POSTGRES", "127.0.0.1:5432").partition(":")
REDIS = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/0")

SECRET_KEY = "for the benchmark only"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": HOST,
        "PORT": PORT,
        "NAME": os.environ.get("BENCH_DATABASE", "postgres"),
        "USER": os.environ.get("BENCH_USER", "postgres"),
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS}}

INSTALLED_APPS = ["benchmarks.site"]
if CONTESTANT in {"rows", "tables", "django-cachalot"}:
    INSTALLED_APPS.append("cachalot")
if CONTESTANT == "tables":
    CACHALOT_GRANULARITY = "table"
if CONTESTANT == "django-cacheops":
    INSTALLED_APPS.append("cacheops")
    CACHEOPS_REDIS = REDIS
    CACHEOPS = {"*.*": {"ops": "all", "timeout": 86400}}
