"""Is what the cache says as new as what the database said before?

The truth is read over a connection of its own that no cache knows of, and then through the cache. Likes and
versions only grow, and numbers of rows never come back, so a read that began after the truth was known must
be at least as new, whatever other processes write meanwhile.
"""

from __future__ import annotations

from typing import Any

import psycopg
from django.db import connection

from benchmarks.site.models import Comment, Member, Post
from benchmarks.site.workload import Visit, comments_of, member_of, newest_posts, post_of, rows_of, table


class Probe:
    """Compares the cache with the database while others write."""

    def __init__(self) -> None:
        settings = connection.settings_dict
        self._truth = psycopg.connect(
            host=settings["HOST"],
            port=settings["PORT"],
            user=settings["USER"],
            dbname=settings["NAME"],
            autocommit=True,
        )

    def stale(self, visit: Visit) -> tuple[int, int]:
        """Ask again for what a visit has read.

        :returns: how much of it was older than it may be, and how much there was.
        """
        found = [self._member(visit.member)]
        if visit.page == "post":
            found += [self._post(visit.post), self._comments(visit.post)]
        if visit.page == "front":
            found.append(self._front())
        return sum(found), len(found)

    def _rows(self, sql: str, *params: Any) -> list[Any]:
        return self._truth.execute(sql, params).fetchall()  # type: ignore[arg-type] # of this module only

    def _post(self, pk: int) -> bool:
        ((likes, version),) = self._rows(f"SELECT likes, version FROM {table(Post)} WHERE id = %s", pk)
        (post,) = rows_of(post_of(pk))
        return post.likes < likes or post.version < version

    def _member(self, pk: int) -> bool:
        ((karma,),) = self._rows(f"SELECT karma FROM {table(Member)} WHERE id = %s", pk)
        (member,) = rows_of(member_of(pk))
        return member.karma < karma

    def _comments(self, pk: int) -> bool:
        sql = f"SELECT id, likes FROM {table(Comment)} WHERE post_id = %s"
        before = dict(self._rows(sql, pk))
        ((newest,),) = self._rows(f"SELECT coalesce(max(id), 0) FROM {table(Comment)}")
        found = {comment.pk: comment.likes for comment in rows_of(comments_of(pk))}
        after = dict(self._rows(sql, pk))
        lost = any(number not in found for number in before if number in after)
        # One that was given a number before and is in neither truth was deleted before the first.
        risen = any(number not in before and number not in after and number <= newest for number in found)
        return lost or risen or any(found[number] < before[number] for number in found if number in before)

    def _front(self) -> bool:
        ((newest,),) = self._rows(f"SELECT max(id) FROM {table(Post)}")
        return max(post.pk for post in rows_of(newest_posts())) < newest
