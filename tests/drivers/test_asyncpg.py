"""asyncpg: prepared statements for everything, cursors, COPY, notifications, time-outs that cancel."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import asyncpg
import pytest

from support.stage import VALUES, Program, Stage, failure


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


PROGRAMS: list[Program] = [
    asyncpg_queries,
    asyncpg_types,
    asyncpg_copy,
    asyncpg_listen_and_cancel,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_sees_what_it_sees_at_the_server(stage: Stage, program: Program) -> None:
    stage.compare(program)
