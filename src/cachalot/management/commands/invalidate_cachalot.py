"""``manage.py invalidate_cachalot``: forget what is cached, of everything, of apps or of models."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from cachalot import api
from cachalot.engine import caches

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterable, Iterator

    from django.db.models import Model


class Command(BaseCommand):
    """Invalidate cached results after a change that Django could not see."""

    help = "Invalidates what is cached: of every table, or of the apps and models that are named."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments of the command line."""
        parser.add_argument(
            "names", nargs="*", metavar="app_label[.Model]", help="An app or a model; none means every table."
        )
        parser.add_argument(
            "-c", "--cache", dest="cache_alias", help="Alias of a cache; by default every one."
        )
        parser.add_argument("-d", "--db", dest="db_alias", help="Alias of a database; by default every one.")

    def handle(self, *_args: object, **options: Any) -> None:
        """Invalidate, and say what was."""
        cache_alias, db_alias, names = options["cache_alias"], options["db_alias"], options["names"]
        _known_or_fail("cache", cache_alias, settings.CACHES)
        _known_or_fail("database", db_alias, connections)
        models = [model for name in names for model in _models_of(name)]
        # Without arguments api.invalidate means everything, which is not what an app without models means.
        if models or not names:
            api.invalidate(*models, cache_alias=cache_alias, db_alias=db_alias)
            _fail_if_undelivered()
        if options["verbosity"] >= 1:
            self.stdout.write(self.style.SUCCESS(_report(names, models, cache_alias, db_alias)))


def _fail_if_undelivered() -> None:
    """Say so if a cache does not answer: what this process remembers to deliver later ends with it."""
    away = sorted(cache.alias for cache in caches.made() if cache.guard.undelivered())
    if away:
        names = ", ".join(map(repr, away))
        raise CommandError(
            f"The cache {names} does not answer; nothing was invalidated there. Run this again."
        )


def _models_of(name: str) -> Iterator[type[Model]]:
    """Return the model of a name, or all those of an app with the tables between them."""
    label, dot, model_name = name.partition(".")
    labels = {one.lower(): one for one in apps.app_configs}
    _known_or_fail("app", label.lower(), labels)
    config = apps.get_app_config(labels[label.lower()])
    models = {model._meta.model_name: model for model in config.get_models(include_auto_created=True)}
    if not dot:
        yield from models.values()
        return
    _known_or_fail(f"model of the app {config.label!r}", model_name.lower(), models)
    yield models[model_name.lower()]


def _known_or_fail(what: str, name: str | None, known: Iterable[str | None]) -> None:
    names = sorted(one for one in known if one)
    if name is None or name in names:
        return
    close = get_close_matches(name, names, n=3)
    help_text = (
        f"Did you mean {' or '.join(map(repr, close))}?"
        if close
        else f"There is: {', '.join(names) or 'none'}."
    )
    raise CommandError(f"There is no {what} {name!r}. {help_text}")


def _report(
    names: list[str], models: list[type[Model]], cache_alias: str | None, db_alias: str | None
) -> str:
    tables = sorted({model._meta.db_table for model in models})
    what = ", ".join(tables) or ("nothing: no model there" if names else "every table")
    where = f" of the database {db_alias!r}" if db_alias else ""
    return f"Invalidated {what}{where}{f' in the cache {cache_alias!r}' if cache_alias else ''}."
