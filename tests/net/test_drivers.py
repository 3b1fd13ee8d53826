"""The drivers that applications use: what a program sees behind the proxy is what it sees at the server.

Each program runs direct, through a proxy that only watches, and twice through one that may cache everything. It returns what
it saw, made of plain values; process numbers and ports are left out.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import io
import os
import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pg8000.dbapi
import pg8000.native
import psycopg
import psycopg2
import psycopg2.errorcodes
import psycopg2.extras
import pytest
from psycopg.conninfo import conninfo_to_dict

from support.proxy import Proxy, proxy_to
from support.raw import eventually
from support.servers import Postgres

EVERYTHING = {"allow": [{"name": "all", "tables": ["item", "note", "typed"], "ttl": "60s"}]}

Program = Callable[[str], Any]

SETUP = """
    DROP TABLE IF EXISTS item, note, typed;
    CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric);
    CREATE TABLE note (id serial PRIMARY KEY, item_id integer REFERENCES item DEFERRABLE INITIALLY DEFERRED, body text);
    CREATE TABLE typed (i2 int2, i8 int8, f8 float8, n numeric, b bool, t text, by bytea, d date, ts timestamptz,
                        iv interval, u uuid, j jsonb, ia int[], ta text[], r int4range);
    INSERT INTO item SELECT n, 'item ' || n, n * 1.5 FROM generate_series(1, 20) n;
"""

VALUES: tuple[Any, ...] = (
    -7,
    1 << 40,
    0.1,
    decimal.Decimal("123456789.987654321"),
    True,
    "snowman \u2603 and 'quotes' \\ %s",
    bytes(range(256)),
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, datetime.UTC),
    datetime.timedelta(days=3, seconds=5, microseconds=7),
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
)


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    return postgres.create_database()


@pytest.fixture(scope="module", params=["watching", "caching"])
def proxy(direct: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with proxy_to(direct, **({"cache": EVERYTHING} if request.param == "caching" else {})) as started:
        yield started


def prepare(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SETUP)


def failure(error: BaseException) -> tuple[str, str]:
    return type(error).__name__, str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None))


# --- psycopg 3 ---


def psycopg_client_cursor(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url, cursor_factory=psycopg.ClientCursor) as connection:
        for key in (1, 2, 3, 1, 2):
            seen.append(connection.execute("SELECT * FROM item WHERE id = %s", (key,)).fetchall())
        cursor = connection.execute("SELECT 1; SELECT 2 AS two, 3; UPDATE item SET name = 'x' WHERE id < 4; SELECT 5")
        while True:
            description = cursor.description and [column.name for column in cursor.description]
            seen.append((cursor.statusmessage, description, cursor.fetchall() if description else None))
            if not cursor.nextset():
                break
        seen.append(connection.execute("SELECT name FROM item WHERE id = %s", (1,)).fetchone())
    return seen


def psycopg_extended(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url) as connection:
        for key in (1, 2, 3, 99):
            cursor = connection.execute("SELECT id, name, price FROM item WHERE id = %s", (key,))
            seen.append((cursor.fetchall(), cursor.rowcount, cursor.statusmessage))
        cursor = connection.execute("INSERT INTO note (item_id, body) VALUES (%s, %s) RETURNING id, body", (1, None))
        seen.append(cursor.fetchall())
        seen.append(connection.execute("SELECT count(*), max(body) FROM note").fetchone())
        connection.rollback()
        seen.append(connection.execute("SELECT count(*), max(body) FROM note").fetchone())
    return seen


def psycopg_prepared(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for round_number in range(12):
            for key in (1, 2):
                cursor = connection.execute("SELECT name FROM item WHERE id = %s", (key,))
                seen.append((round_number, cursor.fetchall()))
        connection.execute("DEALLOCATE ALL")
        seen.append(connection.execute("SELECT name FROM item WHERE id = %s", (1,)).fetchall())
        connection.prepare_threshold = 0
        for key in (1, 2, 1):
            seen.append(connection.execute("SELECT price FROM item WHERE id = %s", (key,)).fetchall())
        connection.execute("ALTER TABLE item ALTER price TYPE float8 USING price::float8")
        for key in (1, 2, 1):
            try:
                seen.append(connection.execute("SELECT price FROM item WHERE id = %s", (key,)).fetchall())
            except psycopg.Error as error:
                seen.append(failure(error))
        seen.append(connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone())
    return seen


def psycopg_types(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url) as connection:
        places = ", ".join(["%s"] * len(VALUES))
        columns = "i2, i8, f8, n, b, t, by, d, ts, iv, u"
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            cursor.execute(f"INSERT INTO typed ({columns}) VALUES ({places})", VALUES, binary=binary)
            cursor.execute(f"INSERT INTO typed ({columns}) VALUES ({places})", (None,) * len(VALUES))
            cursor.execute(
                "UPDATE typed SET j = %s, ia = %s, ta = %s", ('{"a": [1, null]}', [1, None, 3], ["a,b", 'c"'])
            )
            seen.append(cursor.execute("SELECT * FROM typed").fetchall())
            seen.append(
                cursor.execute(
                    "SELECT * FROM typed WHERE ia = %s::int[] AND u = %s", ([1, None, 3], VALUES[-1])
                ).fetchall()
            )
    return seen


def psycopg_pipeline(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("SELECT name FROM item WHERE id = %s", (key,)) for key in range(1, 9)]
            connection.execute("INSERT INTO note (item_id, body) VALUES (1, 'a')")
            cursors.append(connection.execute("SELECT count(*) FROM note"))
            pipeline.sync()
            cursors.append(connection.execute("SELECT sum(price) FROM item"))
        seen += [cursor.fetchall() for cursor in cursors]
        try:
            with connection.pipeline():
                connection.execute("INSERT INTO note (item_id, body) VALUES (1, 'b')")
                connection.execute("SELECT 1/0")
                connection.execute("INSERT INTO note (item_id, body) VALUES (1, 'c')")
        except psycopg.Error as error:
            seen.append(failure(error))
        seen.append(connection.execute("SELECT count(*) FROM note").fetchone())
        with connection.pipeline(), connection.transaction():
            connection.execute("UPDATE item SET price = 0 WHERE id = %s", (3,))
            seen.append(connection.execute("SELECT price FROM item WHERE id = 3").fetchone())
    return seen


def psycopg_executemany(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url) as connection:
        cursor = connection.cursor()
        cursor.executemany("INSERT INTO note (item_id, body) VALUES (%s, %s)", [(1, f"n{n}") for n in range(500)])
        seen.append(cursor.rowcount)
        cursor.executemany(
            "INSERT INTO note (item_id, body) VALUES (%s, %s) RETURNING body", [(1, "x"), (2, "y")], returning=True
        )
        seen.append(cursor.fetchall())
        cursor.nextset()
        seen.append(cursor.fetchall())
        seen.append(cursor.execute("SELECT count(*), min(body), max(body) FROM note").fetchone())
    return seen


def psycopg_copy(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url) as connection:
        cursor = connection.cursor()
        with cursor.copy("COPY note (item_id, body) FROM STDIN") as copy:
            for number in range(2000):
                copy.write_row((1 + number % 20, f"line {number}\twith a tab"))
        seen.append((cursor.rowcount, cursor.statusmessage))
        with cursor.copy("COPY item (id, name) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((100, "binary"))
        with cursor.copy("COPY (SELECT item_id, body FROM note ORDER BY id) TO STDOUT") as copy:
            seen.append(b"".join(bytes(block) for block in copy))
        with cursor.copy("COPY item TO STDOUT (FORMAT binary)") as copy:
            seen.append(b"".join(bytes(block) for block in copy))
        connection.commit()
        for broken in ("not a number\tx\n", "1\n"):
            try:
                with cursor.copy("COPY item (id, name) FROM STDIN") as copy:
                    copy.write("500\tfine\n" * 3)
                    copy.write(broken)
            except psycopg.Error as error:
                seen.append((failure(error), error.diag.message_primary, error.diag.context))
            connection.rollback()
        try:
            with cursor.copy("COPY item (id, name) FROM STDIN") as copy:
                copy.write("501\tfine\n")
                raise RuntimeError("the program gives up")
        except RuntimeError as error:
            seen.append(str(error))
        connection.rollback()
        seen.append(cursor.execute("SELECT count(*) FROM item").fetchone())
    return seen


def psycopg_server_side_cursor(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url) as connection:
        with connection.cursor("walker") as cursor:
            cursor.itersize = 3
            cursor.execute("SELECT id FROM item WHERE id > %s ORDER BY id", (2,))
            seen.append(list(cursor))
        with connection.cursor("scroller", scrollable=True, withhold=True) as cursor:
            cursor.execute("SELECT id, name FROM item ORDER BY id")
            seen.append(cursor.fetchmany(2))
            cursor.scroll(5)
            seen.append(cursor.fetchone())
            connection.commit()
            cursor.scroll(0, mode="absolute")
            seen.append(cursor.fetchall())
        seen.append(list(connection.cursor().stream("SELECT id FROM item ORDER BY id")))
    return seen


def psycopg_notices_and_notifications(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.add_notice_handler(lambda diagnostic: seen.append((diagnostic.severity, diagnostic.message_primary)))
        connection.execute("DO $$ BEGIN RAISE NOTICE 'one %', 1; RAISE WARNING 'two'; END $$")
        connection.execute("DROP TABLE IF EXISTS nothing_of_that_name")
        connection.execute("LISTEN news")
        connection.execute("SELECT count(*) FROM item")
        connection.execute("NOTIFY news, 'from oneself'")
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SELECT pg_notify('news', 'from another')")
        found = connection.notifies(timeout=20, stop_after=2)
        seen += [(notification.channel, notification.payload) for notification in found]
        connection.execute("UNLISTEN *")
    return seen


def psycopg_transactions(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url, autocommit=True) as connection:

        def count() -> None:
            seen.append(
                (connection.execute("SELECT count(*) FROM note").fetchone(), connection.info.transaction_status)
            )

        count()
        with connection.transaction():
            connection.execute("INSERT INTO note (item_id) VALUES (1)")
            count()
            try:
                with connection.transaction():
                    connection.execute("INSERT INTO note (item_id) VALUES (2)")
                    count()
                    connection.execute("SELECT 1/0")
            except psycopg.errors.DivisionByZero as error:
                seen.append(failure(error))
            count()
            with connection.transaction(force_rollback=True):
                connection.execute("INSERT INTO note (item_id) VALUES (3)")
                count()
            count()
        count()
        try:
            with connection.transaction():
                connection.execute("INSERT INTO note (item_id) VALUES (1000)")
                count()
        except psycopg.errors.ForeignKeyViolation as error:
            seen.append((failure(error), error.diag.constraint_name))
        count()
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.read_only = True
        try:
            connection.execute("INSERT INTO note (item_id) VALUES (1)")
        except psycopg.Error as error:
            seen.append(failure(error))
        try:
            connection.execute("SELECT count(*) FROM note")
        except psycopg.Error as error:
            seen.append(failure(error))
        connection.rollback()
        seen.append(connection.execute("SELECT count(*) FROM note").fetchone())
    return seen


def psycopg_errors(url: str) -> Any:
    seen: list[Any] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for query in (
            "SELEC 1",
            "SELECT * FROM missing",
            "SELECT 1/(id - 10) FROM item ORDER BY id",
            "SELECT %s::int",
            "INSERT INTO item VALUES (1)",
            "SELECT pg_terminate_backend(0)",
        ):
            try:
                seen.append(connection.execute(query, ("x",) if "%s" in query else None).fetchall())
            except psycopg.Error as error:
                diagnostic = error.diag
                position = diagnostic.statement_position
                seen.append((failure(error), diagnostic.message_primary, diagnostic.message_detail, position))
            seen.append(connection.execute("SELECT name FROM item WHERE id = 1").fetchone())
    return seen


def psycopg_cancel(url: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url, autocommit=True) as observer:
        state = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        pid = connection.info.backend_pid

        def cancel() -> None:
            eventually(lambda: observer.execute(state, (pid,)).fetchone() == ("PgSleep",))
            connection.cancel_safe(timeout=20)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            connection.execute("SELECT pg_sleep(60)")
        except psycopg.Error as error:
            seen = failure(error)
        canceller.join()
        return seen, connection.execute("SELECT 1").fetchone()


def psycopg_async(url: str) -> Any:
    async def work() -> Any:
        seen: list[Any] = []
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for key in (1, 2, 1):
                cursor = await connection.execute("SELECT * FROM item WHERE id = %s", (key,))
                seen.append(await cursor.fetchall())
            async with connection.pipeline():
                cursors = [await connection.execute("SELECT id FROM item WHERE id > %s", (n,)) for n in (17, 18)]
            seen += [await cursor.fetchall() for cursor in cursors]
            async with connection.cursor().copy("COPY note (item_id, body) FROM STDIN") as copy:
                await copy.write("1\tasync\n")
            cursor = await connection.execute("SELECT item_id, body FROM note")
            seen.append(await cursor.fetchall())
            sleeper = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
            await asyncio.sleep(0.05)
            sleeper.cancel()
            try:
                await sleeper
            except asyncio.CancelledError:
                seen.append("cancelled")
            cursor = await connection.execute("SELECT 1")
            seen.append(await cursor.fetchone())
        return seen

    return asyncio.run(work())


# --- psycopg2 ---


def psycopg2_literals(url: str) -> Any:
    seen: list[Any] = []
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        for key in (1, 2, 1):
            cursor.execute("SELECT * FROM item WHERE id = %s AND name <> %s", (key, "it's \\ %"))
            seen.append((cursor.fetchall(), cursor.rowcount, cursor.statusmessage))
        cursor.execute("SELECT * FROM item WHERE id IN %s ORDER BY id", ((3, 4, 5),))
        seen.append(cursor.fetchall())
        psycopg2.extras.execute_values(
            cursor, "INSERT INTO note (item_id, body) VALUES %s", [(1, f"v{n}") for n in range(250)]
        )
        psycopg2.extras.execute_batch(cursor, "UPDATE note SET body = %s WHERE id = %s", [("u", n) for n in range(9)])
        cursor.execute("SELECT count(*), count(DISTINCT body) FROM note")
        seen.append(cursor.fetchone())
    with connection, connection.cursor("named") as named:
        named.itersize = 4
        named.execute("SELECT id FROM item ORDER BY id")
        seen.append(list(named))
    connection.set_session(autocommit=True)
    with connection.cursor() as cursor:
        for query in ("SELECT 1/0", "SELECT * FROM missing"):
            try:
                cursor.execute(query)
            except psycopg2.Error as error:
                seen.append((failure(error), str(error)))
        cursor.execute("LISTEN two")
        cursor.execute("NOTIFY two, 'hello'")
        connection.poll()
        seen += [(notify.channel, notify.payload) for notify in connection.notifies]
        seen.append(list(connection.notices))
    connection.close()
    return seen


def psycopg2_copy(url: str) -> Any:
    seen: list[Any] = []
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.copy_expert("COPY note (item_id, body) FROM STDIN", io.StringIO("1\tone\n2\ttwo\n" * 5000))
        seen.append(cursor.rowcount)
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT item_id, body FROM note ORDER BY id) TO STDOUT (FORMAT csv)", out)
        seen.append(out.getvalue())
    try:
        with connection, connection.cursor() as cursor:
            cursor.copy_from(io.StringIO("x\ty\n"), "item", columns=("id", "name"))
    except psycopg2.Error as error:
        seen.append(failure(error))
    connection.close()
    return seen


def psycopg2_large_object(url: str) -> Any:
    """Large objects are read and written by FunctionCall."""
    seen: list[Any] = []
    connection = psycopg2.connect(url)
    large = connection.lobject(0, "wb")
    seen.append(large.write(os.urandom(0) + b"0123456789" * 100_000))
    oid = large.oid
    large.close()
    large = connection.lobject(oid, "rb")
    large.seek(999_990)
    seen += [large.tell(), large.read(), large.seek(0), large.read(20)]
    large.close()
    connection.commit()
    large = connection.lobject(oid, "rwb")
    large.truncate(5)
    seen.append(large.read())
    large.unlink()
    connection.commit()
    try:
        connection.lobject(oid, "rb")
    except psycopg2.Error as error:
        seen.append(type(error).__name__)
    connection.rollback()
    connection.close()
    return seen


# --- asyncpg ---


def asyncpg_queries(url: str) -> Any:
    async def work() -> Any:
        seen: list[Any] = []
        connection = await asyncpg.connect(url)
        for key in (1, 2, 1, 2):
            seen.append([tuple(row) for row in await connection.fetch("SELECT * FROM item WHERE id = $1", key)])
            seen.append(tuple(await connection.fetchrow("SELECT id, name FROM item WHERE id >= $1 ORDER BY id", key)))
            seen.append(await connection.fetchval("SELECT name FROM item WHERE id = $1", key))
        statement = await connection.prepare("SELECT name FROM item WHERE id = ANY($1) ORDER BY id")
        seen.append([column.name for column in statement.get_attributes()])
        for keys in ([1, 2], [3], []):
            seen.append([row[0] for row in await statement.fetch(keys)])
        seen.append(await connection.execute("SELECT 1; SELECT 2; UPDATE item SET price = 1 WHERE id < 3"))
        seen.append(await connection.fetchval("SELECT sum(price) FROM item"))
        await connection.executemany(
            "INSERT INTO note (item_id, body) VALUES ($1, $2)", [(1, f"m{n}") for n in range(300)]
        )
        seen.append(await connection.fetchval("SELECT count(*) FROM note"))
        async with connection.transaction():
            seen.append([row[0] async for row in connection.cursor("SELECT id FROM item ORDER BY id", prefetch=3)])
            cursor = await connection.cursor("SELECT id FROM item ORDER BY id")
            seen.append([row[0] for row in await cursor.fetch(4)])
            await cursor.forward(3)
            seen.append(tuple(await cursor.fetchrow()))
        for query in ("SELECT 1/0", "SELEC", "SELECT * FROM missing"):
            try:
                await connection.fetch(query)
            except asyncpg.PostgresError as error:
                seen.append((failure(error), str(error)))
        try:
            async with connection.transaction():
                await connection.execute("DELETE FROM item WHERE id = 20")
                async with connection.transaction():
                    seen.append(await connection.fetchval("SELECT count(*) FROM item"))
                    await connection.execute("INSERT INTO item VALUES (1)")
        except asyncpg.UniqueViolationError as error:
            seen.append((failure(error), error.constraint_name))
        seen.append(await connection.fetchval("SELECT count(*) FROM item"))
        await connection.reset()
        await connection.close()
        return seen

    return asyncio.run(work())


def asyncpg_types(url: str) -> Any:
    async def work() -> Any:
        connection = await asyncpg.connect(url)
        columns = "i2, i8, f8, n, b, t, by, d, ts, iv, u"
        places = ", ".join(f"${n}" for n in range(1, len(VALUES) + 1))
        await connection.execute(f"INSERT INTO typed ({columns}) VALUES ({places})", *VALUES)
        seen = [tuple(row) for row in await connection.fetch("SELECT * FROM typed")]
        await connection.set_type_codec("jsonb", encoder=str, decoder=str, schema="pg_catalog")
        seen.append(await connection.fetchval("SELECT '{\"a\": 1}'::jsonb"))
        seen.append(tuple(await connection.fetchval("SELECT item FROM item WHERE id = 1")))
        await connection.close()
        return seen

    return asyncio.run(work())


def asyncpg_copy(url: str) -> Any:
    async def work() -> Any:
        seen: list[Any] = []
        connection = await asyncpg.connect(url)
        records = [(1 + n % 20, f"record {n}") for n in range(3000)]
        seen.append(await connection.copy_records_to_table("note", records=records, columns=["item_id", "body"]))
        out = io.BytesIO()
        seen.append(await connection.copy_from_query("SELECT item_id, body FROM note ORDER BY id", output=out))
        seen.append(out.getvalue())
        try:
            await connection.copy_records_to_table("item", records=[(1, "again")], columns=["id", "name"])
        except asyncpg.PostgresError as error:
            seen.append(failure(error))
        try:
            await connection.copy_records_to_table(
                "item", records=[(70, "fine"), (71, object())], columns=["id", "name"]
            )
        except (asyncpg.PostgresError, asyncpg.DataError, TypeError) as error:
            seen.append(type(error).__name__)
        seen.append(await connection.fetchval("SELECT count(*) FROM item"))
        await connection.close()
        return seen

    return asyncio.run(work())


def asyncpg_listen_and_cancel(url: str) -> Any:
    async def work() -> Any:
        seen: list[Any] = []
        connection = await asyncpg.connect(url)
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        await connection.add_listener("radio", lambda _c, _p, channel, payload: heard.put_nowait((channel, payload)))
        await connection.execute("NOTIFY radio, 'to myself'")
        async with asyncio.timeout(20):
            seen.append(await heard.get())
            other = await asyncpg.connect(url)
            await other.execute("NOTIFY radio, 'while idle'")
            await other.close()
            seen.append(await heard.get())
        for _ in range(3):
            try:
                await connection.fetch("SELECT pg_sleep(60)", timeout=0.05)
            except TimeoutError:
                seen.append("timeout")
            seen.append(await connection.fetchval("SELECT name FROM item WHERE id = 1"))
        await connection.close()
        return seen

    return asyncio.run(work())


# --- pg8000 ---


def _parts(url: str) -> dict[str, Any]:
    found = conninfo_to_dict(url)
    return {
        "user": found["user"],
        "password": found["password"],
        "host": found["host"],
        "port": int(found["port"]),
        "database": found["dbname"],
    }


def pg8000_queries(url: str) -> Any:
    seen: list[Any] = []
    connection = pg8000.native.Connection(**_parts(url))
    for key in (1, 2, 1):
        seen.append(connection.run("SELECT id, name FROM item WHERE id = :key", key=key))
    prepared = connection.prepare("SELECT name FROM item WHERE id = :key")
    seen += [prepared.run(key=1), prepared.run(key=2), prepared.close()]
    seen.append(connection.run("COPY note (item_id, body) FROM STDIN", stream=io.StringIO("1\tone\n2\ttwo\n")))
    out = io.BytesIO()
    connection.run("COPY (SELECT body FROM note ORDER BY id) TO STDOUT", stream=out)
    seen.append(out.getvalue())
    try:
        connection.run("SELECT 1/0")
    except pg8000.native.DatabaseError as error:
        seen.append(error.args[0]["C"])
    connection.run("LISTEN eight")
    connection.run("NOTIFY eight, 'x'")
    seen += [(channel, payload) for _, channel, payload in connection.notifications]
    connection.run("START TRANSACTION")
    connection.run("INSERT INTO note (item_id) VALUES (1)")
    seen.append(connection.run("SELECT count(*) FROM note"))
    connection.run("ROLLBACK")
    seen.append(connection.run("SELECT count(*) FROM note"))
    connection.close()
    database = pg8000.dbapi.connect(**_parts(url))
    cursor = database.cursor()
    cursor.execute("SELECT name FROM item WHERE id IN (%s, %s) ORDER BY id", (1, 2))
    seen.append([list(row) for row in cursor.fetchall()])
    cursor.executemany("INSERT INTO note (item_id, body) VALUES (%s, %s)", [(1, "a"), (2, "b")])
    cursor.execute("SELECT count(*) FROM note")
    seen.append(list(cursor.fetchone()))
    database.commit()
    database.close()
    return seen


PROGRAMS: list[Program] = [
    psycopg_client_cursor,
    psycopg_extended,
    psycopg_prepared,
    psycopg_types,
    psycopg_pipeline,
    psycopg_executemany,
    psycopg_copy,
    psycopg_server_side_cursor,
    psycopg_notices_and_notifications,
    psycopg_transactions,
    psycopg_errors,
    psycopg_cancel,
    psycopg_async,
    psycopg2_literals,
    psycopg2_copy,
    psycopg2_large_object,
    asyncpg_queries,
    asyncpg_types,
    asyncpg_copy,
    asyncpg_listen_and_cancel,
    pg8000_queries,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_sees_what_it_sees_at_the_server(direct: str, proxy: Proxy, program: Program) -> None:
    prepare(direct)
    expected = program(direct)
    assert expected
    for _ in range(2):
        prepare(proxy.url)
        assert program(proxy.url) == expected


# --- replication ---


def replication_messages(url: str) -> Any:
    """A logical replication connection: IDENTIFY_SYSTEM, and changes over COPY BOTH in both directions."""
    seen: list[Any] = []
    with psycopg.connect(url, autocommit=True) as writer:
        writer.execute("DROP PUBLICATION IF EXISTS all_of_it")
        writer.execute("CREATE PUBLICATION all_of_it FOR TABLE item")
        stream = psycopg2.connect(url, connection_factory=psycopg2.extras.LogicalReplicationConnection)
        cursor = stream.cursor()
        cursor.execute("IDENTIFY_SYSTEM")
        row = cursor.fetchone()
        seen += [row[0], row[1], row[3], [column.name for column in cursor.description]]
        slot = f"slot_{uuid.uuid4().hex}"
        cursor.execute(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        cursor.start_replication(slot, options={"proto_version": "1", "publication_names": "all_of_it"})
        writer.execute("INSERT INTO item VALUES (50, 'replicated', 1)")
        writer.execute("DELETE FROM item WHERE id = 50")
        changes: list[str] = []

        def received() -> bool:
            while (message := cursor.read_message()) is not None:
                changes.append(chr(message.payload[0]))
                cursor.send_feedback(flush_lsn=message.data_start, force=True)
            return changes.count("C") == 2

        eventually(received)
        seen.append(changes)
        stream.close()
        writer.execute("DROP PUBLICATION all_of_it")
    return seen


def test_a_replication_connection_passes_through(postgres: Postgres, direct: str, proxy: Proxy) -> None:
    if postgres.superuser_url is None:
        pytest.skip("replication needs a superuser, and PGLOUPE_TEST_POSTGRES gives none")
    url = f"{postgres.superuser_url.rpartition('/')[0]}/{direct.rpartition('/')[2]}"
    prepare(direct)
    expected = replication_messages(url)
    assert expected[-1] == ["B", "R", "I", "C", "B", "D", "C"]
    assert replication_messages(proxy.url_for(url)) == expected


# --- psql and pg_dump ---


def command(postgres: Postgres, name: str) -> str:
    """A program of PostgreSQL; skips where there is none."""
    beside = postgres.bin / name if postgres.bin is not None else None
    found = str(beside) if beside is not None and beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} beside the server and none on PATH")
    return found


def output(*arguments: str, script: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, without ports and random keys."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        arguments, input=script, capture_output=True, text=True, env={**env, "LC_ALL": "C"}, check=False, timeout=60
    )
    texts = []
    for text in (done.stdout, done.stderr):
        masked = re.sub(r"(?m)^\\(un)?restrict .*$", r"\\\1restrict", text)
        texts.append(re.sub(r"port \S?\d+\S?|process ID \d+|PID \d+", "…", masked))
    return done.returncode, texts[0], texts[1]


PSQL = r"""
\set VERBOSITY verbose
\d
\d+ item
\dt
\df now
\l
SELECT 1 AS one\; SELECT 2 AS two\; SELECT 3 AS three;
SELECT id, name FROM item ORDER BY id LIMIT 3 \gset x_
\echo :x_id
SELECT id, name FROM item WHERE id = 1 \gset y_
\echo :y_name
SELECT id, name, price FROM item \gdesc
SELECT 'SELECT ' || id || ' AS n' FROM item WHERE id < 4 ORDER BY id \gexec
\copy note (item_id, body) FROM STDIN
1	from psql
2	from psql too
\.
COPY note (item_id, body) FROM STDIN;
3	by COPY
x	broken
\.
\copy (SELECT item_id, body FROM note ORDER BY id) TO STDOUT
SELECT 1/0;
BEGIN;
SELECT * FROM missing;
SELECT 1;
ROLLBACK;
\set AUTOCOMMIT off
UPDATE item SET name = 'changed' WHERE id = 1;
SELECT name FROM item WHERE id = 1;
ROLLBACK;
\set AUTOCOMMIT on
SELECT name FROM item WHERE id = 1;
\set FETCH_COUNT 7
SELECT id FROM item ORDER BY id;
\unset FETCH_COUNT
DO $$ BEGIN RAISE NOTICE 'a notice'; END $$;
LISTEN psql_news;
NOTIFY psql_news, 'payload';
\crosstabview
SELECT id, name, price FROM item WHERE id < 3 \crosstabview
"""


def test_psql_shows_what_it_shows_at_the_server(postgres: Postgres, direct: str, proxy: Proxy) -> None:
    psql = command(postgres, "psql")
    prepare(direct)
    expected = output(psql, "-X", direct, script=PSQL)
    assert 'Table "public.item"' in expected[1]
    assert "division by zero" in expected[2]
    for _ in range(2):
        prepare(proxy.url)
        assert output(psql, "-X", proxy.url, script=PSQL) == expected


def test_psql_in_one_transaction_stops_at_an_error(postgres: Postgres, direct: str, proxy: Proxy) -> None:
    psql = command(postgres, "psql")
    prepare(direct)
    script = "INSERT INTO note (item_id) VALUES (1);\nSELECT 1/0;\nSELECT 2;\n"
    arguments = ("-X", "-1", "-v", "ON_ERROR_STOP=1", "-f", "-")
    expected = output(psql, *arguments, direct, script=script)
    assert expected[0] == 3
    assert output(psql, *arguments, proxy.url, script=script) == expected
    assert output(psql, "-XAtc", "SELECT count(*) FROM note", proxy.url) == (0, "0\n", "")


def test_a_dump_is_that_of_the_server(postgres: Postgres, direct: str, proxy: Proxy) -> None:
    pg_dump = command(postgres, "pg_dump")
    prepare(direct)
    with psycopg.connect(direct) as connection:
        connection.execute("INSERT INTO note (item_id, body) SELECT 1, repeat('x', n) FROM generate_series(1, 500) n")
    expected = output(pg_dump, direct)
    assert expected[0] == 0, expected[2]
    assert "COPY public.note" in expected[1]
    assert output(pg_dump, proxy.url) == expected
    inserts = output(pg_dump, "--inserts", direct)
    assert output(pg_dump, "--inserts", proxy.url) == inserts


def test_a_dump_is_restored_through_the_proxy(postgres: Postgres, direct: str, proxy: Proxy) -> None:
    pg_dump, psql = command(postgres, "pg_dump"), command(postgres, "psql")
    prepare(direct)
    dump = output(pg_dump, proxy.url)[1]
    restored = postgres.create_database()
    dump = re.sub(r"(?m)^\\(un)?restrict$", "", dump)
    code, _, said = output(psql, "-X", "-v", "ON_ERROR_STOP=1", proxy.url_for(restored), script=dump)
    assert (code, said) == (0, "")
    assert output(pg_dump, restored)[1] == output(pg_dump, direct)[1]
