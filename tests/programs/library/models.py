"""The tables of the application, by names that the cache of the tests allows."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class Author(models.Model):
    name = models.CharField(max_length=80, unique=True)
    born = models.DateField(null=True)
    more = models.JSONField(default=dict)

    class Meta:
        db_table = "author"


class Shelf(models.Model):
    label = models.CharField(max_length=20)

    class Meta:
        db_table = "shelf"


class Book(models.Model):
    title = models.CharField(max_length=80, db_index=True)
    pages = models.PositiveIntegerField(default=1)
    price = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    shelves = models.ManyToManyField(Shelf)

    class Meta:
        db_table = "book"
        constraints = (models.CheckConstraint(condition=Q(pages__gt=0), name="book_has_pages"),)
