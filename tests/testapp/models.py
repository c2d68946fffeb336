"""Test models, one for every kind of relation and table that a query cache can get wrong."""

from __future__ import annotations

import uuid

import django
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models, transaction

#: The view that :class:`AuthorStats` reads; a test that wants it creates it.
AUTHOR_STATS_VIEW = """
    CREATE VIEW testapp_authorstats AS
    SELECT a.id AS author_id, a.name AS name, COUNT(b.id) AS books
    FROM testapp_author a LEFT JOIN testapp_book b ON b.author_id = a.id
    GROUP BY a.id, a.name
"""


class Author(models.Model):
    name = models.CharField(max_length=100)
    age = models.IntegerField(null=True)

    class Meta:
        ordering = ["id"]

    def __str__(self):
        return self.name


class Tag(models.Model):
    name = models.CharField(max_length=100, unique=True)

    class Meta:
        ordering = ["id"]

    def __str__(self):
        return self.name


class Review(models.Model):
    """Belongs to anything."""

    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.PositiveBigIntegerField()
    subject = GenericForeignKey()
    text = models.TextField()
    stars = models.IntegerField(default=3)

    class Meta:
        ordering = ["id"]


class Book(models.Model):
    title = models.CharField(max_length=200)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    pages = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    published = models.DateField(null=True)
    uuid = models.UUIDField(default=uuid.uuid4)
    tags = models.ManyToManyField(Tag, related_name="books", blank=True)
    meta = models.JSONField(null=True)
    payload = models.BinaryField(null=True)
    created = models.DateTimeField(null=True)
    reviews = GenericRelation(Review)

    class Meta:
        ordering = ["id"]

    def __str__(self):
        return self.title


class Bookmark(models.Model):
    """Its table's name begins with that of another table."""

    book = models.ForeignKey(Book, models.CASCADE)
    page = models.IntegerField(default=1)


class Chapter(models.Model):
    book = models.ForeignKey(Book, models.CASCADE, related_name="chapters")
    number = models.IntegerField()
    title = models.CharField(max_length=200, default="")

    class Meta:
        unique_together = [("book", "number")]
        ordering = ["book", "number"]


class LongBook(Book):
    """A proxy: another class on the same table."""

    class Meta:
        proxy = True


class Place(models.Model):
    name = models.CharField(max_length=100)
    address = models.CharField(max_length=100, default="")


class Restaurant(Place):
    """Multi-table inheritance: a row is spread over two tables."""

    stars = models.IntegerField(default=0)
    cook = models.ForeignKey(Author, models.SET_NULL, null=True)


class Pizzeria(Restaurant):
    """A third table."""

    oven = models.CharField(max_length=100, default="wood")


class Category(models.Model):
    """A tree."""

    name = models.CharField(max_length=100)
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")


class NullFK(models.Model):
    """Survives its author."""

    author = models.ForeignKey(Author, models.SET_NULL, null=True)
    note = models.CharField(max_length=100, default="")


class Friendship(models.Model):
    """The explicit table of a many-to-many relation."""

    person = models.ForeignKey("Person", models.CASCADE, related_name="+")
    friend = models.ForeignKey("Person", models.CASCADE, related_name="+")
    since = models.DateField(null=True)


class Person(models.Model):
    """Many-to-many with itself."""

    name = models.CharField(max_length=100)
    friends = models.ManyToManyField("self", through=Friendship)


class MixedCase(models.Model):
    """A table whose name means something else without quotes."""

    value = models.IntegerField(default=0)

    class Meta:
        db_table = "TestApp_MixedCase"


class AuthorStats(models.Model):
    """A view over two tables, see :data:`AUTHOR_STATS_VIEW`."""

    author = models.OneToOneField(Author, models.DO_NOTHING, primary_key=True)
    name = models.CharField(max_length=100)
    books = models.IntegerField()

    class Meta:
        managed = False
        db_table = "testapp_authorstats"


class Landlord(models.Model):
    """Has places of its own, see :class:`Plot`."""


class Plot(models.Model):
    """What may be built upon."""

    landlord = models.ForeignKey(Landlord, models.CASCADE)


class House(Plot):
    """A plot that is built upon, a row of a table of its own."""


class TagNote(models.Model):
    """Belongs to a tag by its name."""

    name = models.ForeignKey(Tag, models.CASCADE, to_field="name", related_name="notes")
    text = models.CharField(max_length=10)


class TagUse(models.Model):
    """Belongs to a tag by its key."""

    tag = models.ForeignKey(Tag, models.CASCADE)


class AskingField(models.CharField):
    """Asks the database in a transaction when its value is read."""

    db_returning = True

    def from_db_value(self, value, _expression, _connection):
        """Ask."""
        with transaction.atomic():
            Counter.objects.exists()
        return value


class Numbered(models.Model):
    """Its primary key is chosen by whoever writes it; SQLite chooses one for NULL."""

    number = models.IntegerField(primary_key=True)


class Short(models.Model):
    """Its text is shorter than one may send, its number is never absent."""

    slug = models.CharField(max_length=5, unique=True)
    number = models.IntegerField(unique=True, default=0)


class LowerField(models.CharField):
    """The database makes its values small."""

    def get_placeholder(self, _value, _compiler, _connection):
        """Before Django 6.1."""
        return "LOWER(%s)"

    def get_placeholder_sql(self, value, _compiler, _connection):
        """Since Django 6.1."""
        return "LOWER(%s)", (value,)


class Lowered(models.Model):
    """What is stored is not what was sent."""

    slug = LowerField(max_length=50, unique=True)


class Counter(models.Model):
    """Gives numbers to others."""

    last = models.IntegerField(default=0)


class DrawnField(models.IntegerField):
    """Draws a number in a transaction of its own, while the INSERT is compiled."""

    def pre_save(self, instance, add):
        """Draw one for a new row."""
        if add:
            with transaction.atomic():
                counter, _new = Counter.objects.get_or_create(pk=1)
                Counter.objects.filter(pk=1).update(last=models.F("last") + 1)
                setattr(instance, self.attname, counter.last + 1)
        return super().pre_save(instance, add)


class CountingField(models.IntegerField):
    """Counts how often it was written, while the INSERT is compiled."""

    def pre_save(self, instance, add):
        """Count."""
        Counter.objects.filter(pk=1).update(last=models.F("last") + 1)
        return super().pre_save(instance, add)


class Invoice(models.Model):
    """Its number is drawn by a field."""

    number = DrawnField(null=True)


class Counted(models.Model):
    """A field counts it, whether it is inserted or not."""

    number = CountingField(null=True)
    code = models.CharField(max_length=10, unique=True)


class Old(models.Model):
    """Its table has the name that old versions of rows are given in a statement."""

    author = models.ForeignKey(Author, models.CASCADE)

    class Meta:
        db_table = "_cachalot_old"


if django.VERSION >= (5, 0):

    def computed_area(**options):
        """A column that the database computes from two others."""
        return models.GeneratedField(
            expression=models.F("width") * models.F("height"),
            output_field=models.IntegerField(),
            db_persist=True,
            **options,
        )

    class Pane(models.Model):
        """Its unique column is computed from two others."""

        width = models.IntegerField()
        height = models.IntegerField()
        area = computed_area(unique=True)

    class Asking(models.Model):
        """Its text comes from the database."""

        text = AskingField(max_length=10, db_default="there")

    class Doubled(models.Model):
        """The database computes a column that is unique."""

        number = models.IntegerField()
        twice = models.GeneratedField(
            expression=models.F("number") * 2,
            output_field=models.IntegerField(),
            db_persist=True,
            unique=True,
        )

    class Computed(models.Model):
        """The first of its unique columns, by name, is computed."""

        width = models.IntegerField(unique=True)
        area = models.GeneratedField(
            expression=models.F("width") * models.F("width"),
            output_field=models.IntegerField(),
            db_persist=True,
            unique=True,
        )

    class Rectangle(models.Model):
        """The database computes a column."""

        width = models.IntegerField()
        height = models.IntegerField()
        area = computed_area()


if django.VERSION >= (5, 2):

    class Seat(models.Model):
        """Two columns are the primary key."""

        pk = models.CompositePrimaryKey("row", "number")
        row = models.IntegerField()
        number = models.IntegerField()
        guest = models.CharField(max_length=100, default="")


if django.VERSION >= (6, 1):

    class DBParent(models.Model):
        """What the database deletes, empties or resets below it, Django does not see."""

        name = models.CharField(max_length=100)

    class DBNode(models.Model):
        """Goes with its parent, which is of the same table."""

        name = models.CharField(max_length=100)
        parent = models.ForeignKey("self", models.DB_CASCADE, null=True)

    class DBCascadeChild(models.Model):
        parent = models.ForeignKey(DBParent, models.DB_CASCADE)

    class DBSetNullChild(models.Model):
        parent = models.ForeignKey(DBParent, models.DB_SET_NULL, null=True)

    class DBSetDefaultChild(models.Model):
        """InnoDB knows no SET DEFAULT."""

        parent = models.ForeignKey(DBParent, models.DB_SET_DEFAULT, db_default=1)

        class Meta:
            required_db_features = {"supports_on_delete_db_default"}

    class DBCascadeGrandchild(models.Model):
        child = models.ForeignKey(DBCascadeChild, models.DB_CASCADE)

    class DBSetNullGrandchild(models.Model):
        child = models.ForeignKey(DBCascadeChild, models.DB_SET_NULL, null=True)

    class DBSetDefaultGrandchild(models.Model):
        child = models.ForeignKey(DBCascadeChild, models.DB_SET_DEFAULT, db_default=1)

        class Meta:
            required_db_features = {"supports_on_delete_db_default"}


MASK = 0x2A0000


class MaskedField(models.AutoField):
    """Shows another number than the one that is stored."""

    def get_prep_value(self, value):
        """Hide."""
        value = super().get_prep_value(value)
        return None if value is None else value ^ MASK

    def from_db_value(self, value, _expression, _connection):
        """Show."""
        return None if value is None else value ^ MASK


class Masked(models.Model):
    """Its primary key is shown as another number than the one that is stored."""

    id = MaskedField(primary_key=True)
    name = models.CharField(max_length=10, default="")


class MaskedChild(models.Model):
    masked = models.ForeignKey(Masked, models.CASCADE)


class Hand(models.Model):
    """Its second column is made by the database, by hand."""

    number = models.IntegerField()
    twice = models.IntegerField(unique=True, null=True)


if django.VERSION >= (5, 2):

    class Ticket(models.Model):
        """Two columns are the primary key, and there is a foreign key."""

        pk = models.CompositePrimaryKey("row", "number")
        row = models.IntegerField()
        number = models.IntegerField()
        author = models.ForeignKey(Author, models.CASCADE)


class ShiftedField(models.IntegerField):
    """SELECT shows another number than the one that is stored."""

    def select_format(self, compiler, sql, params):
        """Show."""
        return f"({sql} + 1000)", params

    def get_prep_value(self, value):
        """Store."""
        value = super().get_prep_value(value)
        return None if value is None else value - 1000


class Shifted(models.Model):
    id = ShiftedField(primary_key=True)
    name = models.CharField(max_length=10, default="")


class ShiftedChild(models.Model):
    shifted = models.ForeignKey(Shifted, models.CASCADE)


class Later(models.Model):
    """Its first column, by name, comes with a later migration."""

    active = models.IntegerField(null=True)
    owner = models.ForeignKey(Author, models.CASCADE, null=True, related_name="+", db_constraint=False)
    text = models.CharField(max_length=10, default="")


if django.VERSION >= (5, 0):

    class Drawn(models.Model):
        """The database draws its values."""

        code = models.IntegerField(unique=True, db_default=7)
        owner = models.ForeignKey(Author, models.CASCADE, db_default=1, db_constraint=False, related_name="+")
        double = models.GeneratedField(
            expression=models.F("code") * 2, output_field=models.IntegerField(), db_persist=True
        )
