"""psycopg 3: simple and extended protocol, pipelines, COPY, cursors of the server, cancel; blocking and asyncio."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest

from support.raw import eventually
from support.stage import VALUES, Program, Stage, failure


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
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_sees_what_it_sees_at_the_server(stage: Stage, program: Program) -> None:
    stage.compare(program)
