"""Single reads and writes of the forum whose cost is measured one by one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from django.core.cache import cache
from django.db.models import F

from benchmarks.site.models import Comment, Member, Post, Session

if TYPE_CHECKING:
    from collections.abc import Callable

LIST = 20
BULK = 100

READS: dict[str, Callable[[], Any]] = {
    "get by primary key": lambda: Member.objects.get(pk=7),
    "get by unique column": lambda: Post.objects.get(slug="post-7"),
    "get with select_related": lambda: Session.objects.select_related("member").get(key="session-7"),
    "20 rows by foreign key": lambda: list(Comment.objects.filter(post_id__in=[3, 4, 5, 6])[:LIST]),
    "20 rows with select_related": lambda: list(
        Comment.objects.filter(post_id__in=[3, 4, 5, 6]).select_related("author")[:LIST]
    ),
    "20 rows through many-to-many": lambda: list(Post.objects.filter(tags=3).order_by("-id")[:LIST]),
    "20 rows of a table": lambda: list(Post.objects.order_by("-id")[:LIST]),
    "count of a table": Comment.objects.count,
}


def _save() -> None:
    post = Post(pk=9, slug="post-9", title="Post 9", body="…", author_id=9)
    post.save(force_update=True)


WRITES: dict[str, Callable[[], Any]] = {
    "save of all columns": _save,
    "update by primary key": lambda: Post.objects.filter(pk=9).update(likes=F("likes") + 1),
    "update of 40 rows": lambda: Comment.objects.filter(post_id__in=range(20, 24)).update(
        likes=F("likes") + 1
    ),
    "create": lambda: Comment.objects.create(post_id=9, author_id=9, text="…"),
    f"bulk_create of {BULK}": lambda: Comment.objects.bulk_create(
        Comment(post_id=9, author_id=9, text="…") for _ in range(BULK)
    ),
    "delete of one row": lambda: Comment.objects.filter(pk=_newest()).delete(),
}


def _newest() -> int:
    return Comment.objects.order_by("-id").values_list("id", flat=True).first() or 0


def timed(name: str, number: int) -> dict[str, float]:
    """Do one thing many times.

    :param name: key of :data:`READS` or :data:`WRITES`.
    :param number: how often.
    :returns: microseconds of the clock and of the processor for each.
    """
    call = READS.get(name) or WRITES[name]
    call()
    cache.get("nothing")
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(number):
        call()
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return {"clock": 1e6 * clock / number, "cpu": 1e6 * cpu / number}
