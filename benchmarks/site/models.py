"""Members, sessions, posts, comments, tags and counters of likes."""

from __future__ import annotations

from django.db import models


class Member(models.Model):
    """Who reads and writes."""

    name = models.CharField(max_length=40, unique=True)
    bio = models.TextField(default="")
    karma = models.IntegerField(default=0)


class Session(models.Model):
    """Who is logged in."""

    key = models.CharField(max_length=40, unique=True)
    member = models.ForeignKey(Member, models.CASCADE)
    seen = models.IntegerField(default=0)


class Tag(models.Model):
    """What a post is about."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=40)


class Post(models.Model):
    """What a member has written."""

    slug = models.SlugField(unique=True)
    title = models.CharField(max_length=100)
    body = models.TextField()
    author = models.ForeignKey(Member, models.CASCADE)
    tags = models.ManyToManyField(Tag)
    likes = models.IntegerField(default=0)
    version = models.IntegerField(default=0)


class Comment(models.Model):
    """What another one has to say about it."""

    post = models.ForeignKey(Post, models.CASCADE)
    author = models.ForeignKey(Member, models.CASCADE)
    text = models.TextField()
    likes = models.IntegerField(default=0)
