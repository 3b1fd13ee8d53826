"""A Django application: authors, their books, and shelves."""
