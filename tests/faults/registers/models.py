"""Registers, counters and lists: what a checker of histories can judge, in several tables."""

from __future__ import annotations

from django.db import models


class Register(models.Model):
    value = models.IntegerField(default=0)
    name = models.CharField(max_length=30, null=True, unique=True)


class Counter(models.Model):
    value = models.IntegerField(default=0)


class Journal(models.Model):
    """A list whose elements are numbers, each with a comma behind it."""

    elements = models.TextField(default="")
