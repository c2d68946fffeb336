"""Render one page, with or without the cache, and note what it took."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.test import Client

if settings.WITH_CACHALOT:
    from cachalot.api import cachalot_disabled
    from cachalot.observe.events import record
else:  # the walk also runs without cachalot; then both ways are the same
    cachalot_disabled = nullcontext
    record = None

# The token differs each time a page is rendered, as it must.
CSRF_TOKEN = re.compile(r'(name="csrfmiddlewaretoken" value=")\w+')


@dataclass
class Rendering:
    """What the browser got and what it took.

    :param text: status and body, without what differs each time.
    :param seconds: wall time from the request to the response.
    :param queries: statements that reached the database.
    :param hits: reads that the cache answered.
    :param reasons: number of the other reads, by why the cache did not answer them.
    """

    text: str
    seconds: float
    queries: int
    hits: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def render(client: Client, path: str, *, cached: bool) -> Rendering:
    """Open a page and measure it.

    :param cached: whether the cache may answer; otherwise every read goes to the database.
    """
    queries = 0

    def count(execute: Callable[..., Any], *statement: Any) -> Any:
        nonlocal queries
        queries += 1
        return execute(*statement)

    events: AbstractContextManager[Any] = record() if cached and record else nullcontext([])
    with nullcontext() if cached else cachalot_disabled(), connection.execute_wrapper(count), events as seen:
        start = time.perf_counter()
        answer = client.get(path)
        body = answer.content
        seconds = time.perf_counter() - start
    text = f"{answer.status_code}\n" + CSRF_TOKEN.sub(r"\1", body.decode())
    decisions = [event.decision for event in seen if hasattr(event, "decision")]
    outcomes = Counter(one.outcome.value for one in decisions)
    reasons = Counter(f"{one.outcome.value}: {one.reason.value}" for one in decisions if one.reason)
    return Rendering(text, seconds, queries, outcomes["hit"], reasons)


def difference(cached: str, plain: str) -> str:
    """Return the first lines in which a page and its uncached twin differ."""
    lines = unified_diff(
        plain.splitlines(), cached.splitlines(), "without cache", "with cache", n=1, lineterm=""
    )
    return "\n".join(list(lines)[:40])
