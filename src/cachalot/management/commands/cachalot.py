"""``manage.py cachalot``: switch a cache off and on for every process, and say how it is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.management.base import BaseCommand, CommandError

from cachalot import api
from cachalot.conf import current
from cachalot.engine.caches import query_cache
from cachalot.stores.base import StoreAway, Tier

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator


class Command(BaseCommand):
    """Switch caching off and on again while processes run."""

    help = "Switches a cache off or on for every process that shares it, within a second, or says how it is."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments of the command line."""
        parser.add_argument("action", choices=("off", "on", "status"), help="What to do.")
        parser.add_argument(
            "-c", "--cache", dest="cache_alias", help="Alias of a cache; by default the one in use."
        )

    def handle(self, *_args: object, **options: Any) -> None:
        """Switch, or say how it is."""
        alias = options["cache_alias"] or current().cache
        {"off": self._off, "on": self._on, "status": self._status}[options["action"]](
            alias, options["verbosity"]
        )

    def _off(self, alias: str, verbosity: int) -> None:
        with _clearly(alias, "It may still be on."):
            api.switch_off(alias)
        if verbosity >= 1:
            self.stdout.write(self.style.SUCCESS(f"The cache {alias!r} is off."))

    def _on(self, alias: str, verbosity: int) -> None:
        with _clearly(alias, "It may still be off."):
            api.switch_on(alias)
        if verbosity >= 1:
            self.stdout.write(self.style.SUCCESS(f"The cache {alias!r} is on."))

    def _status(self, alias: str, _verbosity: int) -> None:
        with _clearly(alias, "It is not known whether it is on; queries go to the database meanwhile."):
            try:
                on = api.is_switched_on(alias)
            except StoreAway:
                self._print(alias, {"switch": "unknown", "answers": "no"})
                raise
        self._print(alias, {"switch": "on" if on else "off", "answers": "yes"})

    def _print(self, alias: str, facts: dict[str, str]) -> None:
        cache = query_cache(alias)
        resting = cache is not None and cache.guard.closed()
        facts = {
            "cache": f"{alias} ({settings.CACHES[alias]['BACKEND']})",
            "tier": f"{api.tier(alias)}: {Tier[api.tier(alias).upper()].value}",
            **facts,
            "breaker": "open" if resting else "closed",
            "CACHALOT_ENABLED": str(current().enabled),
        }
        width = max(map(len, facts)) + 2
        for name, value in facts.items():
            self.stdout.write(f"{name + ':':<{width}}{value}")


@contextmanager
def _clearly(alias: str, meanwhile: str) -> Iterator[None]:
    try:
        yield
    except InvalidCacheBackendError as error:
        raise CommandError(str(error)) from error
    except StoreAway as error:
        raise CommandError(f"The cache {alias!r} does not answer. {meanwhile} Run this again.") from error
