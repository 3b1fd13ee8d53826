"""What an application does with the ORM. Each program is a function without arguments and gives plain values."""

from __future__ import annotations

import io
from typing import Any

from django.core.management import call_command
from django.db import DatabaseError, connection, models, transaction
from django.db.models import Avg, Count, F, Prefetch, Q, Window
from django.db.models.functions import Lower, Rank

from library.models import Author, Book, Shelf


def fill() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS author, shelf, book, book_shelves CASCADE")
        cursor.execute("DROP TABLE IF EXISTS auth_user, auth_group, auth_permission, django_content_type CASCADE")
        cursor.execute(
            "DROP TABLE IF EXISTS auth_group_permissions, auth_user_groups, auth_user_user_permissions CASCADE"
        )
        cursor.execute("DROP TABLE IF EXISTS django_migrations")
    with connection.schema_editor() as editor:
        for model in (Author, Shelf, Book):
            editor.create_model(model)
    shelves = Shelf.objects.bulk_create(Shelf(label=f"Shelf {n}") for n in range(1, 4))
    for number in range(1, 9):
        author = Author.objects.create(name=f"Author {number}", born=f"19{number:02}-01-02", more={"n": [number, None]})
        for part in range(1, 4):
            book = Book.objects.create(title=f"Book {number}.{part}", pages=part * 10, price="9.50", author=author)
            book.shelves.set(shelves[:part])


def failing(work: Any) -> Any:
    try:
        with transaction.atomic():
            return work()
    except DatabaseError as error:
        cause: Any = error.__cause__
        return type(error).__name__, getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)


# --- programs ---


def loading() -> Any:
    seen: list[Any] = []
    for _ in range(2):
        seen.append([(book.title, book.author.name) for book in Book.objects.order_by("id")])
        seen.append([(book.title, book.author.name) for book in Book.objects.select_related("author").order_by("id")])
        long = Prefetch("books", Book.objects.filter(pages__gt=10).order_by("id"), to_attr="long")
        authors = Author.objects.prefetch_related(long, "books__shelves").order_by("id")
        seen.append([(author.name, [book.title for book in author.long]) for author in authors])
        seen.append(
            [sorted(shelf.label for shelf in book.shelves.all()) for author in authors for book in author.books.all()]
        )
        seen.append([Author.objects.get(pk=key).more for key in (1, 2, 1)])
        seen.append(Author.objects.filter(pk=999).first())
    return seen


def aggregates() -> Any:
    ranked = Book.objects.annotate(place=Window(Rank(), partition_by=F("author"), order_by=F("pages").desc()))
    return [
        list(
            Author.objects.annotate(count=Count("books"), mean=Avg("books__pages"))
            .order_by("id")
            .values_list("name", "count", "mean")
        ),
        list(ranked.order_by("id").values_list("id", "place")),
        list(
            Book.objects.filter(Q(title__icontains="1.") | Q(pages__in=[30]))
            .order_by("id")
            .values_list("title", flat=True)
        ),
        list(
            Author.objects.annotate(low=Lower("name"))
            .filter(more__n__0__gte=7)
            .order_by("id")
            .values_list("low", flat=True)
        ),
        Book.objects.aggregate(Count("id"), Avg("price")),
        Book.objects.filter(author__books__pages=30).distinct().count(),
        Book.objects.filter(pk=1).exists(),
        Book.objects.none().count(),
        list(Book.objects.dates("author__born", "year")),
    ]


def writing() -> Any:
    seen: list[Any] = []
    made = Book.objects.bulk_create(
        [Book(title=f"bulk {n}", pages=n, author_id=1) for n in range(1, 1201)], batch_size=500
    )
    seen.append((len(made), made[-1].title, made[-1].pk is not None))
    for book in made:
        book.pages += 1
    seen.append(Book.objects.bulk_update(made[:60], ["pages"]))
    conflict = [Author(name="Author 1", more={"new": 1}), Author(name="One more", more={})]
    Author.objects.bulk_create(conflict, update_conflicts=True, unique_fields=["name"], update_fields=["more"])
    seen.append(list(Author.objects.order_by("name").values_list("name", "more")))
    seen.append(Book.objects.filter(title__startswith="bulk").update(pages=F("pages") + 1))
    seen.append(Book.objects.aggregate(total=models.Sum("pages")))
    seen.append(Author.objects.get_or_create(name="One more")[1])
    seen.append(Author.objects.update_or_create(name="Another", defaults={"more": {"a": 1}})[1])
    seen.append(Book.objects.filter(title__startswith="bulk").delete())
    author = Author.objects.get(name="Another")
    author.more = {"changed": True}
    author.save()
    author.refresh_from_db()
    seen.append(author.more)
    seen.append(author.delete())
    return seen


def transactions() -> Any:
    seen: list[Any] = []
    seen.append(Author.objects.count())
    try:
        with transaction.atomic():
            Author.objects.create(name="outer")
            try:
                with transaction.atomic():
                    Author.objects.create(name="inner")
                    seen.append(Author.objects.count())
                    raise KeyError
            except KeyError:
                seen.append(Author.objects.count())
            seen.append(failing(lambda: Author.objects.create(name="outer")))
            seen.append(Author.objects.count())
            transaction.on_commit(lambda: seen.append("committed"))
            seen.append([author.name for author in Author.objects.select_for_update().order_by("id")[:2]])
    finally:
        seen.append(Author.objects.count())
    with transaction.atomic():
        Author.objects.create(name="not kept")
        transaction.set_rollback(True)
    seen.append(Author.objects.filter(name="not kept").exists())
    connection.set_autocommit(False)
    Author.objects.create(name="by hand")
    connection.rollback()
    connection.set_autocommit(True)
    seen.append(Author.objects.filter(name="by hand").count())
    return seen


def constraints() -> Any:
    seen = [
        failing(lambda: Author.objects.create(name="Author 1")),
        failing(lambda: Book.objects.create(title="no pages", pages=0, author_id=1)),
        failing(lambda: Author.objects.create(name="x" * 81)),
        failing(lambda: Book.objects.raw("SELECT * FROM missing")[0]),
        failing(lambda: Book.objects.filter(pages=1 << 40).count()),
    ]

    def dangling() -> None:
        Book.objects.create(title="nobody's", author_id=9999)

    return [*seen, failing(dangling), Author.objects.count()]


def iterating() -> Any:
    """iterator() takes a cursor of the server."""
    seen: list[Any] = []
    seen.append([book.title for book in Book.objects.order_by("id").iterator(chunk_size=5)])
    seen.append(
        [book.author.name for book in Book.objects.order_by("id").prefetch_related("author").iterator(chunk_size=7)]
    )
    half = Book.objects.order_by("id").iterator(chunk_size=2)
    seen.append([next(half).title for _ in range(3)])
    half.close()
    with transaction.atomic():
        seen.append(len(list(Book.objects.iterator(chunk_size=3))))
    seen.append(Book.objects.count())
    return seen


def schema() -> Any:
    """The schema editor and what introspection reads."""
    seen: list[Any] = []
    added = models.CharField(max_length=10, default="new", db_index=True)
    added.set_attributes_from_name("added")
    with connection.schema_editor() as editor:
        editor.add_field(Author, added)
    with connection.cursor() as cursor:
        names = sorted(connection.introspection.table_names(cursor))
        seen.append(names)
        for name in ("author", "book", "book_shelves"):
            seen.append([list(column) for column in connection.introspection.get_table_description(cursor, name)])
            seen.append(connection.introspection.get_relations(cursor, name))
            constraints = connection.introspection.get_constraints(cursor, name)
            seen.append(sorted((key, repr(sorted(value.items(), key=str))) for key, value in constraints.items()))
            seen.append(connection.introspection.get_sequences(cursor, name))
    with connection.schema_editor() as editor:
        editor.remove_field(Author, added)
    out = io.StringIO()
    call_command("inspectdb", "author", "book", "book_shelves", stdout=out)
    seen.append(out.getvalue())
    return seen


def migrations() -> Any:
    """The migrations of Django's own applications."""
    out = io.StringIO()
    call_command("migrate", stdout=out, no_color=True, verbosity=1)
    call_command("showmigrations", stdout=out, no_color=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name FROM django_migrations ORDER BY id")
        applied = cursor.fetchall()
        cursor.execute("SELECT codename FROM auth_permission ORDER BY id")
        return [out.getvalue(), applied, cursor.fetchall()]


def raw() -> Any:
    seen: list[Any] = []
    for _ in range(2):
        with connection.cursor() as cursor:
            for key in (1, 2, 1):
                cursor.execute("SELECT id, name FROM author WHERE id = %s", [key])
                seen.append(cursor.fetchall())
            cursor.executemany("UPDATE author SET born = %s WHERE id = %s", [("1950-01-01", 1), ("1951-01-01", 2)])
            cursor.execute("SELECT %s::text, '100%%'", ["it's"])
            seen.append(cursor.fetchone())
    seen.append([author.name for author in Author.objects.raw("SELECT * FROM author WHERE id < %s ORDER BY id", [3])])
    seen.append(Author.objects.filter(pk=1).explain().partition(" ")[0])
    return seen


def bound() -> Any:
    """Parameters bound by the server, which psycopg 3 can do."""
    books = Book.objects.using("bound")
    return [
        [books.get(pk=key).title for key in (1, 2, 1)] * 2,
        list(books.filter(pages__in=[10, 20]).order_by("id").values_list("title", flat=True)),
        [book.title for book in books.order_by("id").iterator(chunk_size=4)],
    ]


PROGRAMS = (loading, aggregates, writing, transactions, constraints, iterating, schema, migrations, raw, bound)
