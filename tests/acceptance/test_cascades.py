"""What the database changes by itself when a row is written: cascades, generated columns, triggers."""

from __future__ import annotations

from functools import partial

import django
import pytest
from django.db import connection
from django.test import override_settings

from tests.acceptance.shapes import (
    Cases,
    assert_cached,
    assert_kept_through,
    assert_missed,
    assert_refreshed_by,
    execute,
    new_number,
)
from tests.testapp.models import (
    Author,
    Book,
    Bookmark,
    Category,
    Chapter,
    MixedCase,
    NullFK,
    Pizzeria,
    Place,
    Tag,
)

pytestmark = pytest.mark.django_db(transaction=True)

database_cascades = pytest.mark.skipif(django.VERSION < (6, 1), reason="DB_CASCADE came with Django 6.1")


class Family:
    """A parent, its child and grandchild of one kind. All keys are given: sequences do not know of those.

    :param kind: ``Cascade``, ``SetNull`` or ``SetDefault``.
    """

    def __init__(self, kind):
        from tests.testapp import models

        self.parents = models.DBParent
        self.links = models.DBCascadeChild
        self.children = getattr(models, f"DB{kind}Child")
        self.grandchildren = getattr(models, f"DB{kind}Grandchild")
        # Where SET DEFAULT points to.
        first = self.parents.objects.create(pk=1, name="first")
        self.links.objects.create(pk=1, parent=first)

    def parent(self):
        """A new one."""
        return self.parents.objects.create(pk=new_number(), name="new")

    def child(self, parent):
        """A new one of the kind."""
        return self.children.objects.create(pk=new_number(), parent=parent)

    def grandchild(self, parent):
        """A new one of the kind, below a child that goes with its parent."""
        child = self.links.objects.create(pk=new_number(), parent=parent)
        return self.grandchildren.objects.create(child=child)


@pytest.fixture(params=["Cascade", "SetNull", "SetDefault"])
def family(request):
    """Each kind of action that the database carries out."""
    if request.param == "SetDefault" and not connection.features.supports_on_delete_db_default:
        pytest.skip("no ON DELETE SET DEFAULT on this database")
    return Family(request.param)


@database_cascades
def test_delete_of_a_parent_refreshes_what_the_database_deleted_or_emptied(family):
    """An action of the database is an effect of the DELETE that caused it, two levels deep."""
    deletes = {
        "queryset": lambda parent: family.parents.objects.filter(pk=parent.pk).delete(),
        "instance": lambda parent: parent.delete(),
        "raw": lambda parent: execute("DELETE FROM testapp_dbparent WHERE id = %s", [parent.pk]),
    }
    cases = Cases()
    for name, delete in deletes.items():
        for make in (family.child, family.grandchild):
            with cases.case(f"{name}, {make.__name__}"):
                parent = family.parent()
                model = type(make(parent))
                assert_refreshed_by(lambda model=model: model.objects.order_by("pk"), partial(delete, parent))
    cases.check()


@database_cascades
def test_delete_of_a_child_keeps_the_parents(family):
    """The closure follows the direction in which the database acts."""
    child = family.child(family.parent())
    assert_kept_through(lambda: family.parents.objects.order_by("pk"), child.delete)


def test_delete_through_the_orm_refreshes_what_django_deleted(library):
    """Django's own cascades are writes like others: rows deleted, columns emptied, links removed."""
    reads = {
        "books": Book.objects.all,
        "chapters": Chapter.objects.all,
        "bookmarks": lambda: Bookmark.objects.order_by("pk"),
        "emptied": lambda: NullFK.objects.order_by("pk"),
        "links": library.tags[0].books.all,
        "authors": Author.objects.all,
    }
    for read in reads.values():
        assert_cached(read)
    Author.objects.filter(pk=library.authors[0].pk).delete()
    cases = Cases()
    for name, read in reads.items():
        with cases.case(name):
            assert_missed(read)
    cases.check()


def test_delete_of_a_tree_refreshes_its_branches(library):
    """A table that points to itself."""
    assert_refreshed_by(Category.objects.count, lambda: Category.objects.get(name="top").delete())


def test_write_of_a_child_table_refreshes_its_parent_tables(library):
    """A row of multi-table inheritance is written and deleted in all its tables."""
    pizzeria = Pizzeria.objects.get()

    def rename():
        pizzeria.name = "Da Renamed"
        pizzeria.save()

    assert_refreshed_by(lambda: Place.objects.order_by("pk"), rename)
    assert_refreshed_by(lambda: Place.objects.order_by("pk"), lambda: Pizzeria.objects.update(name="Updated"))
    assert_refreshed_by(lambda: Place.objects.order_by("pk"), pizzeria.delete)


@pytest.mark.skipif(django.VERSION < (5, 0), reason="GeneratedField came with Django 5.0")
@override_settings(CACHALOT_INVALIDATE_RAW=False)
def test_save_refreshes_what_the_database_computes(library):
    """A generated column is read anew after a save, one with RETURNING too, and without raw invalidation."""
    from tests.testapp.models import Rectangle

    rectangle = Rectangle.objects.get()

    def save():
        rectangle.width += 1
        rectangle.save()

    def areas():
        return Rectangle.objects.order_by("pk").values_list("area", flat=True)

    assert_refreshed_by(areas, save)
    assert_refreshed_by(areas, lambda: Rectangle.objects.create(width=4, height=4))
    assert_refreshed_by(areas, lambda: Rectangle.objects.bulk_create([Rectangle(width=5, height=5)]))
    assert_refreshed_by(areas, lambda: Rectangle.objects.update(height=9))


TRIGGERS = {
    "sqlite": [
        (
            "CREATE TRIGGER count_bookmarks AFTER INSERT ON testapp_bookmark BEGIN "
            'UPDATE "TestApp_MixedCase" SET value = value + 1; END'
        ),
    ],
    "mysql": [
        (
            "CREATE TRIGGER count_bookmarks AFTER INSERT ON testapp_bookmark FOR EACH ROW "
            "UPDATE `TestApp_MixedCase` SET value = value + 1"
        ),
    ],
    "postgresql": [
        (
            "CREATE FUNCTION count_bookmarks() RETURNS trigger LANGUAGE plpgsql AS "
            '$$ BEGIN UPDATE "TestApp_MixedCase" SET value = value + 1; RETURN NEW; END $$'
        ),
        (
            "CREATE TRIGGER count_bookmarks AFTER INSERT ON testapp_bookmark FOR EACH ROW "
            "EXECUTE FUNCTION count_bookmarks()"
        ),
    ],
}


@pytest.fixture
def trigger(library):
    """Each new bookmark counts one up in another table."""
    for statement in TRIGGERS[connection.vendor]:
        execute(statement)
    yield
    if connection.vendor == "postgresql":
        execute("DROP FUNCTION count_bookmarks() CASCADE")
    else:
        execute("DROP TRIGGER count_bookmarks")


def test_declared_trigger_refreshes_the_table_it_writes(trigger, library):
    """What ``CACHALOT_WRITE_DEPENDENCIES`` says about a table holds for every write to it, transitively."""
    book = library.books[0]
    declared = {"testapp_bookmark": ["TestApp_MixedCase"], "testapp_tag": {"testapp_bookmark"}}
    with override_settings(CACHALOT_WRITE_DEPENDENCIES=declared):

        def read():
            return MixedCase.objects.order_by("pk")

        before = MixedCase.objects.get().value
        assert_refreshed_by(read, lambda: Bookmark.objects.create(book=book))
        assert MixedCase.objects.get().value == before + 1
        assert_refreshed_by(read, lambda: Bookmark.objects.bulk_create([Bookmark(book=book)]))
        assert_refreshed_by(
            read, lambda: execute("INSERT INTO testapp_bookmark (book_id, page) VALUES (%s, 1)", [book.pk])
        )
        assert_refreshed_by(read, lambda: Tag.objects.create(name="leads to bookmarks"))
        assert_kept_through(read, lambda: Author.objects.create(name="leads nowhere"))
