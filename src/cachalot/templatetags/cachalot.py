"""``{% load cachalot %}``: the time of the last invalidation, to key template fragments by."""

from __future__ import annotations

from django import template

from cachalot import api

register = template.Library()


@register.simple_tag
def get_last_invalidation(
    *tables_or_models: str, cache_alias: str | None = None, db_alias: str | None = None
) -> float:
    """Return when one of the tables was last invalidated.

    For example ``{% get_last_invalidation 'auth.User' 'blog.Post' as t %}{% cache 3600 posts t %}``.

    :param tables_or_models: ``app_label.Model`` or names of tables; none means every table.
    :param cache_alias: alias of a cache, by default that of the settings.
    :param db_alias: alias of a database, by default every one.
    :returns: seconds since 1970, 0.0 when never.
    """
    return api.get_last_invalidation(*tables_or_models, cache_alias=cache_alias, db_alias=db_alias)
