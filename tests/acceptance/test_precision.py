"""What a write must not cost: results over tables that it did not touch stay in the cache."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connections, transaction
from django.db.models import Count
from django.utils import timezone

from cachalot.api import explain, invalidate
from tests.acceptance.shapes import (
    Cases,
    assert_cached,
    assert_hit,
    assert_kept_through,
    assert_missed,
    assert_refreshed_by,
    execute,
    run,
)
from tests.testapp.models import Author, Book, Bookmark, Chapter, MixedCase, Tag

pytestmark = pytest.mark.django_db(transaction=True)


def test_login_keeps_what_belongs_to_the_user(library):
    """A new ``last_login`` leaves reads by the key of the user: Django trims the join, and so do we."""
    user = User.objects.create(username="ada")
    group = Group.objects.create(name="editors")
    kind = ContentType.objects.get_for_model(Book)
    permission = Permission.objects.create(name="p", codename="p", content_type=kind)
    group.permissions.set([permission])
    user.groups.set([group])
    reads = {
        "groups of the user": lambda: Group.objects.filter(user=user.pk),
        "prefetched permissions": lambda: Group.objects.prefetch_related("permissions"),
        "through the manager": user.groups.all,
    }
    cases = Cases()
    for name, read in reads.items():
        with cases.case(name):
            assert_kept_through(
                read, lambda: User.objects.filter(pk=user.pk).update(last_login=timezone.now())
            )
    cases.check()


def test_write_to_the_owner_keeps_what_is_found_by_its_key(library):
    """However the key is spelt, the table that it points to is not in the statement."""
    author = library.authors[0]
    reads = {
        "column": lambda: Book.objects.filter(author_id=author.pk),
        "instance": lambda: Book.objects.filter(author=author),
        "pk": lambda: Book.objects.filter(author__pk=author.pk),
        "id in": lambda: Book.objects.filter(author__id__in=[author.pk, author.pk + 1]),
        "is null": lambda: Book.objects.filter(author__isnull=False),
        "values": lambda: Book.objects.values_list("author__id"),
        "manager": author.books.all,
        "group": lambda: Book.objects.values("author").annotate(n=Count("pk")).order_by("author_id"),
        "tags by key": lambda: Book.objects.filter(tags=library.tags[0].pk),
    }
    cases = Cases()
    for name, read in reads.items():
        with cases.case(name):
            assert_kept_through(read, lambda: Author.objects.filter(pk=author.pk).update(age=1))
            assert_kept_through(read, author.save)
            assert_kept_through(read, library.tags[0].save)
    cases.check()


def test_prefetch_depends_on_its_own_two_tables(library):
    """The second statement of a many-to-many prefetch reads the target and the table between them."""

    def read():
        return list(library.books[0].tags.all())

    with_tags = explain(library.books[0].tags.all())
    assert set(with_tags.tables) == {"testapp_tag", "testapp_book_tags"}
    assert_kept_through(read, lambda: Book.objects.update(pages=1))
    assert_kept_through(read, lambda: Author.objects.update(age=1))

    def prefetch():
        return list(Book.objects.prefetch_related("tags"))

    assert_cached(prefetch)
    Book.objects.filter(pk=library.books[0].pk).update(pages=2)
    _, sent = run(prefetch)
    assert len(sent) == 1, sent
    Tag.objects.filter(pk=library.tags[0].pk).update(name="another")
    _, sent = run(prefetch)
    assert len(sent) == 1, sent


def test_link_between_two_rows_keeps_both_tables(library):
    """Adding to a many-to-many relation changes the table between, not the two it joins."""
    book, tag = library.books[0], library.tags[2]
    assert_kept_through(Book.objects.all, lambda: book.tags.add(tag))
    assert_kept_through(Tag.objects.all, lambda: book.tags.remove(tag))
    assert_refreshed_by(book.tags.all, lambda: book.tags.add(tag))


def test_write_that_was_rolled_back_costs_nothing(library):
    """What never became visible ends no result."""

    def fail():
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 - its end is what is tested
            Author.objects.update(age=1)
            execute("UPDATE testapp_author SET age = 2")
            raise ZeroDivisionError

    assert_kept_through(Author.objects.all, fail)


def test_savepoint_that_was_rolled_back_costs_nothing(library):
    """Only what the transaction keeps ends results when it commits."""

    def write():
        with transaction.atomic():
            Tag.objects.create(name="kept")
            with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 - its end is what is tested
                Author.objects.update(age=1)
                raise ZeroDivisionError

    assert_kept_through(Author.objects.all, write)
    assert_refreshed_by(Tag.objects.all, lambda: Tag.objects.create(name="more"))


def test_transaction_that_only_reads_costs_nothing(library):
    """The end of a transaction is no write."""

    def read():
        with transaction.atomic():
            list(Author.objects.all())
            list(Tag.objects.all())

    assert_kept_through(Author.objects.all, read)


def test_saving_one_table_of_many_keeps_the_others(library):
    """Every write form of the ORM names one table."""
    author = library.authors[1]
    writes = {
        "create": lambda: Bookmark.objects.create(book=library.books[0]),
        "bulk_create": lambda: Bookmark.objects.bulk_create([Bookmark(book=library.books[0])] * 2),
        "save": library.bookmarks[0].save,
        "update": lambda: Bookmark.objects.update(page=3),
        "bulk_update": lambda: Bookmark.objects.bulk_update([library.bookmarks[0]], ["page"]),
        "get_or_create": lambda: MixedCase.objects.get_or_create(value=77),
        "update_or_create": lambda: MixedCase.objects.update_or_create(value=77, defaults={"value": 78}),
        "delete": lambda: Bookmark.objects.filter(page=3).delete(),
    }
    reads = [
        author.books.all,
        lambda: Book.objects.select_related("author"),
        Chapter.objects.all,
    ]
    cases = Cases()
    for name, write in writes.items():
        for read in reads:
            with cases.case(name):
                assert_kept_through(read, write)
    cases.check()


def test_one_table_is_invalidated_alone(library):
    """``invalidate`` of one model keeps the others."""
    assert_kept_through(Book.objects.all, lambda: invalidate(Bookmark, "testapp.Author"))
    assert_refreshed_by(Book.objects.all, lambda: invalidate(Book))


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_write_to_another_database_keeps_the_same_table_here(library):
    """Two databases with the same tables share no result and no invalidation."""

    def read():
        return Author.objects.using("default").all()

    assert_kept_through(read, lambda: Author.objects.using("other").create(name="Elsewhere"))
    assert_kept_through(read, lambda: execute("DELETE FROM testapp_author", alias="other"))
    connections["other"].close()


def test_order_of_tables_written_does_not_matter(library):
    """One transaction over two tables ends the results of both, and of no third."""
    reads = [Author.objects.all, Tag.objects.all]
    for read in (*reads, Chapter.objects.all):
        assert_cached(read)
    with transaction.atomic():
        Tag.objects.create(name="new")
        Author.objects.update(age=7)
    for read in reads:
        assert_missed(read)
    assert_hit(Chapter.objects.all)
