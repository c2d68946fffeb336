"""What the visitors of the forum do: pages that are read, things that are written, and how often.

Who visits what is drawn once, from a seed, and is the same for every contestant. Popularity falls with the
rank as in Zipf's law. Who writes sees what he has written. Every read says beside its queryset which rows and
columns it depends on (``Part``), as a person would: the bounds in ``recording`` are computed from that,
without any part of cachalot.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import transaction
from django.db.models import F

from benchmarks.site.models import Comment, Member, Post, Session, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from django.db.models import Model, QuerySet

MEMBERS, POSTS, TAGS, COMMENTS = 400, 800, 40, 4000
PAGE = 20
PAGES = {"post": 50, "profile": 20, "tag": 15, "front": 15}
WRITES = {
    "like a post": 40,
    "comment": 25,
    "like a comment": 10,
    "touch the session": 8,
    "edit a post": 7,
    "edit a profile": 4,
    "write a post": 3,
    "delete a comment": 3,
}

SHOWN_ON = {
    "like a post": "post",
    "comment": "post",
    "like a comment": "post",
    "edit a post": "post",
    "delete a comment": "post",
    "write a post": "front",
}
"""The page that is looked at after a write, if it is not any."""

ALL_OF_POST = frozenset({"id", "slug", "title", "body", "author_id", "likes", "version"})
ALL_OF_MEMBER = frozenset({"id", "name", "bio", "karma"})
ALL_OF_COMMENT = frozenset({"id", "post_id", "author_id", "text", "likes"})
ALL_OF_SESSION = frozenset({"id", "key", "member_id", "seen"})
ALL_OF_TAG = frozenset({"id", "slug", "name"})


class Part(NamedTuple):
    """Rows of a table that a statement depends on.

    :param table: the table.
    :param equal: the values that the rows must have, by column.
    :param columns: the columns read.
    """

    table: str
    equal: dict[str, Any]
    columns: frozenset[str]


@dataclass(frozen=True)
class Read:
    """One statement.

    :param queryset: asks for it.
    :param parts: what it depends on.
    :param count: whether the number of rows is wanted only.
    """

    queryset: QuerySet[Any]
    parts: tuple[Part, ...]
    count: bool = False


class Visit(NamedTuple):
    """One request: a page is read, and before that something may be written."""

    page: str
    member: int
    post: int
    other: int
    tag: int
    write: str | None


def visits(seed: int, number: int, writes_per_thousand: int) -> list[Visit]:
    """Draw requests.

    :param seed: of the random numbers.
    :param number: of requests.
    :param writes_per_thousand: how many of a thousand requests write.
    """
    # Two sources, so that who visits what is the same whatever is written.
    source, writes = random.Random(seed), random.Random(seed + 1)
    member, post, tag = (_popular(source, number) for number in (MEMBERS, POSTS, TAGS))
    drawn = []
    for _ in range(number):
        page, write = _drawn(source, PAGES), None
        if writes.random() * 1000 < writes_per_thousand:
            write = _drawn(writes, WRITES)
            page = SHOWN_ON.get(write, page)
        drawn.append(Visit(page, member(), post(), member(), tag(), write))
    return drawn


def _drawn(source: random.Random, weights: dict[str, int]) -> str:
    return source.choices(list(weights), list(weights.values()))[0]


def _popular(source: random.Random, number: int) -> Callable[[], int]:
    """Return what draws numbers from 1 on, some of them often."""
    ranks = list(range(1, number + 1))
    source.shuffle(ranks)
    heights = list(itertools.accumulate(1 / rank for rank in range(1, number + 1)))
    return lambda: source.choices(ranks, cum_weights=heights)[0]


def populate(seed: int) -> None:
    """Fill an empty forum."""
    source = random.Random(seed)
    text = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. "
    Member.objects.bulk_create(Member(name=f"member-{n}", bio=text * 3) for n in range(1, MEMBERS + 1))
    Session.objects.bulk_create(Session(key=f"session-{n}", member_id=n) for n in range(1, MEMBERS + 1))
    Tag.objects.bulk_create(Tag(slug=f"tag-{n}", name=f"Tag {n}") for n in range(1, TAGS + 1))
    some_member, some_tag = (_popular(source, number) for number in (MEMBERS, TAGS))
    Post.objects.bulk_create(
        Post(slug=f"post-{n}", title=f"Post {n}", body=text * 20, author_id=some_member())
        for n in range(1, POSTS + 1)
    )
    through = Post.tags.through
    through.objects.bulk_create(
        through(post_id=n, tag_id=tag)
        for n in range(1, POSTS + 1)
        for tag in sorted({some_tag() for _ in range(3)})
    )
    Comment.objects.bulk_create(
        Comment(post_id=n % POSTS + 1, author_id=some_member(), text=text) for n in range(COMMENTS)
    )


# ------------------------------------------------------------------------------------------------------------
# Pages
# ------------------------------------------------------------------------------------------------------------


def table(model: type[Model]) -> str:
    """Return the name of a table."""
    return model._meta.db_table


def _who(visit: Visit) -> Iterator[Read]:
    key = f"session-{visit.member}"
    yield Read(Session.objects.filter(key=key), (Part(table(Session), {"key": key}, ALL_OF_SESSION),))
    yield member_of(visit.member)


def member_of(pk: int) -> Read:
    """Return the read of a member."""
    return Read(Member.objects.filter(pk=pk), (Part(table(Member), {"id": pk}, ALL_OF_MEMBER),))


def post_of(pk: int) -> Read:
    """Return the read of a post and its author."""
    slug = f"post-{pk}"
    return Read(
        Post.objects.filter(slug=slug).select_related("author"),
        (Part(table(Post), {"slug": slug}, ALL_OF_POST), Part(table(Member), {}, ALL_OF_MEMBER)),
    )


def comments_of(pk: int) -> Read:
    """Return the read of the comments on a post and who has made them."""
    return Read(
        Comment.objects.filter(post=pk).select_related("author").order_by("pk"),
        (Part(table(Comment), {"post_id": pk}, ALL_OF_COMMENT), Part(table(Member), {}, ALL_OF_MEMBER)),
    )


def _post_page(visit: Visit) -> Iterator[Read]:
    yield post_of(visit.post)
    yield Read(
        Tag.objects.filter(post=visit.post).order_by("slug"),
        (
            Part(table(Post.tags.through), {"post_id": visit.post}, frozenset({"post_id", "tag_id"})),
            Part(table(Tag), {}, ALL_OF_TAG),
        ),
    )
    yield comments_of(visit.post)


def _profile_page(visit: Visit) -> Iterator[Read]:
    name = f"member-{visit.other}"
    yield Read(Member.objects.filter(name=name), (Part(table(Member), {"name": name}, ALL_OF_MEMBER),))
    yield Read(
        Post.objects.filter(author=visit.other).order_by("-pk")[:PAGE],
        (Part(table(Post), {"author_id": visit.other}, ALL_OF_POST),),
    )
    yield Read(
        Comment.objects.filter(author=visit.other),
        (Part(table(Comment), {"author_id": visit.other}, frozenset({"author_id"})),),
        count=True,
    )


def _tag_page(visit: Visit) -> Iterator[Read]:
    slug = f"tag-{visit.tag}"
    yield Read(Tag.objects.filter(slug=slug), (Part(table(Tag), {"slug": slug}, ALL_OF_TAG),))
    yield Read(
        Post.objects.filter(tags=visit.tag).order_by("-pk")[:PAGE],
        (
            Part(table(Post.tags.through), {"tag_id": visit.tag}, frozenset({"post_id", "tag_id"})),
            Part(table(Post), {}, ALL_OF_POST),
        ),
    )


def newest_posts() -> Read:
    """Return the read of the front page."""
    return Read(
        Post.objects.select_related("author").order_by("-pk")[:PAGE],
        (Part(table(Post), {}, ALL_OF_POST), Part(table(Member), {}, ALL_OF_MEMBER)),
    )


def _front_page(_visit: Visit) -> Iterator[Read]:
    yield newest_posts()
    yield Read(Tag.objects.order_by("slug"), (Part(table(Tag), {}, ALL_OF_TAG),))


_PAGES: dict[str, Callable[[Visit], Iterable[Read]]] = {
    "post": _post_page,
    "profile": _profile_page,
    "tag": _tag_page,
    "front": _front_page,
}


def reads(visit: Visit) -> Iterator[Read]:
    """Yield the statements of a page."""
    yield from _who(visit)
    yield from _PAGES[visit.page](visit)


def rows_of(read: Read) -> Any:
    """Ask for what a statement returns."""
    return read.queryset.count() if read.count else list(read.queryset)


# ------------------------------------------------------------------------------------------------------------
# Writes
# ------------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A row that is about to be written; no key if it is to be made."""

    model: type[Model]
    pk: int | None


def target_of(visit: Visit) -> Target:
    """Return the row that the write of a visit is about."""
    if visit.write in {"like a post", "edit a post"}:
        return Target(Post, visit.post)
    if visit.write == "touch the session":
        return Target(Session, visit.member)
    if visit.write == "edit a profile":
        return Target(Member, visit.member)
    if visit.write == "like a comment":
        return Target(Comment, _some_comment(visit.post, visit.other))
    if visit.write == "delete a comment":
        return Target(Comment, _some_comment(visit.post, visit.tag))
    return Target(Comment if visit.write == "comment" else Post, None)


def _some_comment(post: int, number: int) -> int:
    """Return the key of one of the first comments on a post."""
    return post + number % (COMMENTS // POSTS) * POSTS


def write(visit: Visit) -> None:
    """Write what a visit writes."""
    target = target_of(visit)
    if visit.write == "like a post":
        Post.objects.filter(pk=target.pk).update(likes=F("likes") + 1)
    elif visit.write == "like a comment":
        Comment.objects.filter(pk=target.pk).update(likes=F("likes") + 1)
    elif visit.write == "touch the session":
        Session.objects.filter(pk=target.pk).update(seen=F("seen") + 1)
    elif visit.write == "comment":
        Comment.objects.create(post_id=visit.post, author_id=visit.member, text="I do not agree.")
    elif visit.write == "delete a comment":
        Comment.objects.filter(pk=target.pk).delete()
    elif visit.write == "write a post":
        _write_a_post(visit)
    else:
        _edit(target, visit)


def _write_a_post(visit: Visit) -> None:
    with transaction.atomic():
        post = Post.objects.create(slug=new_slug(), title="New", body="New", author_id=visit.member)
        post.tags.add(visit.tag)


def _edit(target: Target, visit: Visit) -> None:
    with transaction.atomic():
        row: Any = target.model._base_manager.select_for_update().get(pk=target.pk)
        if visit.write == "edit a post":
            row.title, row.version = f"Edited {row.version}", row.version + 1
            row.save()
        else:
            row.karma += 1
            row.save(update_fields=["karma"])


_slugs = itertools.count(1)


def new_slug() -> str:
    """Return a slug that nobody has."""
    return f"new-{random.SystemRandom().getrandbits(40)}-{next(_slugs)}"
