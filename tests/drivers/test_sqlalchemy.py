"""SQLAlchemy 2 with each of its drivers: what the ORM, the core, reflection and the pool send.

The programs are written once, for a blocking engine. With a driver of asyncio they run in SQLAlchemy's own bridge, so that
the driver's asynchronous side is what talks.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    subqueryload,
)

from support.raw import eventually
from support.stage import Stage, empty

Work = Callable[[sa.Engine], Any]

DRIVERS = ("psycopg", "psycopg_async", "psycopg2", "asyncpg", "pg8000")
ASYNCHRONOUS = ("psycopg_async", "asyncpg")


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    born: Mapped[int | None]
    tags: Mapped[list[str]] = mapped_column(postgresql.ARRAY(sa.Text), server_default="{}")
    more: Mapped[dict[str, Any]] = mapped_column(postgresql.JSONB, server_default="{}")
    books: Mapped[list[Book]] = relationship(back_populates="author", cascade="all, delete-orphan", order_by="Book.id")


class Book(Base):
    __tablename__ = "book"
    __table_args__ = (
        sa.CheckConstraint("pages > 0", name="book_has_pages"),
        sa.Index("book_title_lower", sa.text("lower(title)")),
        {"comment": "what authors write"},
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(comment="on the cover")
    pages: Mapped[int]
    form: Mapped[str] = mapped_column(sa.Enum("novel", "poem", "essay", name="form"), server_default="novel")
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id", ondelete="CASCADE"), index=True)
    author: Mapped[Author] = relationship(back_populates="books")


def fill(engine: sa.Engine) -> None:
    """The tables anew: ten authors of three books each."""
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '20s'")  # a prepared transaction holds locks for ever
        Base.metadata.drop_all(connection)
        Base.metadata.create_all(connection)
    with Session(engine) as session:
        for number in range(1, 11):
            books = [Book(title=f"Book {number}.{part}", pages=100 * part) for part in range(1, 4)]
            session.add(Author(name=f"Author {number}", born=1900 + number, tags=["a", f"t{number}"], books=books))
        session.commit()


def sqlstate(error: sa.exc.DBAPIError) -> Any:
    """Each driver keeps it in another place."""
    original: Any = error.orig
    for name in ("sqlstate", "pgcode"):
        if getattr(original, name, None):
            return getattr(original, name)
    return original.args[0]["C"]


def refused(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except sa.exc.DBAPIError as error:
        return type(error).__name__, sqlstate(error)


# --- programs ---


def loading(engine: sa.Engine) -> Any:
    """Lazy loading is N+1 on purpose; the other ways are one or two queries."""
    seen: list[Any] = []
    for options in ([], [selectinload(Author.books)], [joinedload(Author.books)], [subqueryload(Author.books)]):
        with Session(engine) as session:
            authors = session.scalars(sa.select(Author).order_by(Author.id).options(*options)).unique().all()
            seen.append([(author.name, author.tags, [book.title for book in author.books]) for author in authors])
        with Session(engine) as session:
            books = session.scalars(sa.select(Book).join(Book.author).where(Author.born > 1905).order_by(Book.id))
            seen.append([(book.title, book.author.name) for book in books])
            seen.append([session.get(Book, key).title for key in (1, 2, 1)])
    return seen


def reads_without_a_transaction(engine: sa.Engine) -> Any:
    """What a cache may answer: SQLAlchemy begins a transaction before everything else."""
    seen: list[Any] = []
    for _ in range(3):
        with (
            engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
            Session(connection) as session,
        ):
            for key in (1, 2, 1, 99):
                author = session.get(Author, key)
                seen.append(author and (author.name, author.born, [book.title for book in author.books]))
    return seen


def changes(engine: sa.Engine) -> Any:
    seen: list[Any] = []
    with Session(engine) as session:
        author = session.get_one(Author, 3)
        author.name, author.more = "Changed", {"k": [1, None]}
        author.books.append(Book(title="A fourth", pages=7, form="poem"))
        del author.books[0]
        session.flush()
        seen.append([book.id for book in author.books])
        session.commit()
        seen.append((author.name, author.more, [(book.title, book.form) for book in author.books]))
        session.delete(session.get_one(Author, 4))
        session.execute(sa.update(Book).where(Book.pages > 200).values(pages=Book.pages + 1))
        seen.append(session.execute(sa.update(Book).where(Book.id < 4).values(pages=1).returning(Book.id)).all())
        seen.append(session.execute(sa.delete(Book).where(Book.id == 1)).rowcount)
        session.execute(sa.update(Book), [{"id": 5, "pages": 55}, {"id": 6, "pages": 66}])
        session.commit()
        seen.append(session.execute(sa.select(Book.id, Book.pages, Book.form).order_by(Book.id)).all())
        session.merge(Author(id=5, name="Merged"))
        session.add(Author(name="Not kept"))
        session.flush()
        session.rollback()
        seen.append(session.scalar(sa.select(sa.func.count()).select_from(Author)))
        counts = (
            sa.select(Author.name, sa.func.count(Book.id), sa.func.sum(Book.pages)).join(Book).group_by(Author.name)
        )
        seen.append([tuple(row) for row in session.execute(counts.order_by(Author.name))])
    return [
        [tuple(row) if isinstance(row, sa.Row) else row for row in item] if isinstance(item, list) else item
        for item in seen
    ]


def many_rows_at_once(engine: sa.Engine) -> Any:
    """insertmanyvalues: INSERT … RETURNING in batches; executemany; ON CONFLICT."""
    seen: list[Any] = []
    table = Book.__table__
    rows = [{"title": f"bulk {n}", "pages": n, "author_id": 1 + n % 10} for n in range(1, 1601)]
    with engine.begin() as connection:
        inserted = connection.execute(
            sa.insert(table).returning(table.c.id, table.c.title, sort_by_parameter_order=True), rows
        )
        seen.append([tuple(row) for row in inserted][::200])
        seen.append(connection.execute(sa.insert(table), rows[:50]).rowcount)
        rename = sa.update(table).where(table.c.title == sa.bindparam("old")).values(title=sa.bindparam("new"))
        seen.append(connection.execute(rename, [{"old": f"bulk {n}", "new": f"b {n}"} for n in range(1, 30)]).rowcount)
        upsert = postgresql.insert(Author.__table__).values([{"id": 1, "name": "Upserted"}, {"id": 77, "name": "New"}])
        upsert = upsert.on_conflict_do_update(index_elements=["id"], set_={"name": upsert.excluded.name})
        seen.append([tuple(row) for row in connection.execute(upsert.returning(sa.column("id"), sa.column("name")))])
        seen.append(
            tuple(connection.execute(sa.select(sa.func.count(), sa.func.max(table.c.title)).select_from(table)).one())
        )
    return seen


def streaming(engine: sa.Engine) -> Any:
    """Cursors of the server, with an end in the middle."""
    seen: list[Any] = []
    numbers = sa.select(sa.func.generate_series(1, 1000).label("n"))
    with engine.connect() as connection:
        with connection.execution_options(yield_per=64).execute(numbers) as result:
            seen.append([len(part) for part in result.partitions()])
        with connection.execution_options(stream_results=True, max_row_buffer=50).execute(numbers) as result:
            seen.append([row.n for row in result.fetchmany(120)][-1])
        connection.rollback()
    with Session(engine) as session:
        query = sa.select(Book).order_by(Book.id).execution_options(yield_per=7).options(selectinload(Book.author))
        seen.append([(book.title, book.author.name) for book in session.scalars(query)])
    return seen


def reflection(engine: sa.Engine) -> Any:
    """The catalogue queries of the inspector and of MetaData.reflect()."""
    seen: list[Any] = []
    for _ in range(2):
        inspector = sa.inspect(engine)
        seen.append(inspector.get_schema_names())
        seen.append(sorted(inspector.get_table_names()))
        seen.append(sorted(inspector.get_view_names()))
        seen.append((inspector.has_table("book"), inspector.has_table("nothing")))
        for name in ("author", "book"):
            columns = [{**column, "type": str(column["type"])} for column in inspector.get_columns(name)]
            seen += [columns, inspector.get_pk_constraint(name), inspector.get_foreign_keys(name)]
            seen += [inspector.get_indexes(name), inspector.get_unique_constraints(name)]
            seen += [inspector.get_check_constraints(name), inspector.get_table_comment(name)]
        seen.append(inspector.get_enums())
        seen.append(sorted(inspector.get_sequence_names()))
    reflected = sa.MetaData()
    reflected.reflect(engine, only=["author", "book"])
    seen.append({name: sorted(table.columns.keys()) for name, table in reflected.tables.items()})
    return seen


def transactions(engine: sa.Engine) -> Any:
    """Savepoints, isolation levels, errors and what is left after them."""
    seen: list[Any] = []
    table = Author.__table__
    count = sa.select(sa.func.count()).select_from(table)
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(sa.insert(table).values(name="kept"))
            savepoint = connection.begin_nested()
            connection.execute(sa.insert(table).values(name="not kept"))
            seen.append(connection.scalar(count))
            savepoint.rollback()
            seen.append(connection.scalar(count))
            with connection.begin_nested():
                connection.execute(sa.insert(table).values(name="kept too"))
            failing = connection.begin_nested()
            seen.append(refused(lambda: connection.execute(sa.insert(table).values(name="kept"))))
            failing.rollback()
            seen.append(connection.scalar(count))
        seen.append(connection.scalar(count))
    for level in ("AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            seen.append(connection.get_isolation_level())
            seen.append(connection.scalar(sa.text("SHOW transaction_isolation")))
            connection.execute(sa.update(table).values(born=1).where(table.c.id == 1))
            connection.rollback()
        with engine.connect() as connection:
            seen.append(connection.scalar(sa.select(table.c.born).where(table.c.id == 1)))
    with engine.connect().execution_options(postgresql_readonly=True, isolation_level="SERIALIZABLE") as connection:
        seen.append(refused(lambda: connection.execute(sa.delete(table))))
    for text in (
        "SELEC 1",
        "SELECT * FROM missing",
        "SELECT 1/0",
        "INSERT INTO book (title, pages, author_id) VALUES ('x', 0, 1)",
    ):
        with engine.connect() as connection:
            seen.append(refused(lambda text=text, to=connection: to.execute(sa.text(text)).all()))
            seen.append(refused(lambda to=connection: to.scalar(count)))
    return seen


def two_phases(engine: sa.Engine) -> Any:
    seen: list[Any] = []
    table = Author.__table__
    count = sa.select(sa.func.count()).select_from(table)
    with engine.connect() as connection:
        for end in ("commit", "rollback"):
            transaction = connection.begin_twophase(f"pgloupe_{end}")
            connection.execute(sa.insert(table).values(name=f"two-phase {end}"))
            transaction.prepare()
            with engine.connect() as other:
                seen.append(sorted(other.recover_twophase()))
            getattr(transaction, end)()
            seen.append(connection.scalar(count))
            connection.rollback()
    return seen


def pool(engine: sa.Engine) -> Any:
    """A connection that the server ended is found dead by the pool's ping and replaced."""
    seen: list[Any] = []
    process = sa.text("SELECT pg_backend_pid()")
    alive = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
    name = sa.select(Author.name).where(Author.id == 1)
    with engine.connect() as staying:
        with engine.connect() as connection:
            ended = connection.scalar(process)
            seen.append(connection.scalar(name))
        with staying.execution_options(isolation_level="AUTOCOMMIT") as observer:
            seen.append(observer.scalar(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": ended}))
            eventually(lambda: observer.scalar(alive, {"pid": ended}) == 0)
            with engine.connect() as connection:
                seen.append(connection.scalar(process) != ended)
                seen.append(connection.scalar(name))
    return seen


# --- running them ---


def run(driver: str, work: Work, url: str, *, new: bool = True) -> Any:
    """What the program sees with this driver; with `new` it finds new tables."""
    address = sa.make_url(url).set(drivername=f"postgresql+{driver}")
    options: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 3}
    works = [fill, work] if new else [work]
    if driver not in ASYNCHRONOUS:
        engine = sa.create_engine(address, **options)
        for part in works:
            try:
                seen = part(engine)
            finally:
                # what changed the schema is another session than what is looked at: a cache would not answer it
                engine.dispose()
        return seen

    async def bridged() -> Any:
        engine = create_async_engine(address, **options)
        for part in works:
            try:
                async with engine.connect() as connection:
                    seen = await connection.run_sync(lambda inner, part=part: part(inner.engine))
            finally:
                await engine.dispose()
        return seen

    return asyncio.run(bridged())


WORKS = (
    loading,
    reads_without_a_transaction,
    changes,
    many_rows_at_once,
    streaming,
    reflection,
    transactions,
    two_phases,
    pool,
)


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_program_sees_what_it_sees_at_the_server(outer_stage: Stage, driver: str, work: Work) -> None:
    if work is two_phases and driver == "asyncpg":
        pytest.skip("SQLAlchemy has no two-phase transactions with asyncpg")
    if work is pool and driver == "pg8000":
        pytest.skip(
            "pg8000 may tell a reset as ConnectionResetError, also at the server, and SQLAlchemy's ping lets it through"
        )
    outer_stage.compare(functools.partial(run, driver, work), ready=empty)


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver != "pg8000"])
def test_a_cache_answers_reads_without_a_transaction(outer_stage: Stage, driver: str) -> None:
    # pg8000 sends Parse and Describe in one cycle and Bind and Execute in another, which goes to the server
    empty(outer_stage.direct)
    expected = run(driver, reads_without_a_transaction, outer_stage.direct)
    before = outer_stage.hits()

    def hit() -> bool:
        assert run(driver, reads_without_a_transaction, outer_stage.caching.url, new=False) == expected
        return outer_stage.hits() > before

    eventually(hit)
