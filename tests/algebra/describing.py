"""Says what is wrong with an answer: the write, the statements of the query, and what would have ended it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest import mock

from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet

from cachalot.api import explain

if TYPE_CHECKING:
    from tests.algebra.queries import Query


def described(query: Query, answer: Any, truth: Any, place: str, written: list[str]) -> str:
    """Return what is wrong, as text.

    :param answer: what the cache has given.
    :param truth: what the database gives.
    :param place: where it happened, as arguments that lead there again.
    :param written: statements of the write.
    """
    lines = [f"{place}: {query.shape}", *(f"  written {text}" for text in written)]
    lines += [f"  {line}" for line in explained(query)]
    cached, true = (one if isinstance(one, list) else [one] for one in (answer, truth))
    lines += [f"  cached  {one}" for one in cached if cached.count(one) != true.count(one)]
    lines += [f"  true    {one}" for one in true if cached.count(one) != true.count(one)]
    return "\n".join(lines)


def explained(query: Query) -> list[str]:
    """Ask a query, and return what ``explain`` says of each queryset in it."""
    lines: list[str] = []

    def look(queryset: QuerySet[Any]) -> None:
        try:
            found = explain(queryset.all())
        except EmptyResultSet:
            return
        lines.append(f"read    {found.sql}")
        lines.append(f"ends by {', '.join(found.invalidated_by)}")

    with ExitStack() as stack:
        for name in ("_fetch_all", "count", "exists", "aggregate"):
            stack.enter_context(mock.patch.object(QuerySet, name, _looked_at(name, look)))
        query.ask()
    return lines


def _looked_at(name: str, look: Any) -> Any:
    original = getattr(QuerySet, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, "_result_cache", None) is None:
            look(self)
        return original(self, *args, **kwargs)

    return method
