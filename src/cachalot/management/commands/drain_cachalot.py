"""``manage.py drain_cachalot``: deliver the invalidations that wait in the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections

from cachalot.engine.caches import query_cache
from cachalot.orm.connection import attach
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """Deliver what was written while the cache did not answer."""

    help = "Delivers the invalidations of writes that were made while the cache did not answer."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments of the command line."""
        parser.add_argument("-d", "--db", dest="db_alias", help="Alias of a database; by default every one.")
        parser.add_argument(
            "-c", "--cache", dest="cache_alias", help="Alias of a cache; by default every one."
        )

    def handle(self, *_args: object, **options: Any) -> None:
        """Deliver, and say how many rows there were."""
        chosen_db, chosen_cache = options["db_alias"], options["cache_alias"]
        databases = _chosen("database", chosen_db, list(connections))
        for alias in databases:
            for cache_alias in _chosen("cache", chosen_cache, list(settings.CACHES)):
                line = _drained(alias, cache_alias)
                if line and options["verbosity"] >= 1:
                    self.stdout.write(line)


def _chosen(what: str, name: str | None, known: list[str]) -> list[str]:
    if name is None:
        return known
    if name not in known:
        raise CommandError(f"There is no {what} {name!r}. There is: {', '.join(sorted(known))}.")
    return [name]


def _drained(alias: str, cache_alias: str) -> str:
    cache = query_cache(cache_alias)
    if cache is None:
        return ""
    try:
        number = cache.writes.drain(attach(connections[alias]))
    except StoreAway as error:
        raise CommandError(f"The cache {cache_alias!r} does not answer: {error}. Run this again.") from error
    except Error as error:
        raise CommandError(f"The database {alias!r} does not answer: {error}") from error
    if number is None:
        return f"The database {alias!r} has no outbox; run `manage.py migrate` to make it."
    rows = "1 row" if number == 1 else f"{number} rows"
    return f"Delivered {rows} of the database {alias!r} to the cache {cache_alias!r}."
