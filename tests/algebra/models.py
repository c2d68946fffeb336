"""Models with every kind of key: text, UUID, tuples, nullable, generic, in several tables."""

from __future__ import annotations

import uuid

import django
from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

_VENDOR = settings.DATABASES["default"]["ENGINE"].rpartition(".")[2]
ANY_CASE = {"sqlite3": "NOCASE", "postgresql": "any_case"}.get(_VENDOR)
EXACT = {"mysql": "utf8mb4_bin"}.get(_VENDOR)


class Country(models.Model):
    """Its key is a text that is compared letter by letter."""

    code = models.CharField(max_length=8, primary_key=True, db_collation=EXACT)
    name = models.CharField(max_length=20)


class Author(models.Model):
    """Belongs to a country, or to none, and has a mentor of its own kind."""

    name = models.CharField(max_length=20)
    age = models.IntegerField(null=True)
    slug = models.CharField(max_length=20, unique=True, db_collation=EXACT)
    country = models.ForeignKey(Country, models.SET_NULL, null=True, related_name="authors")
    mentor = models.ForeignKey("self", models.SET_NULL, null=True, related_name="pupils")


class Note(models.Model):
    """Belongs to anything."""

    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.PositiveBigIntegerField()
    subject = GenericForeignKey()
    text = models.CharField(max_length=20)


class Genre(models.Model):
    """Its key is a UUID."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=20)
    open = models.BooleanField(default=True)


class Book(models.Model):
    """The middle of everything."""

    title = models.CharField(max_length=20)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    editor = models.ForeignKey(Author, models.SET_NULL, null=True, related_name="edited")
    number = models.IntegerField()
    isbn = models.IntegerField(null=True, unique=True)
    likes = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=6, decimal_places=2, unique=True, null=True)
    genre = models.ForeignKey(Genre, models.SET_NULL, null=True, related_name="first_books")
    genres = models.ManyToManyField(Genre, related_name="books")
    readers = models.ManyToManyField(Author, through="Loan", related_name="read")
    notes = GenericRelation(Note)

    class Meta:
        unique_together = [("author", "number")]


class SameBook(Book):
    """A proxy."""

    class Meta:
        proxy = True


class Special(Book):
    """A row in two tables."""

    rank = models.IntegerField(default=0)
    patron = models.ForeignKey(Author, models.CASCADE, null=True, related_name="specials")


class Loan(models.Model):
    """The explicit table of a relation."""

    book = models.ForeignKey(Book, models.CASCADE, related_name="loans")
    reader = models.ForeignKey(Author, models.CASCADE, related_name="loans")
    days = models.IntegerField(default=1)


class Chapter(models.Model):
    """Its unique tuple is a constraint."""

    book = models.ForeignKey(Book, models.CASCADE, related_name="chapters")
    number = models.IntegerField()
    title = models.CharField(max_length=20, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["book", "number"], name="algebra_chapter_once")]


class Word(models.Model):
    """Its text is equal in upper and lower case; who refers to it does so by that text."""

    text = models.CharField(max_length=20, unique=True, db_collation=ANY_CASE)
    weight = models.IntegerField(default=0)


class Mention(models.Model):
    """Refers to a text, in whatever case."""

    # An index for LIKE, which Django 4.2 makes with the other one, PostgreSQL does not make for such a text.
    word = models.ForeignKey(Word, models.CASCADE, to_field="text", related_name="mentions", db_index=False)
    page = models.IntegerField(default=0)


class Use(models.Model):
    """Refers to a unique column that is no primary key."""

    slug = models.ForeignKey(Author, models.CASCADE, to_field="slug", related_name="uses")
    place = models.IntegerField(default=0)


COMPOSITE = django.VERSION >= (5, 2)

if COMPOSITE:

    class Seat(models.Model):
        """Two columns are its primary key."""

        pk = models.CompositePrimaryKey("row", "number")
        row = models.IntegerField()
        number = models.IntegerField()
        guest = models.ForeignKey(Author, models.SET_NULL, null=True, related_name="seats")


GENERATED = django.VERSION >= (5, 0)

if GENERATED:

    class Box(models.Model):
        """The database computes a column that is unique."""

        width = models.IntegerField()
        owner = models.ForeignKey(Author, models.CASCADE, related_name="boxes")
        area = models.GeneratedField(
            expression=models.F("width") * models.F("width"),
            output_field=models.IntegerField(),
            db_persist=True,
            unique=True,
        )
